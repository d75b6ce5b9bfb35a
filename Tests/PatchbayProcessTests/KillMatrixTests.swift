// A broker that is killed at each of its system calls, while a client lives a short and rich life, and
// while it takes the place of one that was killed before.
//
// Which calls: those by which something is made that outlives the process or that others see. On disk:
// openat (makes containers, scratch files and the lock), pwrite64, ftruncate, fallocate, fsync,
// fdatasync, renameat, renameat2, linkat, unlinkat, unlink. In shared memory, whose stores are no calls:
// those around them, which are mmap, munmap, memfd_create and futex (the bells). To clients: bind,
// listen, accept4, sendmsg, sendto, recvmsg, write, epoll_ctl, close, pidfd_open. A call is not made
// when the broker is killed at it, so all states between two of them are seen.
//
// The tracer counts the calls of each kind and of each thread by itself. The workers run inline here, so
// that nearly all calls are of one thread and come in the same order each time. The loader's calls are of
// the main thread, and would stand before those of the others: where other threads matter, the tracer
// comes when the broker is ready, and the client waits for it.

import Glibc
import Patchbay
import PatchbayTestSupport
import Testing

/// The system calls of a broker, and how often it makes each.
struct CallCounts {
  static let calls = [
    "openat", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync", "renameat", "renameat2",
    "linkat", "unlinkat", "unlink", "mmap", "munmap", "memfd_create", "futex", "bind", "listen",
    "accept4", "sendmsg", "sendto", "recvmsg", "write", "epoll_ctl", "close", "pidfd_open",
  ]

  /// By call: the most that one thread has made.
  private var highest: [String: Int] = [:]

  /// From what a tracer has written: lines of a thread's number and its call.
  init(_ path: String) throws {
    var counts: [Substring: [Substring: Int]] = [:]
    for line in try readFile(path).split(separator: "\n") {
      let words = line.split(separator: " ")
      guard words.count > 1, let open = words[1].firstIndex(of: "(") else { continue }
      counts[words[1][..<open], default: [:]][words[0], default: 0] += 1
    }
    for (call, threads) in counts { highest[String(call)] = threads.values.max() }
  }

  /// What a tracer is told that only looks.
  static let trace = ["-e", "trace=\(calls.joined(separator: ","))", "-e", "signal=none"]

  subscript(_ call: String) -> Int { highest[call] ?? 0 }

  /// Every point behind those of others.
  func points(behind others: CallCounts?) -> [KillPoint] {
    Self.calls.flatMap { call in
      let first = others?[call] ?? 0
      return (first..<max(first, self[call])).map { KillPoint(call, $0 + 1) }
    }
  }

  /// Some of them: at equal distances, from a random one on.
  func spread(
    _ count: Int, behind others: CallCounts? = nil, _ random: inout SeededRandom
  ) -> [KillPoint] {
    let all = points(behind: others)
    guard all.count > count else { return all }
    let step = Double(all.count) / Double(count)
    let first = Double.random(in: 0..<step, using: &random)
    return (0..<count).map { all[Int(first + Double($0) * step)] }
  }
}

/// The seed of a run: `PATCHBAY_SEED`, or a random one.
func announcedSeed(_ what: String) -> UInt64 {
  let given = getenv("PATCHBAY_SEED").flatMap { UInt64(String(cString: $0)) }
  let seed = given ?? .random(in: 0...UInt64(UInt32.max))
  print("\(what): PATCHBAY_SEED=\(seed)")
  return seed
}

