// A short and rich life with a broker that may die at any moment of it: every kind of handle, everything
// that spills, seals and goes, each byte checked. It ends with 0, or says what was wrong.

import Glibc
import Patchbay
import PatchbayTestSupport

/// `life SOCKET [pause]`: with `pause` it says `middle` when it has everything open, and goes on when it
/// is told so by a line.
struct Life {
  private let socket: String
  private let pauses: Bool

  /// More than the memory that the test gives to one client: most of it spills.
  private static let largeByteCount = 3_000_000
  private static let keptByteCount = 300_000
  private static let blockByteCount = 30_000

  init(_ arguments: [String]) throws {
    guard arguments.count > 1 else { throw HarnessError("life SOCKET [pause]") }
    socket = arguments[1]
    pauses = arguments.count > 2
  }

  func run() throws {
    let client = try connectedEventually(socket)
    let baseline = DescriptorBaseline()
    try live(client)
    try baseline.check()
  }

  private func live(_ client: PatchbayClient) throws {
    let waiter = Companion("the waiter") {
      let late = try client.open("late", waitUntil: longWait)
      guard try late.checkAll(late.content) == 500 else { throw HarnessError("late is cut") }
    }
    let large = try client.publisher("large", largeOptions)
    let follower = Companion("the follower") {
      let reader = try client.open("large")
      guard try reader.checkAll(reader.content) == Self.largeByteCount else {
        throw HarnessError("the follower has met an early end")
      }
    }
    try append(large, to: Self.largeByteCount / 3 * 2)
    let kept = try client.publisher("kept", keptOptions)
    let order = blocks
    let claim = try kept.claim(order[0])
    for block in order.prefix(order.count / 2) { try write(kept, block) }
    try publishEarly(client)
    let lease = try client.open("early").lease(1000..<60_000, deadline: longWait)
    let gone = try removedButOpen(client)
    if pauses { try pause() }
    try append(large, to: Self.largeByteCount)
    try check(lease, client)
    try checkMiddle(client, Self.largeByteCount / 2)
    _ = consume claim
    for block in order.dropFirst(order.count / 2) { try write(kept, block) }
    guard try gone.checkAll(gone.content) == 70_000 else { throw HarnessError("gone is cut") }
    try large.seal(deadline: longWait)
    try kept.seal(deadline: longWait)
    try publishLate(client)
    try follower.join()
    try waiter.join()
    try checkEnd(client)
  }

  private func pause() throws {
    say("middle")
    guard readLine() != nil else { throw HarnessError("not told to go on") }
  }

  // MARK: Writing

  private var largeOptions: BlobOptions {
    var options = BlobOptions(order: .appendOnly)
    options.firstExtentByteCount = 64 << 10
    options.extentByteLimit = 256 << 10
    return options
  }

  private var keptOptions: BlobOptions {
    var options = BlobOptions(byteCount: Self.keptByteCount)
    options.firstExtentByteCount = 64 << 10
    options.extentByteLimit = 64 << 10
    options.acknowledgement = .retained
    options.isJoinable = true
    return options
  }

  /// What `kept` is written by, in an order that is always the same.
  private var blocks: [Range<Int>] {
    var random = SeededRandom(seed: 9)
    return stride(from: 0, to: Self.keptByteCount, by: Self.blockByteCount).map {
      $0..<$0 + Self.blockByteCount
    }.shuffled(using: &random)
  }

  private func append(_ publisher: Publisher, to end: Int) throws {
    let oracle = PeriodicOracle(publisher.generation.rawValue)
    while publisher.position < end {
      let at = publisher.position
      try publisher.append(oracle.bytes(at..<min(end, at + 100_000)))
    }
  }

  private func write(_ publisher: Publisher, _ range: Range<Int>) throws {
    let oracle = PeriodicOracle(publisher.generation.rawValue)
    try publisher.write(oracle.bytes(range), at: range.lowerBound)
  }

  private func publishEarly(_ client: PatchbayClient) throws {
    var options = BlobOptions(byteCount: 100_000, order: .appendOnly)
    options.acknowledgement = .retained
    let early = try client.publisher("early", options)
    try append(early, to: 100_000)
    try early.seal(deadline: longWait)
  }

  private func publishLate(_ client: PatchbayClient) throws {
    let late = try client.publisher("late", BlobOptions(order: .appendOnly))
    try append(late, to: 500)
    try late.seal(deadline: longWait)
  }

  /// A reader of a blob whose key is taken away.
  private func removedButOpen(_ client: PatchbayClient) throws -> Subscriber {
    let publisher = try client.publisher("gone", BlobOptions(order: .appendOnly))
    try append(publisher, to: 70_000)
    try publisher.seal(deadline: longWait)
    let reader = try client.open("gone")
    try client.remove("gone")
    return reader
  }

  // MARK: Checking

  private func check(_ lease: Lease, _ client: PatchbayClient) throws {
    let content = try client.open("early").content
    try lease.withBytes { try content.check($0, at: lease.range.lowerBound) }
  }

  /// A range that has left memory.
  private func checkMiddle(_ client: PatchbayClient, _ at: Int) throws {
    let reader = try client.open("large")
    let bytes = try reader.readFully(at..<at + 200_000, deadline: longWait)
    try reader.content.check(bytes, at: at)
  }

  private func checkEnd(_ client: PatchbayClient) throws {
    for (key, byteCount) in [
      ("large", Self.largeByteCount), ("kept", Self.keptByteCount), ("early", 100_000),
    ] {
      let reader = try client.open(BlobKey(key))
      guard try reader.checkAll(reader.content) == byteCount else {
        throw HarnessError("\(key) is cut")
      }
    }
    for key: BlobKey in ["large", "late"] {
      try client.remove(key)
      guard try !client.exists(key) else { throw HarnessError("\(key) is there still") }
    }
    guard try !client.exists("gone") else { throw HarnessError("gone is there again") }
  }
}
