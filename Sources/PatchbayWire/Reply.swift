// What the broker answers. Every request gets exactly one reply, with its request number; only a
// watch gets many.

import PatchbayTypes

/// One message from the broker to a client.
package enum Reply: Sendable, Hashable {
  case failure(PatchbayError)
  /// One descriptor: the client table.
  case welcome(Welcome)
  /// At most one descriptor: the first extent's ring, read-write.
  case created(BlobGrant)
  /// One descriptor: the ring, read-write for a publisher, read-only for a subscriber.
  case extent(ExtentGrant)
  case done
  /// At most one descriptor: the first extent's ring, read-only.
  case opened(BlobGrant)
  /// Two descriptors: the board, read-only, and its doorbells, read-write.
  case board(BoardGrant)
  case info(BlobInfo)
  case list(ListPage)
  case statistics(BrokerStatistics)
  case pong
  case subscriptions(SubscriptionList)
  /// One descriptor: another client's table, read-only.
  case table
  /// At most one descriptor: the first extent's ring, read-write.
  case joined(BlobGrant)
  case claimed(ClaimGrant)
  case events(EventPage)
  case why(BlobSituation)
  /// One descriptor: the blob's container in the spool, read-only.
  case spooled(SpoolGrant)
  /// One descriptor: the extent's scratch file, read-only.
  case scratch(ScratchGrant)
  /// One descriptor: the file that was imported, for reading only.
  case imported(ImportGrant)
  /// What a publisher is to fetch: a piece of its blob.
  case demanded(Range<Int>)

  package enum Kind: UInt16, Sendable, CaseIterable {
    case failure = 256
    case welcome, created, extent, done, opened, board, info, list, statistics, pong
    case subscriptions, table
    case joined, claimed
    case events = 288
    case why, spooled, imported
    case scratch = 296
    case demanded = 298
  }
}

package struct Welcome: Sendable, Hashable {
  package var version: UInt16
  package var clientID: UInt64
  package var token: Token
  package var instance: UInt64
  /// The broker's process, for people.
  package var brokerProcess: Int32
  /// Whether the broker knows this client from the one before it, and waits for its `reattach`.
  package var isAwaited: Bool
  package init(
    version: UInt16, clientID: UInt64, token: Token, instance: UInt64, brokerProcess: Int32,
    isAwaited: Bool = false
  ) {
    self.isAwaited = isAwaited
    self.version = version
    self.clientID = clientID
    self.token = token
    self.instance = instance
    self.brokerProcess = brokerProcess
  }
}

/// Everything a publisher or subscriber needs to find a blob's bytes.
package struct BlobGrant: Sendable, Hashable {
  package var blob: BlobReference
  package var state: BlobState
  package var byteCount: Int?
  package var order: WriteOrder
  package var policy: FlowPolicy
  package var plan: ExtentPlan
  /// Bytes of a windowed blob's segment; 0 for `keep`. Its ring is the plan's one extent.
  package var segment: Int
  package var wakeClasses: WakeClasses
  /// Which board, and which entry and doorbell on it.
  package var board: UInt32
  package var entry: UInt32
  /// The whole content, when it was small enough to travel in a message.
  package var inlineBytes: [UInt8]?
  /// One more than the highest index of an extent that exists.
  package var extentEnd: Int
  /// The extent whose descriptor comes with this message.
  package var extent: ExtentGrant?
  /// Whether its rings belong to another user: they are read through their descriptors, never mapped.
  package var isForeign: Bool
  /// The most extents that a publisher may have for writing at once; 0: any number, and in `opened`.
  package var heldExtentLimit: Int
  /// Of a reader: whether its time is over, and whoever produces it may make its successor.
  package var isStale: Bool
  /// Of a publisher: whether it has to wait while nobody reads, as the board says.
  package var pausesUnread: Bool
  /// Bytes of a piece that is fetched on demand; nil: none is.
  package var demandPiece: Int?

  package init(
    blob: BlobReference, state: BlobState, byteCount: Int?, order: WriteOrder,
    policy: FlowPolicy = .keep, plan: ExtentPlan, segment: Int = 0, wakeClasses: WakeClasses,
    board: UInt32, entry: UInt32, inlineBytes: [UInt8]? = nil,
    extentEnd: Int = 0, extent: ExtentGrant? = nil, isForeign: Bool = false,
    heldExtentLimit: Int = 0, isStale: Bool = false, pausesUnread: Bool = false,
    demandPiece: Int? = nil
  ) {
    self.isStale = isStale
    self.pausesUnread = pausesUnread
    self.demandPiece = demandPiece
    self.blob = blob
    self.state = state
    self.byteCount = byteCount
    self.order = order
    self.policy = policy
    self.plan = plan
    self.segment = segment
    self.wakeClasses = wakeClasses
    self.board = board
    self.entry = entry
    self.inlineBytes = inlineBytes
    self.extentEnd = extentEnd
    self.extent = extent
    self.isForeign = isForeign
    self.heldExtentLimit = heldExtentLimit
  }

  /// The reference of a reader.
  package var reader: BlobReference { BlobReference(generation: blob.generation, epoch: 0) }

  /// What a reader of the same blob would have been granted; whoever created the blob may have both.
  package var reading: BlobGrant {
    var grant = self
    grant.blob = reader
    grant.heldExtentLimit = 0
    grant.pausesUnread = false
    return grant
  }
}

