// What the command says of content: exit codes, files that are made or not, and what the system's own
// programs say of the same bytes.

import Glibc
import PatchbayTestSupport
import Testing

@Suite struct VerificationProcessTests {
  private static let wrong = String(repeating: "0", count: 64)

  /// Runs a shell line with the broker's socket and programs at hand.
  private func shell(_ broker: BrokerProcess, _ script: String) throws -> Outcome {
    try runProgram(
      "/bin/bash", ["-c", "set -o pipefail; cd \(broker.directory.path); \(script)"],
      environment: [
        "PATCHBAY_SOCKET": broker.socket, "PATH": try buildDirectory() + ":/usr/bin:/bin",
        "NO_COLOR": "1",
      ])
  }

  private func digest(_ file: String, _ algorithm: String = "sha256") throws -> String {
    let outcome = try runProgram("/usr/bin/\(algorithm)sum", [file])
    return "\(algorithm):" + String(try #require(outcome.output.split(separator: " ").first))
  }

  /// A file of bytes that do not repeat.
  private func makeFile(_ broker: BrokerProcess, _ byteCount: Int) throws -> String {
    let path = broker.directory.file("source")
    let outcome = try runProgram("/bin/sh", ["-c", "head -c \(byteCount) /dev/urandom > \(path)"])
    try #require(outcome.exitCode == 0)
    return path
  }

  @Test(arguments: ["sha256", "sha384", "sha512"], [0, 5000, 9_000_001])
  func `put seals what has the digest that the system tells, in any order and from a command`(
    _ algorithm: String, _ byteCount: Int
  ) throws {
    let broker = try BrokerProcess()
    let file = try makeFile(broker, byteCount)
    let right = try digest(file, algorithm)
    // Of the same algorithm, and of other bytes.
    try writeFile(broker.directory.file("other"), [9])
    let wrong = try digest(broker.directory.file("other"), algorithm)
    for (key, command) in [
      ("plain", "put plain source"), ("shuffled", "put shuffled source --shuffle 7 --block 4KiB"),
      ("piped", "put piped - < source"), ("made", "put made"),
    ] {
      let tail = key == "made" ? " -- cat source" : ""
      let put = try shell(broker, "patchbay \(command) --expect \(right)\(tail)")
      #expect(put.exitCode == 0, "\(key): \(put.error)")
      let info = try shell(broker, "patchbay info \(key) --json").output
      #expect(info.contains("\"digest\":\"\(right)\""), "\(info)")
      let bad = try shell(broker, "patchbay \(command) --replace --expect \(wrong)\(tail)")
      #expect(bad.exitCode == 65, "\(key): \(bad.exitCode) \(bad.error)")
      #expect(bad.error.contains("as expected"), "\(bad.error)")
      let cat = try shell(broker, "patchbay cat \(key)")
      #expect(cat.exitCode == 79 && cat.bytes.isEmpty, "\(cat.exitCode)")
      #expect(cat.error.contains("its \(byteCount) bytes have the"), "\(cat.error)")
      let failed = try shell(broker, "patchbay info \(key) --json").output
      #expect(failed.contains("\"state\":\"failed\"") && failed.contains("\"digest\":null"))
    }
    try broker.stop()
  }

  @Test func `a digest that was only asked for is shown, one that was not is null`() throws {
    let broker = try BrokerProcess()
    let file = try makeFile(broker, 100_000)
    #expect(try shell(broker, "patchbay put k source --digest sha384").exitCode == 0)
    let info = try shell(broker, "patchbay info k --json").output
    #expect(info.contains("\"digest\":\"\(try digest(file, "sha384"))\""), "\(info)")
    #expect(try shell(broker, "patchbay put n source").exitCode == 0)
    #expect(try shell(broker, "patchbay info n --json").output.contains("\"digest\":null"))
    try broker.stop()
  }

  @Test func `attached readers get the bytes and then the failure, and get leaves no file`() throws
  {
    let broker = try BrokerProcess()
    let lines = (0..<100_000).map { "\($0)\n" }.joined()
    let put = try broker.start(
      ["put", "k", "-", "--expect", "sha256:\(Self.wrong)"],
      errorPath: broker.directory.file("put.err"))
    let copy = broker.directory.file("copy")
    let get = try broker.start(["get", "k", copy, "--wait-for", "1m"], errorPath: "/dev/null")
    let cat = try broker.start(["cat", "k", "--wait-for", "1m"], errorPath: "/dev/null")
    try put.send(lines)
    try eventually("both read") {
      jsonNumber(try broker.run(["info", "k", "--json"]).output, "subscriberCount") == 2
    }
    put.closeInput()
    #expect(String(decoding: try cat.rest(), as: UTF8.self) == lines)
    #expect(try put.waitForExit() == 65)
    #expect(try get.waitForExit() == 79)
    #expect(try cat.waitForExit() == 79)
    #expect(names(in: broker.directory.path).filter { $0.hasPrefix("copy") } == [])
    #expect(try readFile(broker.directory.file("put.err")).contains("as expected"))
    try broker.stop()
  }

  @Test(arguments: ["keeps all of it", "says it for a while"])
  func `what is produced wrongly reaches no second reader, and the next caller begins anew`(
    _ how: String
  ) throws {
    let broker = try BrokerProcess()
    let file = try makeFile(broker, 300_000)
    let right = try digest(file)
    // As long as the right one, and like it at first: nothing of it may be gone on with.
    try writeFile(
      broker.directory.file("near"), Array(try readBytes(file).dropLast()) + [0])
    let produce = "patchbay produce k --length 300000 --expect \(right)"
    let kept = how == "keeps all of it" ? "" : " --failure-ttl 10ms"
    let first = try shell(
      broker, "\(produce)\(kept) -- sh -c 'echo ran >> runs; cat near'")
    #expect(first.exitCode == 79, "\(first.exitCode) \(first.error)")
    #expect(first.error.contains("as expected"), "\(first.error)")
    for verb in ["cat k", "cat k --from 5", "get k copy", "with k -- cat {}"] {
      let second = try shell(broker, "patchbay \(verb)")
      #expect(second.exitCode == 79 && second.bytes.isEmpty, "\(verb): \(second.exitCode)")
    }
    let again = try shell(
      broker,
      """
      until \(produce) -- sh -c 'echo ran >> runs; cat source' > made; do
        [ $? = 79 ] || exit 1
      done
      cmp made source && patchbay get k copy && cmp copy source && [ $(wc -l < runs) = 2 ]
      """)
    #expect(again.exitCode == 0, "\(again.exitCode) \(again.output) \(again.error)")
    try broker.stop()
  }

  @Test func `create, write and seal hold a blob to its digest`() throws {
    let broker = try BrokerProcess()
    let file = try makeFile(broker, 200_000)
    let right = try digest(file)
    for (key, expected, exitCode) in [
      ("right", right, 0), ("wrong", "sha256:\(Self.wrong)", 65),
    ] {
      let outcome = try shell(
        broker,
        """
        patchbay create \(key) --length 200000 --expect \(expected) || exit 1
        patchbay create \(key) --length 200000 --expect \(expected) || exit 2
        tail -c +100001 source | patchbay write \(key) - --at 100000 || exit 3
        head -c 100000 source | patchbay write \(key) - --at 0 || exit 4
        patchbay seal \(key)
        """)
      #expect(outcome.exitCode == exitCode, "\(key): \(outcome.exitCode) \(outcome.error)")
    }
    #expect(try shell(broker, "patchbay info right --json").output.contains(right))
    #expect(try shell(broker, "patchbay wait wrong").exitCode == 79)
    try broker.stop()
  }

  @Test func `a blob that outlives its broker keeps its digest, and its container is held to it`()
    throws
  {
    let place = try TemporaryDirectory()
    let spool = ["--spool", place.file("spool")]
    let first = try BrokerProcess(options: spool)
    let file = try makeFile(first, 3_000_001)
    let right = try digest(file, "sha384")
    for ack in ["retained", "durable"] {
      let put = try shell(first, "patchbay put \(ack) source --ack \(ack) --expect \(right)")
      #expect(put.exitCode == 0, "\(put.error)")
      let bad = try shell(
        first, "patchbay put bad source --ack \(ack) --expect sha256:\(Self.wrong) --replace")
      #expect(bad.exitCode == 65, "\(bad.error)")
    }
    let files = try shell(first, "patchbay verify --json \(spool[0]) \(spool[1])")
    #expect(files.exitCode == 0, "\(files.output)")
    let sound = files.output.split(separator: "\n").filter { $0.contains(right) }
    #expect(sound.count == 2 && sound.allSatisfy { $0.contains("\"digestMatches\":true") })
    try first.stop()
    let second = try BrokerProcess(options: spool)
    for key in ["retained", "durable"] {
      let info = try shell(second, "patchbay info \(key) --json").output
      #expect(info.contains("\"digest\":\"\(right)\""), "\(info)")
      #expect(try shell(second, "patchbay get \(key) copy --expect \(right)").exitCode == 0)
    }
    #expect(try shell(second, "patchbay info bad").exitCode == 66)
    try second.stop()
  }

  @Test func `get verifies what it read, and makes no file of anything else`() throws {
    let broker = try BrokerProcess()
    let file = try makeFile(broker, 300_000)
    let right = try digest(file, "sha512")
    #expect(try shell(broker, "patchbay put k source").exitCode == 0)
    let good = try shell(broker, "patchbay get k good --expect \(right) && cmp good source")
    #expect(good.exitCode == 0, "\(good.error)")
    let bad = try shell(broker, "patchbay get k bad --expect sha256:\(Self.wrong)")
    #expect(bad.exitCode == 65, "\(bad.exitCode) \(bad.error)")
    #expect(bad.error.contains("bad was not made: the 300000 bytes that were read"), "\(bad.error)")
    #expect(names(in: broker.directory.path).filter { $0.hasPrefix("bad") } == [])
    try writeFile(broker.directory.file("kept"), [7])
    #expect(try shell(broker, "patchbay get k kept --expect sha256:\(Self.wrong)").exitCode == 65)
    #expect(try readBytes(broker.directory.file("kept")) == [7])
    let head = try shell(
      broker,
      "head -c 1000 source > head; patchbay get k part --count 1000 "
        + "--expect sha256:$(sha256sum < head | cut -d' ' -f1)")
    #expect(head.exitCode == 0, "\(head.error)")
    #expect(try shell(broker, "patchbay get k /dev/null --expect \(right)").exitCode == 74)
    try broker.stop()
  }

  @Test(arguments: [
    "put k source --expect md5:00", "put k source --expect sha256:00", "put k source --expect x",
    "put k source --digest crc32", "put k - --policy drop-oldest --digest sha256 < source",
    "put k source --digest sha256 --expect sha512:\(String(repeating: "0", count: 128))",
    "create k --expect sha256:\(String(repeating: "g", count: 64))", "get k - --expect x",
    "get k - --expect sha256:\(String(repeating: "0", count: 64))",
  ])
  func `what cannot be asked for is a usage error that says why`(_ line: String) throws {
    let broker = try BrokerProcess()
    _ = try makeFile(broker, 1000)
    let outcome = try shell(broker, "patchbay \(line)")
    #expect(outcome.exitCode == 64, "\(outcome.exitCode) \(outcome.error)")
    #expect(outcome.error.contains("patchbay:"))
    #expect(try shell(broker, "patchbay info k").exitCode == 66)
    try broker.stop()
  }

  @Test func `a publisher that is killed while its blob is hashed has abandoned it`() throws {
    let broker = try BrokerProcess()
    let writer = try broker.start(
      ["put", "big", "/dev/zero", "--digest", "sha256", "--rate", "100MiB"], errorPath: "/dev/null")
    try eventually("it is being written") {
      (jsonNumber(try broker.run(["info", "big", "--json"]).output, "frontier") ?? 0) > 20 << 20
    }
    writer.kill(SIGKILL)
    try eventually("it has failed") {
      try broker.run(["info", "big", "--json"]).output.contains("\"state\":\"failed\"")
    }
    #expect(try broker.run(["rm", "big"]).exitCode == 0)
    try broker.stop()
  }
}
