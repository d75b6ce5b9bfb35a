// What a watcher is told: what became of a blob, and where in the broker's history that stands.

/// A place in a broker's history of changes. Kept by a watcher, it says where to go on. As text it
/// can be typed: the run of the broker in 16 hexadecimal digits, a dash, and a number.
public struct EventPosition: Sendable, Hashable, LosslessStringConvertible {
  /// Which run of a broker; 0 only for `start`.
  package let instance: UInt64
  /// Its changes up to this one have been told.
  package let number: UInt64

  package init(instance: UInt64, number: UInt64) {
    self.instance = instance
    self.number = number
  }

  /// Before everything: a watcher that begins here is told of all that exists, then of what happens.
  public static let start = EventPosition(instance: 0, number: 0)

  /// Reads what `description` wrote; nil for anything else.
  public init?(_ description: String) {
    let parts = description.split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count == 2, parts[0].utf8.count == 16,
      let instance = UInt64(parts[0], radix: 16), let number = UInt64(parts[1]),
      parts.allSatisfy({ !$0.hasPrefix("+") })
    else { return nil }
    self.init(instance: instance, number: number)
  }

  /// The position as text.
  public var description: String {
    let digits = String(instance, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits + "-\(number)"
  }
}

/// Something that became of a blob. Of several changes that a watcher was not told in time it gets
/// the last; figures are those of the moment at which it is told.
public struct BlobChange: Sendable, Hashable {
  /// What happened.
  public enum Kind: UInt8, Sendable, Hashable, CaseIterable {
    /// There is a new blob, and it is being written.
    case created = 1
    /// More of it is written, or somebody writes it again after it was suspended.
    case progress = 2
    /// Nobody writes it; it waits for a producer.
    case suspended = 3
    /// It is complete.
    case sealed = 4
    /// It has ended without being complete.
    case failed = 5
    /// Its key was taken away, or given to a new blob.
    case removed = 6
    /// It left memory to make room.
    case evicted = 7
    /// Its time was over.
    case expired = 8
  }

  /// What happened.
  public var kind: Kind
  /// The blob's name.
  public var key: BlobKey
  /// Which life of the key.
  public var generation: Generation
  /// To go on after this change.
  public var position: EventPosition
  /// When it happened; of progress, when it was seen.
  public var time: WallTime
  /// Bytes in all; nil while unknown.
  public var byteCount: Int?
  /// End of the contiguous prefix; a hint unless sealed.
  public var frontier: Int
  /// Bytes that are written; a hint unless sealed.
  public var coveredByteCount: Int
  /// Why it failed: the code, nil unless it did.
  public var causeCode: PatchbayError.Code?
  /// Why it failed, in words.
  public var cause: String?

  package init(
    kind: Kind, key: BlobKey, generation: Generation, position: EventPosition, time: WallTime,
    byteCount: Int?, frontier: Int, coveredByteCount: Int, causeCode: PatchbayError.Code? = nil,
    cause: String? = nil
  ) {
    self.kind = kind
    self.key = key
    self.generation = generation
    self.position = position
    self.time = time
    self.byteCount = byteCount
    self.frontier = frontier
    self.coveredByteCount = coveredByteCount
    self.causeCode = causeCode
    self.cause = cause
  }
}

/// What a watcher is told.
public enum BlobEvent: Sendable, Hashable {
  /// Something became of a blob.
  case change(BlobChange)
  /// Changes before this place were forgotten, removals above all: whatever the watcher knew may be
  /// out of date. All blobs that exist are told after this, so it can begin anew.
  case gap(EventPosition)

  /// To go on after this event.
  public var position: EventPosition {
    switch self {
    case .change(let change): change.position
    case .gap(let position): position
    }
  }
}
