// Files that are there already, programs that know nothing of blobs, pins, and copies by several
// threads: the verbs `import`, `with`, `pin`, `unpin` and `get --parallel`, each with what is wrong
// to ask of it.

import Glibc
import PatchbaySystem
import PatchbayTestSupport
import Testing

@testable import Patchbay

@Suite(.serialized) struct ImportProcessTests {
  private static let size = 3_000_001

  private func file(_ broker: BrokerProcess, _ name: String, _ count: Int = Self.size) throws
    -> String
  {
    let path = broker.directory.file(name)
    try writeFile(path, oracleBytes(1, 0..<count))
    return path
  }

  private func sum(_ path: String) throws -> String {
    let outcome = try runProgram("/usr/bin/sha256sum", [path])
    return String(outcome.output.prefix(64))
  }

  // MARK: import

  @Test func `an imported file is read by every verb, and stays when its blob goes`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let path = try file(broker, "file")
    let imported = try broker.run([
      "import", "f", path, "--type", "a/b", "--label", "k=v", "--json",
    ])
    #expect(imported.exitCode == 0 && imported.output.contains("\"byteCount\":\(Self.size)"))
    #expect(try broker.run(["cat", "f"]).bytes == oracleBytes(1, 0..<Self.size))
    let part = try broker.run(["cat", "f", "--from", "1000000", "--count", "500000"])
    #expect(part.bytes == oracleBytes(1, 1_000_000..<1_500_000))
    let info = try broker.run(["info", "f", "--json"]).output
    #expect(info.contains("\"imported\":true") && info.contains("\"residentBytes\":0"))
    #expect(info.contains("\"type\":\"a/b\"") && info.contains("\"k\":\"v\""))
    #expect(try broker.run(["info", "f", "--map"]).exitCode == 0)
    #expect(try broker.run(["ls", "-l"]).output.contains(" imported "))
    #expect(try broker.run(["wait", "f", "--timeout", "5s"]).exitCode == 0)
    #expect(try broker.statistic("rings") == 0)
    #expect(try broker.run(["rm", "f"]).exitCode == 0)
    #expect(try readBytes(path) == oracleBytes(1, 0..<Self.size))
    // Also when it is evicted with everything else at the end.
    #expect(try broker.run(["import", "f", path]).exitCode == 0)
    let descriptors = descriptorCount(of: broker.process.pid)
    #expect(try broker.run(["rm", "f"]).exitCode == 0)
    try eventually("the broker lets go") { descriptorCount(of: broker.process.pid) < descriptors }
    try broker.stop()
    #expect(try readBytes(path) == oracleBytes(1, 0..<Self.size))
  }

  @Test func `wrong imports are told apart by exit code`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let path = try file(broker, "file", 100)
    #expect(try broker.run(["import", "f", path + ".none"]).exitCode == 74)
    #expect(try broker.run(["import", "f", broker.directory.path]).exitCode == 74)
    #expect(try broker.run(["import", "f", "/proc/self/status"]).exitCode == 74)
    #expect(try broker.run(["import", "f"]).exitCode == 64)
    #expect(
      try broker.run(["import", "f", path, "--label", "a=1", "--label", "a=2"]).exitCode == 64)
    #expect(try broker.run(["import", "f", path, "--mode", "0999"]).exitCode == 64)
    #expect(try broker.run(["import", "f", path, "--mode", "0755"]).exitCode == 76)
    #expect(try broker.run(["import", "f", path]).exitCode == 0)
    #expect(try broker.run(["import", "f", path]).exitCode == 73)
    #expect(try broker.run(["import", "f", path, "--replace"]).exitCode == 0)
    let nobody = broker.directory.file("nobody.sock")
    #expect(try runProgram("patchbay", ["import", "f", path, "--socket", nobody]).exitCode == 69)
    try broker.stop()
  }

  @Test func `an import that was answered after its deadline is removed by its client's next call`()
    throws
  {
    let broker = try BrokerProcess(memory: "64MiB")
    let path = try file(broker, "file", 1000)
    do {
      let client = try PatchbayClient(socketPath: broker.socket)
      try client.importFile(path, as: "first")
      try broker.suspend()
      defer { broker.process.kill(SIGCONT) }
      let late = #expect(throws: PatchbayError.self) {
        try client.importFile(path, as: "late", deadline: .after(.seconds(1)))
      }
      #expect(late?.code == .timedOut && late?.message.contains("did not answer") == true)
      broker.process.kill(SIGCONT)
      let witness = try PatchbayClient(socketPath: broker.socket)
      try eventually("it has become a blob") { try witness.exists("late") }
      try client.ping()
      try eventually("it is removed") { try !witness.exists("late") }
      #expect(try witness.exists("first"))
      // Its key is free, and the client goes on.
      try client.importFile(path, as: "late")
      try client.ping()
      #expect(try witness.exists("late"))
    }
    try broker.stop()
  }

  @Test func `an import whose task was cancelled is removed once it is answered`() async throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let path = try file(broker, "file", 1000)
    do {
      let client = try await PatchbayClient(socketPath: broker.socket)
      let first = try await client.importFile(path, as: "first")
      try broker.suspend()
      defer { broker.process.kill(SIGCONT) }
      let task = Task { try await client.importFile(path, as: "late", deadline: .never) }
      try await eventually("it is asked for") { client.session.connection.pendingCount > 0 }
      task.cancel()
      let outcome = await task.result
      #expect(throws: PatchbayError.self) { try outcome.get() }
      broker.process.kill(SIGCONT)
      // Answers come in the order of requests.
      try await client.ping()
      try await eventually("it is removed") { try await !client.exists("late") }
      let last = try await client.importFile(path, as: "last")
      #expect(last.rawValue > first.rawValue + 1, "it had become a blob")
    }
    try broker.stop()
  }

  @Test func `a changed file is found by who comes, and imported again under its key`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let path = try file(broker, "file", 100_000)
    #expect(try broker.run(["import", "f", path]).exitCode == 0)
    let watch = try broker.start(["watch", "--json"])
    try eventually("it watches") { try broker.statistic("clients") > 1 }
    try writeFile(path, oracleBytes(2, 0..<100_000))
    let refused = try broker.run(["cat", "f"])
    #expect(refused.exitCode == 65 && refused.bytes.isEmpty)
    #expect(refused.error.contains("since it was imported"), "\(refused.error)")
    let line = try watch.line()
    #expect(line.contains("\"failed\"") && line.contains("\"f\""), "\(line)")
    #expect(try broker.run(["info", "f"]).output.contains("failed: the file was written to"))
    #expect(try broker.run(["import", "f", path]).exitCode == 0)
    #expect(try broker.run(["cat", "f"]).bytes == oracleBytes(2, 0..<100_000))
    watch.kill(SIGTERM)
    _ = try watch.waitForExit()
    try broker.stop()
  }

  @Test(arguments: ["thread", "task"])
  func `a file that changes while the broker takes it is taken back`(form: String) throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let path = try file(broker, "file", 1000)
    let peer = try broker.peer()
    try broker.suspend()
    #expect(try peer.ask("importWhile f \(path) \(form)") == "changed")
    broker.process.kill(SIGCONT)
    let refused = try peer.askForError("importOutcome")
    #expect(refused.code == "corrupt", "\(refused)")
    for words in [path, "has 1001 bytes instead of 1000", "imported as f", "copy"] {
      #expect(refused.description.contains(words), "\(refused)")
    }
    #expect(try broker.run(["info", "f"]).exitCode == 66)
    try eventually("its descriptor is closed") {
      openDescriptorCount(of: path, in: broker.process.pid) == 0
    }
    // Left alone it is imported.
    #expect(try broker.run(["import", "f", path]).exitCode == 0)
    #expect(try broker.run(["cat", "f"]).bytes.count == 1001)
    try broker.stop()
  }

  // MARK: pin

  @Test func `pinned blobs are shown and stay`() throws {
    let broker = try BrokerProcess(memory: "32MiB")
    let path = try file(broker, "file", 6 << 20)
    #expect(try broker.run(["put", "a", path]).exitCode == 0)
    #expect(try broker.run(["pin", "a", "--json"]).output.contains("\"pinned\":true"))
    for index in 0..<8 { #expect(try broker.run(["put", "b\(index)", path]).exitCode == 0) }
    #expect(try broker.statistic("evictions") > 0)
    #expect(try broker.run(["info", "a", "--json"]).output.contains("\"pinned\":true"))
    #expect(try broker.run(["info", "a"]).output.contains("pinned"))
    #expect(try broker.run(["ls", "-l"]).output.contains(" pinned "))
    #expect(try broker.run(["unpin", "a", "--json"]).output.contains("\"pinned\":false"))
    for index in 8..<16 { #expect(try broker.run(["put", "b\(index)", path]).exitCode == 0) }
    #expect(try broker.run(["pin", "a"]).exitCode == 66)
    #expect(try broker.run(["unpin", "a"]).exitCode == 66)
    #expect(try broker.run(["pin"]).exitCode == 64)
    try broker.stop()
  }

  // MARK: with

  private static let mapper = """
    import hashlib, mmap, sys
    for path in sys.argv[1:]:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            print(hashlib.sha256(mapped).hexdigest(), len(mapped))
    """

  @Test func `a program that knows nothing of blobs maps them`() throws {
    let place = try TemporaryDirectory()
    let broker = try BrokerProcess(
      memory: "64MiB", options: ["--spool", place.file("spool"), "--compress", "lz4"])
    let (path, small) = (try file(broker, "file"), try file(broker, "small", 5000))
    let large = try file(broker, "large", 48 << 20)
    #expect(try broker.run(["put", "ring", path]).exitCode == 0)
    #expect(try broker.run(["put", "shuffled", path, "--shuffle", "7"]).exitCode == 0)
    #expect(try broker.run(["put", "inline", small]).exitCode == 0)
    #expect(try broker.run(["import", "imported", path]).exitCode == 0)
    for key in ["spooled", "filler"] {
      #expect(try broker.run(["put", key, large]).exitCode == 0)
    }
    #expect(try broker.run(["info", "spooled"]).output.contains("on disk"))
    let expected = [
      "ring": (path, Self.size), "shuffled": (path, Self.size), "inline": (small, 5000),
      "imported": (path, Self.size), "spooled": (large, 48 << 20),
    ]
    for (key, (source, count)) in expected.sorted(by: { $0.key < $1.key }) {
      let mapped = try broker.run(["with", key, "--", "python3", "-c", Self.mapper, "{}"])
      #expect(mapped.output == "\(try sum(source)) \(count)\n", "\(key): \(mapped.error)")
      let summed = try broker.run(["with", key, "--", "sha256sum", "{}"])
      #expect(summed.output.prefix(64) == (try sum(source)), "\(key)")
      #expect(try broker.run(["with", key, "--", "cmp", "{}", source]).exitCode == 0)
    }
    let both = try broker.run(["with", "ring", "imported", "--", "cmp", "{}", "{}"])
    #expect(both.exitCode == 0, "\(both.error)")
    #expect(try broker.run(["with", "ring", "inline", "--", "cmp", "{}", "{}"]).exitCode == 1)
    #expect(try broker.run(["put", "empty", "-"]).exitCode == 0)
    #expect(try broker.run(["with", "empty", "--", "wc", "-c", "{}"]).output.hasPrefix("0 "))
    // A place inside of a word, as well.
    let inside = try broker.run(["with", "inline", "--", "dd", "if={}", "bs=5000", "status=none"])
    #expect(inside.bytes == oracleBytes(1, 0..<5000))
    try broker.stop()
  }

  @Test func `what a program gets it can neither write nor lengthen`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    #expect(try broker.run(["put", "k", "-"], input: "bytes").exitCode == 0)
    let script = """
      import os, sys
      file = os.open(sys.argv[1], os.O_RDONLY)
      held = int(sys.argv[1].split("/")[-1])
      for name, attempt in {
          "write": lambda: os.write(held, b"x"), "cut": lambda: os.ftruncate(held, 0),
          "open": lambda: os.write(os.open(sys.argv[1], os.O_RDWR), b"x"),
          "grow": lambda: os.truncate(sys.argv[1], 100),
      }.items():
          try:
              attempt()
              print(name, "was possible")
          except OSError:
              pass
      print(os.read(file, 100), os.fstat(held).st_size)
      """
    let outcome = try broker.run(["with", "k", "--", "python3", "-c", script, "{}"])
    #expect(outcome.output == "b'bytes' 5\n", "\(outcome.error)")
    try broker.stop()
  }

  @Test func `with ends as its command does, and passes signals on`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    #expect(try broker.run(["put", "k", "-"], input: "bytes").exitCode == 0)
    func code(_ words: [String]) throws -> Int32 {
      try broker.run(["with", "k", "--"] + words).exitCode
    }
    #expect(try code(["true", "{}"]) == 0)
    #expect(try code(["sh", "-c", "exit 7", "{}"]) == 7)
    #expect(try code(["sh", "-c", "kill -9 $$", "{}"]) == 137)
    #expect(try code(["/nowhere/command", "{}"]) == 74)
    let child = try broker.start(["with", "k", "--", "sh", "-c", "echo $$; exec sleep 1000", "{}"])
    let number = try #require(Int32(try child.line()))
    child.kill(SIGTERM)
    #expect(try child.waitForExit() == 143)
    #expect(kill(number, 0) != 0)
    // The command decides what a signal means.
    let trap = "trap 'echo heard; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
    let deaf = try broker.start(["with", "k", "--", "sh", "-c", trap, "{}"])
    #expect(try deaf.line() == "ready")
    deaf.kill(SIGTERM)
    #expect(try deaf.line() == "heard")
    #expect(try deaf.waitForExit() == 3)
    try broker.stop()
  }

  @Test func `wrong calls of with are told apart by exit code`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    #expect(try broker.run(["put", "k", "-"], input: "bytes").exitCode == 0)
    for words in [
      ["with"], ["with", "k"], ["with", "k", "--"], ["with", "k", "--", "cat"],
      ["with", "k", "k", "--", "cat", "{}"], ["with", "k", "--", "cmp", "{}", "{}"],
      ["with", "--", "cat", "{}"], ["with", "%zz", "--", "cat", "{}"],
    ] {
      let outcome = try broker.run(words)
      #expect(outcome.exitCode == 64 && outcome.bytes.isEmpty, "\(words)")
    }
    #expect(try broker.run(["with", "none", "--", "cat", "{}"]).exitCode == 66)
    #expect(
      try broker.run(["with", "none", "--wait-for", "20ms", "--", "cat", "{}"]).exitCode == 75)
    #expect(try broker.run(["create", "open", "--length", "10"]).exitCode == 0)
    let waits = try broker.run(["with", "open", "--timeout", "20ms", "--", "cat", "{}"])
    #expect(waits.exitCode == 75 && waits.bytes.isEmpty)
    let child = try broker.start(["with", "open", "--", "cat", "{}"])
    try eventually("it has the blob open") {
      try broker.run(["info", "open", "--json"]).output.contains("\"subscriberCount\":1")
    }
    #expect(try broker.run(["write", "open", "-", "--at", "0"], input: "0123456789").exitCode == 0)
    #expect(try broker.run(["seal", "open"]).exitCode == 0)
    #expect(try child.rest() == Array("0123456789".utf8))
    #expect(try child.waitForExit() == 0)
    _ = try broker.run(["put", "failed", "-", "--length", "9"], input: "short")
    #expect(try broker.run(["with", "failed", "--", "cat", "{}"]).exitCode == 79)
    try broker.stop()
  }

  @Test func `an imported file that changes under a command is told at its end`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let path = try file(broker, "file", 1000)
    #expect(try broker.run(["import", "f", path]).exitCode == 0)
    let good = try broker.run(["with", "f", "--", "sh", "-c", "wc -c < \"$0\"", "{}"])
    #expect(good.exitCode == 0 && good.output == "1000\n")
    let changed = try broker.run(["with", "f", "--", "sh", "-c", "echo x >> \(path)", "{}"])
    #expect(changed.exitCode == 65 && changed.error.contains("since it was imported"))
    #expect(try broker.run(["with", "f", "--", "cat", "{}"]).exitCode == 65)
    try broker.stop()
  }

  @Test func `a command that fails has its own status, and a change is told besides`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    for (name, words) in [("one", "exit 7"), ("two", "kill -9 $$")] {
      let path = try file(broker, name, 1000)
      #expect(try broker.run(["import", name, path]).exitCode == 0)
      let failed = try broker.run(["with", name, "--", "sh", "-c", words, "{}"])
      let status: Int32 = name == "one" ? 7 : 137
      #expect(failed.exitCode == status && failed.error.isEmpty, "\(failed.error)")
      let changed = try broker.run(
        ["with", name, "--json", "--", "sh", "-c", "echo x >> \(path); \(words)", "{}"])
      #expect(changed.exitCode == status)
      #expect(changed.error.hasPrefix("{\"error\":{\"code\":\"corrupt\""), "\(changed.error)")
      #expect(changed.error.contains("\"key\":\"\(name)\""), "\(changed.error)")
    }
    try broker.stop()
  }

  /// The broker is killed by the command, which then may change the file.
  @Test(arguments: [false, true])
  func `whether a file has changed is found without the broker`(changes: Bool) throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let path = try file(broker, "file", 1000)
    #expect(try broker.run(["import", "f", path]).exitCode == 0)
    #expect(try broker.run(["put", "k", "-"], input: "bytes").exitCode == 0)
    let pid = broker.process.pid
    let gone =
      "kill -9 \(pid); while kill -0 \(pid) 2>&-; do grep -q '^State:.Z' /proc/\(pid)/status && break; done"
    let words = gone + (changes ? "; echo x >> \(path)" : "")
    let outcome = try broker.run(["with", "f", "k", "--", "sh", "-c", words, "{}", "{}"])
    #expect(outcome.exitCode == (changes ? 65 : 0), "\(outcome.error)")
    #expect(outcome.error.isEmpty != changes, "\(outcome.error)")
    #expect(outcome.error.contains("since it was imported") == changes)
    #expect(try broker.process.waitForExit() == 128 + SIGKILL)
    // The next one takes away what the killed one has left.
    let next = try ChildProcess(
      program("patchbay"), ["serve", "--socket", broker.socket], errorPath: broker.logPath)
    try eventually("the next broker answers") { try broker.run(["ping"]).exitCode == 0 }
    next.kill(SIGTERM)
    #expect(try next.waitForExit() == 0)
    #expect(broker.objects.isEmpty, "\(broker.objects)")
  }

  /// The system refuses every look at a file but the first, before the command starts.
  @Test func `a file that cannot be looked at any more does not spoil a good end`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let path = try file(broker, "file", 1000)
    #expect(try broker.run(["import", "f", path]).exitCode == 0)
    let refused = ["-qq", "-o", "/dev/null", "-e", "inject=statx:error=EIO:when=2+"]
    for (options, words) in [
      ([], "warning: Nobody can say whether the file of the imported blob f was changed"),
      (["--json"], "{\"warning\":{\"code\":\"inputOutput\""),
    ] {
      for (command, status) in [("exit 0", 0), ("exit 7", 7)] as [(String, Int32)] {
        let outcome = try runProgram(
          "/usr/bin/strace",
          refused + [program("patchbay"), "with", "f"] + options
            + ["--", "sh", "-c", command, "{}"],
          environment: ["PATCHBAY_SOCKET": broker.socket])
        #expect(outcome.exitCode == status, "\(outcome.error)")
        #expect(outcome.error.contains(words), "\(outcome.error)")
      }
    }
    try broker.stop()
  }

  // MARK: get --parallel

  @Test(arguments: [2, 4, 64])
  func `several threads copy what one does`(threads: Int) throws {
    let place = try TemporaryDirectory()
    let broker = try BrokerProcess(memory: "64MiB", options: ["--spool", place.file("spool")])
    let large = try file(broker, "large", 40 << 20)
    for key in ["spooled", "resident"] {
      #expect(try broker.run(["put", key, large]).exitCode == 0)
    }
    let path = try file(broker, "file")
    #expect(try broker.run(["import", "imported", path]).exitCode == 0)
    #expect(try broker.run(["put", "inline", "-"], input: "bytes").exitCode == 0)
    #expect(try broker.run(["put", "empty", "-"]).exitCode == 0)
    let target = broker.directory.file("target")
    func get(_ key: String, _ more: [String] = []) throws -> [UInt8] {
      let outcome = try broker.run(["get", key, target, "--parallel", "\(threads)"] + more)
      #expect(outcome.exitCode == 0, "\(key): \(outcome.error)")
      return try readBytes(target)
    }
    for key in ["spooled", "resident"] {
      _ = try get(key)
      #expect(try runProgram("/usr/bin/cmp", [target, large]).exitCode == 0, "\(key)")
    }
    #expect(try get("imported") == oracleBytes(1, 0..<Self.size))
    #expect(try get("inline") == Array("bytes".utf8) && get("empty").isEmpty)
    let (from, count) = (5_000_001, 10_000_000)
    #expect(
      try get("spooled", ["--from", "\(from)", "--count", "\(count)"])
        == oracleBytes(1, from..<from + count))
    #expect(try get("imported", ["--from", "\(Self.size + 10)"]).isEmpty)
    #expect(names(in: broker.directory.path).allSatisfy { !$0.contains(".part.") })
    try broker.stop()
  }

  @Test(arguments: [true, false])
  func `several threads follow a blob that is being written`(isLengthKnown: Bool) throws {
    let broker = try BrokerProcess(memory: "256MiB")
    let path = try file(broker, "file", 21_000_003)
    let target = broker.directory.file("target")
    let get = try broker.start(["get", "k", target, "--parallel", "4", "--wait-for", "1m"])
    let options = isLengthKnown ? ["--shuffle", "3"] : ["--rate", "40MiB"]
    let source = isLengthKnown ? path : "-"
    let put = try ChildProcess(
      "/bin/sh", ["-c", "cat \(path) | \"$P\" put k \(source) \(options.joined(separator: " "))"],
      environment: ["PATCHBAY_SOCKET": broker.socket, "P": try program("patchbay")])
    #expect(try put.waitForExit() == 0)
    #expect(try get.waitForExit() == 0)
    #expect(try runProgram("/usr/bin/cmp", [target, path]).exitCode == 0)
    try broker.stop()
  }

  @Test func `a copy by several threads that fails leaves nothing, and ends at once`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let target = broker.directory.file("target")
    func code(_ words: [String]) throws -> Int32 { try broker.run(["get"] + words).exitCode }
    #expect(try broker.run(["put", "k", "-"], input: "bytes").exitCode == 0)
    #expect(try code(["k", "-", "--parallel", "2"]) == 64)
    for count in ["0", "65", "-1", "many"] {
      #expect(try code(["k", target, "--parallel", count]) == 64)
    }
    #expect(try code(["k", "-", "--parallel", "1"]) == 0)
    #expect(try code(["k", "/dev/null", "--parallel", "2"]) == 74)
    #expect(try code(["none", target, "--parallel", "2"]) == 66)
    #expect(try broker.run(["create", "open", "--length", "20MiB"]).exitCode == 0)
    #expect(try code(["open", target, "--parallel", "4", "--timeout", "50ms"]) == 75)
    let window = try broker.start(["put", "window", "-", "--policy", "drop-oldest"])
    try window.send("some")
    try eventually("the window is there") { try broker.run(["info", "window"]).exitCode == 0 }
    #expect(try code(["window", target, "--parallel", "2"]) == 77)
    window.kill(SIGTERM)
    _ = try window.waitForExit()
    let get = try broker.start(["get", "open", target, "--parallel", "4"])
    try eventually("it reads") {
      try broker.run(["info", "open", "--json"]).output.contains("\"subscriberCount\":1")
    }
    #expect(try broker.run(["fail", "open", "--why", "no more"]).exitCode == 0)
    #expect(try get.waitForExit() == 79)
    #expect(names(in: broker.directory.path).allSatisfy { !$0.hasPrefix("target") })
    try broker.stop()
  }
}
