// Bugs that buffers written in any order have had (C1, C2, C6): ranges that never count as there, a hook for
// what is missing that is asked too much, and writes that wake everybody. Each is a check that Patchbay
// passes, and in which a model with this very bug is found out.

import Patchbay
import PatchbayTestSupport
import Synchronization
import Testing

/// The bytes of a piece that is fetched.
private let size = 4096

@Suite(.serialized) struct KnownBugsRangeTests {
  // MARK: C1

  /// What is known of what was written.
  private protocol WrittenRanges: AnyObject {
    func write(_ range: Range<Int>) throws
    func has(_ range: Range<Int>) throws -> Bool
  }

  /// A blob that counts as complete when its seal is accepted, and has what a reader finds written.
  private final class PatchbayRanges: WrittenRanges {
    private let publisher: Publisher
    private let subscriber: Subscriber

    init(_ client: PatchbayClient, _ number: Int) throws {
      let key = try BlobKey("k\(number)")
      publisher = try client.publisher(key, BlobOptions(byteCount: 100))
      subscriber = try client.open(key)
    }

    func write(_ range: Range<Int>) throws {
      try publisher.write(oracleBytes(1, range), at: range.lowerBound)
    }

    func has(_ range: Range<Int>) throws -> Bool {
      guard range == 0..<100 else {
        return try subscriber.writtenRanges().contains { $0.clamped(to: range) == range }
      }
      guard try publisher.missing().isEmpty else { return false }
      try publisher.seal()
      return try subscriber.readFully(range) == oracleBytes(1, range)
    }
  }

  /// Intervals in the order of their coming: one that touches the new one takes it in, and then at most the
  /// one that stands behind it in the list.
  private final class OneNeighbour: WrittenRanges {
    private var list: [Range<Int>] = []

    func write(_ range: Range<Int>) {
      guard let at = list.firstIndex(where: { touch($0, range) }) else { return list.append(range) }
      list[at] = union(list[at], range)
      if at + 1 < list.count, touch(list[at], list[at + 1]) {
        list[at] = union(list[at], list.remove(at: at + 1))
      }
    }

    func has(_ range: Range<Int>) -> Bool { list.contains { $0.clamped(to: range) == range } }

    private func touch(_ one: Range<Int>, _ other: Range<Int>) -> Bool {
      one.lowerBound <= other.upperBound && other.lowerBound <= one.upperBound
    }

    private func union(_ one: Range<Int>, _ other: Range<Int>) -> Range<Int> {
      min(one.lowerBound, other.lowerBound)..<max(one.upperBound, other.upperBound)
    }
  }

  /// How many of 200 orders of ten pieces never count as complete; and of the shortest one that showed it,
  /// whether its pieces count as one range.
  private func lost(
    seed: UInt64, _ fresh: (Int) throws -> any WrittenRanges
  ) throws -> (incomplete: Int, joins: Bool) {
    var random = SeededRandom(seed: seed)
    let pieces = (0..<10).map { $0 * 10..<$0 * 10 + 10 }
    var incomplete = 0
    for number in 1...200 {
      let ranges = try fresh(number)
      for piece in pieces.shuffled(using: &random) { try ranges.write(piece) }
      if try !ranges.has(0..<100) { incomplete += 1 }
    }
    let ranges = try fresh(0)
    for range in [10..<20, 30..<40, 0..<5, 5..<10] { try ranges.write(range) }
    return (incomplete, try ranges.has(0..<20))
  }

  @Test func `C1: pieces written in any order come to count as complete`() throws {
    let seed = announcedSeed("ten pieces in any order")
    let broker = try BrokerProcess()
    let client = try PatchbayClient(socketPath: broker.socket)
    let found = try lost(seed: seed) { try PatchbayRanges(client, $0) }
    #expect(found.incomplete == 0 && found.joins, "PATCHBAY_SEED=\(seed)")
    try broker.stop()
    let twin = try lost(seed: 1) { _ in OneNeighbour() }
    #expect(twin.incomplete > 0 && !twin.joins, "the twin has the bug")
  }

  // MARK: C2

