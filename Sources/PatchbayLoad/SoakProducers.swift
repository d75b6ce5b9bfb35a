// The producers of a soak: several processes want the same blobs, and one that finds a blob missing makes
// it, as a whole or as far as it is asked for. When it is killed, or stopped for too long, another one goes
// on, and the readers of all processes are to notice nothing.

import Glibc
import Patchbay
import Synchronization

/// What somebody who makes a blob draws from: it may run on any thread, and longer than a round.
private final class SoakLots: Sendable {
  private let random: Mutex<SplitMix>

  init(_ desk: SoakDesk) {
    random = Mutex(SplitMix(state: UInt64(desk.number(0...Int.max))))
  }

  func chance(_ one: Int, in all: Int) -> Bool { number(1...all) <= one }
  func number(_ range: ClosedRange<Int>) -> Int {
    random.withLock { .random(in: range, using: &$0) }
  }
  func shuffled<Element: Sendable>(_ all: [Element]) -> [Element] {
    random.withLock { all.shuffled(using: &$0) }
  }
}

/// What a producer of a soak throws that has drawn to fail.
private struct SoakWhim: Error, CustomStringConvertible {
  let description = "a soak fails some"
}

extension SoakReading {
  /// Reads all in sequence, or ranges anywhere.
  fileprivate func readSomehow() throws {
    if desk.chance(1, in: 2) { return try readOn(from: 0) }
    for _ in 0..<desk.number(1...12) {
      guard !desk.isOver, try readRange(anyRange(upTo: 60_000)) else { return }
    }
  }
}

extension SoakDesk {
  /// What is asked for under a key that several processes make.
  fileprivate func production(_ kind: SoakKind, _ key: BlobKey) -> ProductionOptions {
    var options = ProductionOptions(
      BlobOptions(byteCount: oracle.announcedByteCount(kind, key)))
    if chance(1, in: 2) { options.stallTimeout = .milliseconds(number(200...900)) }
    if chance(1, in: 4) { options.failureLifetime = .milliseconds(number(1...200)) }
    options.whenUnread = UnreadPolicy.allCases[number(0...2)]
    options.leastUses = UInt32(number(0...2))
    options.attempts = number(1...2)
    if chance(1, in: 3) { options.blob.timeToLive = .milliseconds(number(50...1500)) }
    if chance(1, in: 3) { options.blob.idleExpiry = .milliseconds(number(50...1500)) }
    let isMortal = options.blob.timeToLive != nil || options.blob.idleExpiry != nil
    if isMortal && chance(1, in: 2) { options.blob.grace = .seconds(1) }
    options.blob.firstExtentByteCount = 64 << 10
    options.blob.extentByteLimit = 256 << 10
    return options
  }
}

/// Blobs that are made when they are missing, and read at once.
struct SoakProducers: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    let slot = desk.anySlot(.made)
    let key = try SoakKind.made.key(slot)
    if desk.chance(1, in: 8) { try desk.remove(key) }
    var options = desk.production(.made, key)
    options.start = slot % 2 == 0 ? .anywhere : .fromZero
    let maker = SoakMaker(desk, options.start)
    let subscriber = try desk.attempt(.get, "\(key)") {
      try desk.client.get(key, options, orProduce: maker.make)
    }
    guard let subscriber else { return desk.breathe(milliseconds: 100) }
    try SoakReading(desk, subscriber).readSomehow()
    desk.breathe(milliseconds: 40)
  }
}

/// Makes a blob once it is its turn.
private struct SoakMaker: Sendable {
  private let oracle: SoakOracle
  private let voice: SoakVoice
  private let lots: SoakLots
  private let start: ProductionStart

  init(_ desk: SoakDesk, _ start: ProductionStart) {
    oracle = desk.oracle
    voice = desk.voice
    lots = SoakLots(desk)
    self.start = start
  }

  func make(_ job: Production) throws {
    let life = try oracle.life(job.publisher.key, job.publisher.generation)
    for piece in pieces(job.missing) {
      if voice.isOver || lots.chance(1, in: 400) { throw SoakWhim() }
      try oracle.withBytes(of: life, piece) { (bytes) throws(PatchbayError) in
        try put(bytes, at: piece.lowerBound, job.publisher)
      }
      if lots.chance(1, in: 4) { _ = poll(nil, 0, Int32(lots.number(0...8))) }
    }
    voice.addBlob()
  }

  private func put(
    _ bytes: Span<UInt8>, at position: Int, _ publisher: Publisher
  ) throws(PatchbayError) {
    switch start {
    case .fromZero: try publisher.append(bytes, expecting: position)
    case .anywhere: try publisher.write(bytes, at: position)
    }
  }

  /// In any order, where it may be.
  private func pieces(_ missing: [Range<Int>]) -> [Range<Int>] {
    var pieces: [Range<Int>] = []
    for range in missing {
      var at = range.lowerBound
      while at < range.upperBound {
        let end = min(range.upperBound, at + lots.number(1...40_000))
        pieces.append(at..<end)
        at = end
      }
    }
    return start == .fromZero ? pieces : lots.shuffled(pieces)
  }
}

/// Blobs of which only that is fetched which somebody reads.
struct SoakFetchers: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    let key = try SoakKind.fetched.key(desk.anySlot(.fetched))
    if desk.chance(1, in: 8) { try desk.remove(key) }
    let options = desk.production(.fetched, key)
    let (client, source) = (desk.client, source())
    let subscriber = try desk.attempt(.get, "\(key), on demand") {
      try LatencyTasks.awaited { try await client.get(key, options, orFetch: source) }
    }
    guard let subscriber else { return desk.breathe(milliseconds: 100) }
    try SoakReading(desk, subscriber).readSomehow()
    desk.breathe(milliseconds: 40)
  }

  private func source() -> RangeSource {
    let (oracle, voice, lots) = (desk.oracle, desk.voice, SoakLots(desk))
    var source = RangeSource { range, publisher in
      let life = try oracle.life(publisher.key, publisher.generation)
      if lots.chance(1, in: 30) { throw SoakWhim() }
      if lots.chance(1, in: 4) { try await Task.sleep(for: .milliseconds(lots.number(0...8))) }
      try await publisher.write(oracle.bytes(of: life, range), at: range.lowerBound)
      voice.addBlob()
    }
    source.pieceByteCount = 4096 << desk.number(0...5)
    source.readAheadByteCount = desk.chance(1, in: 2) ? desk.number(0...100_000) : 0
    source.fillsInBackground = desk.chance(1, in: 3)
    source.fetchesAtOnce = desk.number(1...4)
    source.attempts = desk.number(1...2)
    return source
  }
}
