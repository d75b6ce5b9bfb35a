// What the broker tells about a blob, in one value.

/// A blob as the broker saw it at one moment. Figures of an open blob are hints: they may be behind
/// by what was written meanwhile.
public struct BlobInfo: Sendable, Hashable {
  /// The blob's name.
  public var key: BlobKey
  /// Which life of the key.
  public var generation: Generation
  /// Where it stands.
  public var state: BlobState
  /// Bytes in all; nil while unknown.
  public var byteCount: Int?
  /// End of the contiguous prefix.
  public var frontier: Int
  /// Bytes that can be read.
  public var coveredByteCount: Int
  /// Bytes of memory the blob occupies, maps included.
  public var residentByteCount: Int
  /// Bytes on disk.
  public var spilledByteCount: Int
  /// How it is written.
  public var order: WriteOrder
  /// What becomes of bytes when memory is short.
  public var policy: FlowPolicy
  /// What its acknowledgements survive.
  public var acknowledgement: Acknowledgement
  /// Open publisher handles.
  public var publisherCount: Int
  /// Open subscriber handles.
  public var subscriberCount: Int
  /// Media type, empty when none was given.
  public var type: String
  /// Labels in the order they were given.
  public var labels: [Label]
  /// When it was created.
  public var created: WallTime
  /// When it was last sealed, failed or granted memory.
  public var modified: WallTime
  /// When somebody last opened it to read; nil if nobody has.
  public var lastRead: WallTime?
  /// Whether it may be evicted although acknowledged.
  public var isCache: Bool
  /// Whether it is protected from eviction.
  public var isPinned: Bool
  /// Whether its bytes are those of a file that was there before, and stay in that file.
  public var isImported: Bool
  /// Whether its publisher waits for somebody to read, as its creator wanted.
  public var isPaused: Bool
  /// Owner and mode.
  public var access: Access
  /// Why it failed: the code, nil unless it did.
  public var causeCode: PatchbayError.Code?
  /// Why it failed, in words.
  public var cause: String?
  /// The digest of all its bytes, verified where a value was expected; nil unless it was asked for when
  /// the blob was created, and until it is sealed.
  public var digest: ContentDigest?
  /// When its time is over, as things stand: what is served after that is stale. Nil while it is not
  /// complete, while it is pinned, and for a blob that has all the time.
  public var expires: WallTime?

  /// A name and a value that travel with a blob.
  public struct Label: Sendable, Hashable {
    /// The label's name.
    public var name: String
    /// The label's value.
    public var value: String
    /// A label of its two parts.
    public init(name: String, value: String) {
      self.name = name
      self.value = value
    }
  }

  package init(
    key: BlobKey, generation: Generation, state: BlobState, byteCount: Int?, frontier: Int,
    coveredByteCount: Int, residentByteCount: Int, spilledByteCount: Int, order: WriteOrder,
    policy: FlowPolicy, acknowledgement: Acknowledgement, publisherCount: Int,
    subscriberCount: Int, type: String, labels: [Label], created: WallTime, modified: WallTime,
    lastRead: WallTime?, isCache: Bool, isPinned: Bool, isImported: Bool = false,
    isPaused: Bool = false, access: Access,
    causeCode: PatchbayError.Code?, cause: String?, digest: ContentDigest? = nil,
    expires: WallTime? = nil
  ) {
    self.expires = expires
    self.digest = digest
    self.key = key
    self.generation = generation
    self.state = state
    self.byteCount = byteCount
    self.frontier = frontier
    self.coveredByteCount = coveredByteCount
    self.residentByteCount = residentByteCount
    self.spilledByteCount = spilledByteCount
    self.order = order
    self.policy = policy
    self.acknowledgement = acknowledgement
    self.publisherCount = publisherCount
    self.subscriberCount = subscriberCount
    self.type = type
    self.labels = labels
    self.created = created
    self.modified = modified
    self.lastRead = lastRead
    self.isCache = isCache
    self.isPinned = isPinned
    self.isImported = isImported
    self.isPaused = isPaused
    self.access = access
    self.causeCode = causeCode
    self.cause = cause
  }
}

/// Counters of a broker since it started, and its limits.
public struct BrokerStatistics: Sendable, Hashable {
  /// Blobs in the catalog, every state.
  public var blobCount: UInt64 = 0
  /// Bytes of memory held: rings, maps, inline blobs, boards, tables, journal.
  public var memoryByteCount: UInt64 = 0
  /// The limit on them.
  public var memoryLimit: UInt64 = 0
  /// Of them, rings kept for reuse.
  public var poolByteCount: UInt64 = 0
  /// Bytes on disk.
  public var spoolByteCount: UInt64 = 0
  /// The limit on them; 0 without a spool.
  public var spoolLimit: UInt64 = 0
  /// Connected clients.
  public var clientCount: UInt64 = 0
  /// Rings in memory.
  public var ringCount: UInt64 = 0
  /// Extents written to disk so far.
  public var spillCount: UInt64 = 0
  /// Extents read back so far.
  public var restoreCount: UInt64 = 0
  /// Rings of the pool used again so far.
  public var reuseCount: UInt64 = 0
  /// Blobs evicted so far.
  public var evictionCount: UInt64 = 0
  /// Waiters woken so far.
  public var wakeCount: UInt64 = 0
  /// Of them, those that found nothing new for themselves.
  public var needlessWakeCount: UInt64 = 0
  /// Waits that only their time bound ended although the bytes were there. Anything but 0 means
  /// that a publisher was killed or stopped between covering and waking.
  public var rescuedWaitCount: UInt64 = 0
  /// Users that are connected or have blobs.
  public var userCount: UInt64 = 0
  /// Bytes of the asking user's blobs: rings, maps, inline blobs, and what the journal keeps of them.
  public var userMemoryByteCount: UInt64 = 0
  /// The limit on them.
  public var userMemoryLimit: UInt64 = 0
  /// Bytes in memory of the blobs that the asking client writes.
  public var clientMemoryByteCount: UInt64 = 0
  /// The limit on them.
  public var clientMemoryLimit: UInt64 = 0
  /// How long the broker runs.
  public var uptime: Duration = .zero

  package init() {}
}
