// The programs below Sources/Examples as their users run them: processes of their own, against a
// broker process, several at once where that is the point.

import Glibc
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct ExampleProgramTests {
  /// Starts one of the programs against a broker.
  private func start(
    _ name: String, _ arguments: [String], _ broker: BrokerProcess, errorPath: String? = nil
  ) throws -> ChildProcess {
    try ChildProcess(
      try program(name), arguments, environment: ["PATCHBAY_SOCKET": broker.socket],
      errorPath: errorPath)
  }

  /// What `why` says of the bytes that readers sleep for.
  private func isSleptFor(_ key: String, _ broker: BrokerProcess) throws -> Bool {
    let words = try broker.run(["why", key, "--json"]).output
    return words.contains(#""sleepingFor":[["#)
  }

  @Test func `Images publishes a file to a reader that waits for its key`() throws {
    let broker = try BrokerProcess()
    let directory = try TemporaryDirectory()
    let content = oracleBytes(1, 0..<3_000_001)
    try writeFile(directory.file("picture"), content)
    let reader = try broker.start(
      ["get", "pictures/1", directory.file("copy"), "--wait-for", "20s", "-q"])
    try eventually("a reader waits for the key") {
      try broker.run(["why", "pictures/1"]).exitCode == 0
    }
    let publisher = try start(
      "Images", ["publish", directory.file("picture"), "pictures/1"], broker)
    #expect(try publisher.waitForExit() == 0)
    #expect(try reader.waitForExit() == 0)
    #expect(try readBytes(directory.file("copy")) == content)
    try broker.stop()
  }

  /// The first 24 bytes of every PNG picture.
  private func pngHeader(width: Int, height: Int) -> [UInt8] {
    func number(_ value: Int) -> [UInt8] { (0..<4).map { UInt8(value >> (24 - 8 * $0) & 0xff) } }
    return [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a] + number(13) + Array("IHDR".utf8)
      + number(width) + number(height)
  }

  @Test func `Images tells a picture's size when nothing but its header is there`() throws {
    let broker = try BrokerProcess()
    let directory = try TemporaryDirectory()
    let reader = try start("Images", ["size", "pictures/2"], broker)
    try writeFile(directory.file("header"), pngHeader(width: 1920, height: 1080))
    #expect(try broker.run(["create", "pictures/2", "--length", "5MiB"]).exitCode == 0)
    try eventually("it sleeps for the header") { try isSleptFor("pictures/2", broker) }
    let written = try broker.run(["write", "pictures/2", directory.file("header"), "--at", "0"])
    #expect(written.exitCode == 0)
    #expect(try reader.line() == "1920 x 1080")
    #expect(try reader.waitForExit() == 0)
    let info = try broker.run(["info", "pictures/2", "--json"]).output
    #expect(info.contains(#""state":"suspended""#) && jsonNumber(info, "coveredBytes") == 24)
    try broker.stop()
  }

  @Test func `Log prints lines as they are appended, and ends with the log`() throws {
    let broker = try BrokerProcess()
    let writer = try start("Log", ["append", "log"], broker)
    try writer.send("before anybody listens\n")
    try eventually("the log has a line") {
      jsonNumber(try broker.run(["info", "log", "--json"]).output, "coveredBytes") == 23
    }
    let readers = try (0..<3).map { _ in try start("Log", ["follow", "log"], broker) }
    try eventually("three of them are there and sleep") {
      let info = try broker.run(["info", "log", "--json"]).output
      return try jsonNumber(info, "subscriberCount") == 3 && isSleptFor("log", broker)
    }
    // Where the live end is for a reader is settled at its first look: it may miss some lines, and
    // from the first that it prints on, none.
    var lineCount = 0
    var first: [Int] = []
    for reader in readers {
      try eventually("a reader has begun") {
        try writer.send("line \(lineCount)\n")
        lineCount += 1
        guard let line = try? reader.line(within: 0.1) else { return false }
        first.append(try #require(Int(line.dropFirst("line ".count)), "\(line)"))
        return true
      }
    }
    writer.closeInput()
    for (reader, seen) in zip(readers, first) {
      let rest = String(decoding: try reader.rest(), as: UTF8.self)
      #expect(rest == (seen + 1..<lineCount).map { "line \($0)\n" }.joined())
      #expect(try reader.waitForExit() == 0)
    }
    #expect(try writer.waitForExit() == 0)
    let whole = try broker.run(["cat", "log"]).output
    #expect(whole == "before anybody listens\n" + (0..<lineCount).map { "line \($0)\n" }.joined())
    try broker.stop()
  }

  @Test func `the readers of a Log that was killed are told so`() throws {
    let broker = try BrokerProcess()
    let directory = try TemporaryDirectory()
    let writer = try start("Log", ["append", "log"], broker)
    let reader = try start("Log", ["follow", "log"], broker, errorPath: directory.file("error"))
    try eventually("the reader sleeps") { try isSleptFor("log", broker) }
    writer.kill(SIGKILL)
    #expect(try reader.waitForExit() == 1)
    #expect(try readFile(directory.file("error")).contains("abandoned"))
    try broker.stop()
  }

  /// As a container's seccomp profile does that does not know the system call: each sleep is refused.
  @Test func `a task that may not sleep on several words is told so, and threads go on`() throws {
    let broker = try BrokerProcess()
    let directory = try TemporaryDirectory()
    #expect(try broker.run(["create", "k"]).exitCode == 0)
    let refused = ["-qq", "-f", "-o", "/dev/null", "-e", "inject=futex_waitv:error=EPERM"]
    func start(_ name: String, _ arguments: [String]) throws -> ChildProcess {
      try ChildProcess(
        "/usr/bin/strace", refused + [program(name)] + arguments,
        environment: ["PATCHBAY_SOCKET": broker.socket], errorPath: directory.file(name))
    }
    #expect(try start("Log", ["follow", "k"]).waitForExit() == 1)
    #expect(try readFile(directory.file("Log")).contains("futex_waitv"))
    let reader = try start("patchbay", ["cat", "k"])
    #expect(try broker.run(["write", "k", "--at", "0"], input: "hello\n").exitCode == 0)
    #expect(try reader.line() == "hello")
    #expect(try broker.run(["seal", "k"]).exitCode == 0)
    #expect(try reader.waitForExit() == 0)
    try broker.stop()
  }

  @Test func `Mirror copies between two brokers while the original is still written`() throws {
    let (near, far) = (try BrokerProcess(), try BrokerProcess())
    let directory = try TemporaryDirectory()
    let content = oracleBytes(1, 0..<9_000_001)
    try writeFile(directory.file("original"), content)
    try writeFile(directory.file("end"), Array(content[5_000_000...]))
    #expect(try near.run(["create", "model", "--length", "\(content.count)"]).exitCode == 0)
    // The end comes first.
    let write = ["write", "model", directory.file("end"), "--at", "5000000"]
    #expect(try near.run(write).exitCode == 0)
    let mirror = try start("Mirror", ["model", near.socket, far.socket], near)
    let reader = try far.start(
      ["get", "model", directory.file("copy"), "--wait-for", "20s", "-q"])
    try eventually("it sleeps for the beginning") { try isSleptFor("model", near) }
    #expect(try far.run(["info", "model", "--json"]).output.contains(#""state":"open""#))
    let rest = ["write", "model", directory.file("original"), "--at", "0", "--skip-covered"]
    #expect(try near.run(rest).exitCode == 0)
    #expect(try near.run(["seal", "model"]).exitCode == 0)
    #expect(try mirror.waitForExit() == 0)
    #expect(try reader.waitForExit() == 0)
    #expect(try readBytes(directory.file("copy")) == content)
    try near.stop()
    try far.stop()
  }

  @Test func `of several Thumbnails at once exactly one renders each, and all get the same`() throws
  {
    let broker = try BrokerProcess()
    let names = (0..<40).map { "picture-\($0)" }
    let processes = try (0..<4).map { _ in try start("Thumbnails", names, broker) }
    var rendered: [String: Int] = [:]
    var contents: [String: Set<String>] = [:]
    for process in processes {
      for name in names {
        let words = try process.line().split(separator: " ").map(String.init)
        #expect(words[0] == name)
        rendered[name, default: 0] += words[1] == "rendered" ? 1 : 0
        contents[name, default: []].insert("\(words[2]) \(words[3])")
      }
      #expect(try process.waitForExit() == 0)
    }
    for name in names {
      #expect(rendered[name] == 1 && contents[name]?.count == 1, "\(name)")
    }
    #expect(Set(contents.values).count > 30, "each name has a picture of its own")
    let one = try broker.run(["cat", "thumbnails/picture-1"]).bytes
    #expect(one.starts(with: Array("P5 64 64 255\n".utf8)) && one.count == 13 + 64 * 64)
    try broker.stop()
  }

  @Test func `EmbeddedBroker runs a broker, a publisher and a reader of its own`() throws {
    let outcome = try runProgram("EmbeddedBroker", [])
    #expect(outcome.exitCode == 0, "\(outcome.output)")
    let sum = (0..<3000).reduce(0) { $0 + $1 % 256 * 1000 }
    #expect(outcome.output.contains("second process: 3000000 bytes, their sum is \(sum)\n"))
    #expect(outcome.output.contains("the reader exited with 0"))
  }

  @Test(arguments: [
    ("Images", []), ("Images", ["publish", "x"]), ("Images", ["show", "x", "y"]), ("Log", ["log"]),
    ("Log", ["erase", "log"]), ("Mirror", ["k", "from"]), ("Thumbnails", []),
    ("EmbeddedBroker", ["read"]), ("EmbeddedBroker", ["write", "x"]),
  ])
  func `wrong arguments are answered with the usage`(name: String, arguments: [String]) throws {
    let outcome = try runProgram(name, arguments)
    #expect(outcome.exitCode == 64)
    #expect(outcome.error.hasPrefix("usage: \(name)"), "\(outcome.error)")
  }
}
