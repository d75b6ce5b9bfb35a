// The oracle of a soak: which blobs there are, and what each life of a key has to hold. Length and
// bytes follow from the run's seed, the key and the generation, so whoever meets a blob knows all of
// it without being told. No byte is zero, so one that is missing shows, too.

import Patchbay
import PatchbayTypes

/// What the key of a blob begins with: how it is made. Each kind has some keys, its slots, that are
/// used again and again.
enum SoakKind: String, CaseIterable {
  /// Of unknown length, appended to.
  case stream
  /// That keeps its last bytes only.
  case window
  /// Of announced length, written in any order by one process; every third slot is promised.
  case patch
  /// The same by several processes, each life going on where a failed one ended.
  case shared
  /// Published in one call, some of it in one message.
  case small
  /// That may be evicted whatever was promised.
  case cache
  /// Promised to outlive the broker.
  case kept
  /// Appended to by tasks.
  case task
  /// Made by one of several that find it missing; every second slot by such as begin at 0.
  case made
  /// Of announced length, of which is fetched what somebody reads.
  case fetched

  var slotCount: Int {
    switch self {
    case .stream, .patch, .made: 6
    case .window, .shared, .task, .fetched: 4
    case .small: 40
    case .cache: 60
    case .kept: 8
    }
  }

  /// The first slots of each kind are used so often that nobody waits long for one.
  var busySlotCount: Int { min(slotCount, 6) }

  /// How long its blobs are.
  fileprivate var byteCounts: ClosedRange<Int> {
    switch self {
    case .stream: 1...1_500_000
    case .window: 500_000...3_000_000
    case .patch: 100_000...4_000_000
    case .shared: 100_000...900_000
    case .small: 1...60_000
    case .cache: 1...2_000_000
    case .kept, .task: 1...1_200_000
    case .made: 1...500_000
    case .fetched: 50_000...800_000
    }
  }

  /// Whether the length is announced, and so follows from the key alone.
  var announcesLength: Bool { [.patch, .shared, .small, .made, .fetched].contains(self) }

  /// Whether the bytes follow from the key alone: they are taken over from another life, or are said
  /// before there is a generation.
  fileprivate var isTimeless: Bool { [.shared, .small, .made, .fetched].contains(self) }

  /// What it is to read such a blob: what is fetched may not be to be had.
  var reading: SoakDeed { self == .fetched ? .demand : .read }

  /// What all keys of a soak begin with.
  static let prefix = "soak/"

  func key(_ slot: Int) throws(PatchbayError) -> BlobKey {
    try BlobKey("\(Self.prefix)\(rawValue)/\(slot)")
  }

  /// The kind of a blob; nil for a key of somebody else.
  init?(of key: BlobKey) {
    guard let text = key.utf8String, text.hasPrefix(Self.prefix) else { return nil }
    let rest = text.dropFirst(Self.prefix.count)
    self.init(rawValue: String(rest.prefix { $0 != "/" }))
  }

  /// Whether a blob in this slot is to outlive the broker once its seal is confirmed.
  func isPromised(slot: Int) -> Bool { self == .kept || self == .patch && slot % 3 == 0 }
}

/// One life of a key: what it has to hold.
struct SoakLife: Equatable {
  let key: BlobKey
  let generation: Generation
  /// How long it is once sealed.
  let byteCount: Int
  /// Where its bytes begin in the content that all blobs are cut from.
  fileprivate let shift: Int

  /// As complaints and the watchdog name it.
  var name: String { "\(key), generation \(generation)" }
}

/// What was found that never may be.
struct SoakViolation: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// Knows each byte of each blob of a run. Its content is never written again, so tasks may share it.
struct SoakOracle: @unchecked Sendable {
  /// The most bytes that are made or compared at once.
  static let longest = 256 << 10

  private let seed: UInt64
  private let content: Content

  init(seed: UInt32) {
    self.seed = UInt64(seed)
    content = Content(seed: self.seed, longest: Self.longest)
  }

  /// - Throws: for a key that is none of a soak's.
  func life(_ key: BlobKey, _ generation: Generation) throws(SoakViolation) -> SoakLife {
    guard let kind = SoakKind(of: key) else {
      throw SoakViolation("There is a blob \(key), which no role has made.")
    }
    let ofKey = mixed(key, 0)
    let ofLife = mixed(key, generation.rawValue)
    let shift = (kind.isTimeless ? ofKey : ofLife) % UInt64(Content.period)
    return SoakLife(
      key: key, generation: generation,
      byteCount: Self.byteCount(kind, kind.announcesLength ? ofKey : ofLife), shift: Int(shift))
  }

  /// The length that blobs of a key announce.
  func announcedByteCount(_ kind: SoakKind, _ key: BlobKey) -> Int {
    Self.byteCount(kind, mixed(key, 0))
  }

  /// Short ones are as frequent as long ones.
  private static func byteCount(_ kind: SoakKind, _ drawn: UInt64) -> Int {
    let range = kind.byteCounts
    let most = drawn & 1 == 0 ? range.upperBound : range.lowerBound + range.count / 16
    return range.lowerBound + Int((drawn >> 1) % UInt64(most - range.lowerBound + 1))
  }

  private func mixed(_ key: BlobKey, _ generation: UInt64) -> UInt64 {
    let ofKey = key.bytes.reduce(0xcbf2_9ce4_8422_2325 as UInt64) { sum, byte in
      (sum ^ UInt64(byte)) &* 0x100_0000_01b3
    }
    var mixer = SplitMix(state: seed &* 0x1_0000_0001 ^ ofKey ^ generation &* 0x9E37_79B9)
    return mixer.next()
  }

  /// The bytes that belong at a range of at most `longest` positions.
  func withBytes<Result, Failure>(
    of life: SoakLife, _ range: Range<Int>, _ body: (Span<UInt8>) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try content.withBytes(at: range.lowerBound + life.shift, count: range.count, body)
  }

  /// The same as an array.
  func bytes(of life: SoakLife, _ range: Range<Int>) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(range.count)
    for start in stride(from: range.lowerBound, to: range.upperBound, by: Self.longest) {
      withBytes(of: life, start..<min(range.upperBound, start + Self.longest)) { span in
        for index in span.indices { bytes.append(span[index]) }
      }
    }
    return bytes
  }

  /// Looks at bytes that were read at a position.
  /// - Throws: where the first one is that does not belong there.
  func check(_ bytes: Span<UInt8>, of life: SoakLife, at position: Int) throws(SoakViolation) {
    guard position + bytes.count <= life.byteCount else {
      throw SoakViolation(
        "There are \(bytes.count) bytes at position \(position) of \(life.name), which has "
          + "\(life.byteCount).")
    }
    for start in stride(from: 0, to: bytes.count, by: Self.longest) {
      let piece = bytes.extracting(start..<min(bytes.count, start + Self.longest))
      let place = position + start + life.shift
      guard let wrong = content.mismatch(piece, at: place) else { continue }
      let at = wrong - life.shift
      throw SoakViolation(
        "The byte at position \(at) of \(life.name) is \(bytes[at - position]), which is wrong; it "
          + "was read with \(bytes.count) bytes at position \(position).")
    }
  }

  /// Looks at the end of a blob.
  /// - Throws: when it is not where the blob was sealed.
  func checkEnd(of life: SoakLife, at position: Int) throws(SoakViolation) {
    guard position == life.byteCount else {
      throw SoakViolation(
        "\(life.name) ends at position \(position); it was sealed with \(life.byteCount) bytes.")
    }
  }
}
