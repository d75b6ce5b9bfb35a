// The things the ledger keeps: sessions with their handles, blobs, rings. Plain values, changed in
// place by the ledger's extensions only. Counts that could be derived are kept where deriving them
// would take a walk; each says what it counts.

import PatchbayTypes
import PatchbayWire

/// A request that waits for its answer.
struct RequestID: Sendable, Hashable {
  let session: SessionID
  let number: UInt64
}

struct Session: Sendable {
  enum Phase: Sendable, Hashable {
    /// Connected, has not said hello.
    case greeting
    case talking
    /// Stands in for a client of the broker before this one, which has not come back yet.
    case absent
    /// Hung up, but its process lives and may still have rings mapped.
    case ghost
  }
  /// What the journal says of it.
  enum Recording: Sendable, Hashable {
    /// It has asked for nothing yet: the next broker knows it, and waits for nothing of it.
    case greeted
    case asked
    /// Nothing: it only watches, which begins anew with the next broker.
    case unrecorded
  }
  let peer: Peer
  var phase = Phase.greeting
  var clientID: UInt64 = 0
  var token = Token.none
  var name = ""
  var handles: [Generation: Handle] = [:]
  /// Open handles and opens that wait for a board.
  var handleCount = 0
  /// The keys that its waiting opens wait for, by request number.
  var parked: [UInt64: BlobKey] = [:]
  /// Blobs with opens of this session that wait for a board.
  var asked: [Generation] = []
  /// Blobs into whose rings it may still write, until it says that it is quiescent.
  var writes: Set<Generation> = []
  /// Bytes in memory of the blobs that it pays for.
  var paidByteCount = 0
  var recording = Recording.greeted
  /// A ghost's blobs: their rings may be mapped until the process is gone.
  var haunted: [Generation] = []

  /// Whether a client stands behind it that has said hello.
  var isKnown: Bool { phase == .talking || phase == .absent }
}

/// What one session has open of one blob. Opens are kept by request number, so that a grant that
/// could not be delivered is found again.
struct Handle: Sendable {
  var publishes = false
  var readers: [UInt64] = []
  var observers: [UInt64] = []
  /// When the first of them was granted.
  var since = WallTime(rawValue: 0)
  var isEmpty: Bool { !publishes && readers.isEmpty && observers.isEmpty }
}

/// What is settled when a blob is created and never changes. One object, so that a blob's changing
/// part stays small.
final class BlobOrigin: Sendable {
  let request: CreateRequest
  let terms: CreateTerms
  let generation: Generation
  let access: Access
  let plan: ExtentPlan
  /// Nil for the policy `keep`.
  let window: WindowShape?
  let wakeClasses: WakeClasses
  let created: WallTime
  let creator: RequestID
  let token: Token
  /// The most extents that one publisher may have for writing; 0: any number.
  let heldExtentLimit: Int
  /// The file that it is, as it was when it was imported; nil for a blob that was written.
  let file: FileStamp?

  init(
    request: CreateRequest, terms: CreateTerms, generation: Generation, access: Access,
    plan: ExtentPlan, window: WindowShape?, file: FileStamp? = nil, created: WallTime,
    creator: RequestID, token: Token, heldExtentLimit: Int = 0
  ) {
    // The bytes of an inline blob live in the blob, or they would be held twice.
    var request = request
    request.inlineBytes = nil
    self.request = request
    self.terms = terms
    self.generation = generation
    self.access = access
    self.plan = plan
    self.window = window
    self.file = file
    wakeClasses = WakeClasses(forByteCount: window == nil ? request.byteCount : nil)
    self.created = created
    self.creator = creator
    self.token = token
    self.heldExtentLimit = heldExtentLimit
  }
}