  /// Fetches pieces that readers wait for.
  private protocol Fetcher: AnyObject {
    func begin(there pieces: [Int]) async throws
    /// Returns when they all wait.
    func startReaders(_ count: Int, of pieces: Range<Int>) async throws
    /// Bytes that none of them waits for.
    func write(_ piece: Int) async throws
    /// What was asked for comes, and the readers end.
    func deliver() async throws
    /// The pieces that the hook was asked for, for each call.
    var asked: [Range<Int>] { get }
    /// Whether the hook could not read what is there.
    var wasLocked: Bool { get }
  }

  /// A blob that is served on demand; its readers are other processes.
  private final class PatchbayFetcher: Fetcher {
    private struct State {
      var asked: [Range<Int>] = []
      var wasLocked = false
      var delivers = false
    }

    /// What the hook knows, on whatever thread it runs.
    private final class Hook: Sendable {
      let state = Mutex(State())
      let client: PatchbayClient

      init(_ client: PatchbayClient) { self.client = client }

      func fetch(_ range: Range<Int>, _ publisher: Publisher) async throws {
        state.withLock { state in
          state.asked.append(range.lowerBound / size..<(range.upperBound - 1) / size + 1)
        }
        if try await !canRead() { state.withLock { $0.wasLocked = true } }
        try await eventually("it is to be delivered") { state.withLock(\.delivers) }
        let bytes = oracleBytes(publisher.generation.rawValue, range)
        try await publisher.write(bytes, at: range.lowerBound)
      }

      private func canRead() async throws -> Bool {
        let subscriber = try await client.open("k")
        defer { subscriber.close() }
        let bytes = try await subscriber.readFully(0..<size, deadline: .after(.seconds(60)))
        return bytes.count == size
      }
    }

    private let broker: BrokerProcess
    private let hook: Hook
    private var publisher: Publisher?
    private var serving: Task<Void, any Error>?
    private var peers: [(peer: Peer, wanted: Range<Int>)] = []

    init(_ broker: BrokerProcess) async throws {
      self.broker = broker
      hook = Hook(try await PatchbayClient(socketPath: broker.socket))
    }

    var asked: [Range<Int>] { hook.state.withLock { $0.asked } }
    var wasLocked: Bool { hook.state.withLock { $0.wasLocked } }

    func begin(there pieces: [Int]) async throws {
      var source = RangeSource { [hook] range, publisher in try await hook.fetch(range, publisher) }
      source.pieceByteCount = size
      let publisher = try await hook.client.publisher(
        "k", BlobOptions(byteCount: 8 * size), fetching: source)
      self.publisher = publisher
      for piece in pieces { try await write(piece) }
      serving = Task { [source] in try await publisher.serve(source) }
    }

    func write(_ piece: Int) async throws {
      guard let publisher else { throw HarnessError("it has not begun") }
      let range = piece * size..<(piece + 1) * size
      try await publisher.write(
        oracleBytes(publisher.generation.rawValue, range), at: range.lowerBound)
    }

    func startReaders(_ count: Int, of pieces: Range<Int>) async throws {
      let wanted = pieces.lowerBound * size..<pieces.upperBound * size
      for _ in 0..<count { peers.append((try broker.peer(), wanted)) }
      for (peer, _) in peers { try peer.ask("open k") }
      for (peer, _) in peers { try peer.tell("full k \(wanted.lowerBound) \(wanted.upperBound)") }
      try await eventually("they wait") { peers.allSatisfy { sleeps($0.peer.process.pid) } }
      try await eventually("something is asked for") { !asked.isEmpty }
    }

    /// Whether its main thread sleeps in a futex: otherwise it sleeps before its input only.
    private func sleeps(_ pid: Int32) -> Bool {
      (try? readFile("/proc/\(pid)/task/\(pid)/wchan"))?.contains("futex") == true
    }

    func deliver() async throws {
      hook.state.withLock { $0.delivers = true }
      for (peer, wanted) in peers { #expect(try peer.answer() == "\(wanted.count)") }
      serving?.cancel()
      _ = await serving?.result
      publisher?.close()
    }
  }

  /// Each reader calls the hook when it wakes and has not all of its range: with the whole range, and while
  /// it holds the lock.
  private final class HookOnEachWake: Fetcher {
    private var there: Set<Int> = []
    private var waiting: [Range<Int>] = []
    private var isLocked = false
    private(set) var asked: [Range<Int>] = []
    private(set) var wasLocked = false

