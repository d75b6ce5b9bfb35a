// The publishers of a soak that write in any order: alone, and several in one blob, under claims.

import Glibc
import Patchbay
import PatchbaySystem

extension SoakDesk {
  /// Ranges that together cover so many bytes, in any order. No more than some hundreds: each may have to
  /// wait for memory, and somebody waits for the last one.
  fileprivate func patches(_ count: Int) -> [Range<Int>] {
    let most = max(chance(1, in: 2) ? 4000 : 60_000, count / 150)
    var ranges: [Range<Int>] = []
    var at = 0
    while at < count {
      let end = min(count, at + number(1...most))
      ranges.append(at..<end)
      at = end
    }
    return ranges.shuffled(using: &random)
  }

  /// Writes what the oracle says into a range; false when it was refused.
  fileprivate func write(
    _ publisher: Publisher, _ life: SoakLife, _ range: Range<Int>, since: MonotonicTime,
    isShared: Bool
  ) throws -> Bool {
    try attempt(
      .write, "\(range) of \(life.name) (\(life.byteCount) bytes)", since: since,
      isShared: isShared
    ) {
      try oracle.withBytes(of: life, range) { (bytes) throws(PatchbayError) in
        _ = try publisher.write(bytes, at: range.lowerBound, skippingCovered: isShared)
      }
    } != nil
  }
}

/// Blobs of announced length that one process writes.
struct SoakPatches: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    let slot = desk.ownSlot(.patch)
    let key = try SoakKind.patch.key(slot)
    let isPromised = SoakKind.patch.isPromised(slot: slot)
    let options = try desk.replacing(
      key, Self.options(desk, key, isPromised: isPromised), isPromised: isPromised)
    guard
      let publisher = try desk.attempt(
        .create, "\(key)",
        { try desk.client.publisher(key, options) })
    else { return desk.breathe(milliseconds: 100) }
    let began = MonotonicTime.now
    let life = try desk.oracle.life(key, publisher.generation)
    defer { publisher.close() }
    for range in desk.patches(life.byteCount) {
      guard !desk.isOver,
        try desk.write(publisher, life, range, since: began, isShared: false)
      else { return }
      if desk.chance(1, in: 10) { desk.breathe() }
    }
    guard desk.chance(15, in: 16) else { return }
    let sealed: Void? = try desk.attempt(.seal, life.name, since: began) {
      try publisher.seal(deadline: .never)
    }
    guard sealed != nil else { return }
    desk.voice.addBlob()
    if isPromised { desk.promise(life) }
  }

  private static func options(
    _ desk: SoakDesk, _ key: BlobKey, isPromised: Bool
  ) -> BlobOptions {
    var options = BlobOptions(byteCount: desk.oracle.announcedByteCount(.patch, key))
    options.acknowledgement = isPromised ? .retained : .visible
    // Small ones: more of them than a publisher may have at once.
    if desk.chance(2, in: 3) {
      options.firstExtentByteCount = 64 << 10
      options.extentByteLimit = 64 << 10
    }
    return options
  }
}

/// Blobs that all workers of this role write at the same time, and go on with where others have failed.
struct SoakSharedPatches: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    let key = try SoakKind.shared.key(desk.anySlot(.shared))
    guard let publisher = try join(key) else {
      if desk.chance(1, in: 4) { try desk.remove(key) }
      return desk.breathe(milliseconds: 50)
    }
    let began = MonotonicTime.now
    let life = try desk.oracle.life(key, publisher.generation)
    defer { publisher.close() }
    while !desk.isOver {
      guard let missing = try missing(publisher, life, began) else { return }
      guard let range = missing.randomElement(using: &desk.random) else {
        return try seal(publisher, life, began)
      }
      guard try write(publisher, life, range, began) else { return }
      if desk.chance(1, in: 40) { return try leave(publisher, life, began) }
      if desk.chance(1, in: 10) { desk.breathe() }
    }
  }

  /// Makes the blob, or joins whoever has.
  private func join(_ key: BlobKey) throws -> Publisher? {
    var options = BlobOptions(byteCount: desk.oracle.announcedByteCount(.shared, key))
    options.firstExtentByteCount = 128 << 10
    options.extentByteLimit = 128 << 10
    options.isJoinable = true
    options.idleLimit = desk.chance(1, in: 2) ? .seconds(2) : nil
    options.resumes = desk.chance(3, in: 4)
    let made = try desk.attempt(.create, "\(key)") {
      try desk.client.publisher(key, options)
    }
    if let made { return made }
    return try desk.attempt(.join, "\(key)") {
      try desk.client.join(key)
    }
  }

  /// What nobody has written yet; nil when the blob has ended.
  private func missing(
    _ publisher: Publisher, _ life: SoakLife, _ began: MonotonicTime
  ) throws -> [Range<Int>]? {
    try desk.attempt(.claim, "missing of \(life.name)", since: began, isShared: true) {

      try publisher.missing(inPiecesOf: 1 << desk.number(10...16))
    }
  }

  /// Nobody else writes where it does; false when the blob has ended.
  private func write(
    _ publisher: Publisher, _ life: SoakLife, _ range: Range<Int>, _ began: MonotonicTime
  ) throws -> Bool {
    let claim = try desk.attempt(
      .claim, "\(range) of \(life.name)", since: began, isShared: true
    ) { try publisher.claim(range) }
    // What somebody else has claimed is not missing for long.
    guard let claim else { return desk.refusal?.code == .rangeOverlap }
    let isWritten = try desk.write(publisher, life, range, since: began, isShared: true)
    withExtendedLifetime(claim) {}
    return isWritten
  }

  private func seal(
    _ publisher: Publisher, _ life: SoakLife, _ began: MonotonicTime
  ) throws {
    let sealed: Void? = try desk.attempt(.seal, life.name, since: began, isShared: true) {
      try publisher.seal()
    }
    if sealed != nil { desk.voice.addBlob() }
  }

  private func leave(
    _ publisher: Publisher, _ life: SoakLife, _ began: MonotonicTime
  ) throws {
    _ = try desk.attempt(.leave, life.name, since: began, isShared: true) {
      try publisher.leave()
    }
  }
}
