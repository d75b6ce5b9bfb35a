// What a client asks. Numbers and field order are the protocol; the documentation's page is
// normative and a golden test compares the two.

import PatchbayTypes

/// One message from a client to the broker.
package enum Request: Sendable, Hashable {
  case hello(Hello)
  case create(CreateRequest)
  case grow(GrowRequest)
  case seal(SealRequest)
  case fail(FailRequest)
  /// Ends a publisher handle without a seal: the blob has failed.
  case abandon(BlobReference)
  case open(OpenRequest)
  /// Ends a waiting `open` of this session; it answers `timedOut`.
  case cancel(CancelRequest)
  case attachExtent(ExtentRequest)
  case attachBoard(BoardRequest)
  case close(CloseRequest)
  case info(InfoRequest)
  case list(ListRequest)
  case remove(RemoveRequest)
  case statistics
  case ping
  /// A reader of a windowed blob begins to read in sequence: its publisher waits for it.
  case subscribe(SubscriptionRequest)
  case unsubscribe(SubscriptionRequest)
  /// Whom the publisher of a windowed blob waits for.
  case subscriptions(BlobReference)
  /// The table in which one of them tells its positions.
  case attachTable(TableRequest)
  /// A subscriber has held its publisher for too long.
  case detach(DetachRequest)
  /// A create whose blob has other owners than its creator alone, takes over covered bytes, or has a
  /// digest.
  case createWith(CreateRequest, CreateTerms)
  case join(JoinRequest)
  case claim(ClaimRequest)
  case release(ReleaseRequest)
  /// Ends a publisher handle of a joinable blob that others, or nobody, will go on with.
  case leave(BlobReference)
  /// A publisher, whatever became of its blob, has no write in flight and will begin none.
  case quiesced(BlobReference)
  /// Answered by `events` again and again, until it is cancelled.
  case watch(WatchRequest)
  case why(WhyRequest)
  /// A publisher has no write in flight in an extent and will begin none before it is granted again.
  case giveBack(GiveBackRequest)
  /// Keeps a blob from eviction, or no more.
  case pin(PinRequest)
  /// Publishes the file whose descriptor comes along: the one request that has one.
  case `import`(ImportRequest)
  /// Takes up a handle again that the broker before this one had granted.
  case reattach(ReattachRequest)
  /// All handles have been taken up again, and all requests without an answer sent again: whatever else
  /// the broker before this one had granted to this client has ended.
  case reattached
  /// Opens the blob with a key, or creates it if there is none.
  case openOrCreate(OpenOrCreateRequest)
  /// Waits for the right to go on producing a blob, or for the blob's end.
  case standBy(StandByRequest)
  /// A publisher that began again from 0 has repeated covered bytes: it does not stand still.
  case renew(BlobReference)
  /// A reader waits for bytes of a blob that is fetched on demand.
  case demand(DemandRequest)
  /// A publisher waits for something to fetch.
  case nextDemand(BlobReference)
  /// What a publisher was given to fetch is over.
  case settleDemand(SettleDemandRequest)

  package enum Kind: UInt16, Sendable, CaseIterable {
    case hello = 1
    case create, grow, seal, fail, abandon, open, cancel
    case attachExtent, attachBoard, close, info, list, remove, statistics, ping
    case subscribe, unsubscribe, subscriptions, attachTable, detach
    case createWith, join, claim, release, leave, quiesced
    case watch = 32
    case why, pin, `import`
    case giveBack = 36
    case reattach, reattached, openOrCreate, standBy, renew, demand, nextDemand
    case settleDemand
  }
}

/// The first message of a connection.
package struct Hello: Sendable, Hashable {
  package var oldestVersion: UInt16
  package var newestVersion: UInt16
  /// The token of an earlier session of this client, zeros at first.
  package var token: Token
  /// What the client calls itself, for people: at most 64 bytes.
  package var name: String
  package init(oldestVersion: UInt16, newestVersion: UInt16, token: Token, name: String) {
    self.oldestVersion = oldestVersion
    self.newestVersion = newestVersion
    self.token = token
    self.name = name
  }
}

/// 128 random bits that prove a client to be the one it was.
package struct Token: Sendable, Hashable {
  package var high: UInt64
  package var low: UInt64
  package static let none = Token(high: 0, low: 0)
  package init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }
}

/// An open handle: which blob, and the epoch its publisher was granted (0 for subscribers).
package struct BlobReference: Sendable, Hashable {
  package var generation: Generation
  package var epoch: UInt32
  package init(generation: Generation, epoch: UInt32) {
    self.generation = generation
    self.epoch = epoch
  }
}