/// One ring in its role as part of a blob. Its geometry follows from the data bytes and the order.
package struct ExtentGrant: Sendable, Hashable {
  package var index: Int
  package var ringID: UInt64
  package var useNumber: UInt32
  /// Data bytes of the ring: the extent's share of the blob in whole pages.
  package var dataByteCount: Int

  package init(index: Int, ringID: UInt64, useNumber: UInt32, dataByteCount: Int) {
    self.index = index
    self.ringID = ringID
    self.useNumber = useNumber
    self.dataByteCount = dataByteCount
  }
}

/// An extent that has left memory: its bytes stand in the blob's container, all of them.
package struct SpoolGrant: Sendable, Hashable {
  package var index: Int
  /// Bytes of a segment of the container.
  package var segmentByteCount: Int
  package init(index: Int, segmentByteCount: Int) {
    self.index = index
    self.segmentByteCount = segmentByteCount
  }
}

/// An extent that has left memory before all of it was covered: what is stands in its scratch file.
package struct ScratchGrant: Sendable, Hashable {
  package var index: Int
  /// As whose the file was written: a blob that was taken over has the files of the one before.
  package var writer: Generation
  /// Data bytes of the ring that it was in.
  package var dataByteCount: Int
  package init(index: Int, writer: Generation, dataByteCount: Int) {
    self.index = index
    self.writer = writer
    self.dataByteCount = dataByteCount
  }
}

/// A sequential subscriber of a windowed blob: whose table tells its position, and where.
package struct Subscription: Sendable, Hashable, Comparable {
  package var clientID: UInt64
  package var entry: Int
  package init(clientID: UInt64, entry: Int) {
    self.clientID = clientID
    self.entry = entry
  }
  package static func < (left: Self, right: Self) -> Bool {
    (left.clientID, left.entry) < (right.clientID, right.entry)
  }
}

package struct SubscriptionList: Sendable, Hashable {
  /// What the board's entry counted when the list was made.
  package var version: UInt32
  /// At most `WireLimit.subscriptions`.
  package var subscriptions: [Subscription]
  package init(version: UInt32, subscriptions: [Subscription]) {
    self.version = version
    self.subscriptions = subscriptions
  }
}

/// A range that nobody else may write.
package struct ClaimGrant: Sendable, Hashable {
  package var blob: BlobReference
  /// The number by which it is released: that of the request that asked for it.
  package var claim: UInt64
  package var range: Range<Int>
  package init(blob: BlobReference, claim: UInt64, range: Range<Int>) {
    self.blob = blob
    self.claim = claim
    self.range = range
  }
}

package struct BoardGrant: Sendable, Hashable {
  package var board: UInt32
  package var entryCount: Int
  package init(board: UInt32, entryCount: Int) {
    self.board = board
    self.entryCount = entryCount
  }
}

package struct ListPage: Sendable, Hashable {
  package var blobs: [BlobInfo]
  package var hasMore: Bool
  package init(blobs: [BlobInfo], hasMore: Bool) {
    self.blobs = blobs
    self.hasMore = hasMore
  }
}
