// The publishers of a soak that append: streams, windows, blobs made in one call, and those that are
// promised. Each writes what the oracle says, and ends its blobs in every way there is.

import Glibc
import Patchbay
import PatchbaySystem

/// A blob that is being appended to.
struct SoakAppending {
  private let desk: SoakDesk
  private let publisher: Publisher
  let life: SoakLife
  private let began = MonotonicTime.now

  /// - Returns: nil when it was refused.
  init?(_ desk: SoakDesk, _ key: BlobKey, _ options: BlobOptions) throws {
    guard
      let publisher = try desk.attempt(
        .create, "\(key)",
        { try desk.client.publisher(key, options) })
    else { return nil }
    self.desk = desk
    self.publisher = publisher
    life = try desk.oracle.life(key, publisher.generation)
  }

  private var name: String { "\(life.name), at \(publisher.position) of \(life.byteCount)" }

  /// Appends up to a position, in pieces of any size.
  /// - Returns: whether all was taken; nothing else may be done with it if not.
  func append(upTo end: Int) throws -> Bool {
    while publisher.position < end {
      if desk.isOver { return false }
      let at = publisher.position
      let most = desk.chance(1, in: 3) ? 300 : 60_000
      let piece = at..<at + min(end - at, desk.number(1...most))
      guard try appendPiece(piece) else { return false }
      if desk.chance(1, in: 3) { desk.breathe() }
    }
    return true
  }

  private func appendPiece(_ piece: Range<Int>) throws -> Bool {
    let outcome: Void? = try desk.attempt(.write, name, since: began) {

      try desk.oracle.withBytes(of: life, piece) { (bytes) throws(PatchbayError) in
        try publisher.append(bytes, expecting: piece.lowerBound)
      }
    }
    return outcome != nil
  }

  /// Many small pieces that become readable together.
  func appendBatch() throws -> Bool {
    let end = min(life.byteCount, publisher.position + desk.number(1...40_000))
    let size = desk.number(16...2000)
    let outcome: Void? = try desk.attempt(.write, "\(name), a batch", since: began) {
      try publisher.withBatch { (batch: inout Batch) throws in
        while batch.position < end {
          let piece = batch.position..<min(end, batch.position + size)
          try desk.oracle.withBytes(of: life, piece) { (bytes) throws(PatchbayError) in
            try batch.append(bytes)
          }
        }
      }
    }
    return outcome != nil
  }

  /// Completes it; whether the seal was confirmed.
  func seal() throws -> Bool {
    guard publisher.position == life.byteCount else { return false }
    for _ in 0..<5 {
      if try desk.attempt(
        .seal, name, since: began,
        {
          try publisher.seal(deadline: .never)
        }) != nil
      {
        desk.voice.addBlob()
        return true
      }
      desk.breathe(milliseconds: 200)
    }
    return false
  }

  func fail() throws {
    _ = try desk.attempt(.leave, name, since: began) {
      try publisher.fail("a soak fails some")
    }
  }

  func close() { publisher.close() }
}

extension SoakDesk {
  /// Says that a blob may be missed from now on, and takes its key away.
  func remove(_ key: BlobKey, isPromised: Bool = false) throws {
    if isPromised { voice.say("removing", ["key": "\(key)"]) }
    _ = try attempt(.remove, "\(key)") { try client.remove(key) }
  }

  func promise(_ life: SoakLife) {
    voice.say(
      "sealed",
      [
        "key": "\(life.key)", "generation": "\(life.generation)",
        "bytes": String(life.byteCount),
      ])
  }

  /// Makes place for a new life of a key: by replacing the last one, or taking it away before.
  func replacing(
    _ key: BlobKey, _ options: BlobOptions, isPromised: Bool = false
  ) throws -> BlobOptions {
    var options = options
    options.replaces = chance(1, in: 2)
    guard options.replaces else {
      try remove(key, isPromised: isPromised)
      return options
    }
    if isPromised { voice.say("removing", ["key": "\(key)"]) }
    return options
  }
}