package struct CreateRequest: Sendable, Hashable {
  package var key: BlobKey
  /// Nil while unknown.
  package var byteCount: Int?
  package var order: WriteOrder = .any
  package var policy: FlowPolicy = .keep
  package var acknowledgement: Acknowledgement = .visible
  package var mode: UInt16 = 0o600
  /// Replaces a blob that has the key, as `remove` followed by `create` in one step.
  package var replaces = false
  package var isCache = false
  /// Sizes of the first and the largest extent, which of a windowed blob are both its ring's; 0: the
  /// broker's choice.
  package var firstExtent = 0
  package var extentLimit = 0
  /// Bytes of a windowed blob's segment; 0: the broker's choice.
  package var segment = 0
  package var type = ""
  package var labels: [BlobInfo.Label] = []
  /// The whole blob, at most 16 KiB: created and sealed in one step.
  package var inlineBytes: [UInt8]?
  package init(key: BlobKey) { self.key = key }
}

/// What `createWith` says beyond `create`.
package struct CreateTerms: Sendable, Hashable {
  package var ownership: Ownership
  /// How long a blob without a publisher is kept; nil: as the broker likes.
  package var idleLimit: Duration?
  /// Takes over the covered bytes of a failed blob of the key.
  package var resumes: Bool
  /// How its container keeps bytes; nil: as the broker does.
  package var compression: SpoolCompression?
  /// The digest that is to be computed, and what it is to be.
  package var digest: DigestWish?
  package var production = ProductionTerms()
  package var lifetime = LifetimeTerms()
  /// The stale blob of the key that it is to succeed: nobody sees it before it is sealed.
  package var succeeds: Generation?
  /// Nil: nobody fetches it on demand.
  package var demand: DemandTerms?
  /// What a plain `create` means.
  package static let plain = plain(digest: nil)
  package static func plain(digest: DigestWish?) -> CreateTerms {
    CreateTerms(ownership: .exclusive, idleLimit: nil, resumes: false, digest: digest)
  }
  package init(
    ownership: Ownership, idleLimit: Duration?, resumes: Bool, compression: SpoolCompression? = nil,
    digest: DigestWish? = nil
  ) {
    self.digest = digest
    self.ownership = ownership
    self.idleLimit = idleLimit
    self.resumes = resumes
    self.compression = compression
  }
}

/// What is settled of the production of a blob that others may take over.
package struct ProductionTerms: Sendable, Hashable {
  /// How long its publisher may cover nothing new before another one takes over; nil: as long as it
  /// lives.
  package var tenure: Duration?
  package var whenUnread = UnreadPolicy.finish
  /// How long a failure is told to whoever asks for the key, before it is produced again.
  package var failureLifetime: Duration?
  /// How often the key has to be asked for before the complete blob is kept.
  package var leastUses: UInt32 = 0
  package init() {}
}

/// How long a complete blob is kept, unless it is evicted before.
package struct LifetimeTerms: Sendable, Hashable {
  /// From its seal on.
  package var timeToLive: Duration?
  /// From the last time that somebody opened it.
  package var idleExpiry: Duration?
  /// How long it is served on, when its time is over, while it is produced again.
  package var grace: Duration?
  package init() {}
}

/// How a blob is fetched of which readers say what they want.
package struct DemandTerms: Sendable, Hashable {
  /// Bytes that are fetched together, from a multiple of them on.
  package var pieceByteCount: Int
  /// Bytes behind those that are wanted, where somebody reads on.
  package var readAhead: Int
  /// Whether what nobody wants is fetched, too, when there is nothing else to do.
  package var fills: Bool
  package static let pieceRange = 4096...(1 << 30)
  package init(pieceByteCount: Int, readAhead: Int, fills: Bool) {
    self.pieceByteCount = pieceByteCount
    self.readAhead = readAhead
    self.fills = fills
  }
}

package struct DemandRequest: Sendable, Hashable {
  package var generation: Generation
  package var range: Range<Int>
  package init(generation: Generation, range: Range<Int>) {
    self.generation = generation
    self.range = range
  }
}

package struct SettleDemandRequest: Sendable, Hashable {
  package enum Outcome: Sendable, Hashable {
    /// All of it is covered.
    case fetched
    /// With the cause.
    case failed(String)
    /// Nobody fetches it any more: another one may.
    case returned
  }

  package var blob: BlobReference
  /// What was handed out.
  package var range: Range<Int>
  package var outcome: Outcome
  package init(blob: BlobReference, range: Range<Int>, outcome: Outcome) {
    self.blob = blob
    self.range = range
    self.outcome = outcome
  }
}

/// Ends a handle.
package struct CloseRequest: Sendable, Hashable {
  /// With epoch 0: of a reader or an observer.
  package var blob: BlobReference
  /// The request that opened it; of a publisher 0.
  package var opened: UInt64
  package init(blob: BlobReference, opened: UInt64 = 0) {
    self.blob = blob
    self.opened = opened
  }
}

package struct OpenOrCreateRequest: Sendable, Hashable {
  package var create: CreateRequest
  package var terms: CreateTerms
  /// Whether the asker would go on producing the blob when its publisher cannot.
  package var standsBy: Bool
  package init(create: CreateRequest, terms: CreateTerms, standsBy: Bool) {
    self.create = create
    self.terms = terms
    self.standsBy = standsBy
  }
}

