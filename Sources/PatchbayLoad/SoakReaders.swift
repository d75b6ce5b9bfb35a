// The readers of a soak. Each opens any blob there is, whatever state it is in, reads it in its own way,
// and looks at every byte. They wait as long as it takes: who is never woken is found by the watchdog.

import Glibc
import Patchbay

/// A blob that somebody reads.
struct SoakReading {
  let desk: SoakDesk
  let subscriber: Subscriber
  let life: SoakLife

  /// - Returns: nil when there is nothing to read under the key.
  init?(_ desk: SoakDesk, _ key: BlobKey) throws {
    guard let subscriber = try desk.attempt(.open, "\(key)", { try desk.client.open(key) })
    else { return nil }
    try self.init(desk, subscriber)
  }

  init(_ desk: SoakDesk, _ subscriber: Subscriber) throws {
    self.desk = desk
    self.subscriber = subscriber
    life = try desk.oracle.life(subscriber.key, subscriber.generation)
    if let byteCount = subscriber.byteCount {
      try desk.oracle.checkEnd(of: life, at: byteCount)
    }
  }

  /// One of any kind; waits a little when there is none.
  static func any(_ desk: SoakDesk, _ kinds: [SoakKind] = SoakKind.allCases) throws -> Self? {
    if let reading = try SoakReading(desk, try desk.anyKey(kinds)) { return reading }
    desk.breathe(milliseconds: 20)
    return nil
  }

  /// Asks for something of the blob; nil when that will not come.
  func attempt<Value>(
    _ deed: SoakDeed, _ what: String, _ body: () throws -> Value
  ) throws -> Value? {
    let name = "\(what) of \(life.name) (\(life.byteCount) bytes)"
    let kind = SoakKind(of: life.key)
    let value = try desk.attempt(deed == .read ? kind?.reading ?? .read : deed, name, body)
    let isOverrun = value == nil && desk.refusal?.code == .overrun
    guard !isOverrun || kind == .window else {
      throw SoakViolation("To \(deed) \(name) was an overrun of a blob that keeps its bytes.")
    }
    return value
  }

  /// Reads on to the end in sequence. Whoever has lost its place goes on where it can.
  func readOn(from start: Int) throws {
    var cursor = subscriber.cursor(from: start)
    while !desk.isOver {
      let at = cursor.position
      let most = desk.chance(1, in: 4) ? 500 : 100_000
      guard let bytes = try attempt(.read, "what is at \(at)", { try cursor.read(upTo: most) })
      else {
        guard let next = try placeBehindOverrun(at) else { return }
        try cursor.seek(to: .start, offset: next)
        continue
      }
      guard let bytes else { return try desk.oracle.checkEnd(of: life, at: at) }
      try desk.check(bytes.span, of: life, at: at)
      if desk.chance(1, in: 20) { desk.breathe(milliseconds: 30) }
    }
  }

  /// Where a reader goes on whose bytes were gone; nil: nowhere.
  private func placeBehindOverrun(_ position: Int) throws -> Int? {
    guard let error = desk.refusal, error.code == .overrun, let next = error.resumePosition
    else { return nil }
    guard next >= position, next <= life.byteCount else {
      throw SoakViolation("\(life.name) goes on at \(next) after an overrun at \(position).")
    }
    return next
  }

  /// Where the publisher is.
  func livePosition() throws -> Int? {
    try attempt(.read, "the live end") { try subscriber.position(of: .live) }
  }

  /// All bytes of a range, waiting for them; false when they will not come.
  func readRange(_ range: Range<Int>) throws -> Bool {
    guard let bytes = try attempt(.read, "\(range)", { try subscriber.readFully(range) })
    else { return false }
    guard bytes.count == range.count else {
      throw SoakViolation("\(range) of \(life.name) came as \(bytes.count) bytes.")
    }
    try desk.check(bytes.span, of: life, at: range.lowerBound)
    return true
  }

  func anyRange(upTo most: Int) -> Range<Int> {
    let start = desk.number(0...life.byteCount - 1)
    return start..<min(life.byteCount, start + desk.number(1...most))
  }
}

/// Reads from the start.
struct SoakFollower: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws { try SoakReading.any(desk)?.readOn(from: 0) }
}

/// Reads from where the publisher is, then something of what was before.
struct SoakLiveReader: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    guard let reading = try SoakReading.any(desk, [.stream, .window, .window, .cache, .kept]),
      let start = try reading.livePosition()
    else { return }
    try reading.readOn(from: start)
    guard !desk.isOver, start > 0 else { return }
    _ = try reading.readRange(max(0, start - desk.number(1...50_000))..<start)
  }
}

/// Reads ranges anywhere, some of which nobody has written yet.
struct SoakRandomReader: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  private static let kinds: [SoakKind] = [
    .patch, .patch, .shared, .shared, .stream, .small, .cache, .kept, .made, .fetched, .fetched,
  ]

  mutating func round() throws {
    guard let reading = try SoakReading.any(desk, Self.kinds) else { return }
    for _ in 0..<desk.number(1...20) {
      guard !desk.isOver, try reading.readRange(reading.anyRange(upTo: 60_000)) else { return }
    }
  }
}

/// Reads in place, and holds what it has seen for a while: it must not change.
struct SoakViewer: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    guard let reading = try SoakReading.any(desk) else { return }
    if desk.chance(1, in: 6) { return try readWhole(reading) }
    var held: [Lease] = []
    var at = 0
    while !desk.isOver, let lease = try lease(reading, at: at) {
      try check(lease, of: reading.life)
      held.append(lease)
      at = lease.range.upperBound
      if held.count == Subscriber.leaseLimit {
        desk.breathe(milliseconds: 20)
        try check(held.removeFirst(), of: reading.life)
      }
    }
    // Also when the blob has ended meanwhile, or its key has gone.
    for lease in held { try check(lease, of: reading.life) }
  }

  private func check(_ lease: Lease, of life: SoakLife) throws {
    try lease.withBytes { (bytes) throws in
      try desk.check(bytes, of: life, at: lease.range.lowerBound)
    }
  }

  /// Some of what is there, at the latest when one byte is; nil at the end.
  private func lease(_ reading: SoakReading, at position: Int) throws -> Lease? {
    let most = desk.number(1...40_000)
    let there = try reading.attempt(.read, "what is at \(position)") {
      try reading.subscriber.read(upTo: most, at: position)
    }
    guard let there else { return nil }
    guard let there else {
      try desk.oracle.checkEnd(of: reading.life, at: position)
      return nil
    }
    try desk.check(there.span, of: reading.life, at: position)
    return try reading.attempt(.lease, "what is at \(position)") {
      try Self.lease(reading.subscriber, position..<position + there.count)
    }
  }

  /// The part of a range that is in one extent with its beginning.
  private static func lease(
    _ subscriber: Subscriber, _ range: Range<Int>
  ) throws(PatchbayError) -> Lease {
    do throws(PatchbayError) {
      return try subscriber.lease(range)
    } catch {
      guard error.code == .rangeOutOfBounds, let edge = error.resumePosition,
        range.lowerBound < edge, edge < range.upperBound
      else { throw error }
      return try subscriber.lease(range.lowerBound..<edge)
    }
  }

  private func readWhole(_ reading: SoakReading) throws {
    guard reading.subscriber.policy == .keep else { return }
    _ = try reading.attempt(.read, "all") {
      try reading.subscriber.withWholeBlob { bytes in
        try desk.oracle.checkEnd(of: reading.life, at: bytes.count)
        try desk.check(bytes, of: reading.life, at: 0)
      }
    }
  }
}
