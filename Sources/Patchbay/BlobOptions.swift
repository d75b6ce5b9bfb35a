// What a publisher may say about a blob when it creates it.

import PatchbayTypes
import PatchbayWire

/// How a blob is created. Everything has a default; a plain `BlobOptions()` is a private blob of
/// unknown length, written in any order.
public struct BlobOptions: Sendable, Hashable {
  /// Bytes in all, nil while unknown. An announced length is enforced at the seal; readers see it
  /// from the start. Its memory is reserved at once, as one extent, unless sizes of extents are given
  /// below.
  public var byteCount: Int?
  /// Whether bytes come at any position or only at the end. `appendOnly` needs an eighth less
  /// memory.
  public var order: WriteOrder
  /// Permission bits; by default only the owner may read.
  public var mode: UInt16
  /// Takes the place of a blob that has the key: its readers finish, new ones get this one.
  public var replaces: Bool
  /// The first extent's bytes, nil for the broker's choice; rounded up to whole pages.
  public var firstExtentByteCount: Int?
  /// The largest extent's bytes, nil for the broker's choice.
  public var extentByteLimit: Int?
  /// What becomes of bytes when readers are slow. `backpressure` and `dropOldest` keep only the last
  /// bytes of the stream, in one ring that is used again and again; such a blob is only appended to,
  /// whatever `order` says.
  public var policy: FlowPolicy
  /// With the policies that keep the last bytes only: how many, nil for the broker's choice (2 MiB).
  public var ringByteCount: Int?
  /// How many of these are given up at once: a power of two from 4 KiB to 1 GiB, at most half of the
  /// ring; nil: an eighth.
  public var segmentByteCount: Int?
  /// With `backpressure`: how long a subscriber may hold the publisher; then it is let go, and its next
  /// call throws `overrun`. Counted anew when another broker has come.
  public var slowestLimit: Duration
  /// Media type, for people and gateways; at most 255 bytes. A create with more is refused with
  /// `protocolViolation`, and so are longer or more labels.
  public var type: String
  /// Labels that travel with the blob; at most 32, of at most 255 bytes on each side.
  public var labels: [BlobInfo.Label]
  /// Whether others may join as publishers of the blob, each in the ranges that it claims. Only for
  /// blobs written in any order.
  public var isJoinable = false
  /// How long a blob that others may join is kept while nobody publishes it. Nil: ten minutes for
  /// one that was left or never had a publisher; one whose last publisher goes otherwise has failed.
  public var idleLimit: Duration?
  /// What the content is to be: the broker compares at the seal, and a blob with another content has
  /// failed with `digestMismatch`. Not for policies that keep the last bytes only.
  public var expect: ContentDigest?
  /// Has the broker compute this digest for `BlobInfo.digest`, whatever it is. What is expected
  /// comes first.
  public var digest: ContentDigest.Algorithm?
  /// Takes over the covered bytes of a failed blob of the key, if there is one; `missing` tells what
  /// is left to write. Length, order and sizes of extents must be what they were. Marks are not taken
  /// over.
  public var resumes = false

  /// What the confirmation of the seal survives. `retained` (the broker's death) and `durable` (loss of
  /// power) need a broker with a spool: all of the blob is then on disk before its seal is confirmed, and
  /// it stays until it is removed, unless `isCache`.
  public var acknowledgement = Acknowledgement.visible
  /// Whether the blob may be evicted when room is needed, whatever its acknowledgement.
  public var isCache = false
  /// How long it is kept after its seal; nil: for ever, unless it has to make room. Then new readers do not
  /// find it, and those that have it open finish. Not for policies that keep the last bytes only.
  public var timeToLive: Duration?
  /// How long it is kept after it was last opened, or sealed; else as `timeToLive`. Whichever comes first
  /// counts.
  public var idleExpiry: Duration?
  /// How long it is still served after that, as a stale one, while one caller of `get` produces it again.
  public var grace: Duration?
  /// How its bytes are kept on disk; nil: as the broker was told.
  public var compression: SpoolCompression?

  /// How it is fetched, if readers say what they want of it.
  var demand: DemandTerms?

  /// Options with what matters most; the rest are properties.
  public init(
    byteCount: Int? = nil, order: WriteOrder = .any, policy: FlowPolicy = .keep,
    mode: UInt16 = 0o600, replaces: Bool = false, type: String = "",
    labels: [BlobInfo.Label] = [], expect: ContentDigest? = nil
  ) {
    self.expect = expect
    self.policy = policy
    slowestLimit = .seconds(10)
    self.byteCount = byteCount
    self.order = order
    self.mode = mode
    self.replaces = replaces
    self.type = type
    self.labels = labels
  }

  /// Whether a small one may travel in one message: it has no place on disk.
  var isInlinable: Bool { policy == .keep && acknowledgement == .visible && compression == nil }

  var lifetime: LifetimeTerms {
    var terms = LifetimeTerms()
    terms.timeToLive = timeToLive
    terms.idleExpiry = idleExpiry
    terms.grace = grace
    return terms
  }

  var digestWish: DigestWish? {
    expect.map(DigestWish.init(expecting:)) ?? digest.map { DigestWish($0) }
  }

  /// How long a seal may take that nobody gave a deadline: what the broker has not hashed yet, and what
  /// has to go to disk, take as long as they take, and a broker that goes is an answer.
  var sealDeadline: Deadline {
    digestWish == nil && acknowledgement == .visible ? .standard : .never
  }

  /// The same for bytes that come in order.
  func appended(byteCount: Int?) -> BlobOptions {
    var options = self
    options.byteCount = byteCount
    options.order = .appendOnly
    return options
  }
}
