// What the ledger wants done, in order. Each action is carried out before the next one, so a state
// is posted before its bell is rung, and a record stands before the reply that promises it leaves.

import PatchbayTypes
import PatchbayWire

package enum LedgerAction: Sendable, Hashable {
  /// Sends a message with descriptors.
  case reply(SessionID, number: UInt64, Reply, [DescriptorSource])
  /// Sends `info` or one page of `list`, after the live figures of open blobs (frontier, covered
  /// bytes) have been filled in from the headers of their rings: hints, so no event comes back.
  case report(SessionID, number: UInt64, ReportKind, [BlobReport])
  /// Sends the statistics, after the counts of the doorbells have been added.
  case reportStatistics(SessionID, number: UInt64, BrokerStatistics)
  /// Closes the connection once what is queued for it has left; no more events of it but `exited`.
  case disconnect(SessionID)
  /// Creates and reserves a ring; answered by `ringCreated` or `ringRefused`.
  case createRing(RingID, index: Int, dataByteCount: Int, hasMap: Bool, Access)
  /// Begins the next use of a ring; answered by `ringCreated` or `ringRefused`.
  case reuseRing(RingID, useNumber: UInt32, index: Int)
  /// Takes the ring's name away; the memory goes with the last mapping.
  case unlinkRing(RingID)
  /// Gives the ring's memory back, whoever has it mapped, and takes its name away.
  case discardRing(RingID)
  /// Copies an extent to disk, if all of it is covered; answered by `spilled`.
  case spill(SpillOrder)
  /// Takes the tag of a ring away, so that no reader takes bytes from it any more, and looks whether
  /// any of these sessions views it; answered by `retracted`.
  case retractRing(RingID, heldBy: [SessionID])
  /// Fills a ring that nobody was given with what a scratch file holds; answered by `restored`.
  case restore(RestoreOrder)
  /// Gives the files of a failed blob a second name, and copies what is in memory of it to disk under
  /// that; answered by `adopted`.
  case adopt(AdoptOrder)
  /// Takes a scratch file away; readers that have it open keep it.
  case dropScratch(Generation, index: Int)
  /// Copies what stands in memory of a blob to disk and makes its container the one of a complete blob;
  /// answered by `persisted`.
  case persist(PersistOrder)
  /// From now on a broker finds the blob pinned, or not, when it starts.
  case markContainer(Generation, isPinned: Bool)
  /// From now on no broker finds the container when it starts.
  case withdrawContainer(Generation)
  /// Takes a blob's container away, and its scratch files.
  case removeContainer(Generation)
  /// Creates a board and its doorbells for an access class; answered by an event.
  case createBoard(UInt32, Access)
  /// Writes a board entry: cause and length first, the status word last.
  case post(BoardSlot, BoardPost)
  /// Frees an entry: its status becomes zero.
  case clearEntry(BoardSlot)
  /// Wakes every waiter of the entry's doorbell.
  case ring(BoardSlot)
  /// Reads how much of [0, byteCount) is covered, from private copies of the rings' maps or
  /// frontiers; of a window how much ever was. Answered by `inspected`.
  case inspect(
    InspectionID, [ExtentRecord], onDisk: ExtentsOnDisk, ExtentPlan, isWindow: Bool, byteCount: Int)
  /// Takes the next bytes of a blob into its digest; answered by `digested`.
  case digest(DigestOrder)
  /// The digest that was begun of a blob is wanted no more.
  case dropDigest(Generation)
  /// Fills fresh rings with what others had covered; answered by `copied`.
  case copy(CopyID, [ExtentCopy])
  /// Finds out which extents are covered throughout; answered by `surveyed`.
  case survey(Generation, [ExtentRecord], ExtentPlan, byteCount: Int?)
  /// As `copy`, after the tag of each source has been taken away, so that no reader takes bytes from it
  /// that are not copied; answered by `copied`.
  case refit(CopyID, [ExtentCopy])
  /// Finds out how much of a blob is covered, as the headers of its rings say; answered by `measured`.
  case measure(BlobReport)
  /// Sends `why`, after what rings, bell and tables say has been filled in.
  case explain(SessionID, number: UInt64, BlobSituation, LiveFigures?)
  /// Reads how far open blobs are, from the headers of their rings: hints. Answered by `sampled`.
  case sample([BlobReport])
  /// Writes or replaces a blob's journal record.
  case recordBlob(BlobRecord)
  case eraseBlob(Generation)
  case recordClient(ClientRecord)
  case eraseClient(UInt64)
  /// Keeps the descriptor that was offered for a blob, until `releaseFile`; or not at all.
  case keepFile(Generation, FileOffer)
  case dropOffer(FileOffer)
  case releaseFile(Generation)
  /// Looks at a blob's file, on behalf of a request; answered by `fileLooked`.
  case lookAtFile(Generation, SessionID, number: UInt64, Request)
}

