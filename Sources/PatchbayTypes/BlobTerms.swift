// The plain words of a blob's life: numbers on the wire, in the journal and on the board are these.

/// One life of a key. Unique over all keys of a broker, so it also names the blob.
public struct Generation: RawRepresentable, Hashable, Sendable, Comparable,
  CustomStringConvertible
{
  /// 1 and up; 0 never names a blob.
  public let rawValue: UInt64
  /// A generation by its number.
  public init(rawValue: UInt64) { self.rawValue = rawValue }
  /// Earlier lives are smaller.
  public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
  /// The number.
  public var description: String { String(rawValue) }
}

/// Where a blob stands in its life.
public enum BlobState: UInt8, Sendable, Hashable, CaseIterable {
  /// Being written.
  case open = 1
  /// Nobody writes; it waits for a producer.
  case suspended = 2
  /// Complete. Its bytes and length never change again.
  case sealed = 3
  /// Ended without being complete.
  case failed = 4
  /// Removed or evicted; only readers that have it open still see it.
  case gone = 5
}

/// What becomes of bytes when memory is short or readers are slow.
public enum FlowPolicy: UInt8, Sendable, Hashable, CaseIterable {
  /// Everything stays readable from byte 0.
  case keep = 1
  /// The publisher waits for its slowest subscriber.
  case backpressure = 2
  /// The oldest bytes go; a slow subscriber gets `overrun`.
  case dropOldest = 3
}

/// What an acknowledged byte survives.
public enum Acknowledgement: UInt8, Sendable, Hashable, CaseIterable {
  /// The publisher's death.
  case visible = 1
  /// The broker's death.
  case retained = 2
  /// Loss of power.
  case durable = 3
}

/// How a publisher will write.
public enum WriteOrder: UInt8, Sendable, Hashable, CaseIterable {
  /// At any position; each byte once. Costs an eighth more memory, for the written map.
  case any = 1
  /// Only at the end.
  case appendOnly = 2
}

/// Who writes a blob.
public enum Ownership: UInt8, Sendable, Hashable, CaseIterable {
  /// Its creator alone. When that goes without sealing, the blob has failed.
  case exclusive = 1
  /// Its creator and all that join, each in the ranges that it claims.
  case joinable = 2
  /// As joinable, but its creator is no publisher of it: at first nobody writes.
  case ownerless = 3
  /// One publisher at a time. When it dies, or covers nothing new for its tenure, whoever stands by
  /// goes on in its place.
  case produced = 4
}

/// What becomes of a production when the last reader of its blob leaves.
public enum UnreadPolicy: UInt8, Sendable, Hashable, CaseIterable {
  /// It goes on to its end.
  case finish = 1
  /// The blob fails.
  case stop = 2
  /// Its publisher waits until somebody reads again, or nobody can: the blob was removed.
  case pause = 3
}

/// Who may do what with a blob, as with a file.
public struct Access: Sendable, Hashable {
  /// The owning user.
  public let uid: UInt32
  /// The owning group.
  public let gid: UInt32
  /// Permission bits; 0600 unless the publisher chose otherwise.
  public let mode: UInt16
  /// The triple.
  public init(uid: UInt32, gid: UInt32, mode: UInt16) {
    self.uid = uid
    self.gid = gid
    self.mode = mode
  }
}

/// A moment of the wall clock, in nanoseconds since 1970 UTC.
public struct WallTime: RawRepresentable, Sendable, Hashable, Comparable {
  /// Nanoseconds since 1970-01-01T00:00:00Z.
  public let rawValue: Int64
  /// A moment by its number.
  public init(rawValue: Int64) { self.rawValue = rawValue }
  /// Earlier is smaller.
  public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
}
