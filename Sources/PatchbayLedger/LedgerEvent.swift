// What the ledger is told. The loop turns sockets, death notices and finished work into these, one
// at a time, and gives each the moment it happened.

import PatchbayTypes
import PatchbayWire

package enum LedgerEvent: Sendable, Hashable {
  /// A connection was accepted. It has until `LedgerLimits.handshake` to say hello.
  case connected(SessionID, Peer)
  /// A well-formed message. Malformed ones never reach the ledger: the loop refuses them.
  case request(SessionID, number: UInt64, Request)
  /// The connection ended, by either side. The process may still live and still write to rings it
  /// has mapped.
  case hungUp(SessionID)
  /// The process that opened the connection is gone: nothing of it can write any more. May come
  /// before or after `hungUp`, or without it when a child inherited the socket; both end the session.
  case exited(SessionID)
  /// Answers to `createRing` and `reuseRing`. `EAGAIN`: as many jobs wait as may.
  case ringCreated(RingID, inode: UInt64)
  case ringRefused(RingID, errno: Int32)
  /// Answers to `createBoard`. The `overheadChanged` that accounts for a new board comes first.
  case boardCreated(UInt32)
  case boardRefused(UInt32, errno: Int32)
  /// Answer to `inspect`: the coverage, or why the rings could not be read.
  case inspected(InspectionID, Result<Coverage, PatchbayError>)
  /// Answer to `digest`.
  case digested(Generation, DigestResult)
  /// Answer to `survey`: the indices of extents that are covered throughout.
  case surveyed(Generation, Result<Set<Int>, PatchbayError>)
  /// Answer to `measure`.
  case measured(Generation, coveredByteCount: Int)
  /// Answer to `copy` and `refit`: nil when every byte and its mark is there.
  case copied(CopyID, PatchbayError?)
  /// Answer to `spill`.
  case spilled(Generation, SpillResult)
  /// Answer to `restore`: nil when every byte and its mark is there.
  case restored(RingID, PatchbayError?)
  /// Answer to `adopt`.
  case adopted(CopyID, Result<Adoption, PatchbayError>)
  /// Answer to `persist`.
  case persisted(Generation, PersistResult)
  /// What is left of the broker before this one; before everything else.
  case recovered(Recovery)
  /// Complete blobs that stand in the spool; before anybody connects.
  case found([StoredBlob], last: Generation)
  /// Answer to `retractRing`.
  case retracted(RingID, isViewed: Bool)
  /// A reply could not be delivered with its descriptors; the client got a failure instead. What
  /// the reply granted is taken back.
  case undelivered(SessionID, number: UInt64)
  /// Bytes of boards, bells, tables and journal that the loop holds now; part of the budget.
  case overheadChanged(byteCount: Int)
  /// Whether the journal has lost its reserve: no new blobs or extents then, `noSpaceMemory` instead.
  case journalFull(Bool)
  /// A message of events could not be sent at once; `relieved` when the client has taken all that
  /// waited for it.
  case congested(SessionID)
  case relieved(SessionID)
  /// Answer to `sample`: the blobs whose rings could be read.
  case sampled([BlobSample])
  /// An import, with what was found out about the descriptor that came along. Answered by `keepFile` or
  /// `dropOffer`, besides the reply.
  case offered(
    SessionID, number: UInt64, ImportRequest, FileOffer, Result<FileStamp, PatchbayError>)
  /// Answer to `lookAtFile`: the stamp of the blob's file now, and the request that waits for it.
  case fileLooked(
    Generation, Result<FileStamp, PatchbayError>, SessionID, number: UInt64, Request)
  /// Time has passed; whatever was due by now happens.
  case tick
  /// The broker shuts down: no new connections, creates or opens; what is open may finish.
  case drainBegan
}

/// One descriptor that a client has sent.
package struct FileOffer: RawRepresentable, Hashable, Sendable {
  package let rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// One copy of a blob's rings that is under way.
package struct CopyID: RawRepresentable, Hashable, Sendable {
  package let rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// One pending look into a blob's rings.
package struct InspectionID: RawRepresentable, Hashable, Sendable {
  package let rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }
}