    func begin(there pieces: [Int]) { there.formUnion(pieces) }

    func startReaders(_ count: Int, of pieces: Range<Int>) {
      for _ in 0..<count {
        waiting.append(pieces)
        look(pieces)
      }
    }

    func write(_ piece: Int) {
      there.insert(piece)
      for wanted in waiting { look(wanted) }
    }

    func deliver() {
      there.formUnion(asked.joined())
      waiting = []
    }

    private func look(_ wanted: Range<Int>) {
      isLocked = true
      if !there.isSuperset(of: wanted) { hook(wanted) }
      isLocked = false
    }

    private func hook(_ wanted: Range<Int>) {
      asked.append(wanted)
      if isLocked { wasLocked = true }
    }
  }

  private func complaints(_ fetcher: any Fetcher) async throws -> [String] {
    try await fetcher.begin(there: [0, 2])
    try await fetcher.startReaders(3, of: 0..<4)
    try await fetcher.write(7)
    try await fetcher.deliver()
    var complaints: [String] = []
    let pieces = fetcher.asked.flatMap { Array($0) }
    if pieces.contains(where: { [0, 2, 7].contains($0) }) { complaints.append("what is there") }
    if Set(pieces).count < pieces.count { complaints.append("one thing twice") }
    if fetcher.wasLocked { complaints.append("under the lock") }
    return complaints
  }

  @Test func `C2: the hook is asked for what is missing, once, and under no lock`() async throws {
    let broker = try BrokerProcess()
    let fetcher = try await PatchbayFetcher(broker)
    #expect(try await complaints(fetcher) == [])
    #expect(Set(fetcher.asked.joined()) == [1, 3])
    try broker.stop()
    #expect(
      try await complaints(HookOnEachWake()) == [
        "what is there", "one thing twice", "under the lock",
      ])
  }

  // MARK: C6

  /// Readers that wait for a range each.
  private protocol WaitingReaders {
    /// Writes the range of one of them: how many were woken, and how many of those in vain.
    func writeOne(of count: Int) throws -> (woken: Int, inVain: Int)
  }

  private struct PatchbayReaders: WaitingReaders {
    let broker: BrokerProcess

    func writeOne(of count: Int) throws -> (woken: Int, inVain: Int) {
      let (publisher, reader) = (try broker.peer(), try broker.peer())
      try publisher.ask("publish k \(count * 100) any")
      try reader.ask("open k")
      try reader.ask("waiters k \(count) 100")
      try eventually("all sleep") { try sleepers(in: reader.process.pid) >= count }
      try publisher.ask("write k 7700 100")
      #expect(try reader.process.line() == "range 77 right")
      try eventually("the others sleep again") {
        try sleepers(in: reader.process.pid) >= count - 1
      }
      let seen = (try broker.statistic("wakes"), try broker.statistic("needlessWakes"))
      try publisher.ask("fail k that is enough")
      for _ in 1..<count { _ = try reader.process.line() }
      return seen
    }

    private func sleepers(in pid: Int32) throws -> Int {
      names(in: "/proc/\(pid)/task").count { thread in
        (try? readFile("/proc/\(pid)/task/\(thread)/wchan"))?.contains("futex") == true
      }
    }
  }

  /// One condition for all.
  private struct Broadcast: WaitingReaders {
    func writeOne(of count: Int) -> (woken: Int, inVain: Int) {
      let written = 77
      let woken = 0..<count
      return (woken.count, woken.count { $0 != written })
    }
  }

  /// Bells are shared by some ranges, so a few may be woken with the one that is meant.
  private func wakesTooMany(_ readers: some WaitingReaders) throws -> Bool {
    let (woken, inVain) = try readers.writeOne(of: 200)
    #expect(woken - inVain == 1)
    return inVain * 16 > 200
  }

  @Test func `C6: a write does not wake every reader`() throws {
    let broker = try BrokerProcess()
    #expect(try !wakesTooMany(PatchbayReaders(broker: broker)))
    try broker.stop()
    #expect(try wakesTooMany(Broadcast()), "the twin has the bug")
  }
}
