// A broker that serves several users, and processes of other users: what they may, what they may not,
// and what becomes of others when one of them does harm.

import Glibc
import PatchbayTestSupport
import Testing

@Suite(
  .serialized,
  .enabled(if: OtherUser.isPossible, "needs root, setpriv, and a build that others can run"))
struct OtherUserTests {
  private static let alice = OtherUser(2000, groups: [200, 300])
  private static let bob = OtherUser(3000)

  private func sharedBroker(_ options: [String] = [], memory: String = "256MiB") throws
    -> BrokerProcess
  {
    try BrokerProcess(memory: memory, options: ["--shared"] + options)
  }

  private func pattern(_ count: Int) -> String {
    String(decoding: (0..<count).map { UInt8(ascii: "a") + UInt8($0 % 23) }, as: UTF8.self)
  }

  /// A file that everybody may read.
  private func file(_ count: Int, _ broker: BrokerProcess) throws -> String {
    let path = broker.directory.file("of\(count)")
    try writeFile(path, Array(pattern(count).utf8))
    _ = chmod(path, 0o644)
    return path
  }

  // MARK: Who may what

  @Test func `another user is denied by default`() throws {
    let broker = try BrokerProcess(memory: "64MiB", options: ["--idle-exit", "10m"])
    let denied = try broker.run(as: Self.alice, ["ls", "--json"])
    #expect(denied.exitCode == 77)
    #expect(denied.error.contains("notPermitted") && denied.error.contains("--shared"))
    // Also when the socket lets it through: the broker asks the kernel who it is.
    #expect(chmod(broker.socket, 0o666) == 0)
    let refused = try broker.run(as: Self.alice, ["ls", "--json"])
    #expect(refused.exitCode == 77 && refused.error.contains("--shared"))
    #expect(try broker.run(["ls"]).exitCode == 0)
    try broker.stop()
  }

  @Test func `a private directory is refused for a shared broker`() throws {
    let directory = try TemporaryDirectory()
    let inner = directory.file("inner")
    let arguments = ["serve", "--shared", "--memory", "64MiB", "--socket", "\(inner)/s"]
    let outcome = try runProgram("patchbay", arguments)
    #expect(outcome.exitCode == 77 && outcome.error.contains(directory.path))
  }