package struct StandByRequest: Sendable, Hashable {
  package var generation: Generation
  /// The request that opened the reader for whose sake it is.
  package var opened: UInt64
  package init(generation: Generation, opened: UInt64) {
    self.generation = generation
    self.opened = opened
  }
}

/// Asks to become one more publisher of a joinable blob.
package struct JoinRequest: Sendable, Hashable {
  package var key: BlobKey
  /// Joins this life only; nil: whichever it is.
  package var generation: Generation?
  package init(key: BlobKey, generation: Generation?) {
    self.key = key
    self.generation = generation
  }
}

/// Asks for a range that nobody else may write until the claim ends.
package struct ClaimRequest: Sendable, Hashable {
  package var blob: BlobReference
  package var range: Range<Int>
  package init(blob: BlobReference, range: Range<Int>) {
    self.blob = blob
    self.range = range
  }
}

package struct ReleaseRequest: Sendable, Hashable {
  package var blob: BlobReference
  /// The number of the request that made the claim.
  package var claim: UInt64
  package init(blob: BlobReference, claim: UInt64) {
    self.blob = blob
    self.claim = claim
  }
}

/// Asks for the extent with this index, to write into.
package struct GrowRequest: Sendable, Hashable {
  package var blob: BlobReference
  package var index: Int
  package init(blob: BlobReference, index: Int) {
    self.blob = blob
    self.index = index
  }
}

/// Gives back an extent that was granted for writing.
package struct GiveBackRequest: Sendable, Hashable {
  package var blob: BlobReference
  package var index: Int
  /// Whether all of it is covered, as far as the publisher knows: a hint.
  package var isFull: Bool
  package init(blob: BlobReference, index: Int, isFull: Bool) {
    self.blob = blob
    self.index = index
    self.isFull = isFull
  }
}

package struct SealRequest: Sendable, Hashable {
  package var blob: BlobReference
  package var byteCount: Int
  package init(blob: BlobReference, byteCount: Int) {
    self.blob = blob
    self.byteCount = byteCount
  }
}

package struct FailRequest: Sendable, Hashable {
  package var blob: BlobReference
  /// `blobFailed` or `contentDiverged`.
  package var code: PatchbayError.Code
  package var cause: String
  package init(
    blob: BlobReference, code: PatchbayError.Code = .blobFailed, cause: String
  ) {
    self.blob = blob
    self.code = code
    self.cause = cause
  }
}

package struct OpenRequest: Sendable, Hashable {
  package var key: BlobKey
  /// Answers only once the key exists; ended by `cancel`.
  package var waits: Bool
  /// Looks at written ranges without being a reader: no access time, no subscriber, failed blobs too.
  package var observes: Bool
  package init(key: BlobKey, waits: Bool, observes: Bool) {
    self.key = key
    self.waits = waits
    self.observes = observes
  }
}

package struct CancelRequest: Sendable, Hashable {
  package var request: UInt64
  package init(request: UInt64) { self.request = request }
}

package struct ExtentRequest: Sendable, Hashable {
  package var generation: Generation
  package var index: Int
  package init(generation: Generation, index: Int) {
    self.generation = generation
    self.index = index
  }
}

package struct BoardRequest: Sendable, Hashable {
  package var board: UInt32
  package init(board: UInt32) { self.board = board }
}

/// An entry of the client's own table, in which it tells how far it has read a blob.
package struct SubscriptionRequest: Sendable, Hashable {
  package var generation: Generation
  package var entry: Int
  package init(generation: Generation, entry: Int) {
    self.generation = generation
    self.entry = entry
  }
}

package struct TableRequest: Sendable, Hashable {
  package var blob: BlobReference
  package var clientID: UInt64
  package init(blob: BlobReference, clientID: UInt64) {
    self.blob = blob
    self.clientID = clientID
  }
}

package struct DetachRequest: Sendable, Hashable {
  package var blob: BlobReference
  package var subscription: Subscription
  package init(blob: BlobReference, subscription: Subscription) {
    self.blob = blob
    self.subscription = subscription
  }
}

package struct InfoRequest: Sendable, Hashable {
  package var key: BlobKey
  package init(key: BlobKey) { self.key = key }
}

package struct ListRequest: Sendable, Hashable {
  package var prefix: [UInt8]
  /// The last key of the page before; empty for the first page.
  package var after: [UInt8]
  package var limit: Int
  package init(prefix: [UInt8], after: [UInt8], limit: Int) {
    self.prefix = prefix
    self.after = after
    self.limit = limit
  }
}

package struct RemoveRequest: Sendable, Hashable {
  package var key: BlobKey
  /// Removes this life only; nil: whichever it is.
  package var generation: Generation?
  package init(key: BlobKey, generation: Generation?) {
    self.key = key
    self.generation = generation
  }
}