@Suite(.serialized, .enabled(if: Succession.canTrace)) struct KillMatrixTests {
  private func brokers() throws -> Succession {
    try Succession(
      memory: "32MiB", options: ["--client-memory", "2MiB"],
      environment: ["PATCHBAY_INLINE_WORKERS": "1"])
  }

  /// The client has lived its life; what is to be there afterwards is there, and nothing else. The broker
  /// may still be killed meanwhile.
  private func finish(_ brokers: Succession, _ code: Int32, _ point: String) throws {
    #expect(code == 0, "\(point): \(brokers.complaint("life"))")
    guard code == 0 else { return try brokers.serveAgain() }
    let (listed, list) = try supervised(brokers, ["ls"])
    #expect(listed == 0 && list == "early\nkept\n", "\(point)")
    for key in ["early", "kept"] {
      let (got, _) = try supervised(brokers, ["get", key, brokers.place.file(key), "-q"])
      #expect(got == 0, "\(point): \(key)")
    }
    try brokers.serveAgain()
    if try brokers.end() != 0 {
      try brokers.reap()
      try brokers.start()
    }
    #expect(throws: Never.self, "\(point)") { try brokers.stop() }
  }

  /// Runs the command while brokers may die; its exit code and what it says. One that has found nobody to
  /// connect to, because a broker has just died, is run again.
  private func supervised(
    _ brokers: Succession, _ arguments: [String]
  ) throws -> (code: Int32, output: String) {
    while true {
      try brokers.serveAgain()
      let killCount = brokers.killCount
      let command = try ChildProcess(
        try program("patchbay"), arguments + ["--socket", brokers.socket],
        errorPath: brokers.place.file("command"))
      let code = try brokers.supervise(until: command)
      if code == 69 {
        // Its end is seen once the tracer has let it go.
        try eventually("the broker that was not there has died") {
          brokers.killCount > killCount || !brokers.isRunning
        }
        continue
      }
      return (code, String(decoding: try command.rest(), as: UTF8.self))
    }
  }

  /// Kills at all points or, in the quick tier, at some.
  /// - Parameters:
  ///   - first: by call, how many of them are no points.
  ///   - live: false when the broker was not killed.
  private func visit(
    _ what: String, behind first: CallCounts? = nil,
    quick: (inout SeededRandom) throws -> [KillPoint], _ live: (KillPoint) throws -> Bool
  ) throws {
    var hits = 0
    if isFullTier {
      for call in CallCounts.calls {
        var number = (first?[call] ?? 0) + 1
        while try live(KillPoint(call, number)) { (number, hits) = (number + 1, hits + 1) }
      }
    } else {
      var random = SeededRandom(seed: announcedSeed(what))
      let points = try quick(&random)
      hits = try points.count(where: live)
      // The last calls of a kind may not come in every run.
      #expect(hits > points.count / 2, "\(points)")
    }
    print("\(what): \(hits) points")
    #expect(hits > 0)
  }

  // MARK: While it serves

  /// A client's life with a broker that is looked at from its readiness on.
  private func live(_ trace: [String], _ point: String) throws -> Succession {
    let brokers = try brokers()
    try brokers.start()
    try brokers.attach(trace: trace)
    let client = try brokers.client("life")
    try finish(brokers, try brokers.supervise(until: client), point)
    return brokers
  }

  @Test func `a broker killed at any system call of a blob's life loses nothing`() throws {
    try visit("killed while it serves") { random in
      let brokers = try live(CallCounts.trace, "nobody is killed")
      #expect(brokers.startCount == 1)
      return try CallCounts(brokers.tracePath).spread(30, &random)
    } _: { point in
      try live(point.trace, "\(point)").killCount > 0
    }
  }

  // MARK: While it starts for the first time

  /// A client's life, and a broker that is looked at from its first call on.
  private func firstStart(
    _ trace: [String], _ point: String, _ whenReady: (Succession) throws -> Void = { _ in }
  ) throws -> Succession {
    let brokers = try brokers()
    try brokers.begin(trace: trace)
    let client = try brokers.client("life", ["pause"])
    try brokers.serveAgain()
    try whenReady(brokers)
    try client.send("on\n")
    try finish(brokers, try brokers.supervise(until: client), point)
    return brokers
  }

  @Test func `a broker killed at any system call of its first start is followed by the next`()
    throws
  {
    let loader = try loaderCalls()
    var calls = loader
    _ = try firstStart(CallCounts.trace, "nobody is killed") { brokers in
      calls = try CallCounts(brokers.tracePath)
    }
    var random = SeededRandom(seed: announcedSeed("killed while it starts"))
    let points =
      isFullTier
      ? calls.points(behind: loader) : calls.spread(15, behind: loader, &random)
    let hits = try points.count { try firstStart($0.trace, "\($0)").killCount > 0 }
    print("killed while it starts: \(hits) points")
    #expect(hits > points.count / 2, "\(points)")
  }

  // MARK: While it recovers

  /// A client has everything open, and its broker is killed. The next one begins, and is looked at.
  private func recover(
    _ point: String, _ begin: (Succession, ChildProcess) throws -> Void
  ) throws -> Succession {
    let brokers = try brokers()
    try brokers.start()
    let client = try brokers.client("life", ["pause"])
    #expect(try client.line(within: 60) == "middle", "\(brokers.complaint("life"))")
    try brokers.kill()
    // It goes on as soon as it can.
    try client.send("on\n")
    try begin(brokers, client)
    try finish(brokers, try brokers.supervise(until: client), point)
    return brokers
  }

  /// The calls of a process before it does anything.
  private func loaderCalls() throws -> CallCounts {
    let place = try TemporaryDirectory()
    let report = place.file("trace")
    let outcome = try runProgram(
      Succession.strace,
      ["-f", "-o", report] + CallCounts.trace + [try program("patchbay"), "version"])
    #expect(outcome.exitCode == 0, "\(outcome.error)")
    return try CallCounts(report)
  }

  @Test func `a recovery killed at any of its system calls is made up for by the next`() throws {
    let loader = try loaderCalls()
    try visit("killed while it recovers", behind: loader) { random in
      let brokers = try recover("nobody is killed") { brokers, _ in
        try brokers.begin(trace: CallCounts.trace)
      }
      #expect(brokers.startCount == 2)
      return try CallCounts(brokers.tracePath).spread(25, behind: loader, &random)
    } _: { point in
      try recover("\(point)") { brokers, _ in try brokers.begin(trace: point.trace) }
        .killCount > 1
    }
  }

  /// The client stands still until the tracer has come, so its return is seen whole.
  private func returning(_ trace: [String], _ point: String) throws -> Succession {
    try recover(point) { brokers, client in
      client.kill(SIGSTOP)
      defer { client.kill(SIGCONT) }
      try brokers.start()
      try brokers.attach(trace: trace)
    }
  }

  @Test func `a broker killed at any system call of its clients' return is followed by the next`()
    throws
  {
    try visit("killed while clients return") { random in
      let brokers = try returning(CallCounts.trace, "nobody is killed")
      #expect(brokers.startCount == 2)
      return try CallCounts(brokers.tracePath).spread(25, &random)
    } _: { point in
      try returning(point.trace, "\(point)").killCount > 1
    }
  }
}
