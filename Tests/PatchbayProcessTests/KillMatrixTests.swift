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
// The tracer counts the calls of each kind and thread by itself. The workers run inline here, so that
// nearly all of them are of one thread and come in the same order each time.

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
  init(_ report: String) {
    var counts: [Substring: [Substring: Int]] = [:]
    for line in report.split(separator: "\n") {
      let words = line.split(separator: " ", maxSplits: 1)
      guard words.count == 2, let open = words[1].firstIndex(of: "(") else { continue }
      counts[words[1][..<open], default: [:]][words[0], default: 0] += 1
    }
    for (call, threads) in counts { highest[String(call)] = threads.values.max() }
  }

  /// The wrapper under which a broker's calls are written to a file.
  static func tracer(_ report: String) -> [String] {
    [
      Succession.strace, "-D", "-f", "-qq", "-o", report, "-e",
      "trace=\(calls.joined(separator: ","))", "-e", "signal=none",
    ]
  }

  /// Every point there is.
  var points: [KillPoint] {
    Self.calls.flatMap { call in
      (0..<(highest[call] ?? 0)).map { KillPoint(call, $0 + 1) }
    }
  }

  /// Some of them: at equal distances, from a random one on.
  func spread(_ count: Int, _ random: inout SeededRandom) -> [KillPoint] {
    let all = points
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

  /// The client has lived its life; what is to be there afterwards is there, and nothing else.
  private func finish(_ brokers: Succession, _ code: Int32, _ point: String) throws {
    #expect(code == 0, "\(point): \(brokers.complaint("life"))")
    if !brokers.isRunning {
      try brokers.reap()
      try brokers.begin()
    }
    guard try brokers.becameReady() else { throw HarnessError("\(point): \(brokers.log)") }
    guard code == 0 else { return }
    #expect(try brokers.run(["ls"]).output == "early\nkept\n", "\(point)")
    for key in ["early", "kept"] {
      #expect(try brokers.run(["cat", key]).exitCode == 0, "\(point)")
    }
    #expect(throws: Never.self, "\(point)") { try brokers.stop() }
  }

  // MARK: While it serves

  /// The calls of a broker that nobody kills.
  private func counted() throws -> CallCounts {
    let brokers = try brokers()
    let report = brokers.place.file("calls")
    try brokers.begin(wrapper: CallCounts.tracer(report))
    let client = try brokers.client("life")
    try finish(brokers, try brokers.supervise(until: client), "nobody is killed")
    #expect(brokers.startCount == 1)
    return CallCounts(try readFile(report))
  }

  /// False: the broker was not killed.
  private func live(killed point: KillPoint) throws -> Bool {
    let brokers = try brokers()
    try brokers.begin(killed: point)
    let client = try brokers.client("life")
    try finish(brokers, try brokers.supervise(until: client), "\(point)")
    return brokers.killCount > 0
  }

  /// Kills at all points or, in the quick tier, at some.
  private func visit(
    _ quick: (inout SeededRandom) throws -> [KillPoint], _ what: String,
    _ live: (KillPoint) throws -> Bool
  ) throws {
    var hits = 0
    if isFullTier {
      for call in CallCounts.calls {
        var number = 1
        while try live(KillPoint(call, number)) { number += 1 }
        hits += number - 1
      }
    } else {
      var random = SeededRandom(seed: announcedSeed(what))
      let points = try quick(&random)
      hits = try points.count(where: live)
      // Calls of other threads, and late ones, may not come in every run.
      #expect(hits > points.count / 2)
    }
    print("\(what): \(hits) points")
    #expect(hits > 0)
  }

  @Test func `a broker killed at any system call of a blob's life loses nothing`() throws {
    try visit({ try counted().spread(30, &$0) }, "killed at a call", live(killed:))
  }

  // MARK: While it recovers

  /// Kills one broker when the client has everything open, lets a second one take its place under a
  /// tracer, and a third one if that is killed.
  private func recover(
    _ begin: (Succession) throws -> Void
  ) throws -> (brokers: Succession, code: Int32) {
    let brokers = try brokers()
    try brokers.start()
    let client = try brokers.client("life", ["pause"])
    #expect(try client.line(within: 60) == "middle", "\(brokers.complaint("life"))")
    try brokers.kill()
    try begin(brokers)
    try client.send("on\n")
    let code = try brokers.supervise(until: client)
    return (brokers, code)
  }

  /// Points of the recovery itself, and as many of what comes after it.
  private func somePoints(_ random: inout SeededRandom) throws -> [KillPoint] {
    var (report, early) = ("", "")
    let (brokers, code) = try recover { brokers in
      report = brokers.place.file("calls")
      try brokers.begin(wrapper: CallCounts.tracer(report))
      guard try brokers.becameReady() else { throw HarnessError(brokers.log) }
      early = try readFile(report)
    }
    try finish(brokers, code, "the recovery is not killed")
    #expect(brokers.startCount == 2)
    return CallCounts(early).spread(20, &random)
      + CallCounts(try readFile(report)).spread(10, &random)
  }

  @Test func `a recovery killed at any of its system calls is made up for by the next`() throws {
    try visit(somePoints, "a recovery killed at a call") { point in
      let (brokers, code) = try recover { try $0.begin(killed: point) }
      try finish(brokers, code, "recovery, \(point)")
      return brokers.killCount > 1
    }
  }
}
