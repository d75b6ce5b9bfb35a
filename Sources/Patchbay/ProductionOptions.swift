// How a blob is produced when it is missing, and what the one that produces it is given.

import PatchbayTypes
import PatchbayWire

/// Where a producer can go on with what another one has left.
public enum ProductionStart: Sendable, Hashable {
  /// At any position: it writes what is missing.
  case anywhere
  /// Only from the first byte on, as every program does that writes to a pipe. What is covered already is
  /// compared with what it appends, not written; the first difference fails the blob with
  /// `contentDiverged`, so no reader ever gets a mix of two contents.
  case fromZero
}

/// How a missing blob is produced. What of it concerns all processes is settled by the one that creates
/// the blob.
public struct ProductionOptions: Sendable {
  /// What the blob is to be. A cache unless told otherwise: it may be evicted.
  public var blob: BlobOptions
  /// Where this producer can go on.
  public var start: ProductionStart
  /// How long the producer may cover nothing new before another process goes on that stands by; what it
  /// writes afterwards is never seen. Each that stalls where the one before did is given twice as long.
  /// Nil: as long as its process lives.
  public var stallTimeout: Duration?
  /// How often the closure runs in this process before the blob fails with what it threw last.
  public var attempts = 1
  /// How long a failure is told to all that ask for the blob, before it is produced again; nil: whoever asks
  /// next produces it.
  public var failureLifetime: Duration?
  /// What becomes of the production when the last subscriber of the blob goes, its producer's own included.
  /// `stop` fails the blob, and another producer may take over what is covered; `pause` has the calls that
  /// write wait until somebody reads again.
  public var whenUnread = UnreadPolicy.finish
  /// How often the key has to be asked for before the complete blob is kept; until then it goes with its
  /// last reader.
  public var leastUses: UInt32 = 0

  /// Options with what matters most; the rest are properties.
  public init(
    _ blob: BlobOptions = BlobOptions(), start: ProductionStart = .anywhere,
    stallTimeout: Duration? = nil
  ) {
    self.blob = blob
    self.blob.isCache = true
    self.start = start
    self.stallTimeout = stallTimeout
  }
}

/// A blob that is to be produced by whoever was given this.
public struct Production: Sendable {
  /// Writes the blob. It is sealed when the closure returns, and failed when that throws, unless the
  /// closure has ended it itself.
  public let publisher: Publisher
  /// The ranges that nobody had written when the closure began, in order; with an unknown length those
  /// below `publisher.position` only. All of it for a producer that starts from 0.
  public let missing: [Range<Int>]
  /// Which run of the closure in this process this is, from 1 on.
  public let attempt: Int
  /// Whether somebody else has begun it: what the blob was created with is not this producer's.
  let isTakenOver: Bool

  /// Whether what is written still counts: not when the blob has ended, or somebody else goes on with it.
  public var isCurrent: Bool { publisher.isCurrent }
}

extension ProductionOptions {
  /// What its publisher is made with.
  var publisherOptions: BlobOptions {
    var options = blob
    options.isJoinable = false
    options.replaces = false
    // Another process may have covered something before.
    options.resumes = true
    if start == .fromZero { options.order = .appendOnly }
    return options
  }

  var terms: CreateTerms {
    var terms = CreateTerms(
      ownership: .produced, idleLimit: nil, resumes: start == .anywhere,
      compression: blob.compression, digest: blob.digestWish)
    terms.production.tenure = stallTimeout
    terms.production.failureLifetime = failureLifetime
    terms.production.whenUnread = whenUnread
    terms.production.leastUses = leastUses
    terms.lifetime = blob.lifetime
    terms.demand = blob.demand
    return terms
  }
}