  @Test func `owner, group and mode say who reads`() throws {
    let broker = try sharedBroker()
    let content = pattern(300_000)
    for (key, mode) in [("own", "0600"), ("all", "0644"), ("small", "0644")] {
      let input = key == "small" ? "small" : content
      #expect(try broker.run(["put", key, "--mode", mode], input: input).exitCode == 0)
    }
    let member = OtherUser(0, gid: 300)
    #expect(
      try broker.run(as: member, ["put", "group", "--mode", "0640"], input: content).exitCode == 0)
    func keys(_ user: OtherUser) throws -> [String] {
      try broker.run(as: user, ["ls", "--json"]).output.split(separator: "\n").compactMap {
        $0.split(separator: "\"").dropFirst(3).first.map(String.init)
      }
    }
    #expect(try keys(Self.alice) == ["all", "group", "small"])
    #expect(try keys(Self.bob) == ["all", "small"])
    for (user, key, code) in [
      (Self.alice, "own", 66), (Self.alice, "group", 0), (Self.alice, "all", 0),
      (Self.alice, "small", 0), (Self.bob, "own", 66), (Self.bob, "group", 66),
      (Self.bob, "all", 0),
    ] as [(OtherUser, String, Int32)] {
      let outcome = try broker.run(as: user, ["cat", key])
      #expect(outcome.exitCode == code, "\(key)")
      #expect(outcome.output == (code != 0 ? "" : key == "small" ? "small" : content), "\(key)")
      #expect(try broker.run(as: user, ["info", key]).exitCode == code, "\(key)")
      #expect(try broker.run(as: user, ["why", key, "--json"]).output.contains("2000") == false)
    }
    let info = try broker.run(as: Self.alice, ["info", "group", "--json"]).output
    #expect(jsonNumber(info, "owner") == 0 && info.contains("\"mode\":\"0640\""), "\(info)")
    let map = try broker.run(as: Self.alice, ["info", "all", "--map", "--json"]).output
    #expect(map.contains("\"written\":[[0,300000]]"), "\(map)")
    try broker.stop()
  }

  @Test func `another user takes nothing away and writes nothing`() throws {
    let broker = try sharedBroker()
    let content = pattern(100_000)
    #expect(try broker.run(["put", "k", "--mode", "0666"], input: content).exitCode == 0)
    #expect(
      try broker.run(["create", "open", "--mode", "0666", "--length", "1MiB"]).exitCode == 0)
    for (arguments, code) in [
      (["rm", "k"], 77), (["put", "k", "--replace"], 77), (["put", "k"], 73),
      (["write", "open", "--at", "0"], 77), (["seal", "open"], 77),
      (["fail", "open", "--why", "x"], 77), (["rm", "-f", "open"], 77),
    ] as [([String], Int32)] {
      let outcome = try broker.run(as: Self.alice, arguments, input: "harm")
      #expect(outcome.exitCode == code, "\(arguments): \(outcome.error)")
    }
    #expect(try broker.run(["cat", "k"]).output == content)
    #expect(try broker.run(["info", "open", "--json"]).output.contains("\"suspended\""))
    #expect(try broker.run(as: Self.alice, ["put", "mine"], input: content).exitCode == 0)
    #expect(try broker.run(as: Self.bob, ["rm", "mine"]).exitCode == 66)
    #expect(try broker.run(["rm", "mine", "open"]).exitCode == 0)
    try broker.stop()
  }

  @Test func `a reader's descriptors cannot be opened for writing`() throws {
    let broker = try sharedBroker()
    let publisher = try broker.peer()
    try publisher.ask("publish k 100000 any mode=644")
    try publisher.ask("patchwork k 0 100000 3000 5")
    let reader = try broker.peer(Self.alice.wrapper)
    try reader.ask("open k")
    #expect(try reader.ask("full k 0 100000") == "100000")
    let own = try publisher.ask("reopen").split(separator: " ").compactMap { Int($0) }
    #expect(own[0] > 0, "root may: the test can fail")
    let other = try reader.ask("reopen").split(separator: " ").compactMap { Int($0) }
    #expect(other[0] == 0 && other[1] >= 2, "\(other)")
    try publisher.ask("seal k")
    try broker.stop()
  }

  // MARK: Reading what grows

  @Test func `readers of other users follow a blob that is written in any order`() throws {
    let broker = try sharedBroker()
    let size = 6_000_000
    for (owner, readers) in [
      (OtherUser(0), [Self.alice, Self.bob]), (Self.alice, [OtherUser(0), Self.bob, Self.alice]),
    ] {
      let publisher = try broker.peer(owner.wrapper)
      try publisher.ask("publish k \(size) any mode=644")
      let peers = try readers.map { try broker.peer($0.wrapper) }
      for peer in peers {
        try peer.ask("open k")
        try peer.tell("stream k 0")
      }
      try publisher.ask("patchwork k 0 \(size) 200000 11")
      try publisher.ask("seal k")
      for peer in peers {
        #expect(try peer.answer(within: 120) == "\(size)")
        #expect(try peer.ask("lease k 1000 9000") == "1")
        #expect(try peer.ask("checkLeases") == "1")
        #expect(try peer.ask("whole k") == "\(size)")
        #expect(try peer.ask("try k \(size) 10") == "endOfBlob")
      }
      try publisher.ask("remove k")
    }
    try broker.stop()
  }

  @Test func `readers of other users follow a blob of many extents`() throws {
    let broker = try sharedBroker()
    let publisher = try broker.peer(Self.alice.wrapper)
    let size = 9_000_000
    try publisher.ask("publish k - append mode=644")
    let peers = try [OtherUser(0), Self.bob].map { try broker.peer($0.wrapper) }
    for peer in peers {
      try peer.ask("open k")
      try peer.tell("stream k 0")
    }
    try publisher.tell("oracle k \(size) 70000")
    #expect(try publisher.answer(within: 120) == "")
    try publisher.ask("seal k")
    for peer in peers {
      #expect(try peer.answer(within: 120) == "\(size)")
      #expect(try peer.ask("whole k") == "\(size)")
      #expect(try peer.ask("full k 60000 5000000") == "4940000")
    }
    try broker.stop()
  }

  @Test func `readers of other users find every byte right in rings that are used again`() throws {
    let broker = try sharedBroker()
    let size = 600_000
    let publisher = try broker.peer(Self.alice.wrapper)
    let readers = try [OtherUser(0), Self.bob, Self.alice].map { try broker.peer($0.wrapper) }
    for round in 1...8 {
      try publisher.ask("publish k \(size) any mode=644")
      for reader in readers {
        try reader.ask("open k")
        try reader.tell("stream k 0")
      }
      try publisher.ask("patchwork k 0 \(size) 50000 \(round)")
      try publisher.ask("seal k")
      for reader in readers {
        #expect(try reader.answer(within: 120) == "\(size)")
        #expect(try reader.ask("whole k") == "\(size)")
        try reader.ask("close k")
      }
      try publisher.ask("remove k")
      try eventually("the ring is in the pool") {
        // What is posted without waiting for an answer is sent with whatever follows.
        for reader in readers { _ = try reader.askForError("open nothing") }
        return try broker.statistic("poolBytes") > 0
      }
      let stats = try broker.run(as: Self.alice, ["stats", "--json"]).output
      #expect(jsonNumber(stats, "userMemoryBytes") == 0, "what rests is nobody's")
    }
    #expect(try broker.statistic("reuses") == 7)
    try broker.stop()
  }

  @Test func `a reader of another user that hung up keeps its ring until its process is gone`()
    throws
  {
    let broker = try sharedBroker()
    let content = pattern(100_000)
    let put = ["put", "k", "--mode", "0644"]
    #expect(try broker.run(as: Self.alice, put, input: content).exitCode == 0)
    let reader = try broker.peer(Self.bob.wrapper)
    try reader.ask("open k")
    try reader.ask("hangUp")
    #expect(try broker.run(["rm", "k"]).exitCode == 0)
    #expect(try broker.run(as: Self.alice, put, input: content).exitCode == 0)
    #expect(try broker.statistic("reuses") == 0 && broker.statistic("poolBytes") == 0)
    reader.process.kill(SIGKILL)
    try eventually("its ring is in the pool") { try broker.statistic("poolBytes") > 0 }
    try broker.stop()
  }

  @Test func `a publisher waits for readers of other users, within its limit`() throws {
    let broker = try sharedBroker()
    let total = 12 << 20
    let publisher = try broker.peer()
    try publisher.ask("publish k - backpressure \(1 << 20) 65536 60000 mode=644")
    let readers = try [Self.alice, Self.bob].map { try broker.peer($0.wrapper) }
    for reader in readers {
      try reader.ask("open k")
      try reader.ask("attach k")
      try reader.tell("stream k 0")
    }
    try publisher.tell("oracle k \(total) 10000")
    #expect(try publisher.answer(within: 500) == "")
    try publisher.ask("seal k")
    for reader in readers { #expect(try reader.answer(within: 500) == "\(total)") }
    // One that stands still is let go.
    try publisher.ask("publish held - backpressure \(1 << 20) 65536 300 mode=644")
    try readers[0].ask("open held")
    try readers[0].ask("attach held")
    try publisher.tell("oracle held \(8 << 20) 10000")
    #expect(try publisher.answer(within: 120) == "")
    #expect(try readers[0].askForError("stream held 0").code == "overrun")
    try publisher.ask("seal held")
    try broker.stop()
  }

  @Test func `a failure reaches readers of other users`() throws {
    let broker = try sharedBroker()
    let publisher = try broker.peer(Self.alice.wrapper)
    try publisher.ask("publish k 100000 any mode=644")
    try publisher.ask("write k 0 5000")
    let reader = try broker.peer(Self.bob.wrapper)
    try reader.ask("open k")
    #expect(try reader.ask("read k 0 5000") == "5000")
    try reader.tell("read k 5000 1")
    publisher.process.kill(SIGKILL)
    do {
      Issue.record("the read ended with \(try reader.answer())")
    } catch let error as PeerError {
      #expect(error.code == "abandoned")
    }
    #expect(try reader.ask("full k 0 5000") == "5000")
    try broker.stop()
  }

  // MARK: Harm

  /// A vandal's ring is cut off, punched and scribbled over while three users read it, and while a
  /// blob beside it is written and read.
  @Test(
    arguments: [
      ["truncate 0"], ["truncate 5000"], ["truncate 600000"], ["punch"], ["scribble 1"],
      ["rewrite 2"], ["truncate 0", "truncate 90000000"],
      ["scribble 3", "punch", "scribble 4", "truncate 70000", "truncate 9000000", "scribble 5"],
    ], ["any", "append"])
  func `who harms its own ring harms only its readers, with an error`(
    acts: [String], order: String
  ) throws {
    let broker = try sharedBroker()
    let size = 1_000_000
    let vandal = try broker.peer(Self.alice.wrapper)
    try vandal.ask("vandal \(broker.socket) harmed \(size) \(order)")
    let readers = try [OtherUser(0), Self.bob].map { try broker.peer($0.wrapper) }
    for reader in readers { #expect(try reader.ask("open harmed").hasSuffix("\(size)")) }
    for reader in readers { #expect(try reader.ask("full harmed 0 \(size)") == "\(size)") }
    let publisher = try broker.peer()
    try publisher.ask("publish beside \(size) any mode=644")
    let beside = try broker.peer(Self.bob.wrapper)
    try beside.ask("open beside")
    try beside.tell("stream beside 0")
    for reader in readers { try reader.tell("harass harmed \(size) 700") }
    for act in acts { try vandal.ask("act \(act)") }
    try publisher.ask("patchwork beside 0 \(size) 100000 3")
    try publisher.ask("seal beside")
    #expect(try beside.answer(within: 120) == "\(size)")
    for reader in readers {
      let counts = try reader.answer(within: 120).split(separator: " ").compactMap { Int($0) }
      // Other bytes than the right ones come only from a publisher that wrote them.
      let isRewritten = acts.contains { $0.hasPrefix("rewrite") || $0.hasPrefix("truncate 9") }
      #expect(counts[1] == 0 || isRewritten, "\(counts)")
      #expect(counts[2] > 0 || acts[0].hasPrefix("rewrite"), "\(counts)")
    }
    // The broker looks into the ring for each of these.
    for arguments in [["info", "harmed", "--map"], ["ls", "-l"], ["stats"], ["why", "harmed"]] {
      let outcome = try broker.run(arguments)
      #expect([0, 65, 74].contains(outcome.exitCode), "\(arguments): \(outcome.error)")
    }
    _ = try vandal.ask("act seal \(size)")
    // The broker would wait for an open blob's publisher before it ends.
    vandal.process.kill(SIGKILL)
    #expect(try beside.ask("whole beside") == "\(size)")
    #expect(try broker.run(["put", "after"], input: "fine").exitCode == 0)
    try broker.stop()
  }

  // MARK: Shares

  @Test func `one user's blobs take no more than its share`() throws {
    let broker = try sharedBroker(["--user-memory", "8MiB"], memory: "64MiB")
    let large = try file(9 << 20, broker)
    let refused = try broker.run(as: Self.alice, ["put", "k", large, "--json"])
    #expect(refused.exitCode == 81)
    #expect(refused.error.contains("user 2000") && refused.error.contains("--user-memory"))
    for user in [OtherUser(0), OtherUser(0, gid: 5)] {
      #expect(try broker.run(as: user, ["put", "k", large, "--replace"]).exitCode == 0)
    }
    let small = try file(3 << 20, broker)
    for key in ["a", "b", "c", "d"] {
      #expect(try broker.run(as: Self.alice, ["put", key, small]).exitCode == 0)
    }
    let stats = try broker.run(as: Self.alice, ["stats", "--json"]).output
    #expect(jsonNumber(stats, "userMemoryLimit") == 8 << 20)
    let used = jsonNumber(stats, "userMemoryBytes") ?? 0
    #expect(used > 3 << 20 && used <= 8 << 20)
    #expect(try broker.run(["cat", "k"]).bytes.count == 9 << 20, "nobody else's is evicted")
    #expect(try broker.run(as: Self.bob, ["put", "e", small]).exitCode == 0)
    try broker.stop()
  }

  @Test func `a watch tells a user of what it may read and of nothing else`() throws {
    let broker = try sharedBroker()
    for (key, mode) in [("seen", "0644"), ("hidden", "0600")] {
      #expect(try broker.run(["put", key, "--mode", mode], input: "x").exitCode == 0)
    }
    let command = Self.alice.wrapper + [try program("patchbay")]
    let watch = try ChildProcess(
      command[0], Array(command.dropFirst()) + ["watch", "--from", "start", "--json"],
      environment: ["PATCHBAY_SOCKET": broker.socket])
    #expect(try watch.line().contains("\"seen\""))
    #expect(try broker.run(["rm", "hidden", "seen"]).exitCode == 0)
    let line = try watch.line()
    #expect(line.contains("\"seen\"") && line.contains("removed"), "\(line)")
    watch.kill(SIGINT)
    _ = try watch.waitForExit()
    try broker.stop()
  }
}