struct Blob: Sendable {
  let origin: BlobOrigin
  var state = BlobState.open
  /// Whether its creation was answered. Before that only its creator's request knows of it.
  var isBorn = false
  /// The requests, beside its creator's, that a birth answers: the same creation again.
  var birthWaiters: [RequestID] = []
  /// Requests that open it when it is born, or create another when it comes to nothing.
  var birthAskers: [(asker: RequestID, request: OpenOrCreateRequest)] = []
  var lifetime = Lifetime()
  /// The stale blob whose key it takes with its seal.
  var succeeds: Generation?
  /// Of a stale one: before this nobody is to make its successor.
  var refreshAfter: Int64?
  /// Of one that is kept when it was wanted often enough: whether it was.
  var isAdmitted = false
  /// Of a production: whether somebody read it when that was last looked at, and whether its publisher
  /// waits for somebody to.
  var isRead = false
  var isPaused = false
  /// Whether bounds of the cache spare it.
  var isFavoured = false
  /// Who goes on when its publisher cannot; says nothing of a blob that is not produced.
  var production = Production()
  /// What its readers wait for; says nothing of a blob that nobody fetches on demand.
  var demands = Demands()
  /// The failed blob whose bytes it takes over, until it has.
  var source: Generation?
  var pendingCopy: CopyID?
  /// Whether its bytes are being taken over.
  var isSource = false
  /// Whether it was there before this broker, and clients that may have it open are still out.
  var isReturning = false
  /// Sessions that its publisher was to wait for, before, and that are still out.
  var awaitedSubscribers: [SessionID] = []
  /// Whether its key leads to it; false once removed or replaced.
  var isNamed = true
  /// Whether a process that may still have its rings mapped is waited for no more: they are never
  /// used again.
  var isAbandoned = false
  var epoch: UInt32 = 1
  var byteCount: Int?
  var inlineBytes: [UInt8]?
  /// By index, ascending.
  var extents: [ExtentRecord] = []
  var pendingExtents: [Int: RingID] = [:]
  var extentVersion: UInt32 = 0
  /// Indices of extents that stand on disk and not in memory.
  var spooled: Set<Int> = []
  /// The one that is on its way there.
  var spillingIndex: Int?
  /// Bytes of disk that were set aside for it.
  var spillReserve = 0
  /// Whether the extent that is on its way was granted for writing meanwhile.
  var isSpillOutdated = false
  /// Who has which extent for writing, and what stands in scratch files.
  var patchwork = Patchwork()
  /// From here on nothing was complete when it was last tried.
  var spillLimit = Int.max
  /// Whether it may have a container, which takes so many bytes of disk, those set aside included.
  var hasContainer = false
  var spoolByteCount = 0
  /// Whether its container holds all of it, under the name by which the next broker finds it; and, while
  /// it is being made so, the bytes of disk that are set aside for that.
  var isPersisted = false
  var persistReserve: Int?
  /// Seals that came while a container was being completed of which nobody waits any more.
  var lateSeals: [LateSeal] = []
  /// Its container has failed.
  var isUnspillable = false
  /// Among which candidates it stands.
  var offered: SpillOffers = []
  /// Who writes it, in the order of coming; one if it is exclusive, none unless it is open.
  var publishers: [BlobPublisher] = []
  /// Sessions that were given its rings to write and have not said that they are quiescent.
  var writers: [SessionID: BlobWriter] = [:]
  var claims: [Claim] = []
  /// End of the highest range that was ever claimed.
  var claimedEnd = 0
  /// While it is suspended: when it is given up, by the monotonic clock.
  var suspensionEnd: Int64?
  /// Whether it stands among the suspensions; it may be open again.
  var isAwaited = false
  /// Who sealed it, so that a repeated seal is recognized.
  var sealer: SessionID?
  var pendingSeal: PendingSeal?
  /// Whom its publisher waits for; empty unless the policy is `backpressure`.
  var subscriptions: [NotedSubscription] = []
  var subscriptionVersion: UInt32 = 0
  /// Other users that have held its publisher for too long once: it waits for them no more.
  var detachedUsers: Set<UInt32> = []
  var slot: BoardSlot?
  var waitsForSlot = false
  var askers: [ParkedOpen] = []
  var readerCount = 0
  var observerCount = 0
  var ghostCount = 0
  /// Bytes charged for it.
  var residentByteCount = 0
  var modified: WallTime
  var lastRead: WallTime?
  /// The access clock when it was last read, or born.
  var accessStamp: UInt64 = 0
  /// Whether eviction may take it: ended, named, nobody has it open or mapped.
  var isIdle = false
  /// Whether eviction must not take it.
  var isPinned = false
  /// Whether the loop keeps a descriptor of its file.
  var holdsFile = false
  var isQueued = false
  var isQueuedOnDisk = false
  var isQueuedInCache = false
  var causeCode: PatchbayError.Code?
  var cause: String?
  /// How far its digest is.
  var digesting = DigestProgress()
  /// The digest that was asked for, once it is sealed.
  var digest: ContentDigest?