/// Streams of unknown length.
struct SoakStreams: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    let key = try SoakKind.stream.key(desk.ownSlot(.stream))
    var options = BlobOptions(order: .appendOnly)
    if desk.chance(1, in: 2) { options.firstExtentByteCount = 64 << 10 }
    if desk.chance(1, in: 2) { options.extentByteLimit = 256 << 10 }
    if desk.chance(1, in: 3) { options.compression = .lz4 }
    guard let blob = try SoakAppending(desk, key, try desk.replacing(key, options)) else {
      return desk.breathe(milliseconds: 100)
    }
    // Some end before they are complete.
    let end = desk.chance(1, in: 8) ? desk.number(0...blob.life.byteCount) : blob.life.byteCount
    let hasBatch = desk.chance(1, in: 2) ? try blob.appendBatch() : true
    guard try hasBatch && blob.append(upTo: end) else { return blob.close() }
    if desk.chance(1, in: 12) { try desk.remove(key) }
    if end == blob.life.byteCount, try blob.seal() { return }
    if desk.chance(1, in: 2) { try blob.fail() }
    blob.close()
  }
}

/// Streams of which only the last bytes are there.
struct SoakWindows: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    let slot = desk.ownSlot(.window)
    let key = try SoakKind.window.key(slot)
    var options = BlobOptions(policy: slot % 2 == 0 ? .backpressure : .dropOldest)
    options.ringByteCount = (64 << 10) << desk.number(0...3)
    options.slowestLimit = .seconds(2)
    guard let blob = try SoakAppending(desk, key, try desk.replacing(key, options)) else {
      return desk.breathe(milliseconds: 100)
    }
    // Readers come before it begins.
    desk.breathe(milliseconds: 50)
    if try blob.append(upTo: blob.life.byteCount), try blob.seal() { return }
    blob.close()
  }
}

/// Blobs that are published in one call; those up to 16 KiB travel in one message.
struct SoakSmallBlobs: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    let key = try SoakKind.small.key(desk.ownSlot(.small))
    let life = try desk.oracle.life(key, Generation(rawValue: 0))
    let bytes = desk.oracle.bytes(of: life, 0..<life.byteCount)
    let options = try desk.replacing(key, BlobOptions())
    let made = try desk.attempt(.create, "\(key), whole") {
      try desk.client.publish(bytes, as: key, options)
    }
    if made != nil { desk.voice.addBlob() }
    desk.breathe(milliseconds: 10)
  }
}

/// Blobs that are evicted when there is no room, on disk or not.
struct SoakCache: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    let key = try SoakKind.cache.key(desk.ownSlot(.cache))
    var options = BlobOptions(order: .appendOnly)
    options.isCache = true
    options.acknowledgement = [.visible, .visible, .retained][desk.number(0...2)]
    guard let blob = try SoakAppending(desk, key, try desk.replacing(key, options)) else {
      return desk.breathe(milliseconds: 100)
    }
    guard try blob.append(upTo: blob.life.byteCount), try blob.seal() else {
      return blob.close()
    }
    if desk.chance(1, in: 5) { try desk.remove(key) }
    desk.breathe(milliseconds: 20)
  }
}

/// Blobs that must be there until their keys are used again.
struct SoakKeeping: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    let key = try SoakKind.kept.key(desk.ownSlot(.kept))
    var options = BlobOptions(order: .appendOnly)
    options.acknowledgement = desk.chance(1, in: 4) ? .durable : .retained
    if desk.chance(1, in: 2) { options.compression = .lz4 }
    if desk.chance(1, in: 4) { options.digest = .sha256 }
    let begin = try desk.replacing(key, options, isPromised: true)
    guard let blob = try SoakAppending(desk, key, begin) else {
      return desk.breathe(milliseconds: 100)
    }
    guard try blob.append(upTo: blob.life.byteCount), try blob.seal() else {
      return blob.close()
    }
    desk.promise(blob.life)
    desk.breathe(milliseconds: 300)
  }
}