/// Where more is known of a blob than the ledger knows: hints, all of it.
package struct LiveFigures: Sendable, Hashable {
  package var report: BlobReport
  /// Whose bell tells what somebody sleeps for.
  package var slot: BoardSlot?
  /// Whose tables tell how far they have read: a place among the subscribers, a session, an entry.
  package var positions: [Position]
  package struct Position: Sendable, Hashable {
    package var subscriber: Int
    package var session: SessionID
    package var entry: Int
  }
}

package enum ReportKind: Sendable, Hashable {
  case info
  case list(hasMore: Bool)
}

/// A blob's description and, while it is open, the extents whose headers know more.
package struct BlobReport: Sendable, Hashable {
  package var info: BlobInfo
  package var plan: ExtentPlan
  package var isWindow: Bool
  /// Empty when the description is exact already.
  package var liveExtents: [ExtentRecord]
  /// Indices of extents that stand in the container, all of them.
  package var spooled: [Int]
  /// Those in scratch files.
  package var scratch: [ScratchRecord]
  package init(
    info: BlobInfo, plan: ExtentPlan, isWindow: Bool = false, liveExtents: [ExtentRecord],
    spooled: [Int] = [], scratch: [ScratchRecord] = []
  ) {
    self.info = info
    self.plan = plan
    self.isWindow = isWindow
    self.liveExtents = liveExtents
    self.spooled = spooled
    self.scratch = scratch
  }
}

/// A ring and the one into which its covered bytes are copied, of the same size.
package struct ExtentCopy: Sendable, Hashable {
  package var source: ExtentRecord
  package var target: ExtentRecord
  package init(source: ExtentRecord, target: ExtentRecord) {
    self.source = source
    self.target = target
  }
}

package enum DescriptorSource: Sendable, Hashable {
  /// A new table for the client itself, which the loop keeps as long as the session lasts.
  case clientTable(SessionID, clientID: UInt64)
  /// The table of another session's client, read-only.
  case peerTable(SessionID)
  case ring(RingID, isWritable: Bool)
  case board(UInt32)
  case doorbells(UInt32)
  /// A blob's container, read-only.
  case container(Generation)
  /// A scratch file, read-only.
  case scratch(Generation, index: Int)
  /// The file that a blob is.
  case file(Generation)
}

/// The content of a board entry.
package struct BoardPost: Sendable, Hashable {
  package var generation: Generation
  package var state: BlobState
  package var epoch: UInt32
  package var byteCount: Int?
  package var extentVersion: UInt32
  package var subscriptionVersion: UInt32
  package var causeCode: PatchbayError.Code?
  package var cause: String
  /// Whether its publisher is to wait until somebody reads.
  package var isPaused: Bool
  package init(
    generation: Generation, state: BlobState, epoch: UInt32, byteCount: Int?,
    extentVersion: UInt32, subscriptionVersion: UInt32, causeCode: PatchbayError.Code?,
    cause: String, isPaused: Bool = false
  ) {
    self.isPaused = isPaused
    self.generation = generation
    self.state = state
    self.epoch = epoch
    self.byteCount = byteCount
    self.extentVersion = extentVersion
    self.subscriptionVersion = subscriptionVersion
    self.causeCode = causeCode
    self.cause = cause
  }
}

/// What the journal keeps of a client.
package struct ClientRecord: Sendable, Hashable {
  package var clientID: UInt64
  package var token: Token
  package var peer: Peer
  /// Whether it has asked for anything, and so may have something to come back to.
  package var hasAsked: Bool
  package init(clientID: UInt64, token: Token, peer: Peer, hasAsked: Bool) {
    self.hasAsked = hasAsked
    self.clientID = clientID
    self.token = token
    self.peer = peer
  }
}