  init(origin: BlobOrigin) {
    self.origin = origin
    byteCount = origin.request.byteCount
    modified = origin.created
    if origin.terms.ownership == .ownerless { state = .suspended }
  }

  var key: BlobKey { origin.request.key }
  var isHeld: Bool {
    !publishers.isEmpty || readerCount > 0 || observerCount > 0 || !askers.isEmpty || isSource
      || isReturning
  }
  /// Whether its key leads to it, or will with its seal.
  var isWanted: Bool { isNamed || succeeds != nil }
  /// Whether it has ended, its key with it, and nobody has it open: what is left waits for processes
  /// that may still have its rings mapped.
  var isGone: Bool { !isNamed && !state.isLive && !isHeld }
  /// Whose share of memory it is charged to while it is being written: who came first of those that do.
  var payer: SessionID? { publishers.first?.session }
  var isJoinable: Bool {
    switch origin.terms.ownership {
    case .joinable, .ownerless: true
    case .exclusive, .produced: false
    }
  }

  func isPublished(by session: SessionID) -> Bool {
    publishers.contains { $0.session == session }
  }

  /// Where the extent with this index is, or would go.
  private func place(of index: Int) -> Int {
    var low = 0
    var high = extents.count
    while low < high {
      let middle = (low + high) / 2
      if extents[middle].index < index { low = middle + 1 } else { high = middle }
    }
    return low
  }

  func extent(at index: Int) -> ExtentRecord? {
    let place = place(of: index)
    guard place < extents.count, extents[place].index == index else { return nil }
    return extents[place]
  }

  mutating func insert(_ extent: ExtentRecord) {
    extents.insert(extent, at: place(of: extent.index))
  }
}

/// A session that writes a blob.
struct BlobPublisher: Sendable, Hashable {
  let session: SessionID
  /// The request that made it one.
  let number: UInt64
}

/// A session that may write into the rings of a blob.
struct BlobWriter: Sendable, Hashable {
  /// The request by which it was given one first.
  let number: UInt64
  /// Under which it was given the last one.
  var epoch: UInt32
}

/// A seal that has to wait until the one before has ended on disk.
struct LateSeal: Sendable {
  let asker: RequestID
  let request: SealRequest
}

/// A seal whose bytes are being looked at.
struct PendingSeal: Sendable {
  /// Nil when there is nothing to look at.
  var inspection: InspectionID?
  let byteCount: Int
  /// How far is looked: beyond the length where others may have written there.
  let inspectedEnd: Int
  /// The requests that want to know.
  var waiters: [RequestID]
  /// Whether a claim was granted meanwhile.
  var isDisturbed = false
  /// Whether it was found complete, and is being put on disk.
  var isPersisting = false
  /// Whether all bytes were found, and their digest is awaited.
  var isCovered = false
  /// The digest, once it is known.
  var digest: ContentDigest?
}

/// An open that cannot be answered yet.
struct ParkedOpen: Sendable, Hashable {
  let session: SessionID
  let number: UInt64
  let observes: Bool
}

struct Ring: Sendable {
  var generation: Generation
  var index: Int
  let kind: RingKind
  /// Bytes of the whole object: what is charged for it, to its owner while it serves a blob of it.
  let byteCount: Int
  /// Counts from 1, the first.
  var useNumber: UInt32 = 1
  /// Grows that wait for it.
  var waiters: [RequestID] = []
  /// A process that is waited for no more may have it mapped, or one that a broker before this one knew:
  /// it is never used again, but what is complete in it may leave memory.
  var isAbandoned = false

  var owner: UInt32 { kind.access.uid }
}
