// The names by which the ledger and the loop that runs it speak of things outside the ledger.

import CPatchbayLayout
import PatchbayTypes

/// One connection, from accept to hang-up. Never reused.
package struct SessionID: RawRepresentable, Hashable, Sendable, Comparable {
  package let rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }
  package static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
}

/// One shared-memory ring. Never reused while the instance lives.
package struct RingID: RawRepresentable, Hashable, Sendable, Comparable {
  package let rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }
  package static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
}

/// An entry of a board, and the doorbell that goes with it.
package struct BoardSlot: Hashable, Sendable {
  package var board: UInt32
  package var entry: UInt32
  package init(board: UInt32, entry: UInt32) {
    self.board = board
    self.entry = entry
  }
}

/// Who is on the other end of a connection, by the kernel's word.
package struct Peer: Hashable, Sendable {
  package var process: Int32
  package var uid: UInt32
  package var gid: UInt32
  /// Its supplementary groups, at most `groupLimit`; empty when they do not matter.
  package var groups: [UInt32]
  /// A process in more groups counts as being in its own group only.
  package static let groupLimit = 1024
  package init(process: Int32, uid: UInt32, gid: UInt32, groups: [UInt32] = []) {
    self.process = process
    self.uid = uid
    self.gid = gid
    self.groups = groups
  }
}

/// A moment on both clocks: deadlines and order by the monotonic one, stamps by the other.
package struct Moment: Hashable, Sendable {
  package var monotonicNanoseconds: Int64
  package var wall: WallTime
  package init(monotonicNanoseconds: Int64, wall: WallTime) {
    self.monotonicNanoseconds = monotonicNanoseconds
    self.wall = wall
  }
}

/// A ring in its role as part of a blob.
package struct ExtentRecord: Hashable, Sendable {
  package var index: Int
  package var ring: RingID
  package var useNumber: UInt32
  package var dataByteCount: Int
  package init(index: Int, ring: RingID, useNumber: UInt32, dataByteCount: Int) {
    self.index = index
    self.ring = ring
    self.useNumber = useNumber
    self.dataByteCount = dataByteCount
  }
}

/// What an inspection of a blob's rings found, from a private copy.
package struct Coverage: Hashable, Sendable {
  package var coveredByteCount: Int
  /// The first uncovered ranges below the length that was asked about, at most 64.
  package var missing: [Range<Int>]
  package init(coveredByteCount: Int, missing: [Range<Int>]) {
    self.coveredByteCount = coveredByteCount
    self.missing = missing
  }
}

/// Bounds of everything a client can ask for.
package struct LedgerLimits: Hashable, Sendable {
  /// Bytes of shared memory: rings with their maps, inline blobs, boards, bells, tables, journal.
  package var memoryByteCount: Int
  package var connectionCount = 4096
  package var connectionsPerUser = 1024
  package var waitingOpensPerSession = 4096
  package var handlesPerSession = 65536
  package var blobCount = 1 << 20
  package var extentsPerBlob = 16384
  package var publishersPerBlob = 1024
  /// Claims of one publisher, and of all, in one blob; those of processes that hung up included.
  package var claimsPerPublisher = 1024
  package var claimsPerBlob = 4096
  /// Owners, groups and modes of blobs: each has a board, which stays as long as the broker.
  package var accessClassCount = 64
  /// Entries of one board; the layout's number except in tests.
  package var entriesPerBoard = Int(PB_BOARD_ENTRY_COUNT)
  /// Files that the broker holds open for the blobs that they are.
  package var importCount = 1024
  /// Jobs on large rings that may wait for a thread of the loop.
  package var jobCount = 1024
  package var watchesPerSession = 16
  /// Fetches on demand that may be under way at once, of all blobs.
  package var transferLimit = Int.max
  /// Blobs that are gone and of which watchers can still be told.
  package var removalCount = 4096
  package var handshake: Duration = .seconds(5)
  /// How long a suspended blob is kept whose creator did not say.
  package var idle: Duration = .seconds(600)
  /// How long a ring is kept for its next use.
  package var poolRest: Duration = .seconds(10)
  /// Sizes of extents where the publisher leaves them to the broker.
  package var firstExtent = 64 * 1024
  package var extentLimit = 64 * 1024 * 1024
  /// The ring of a windowed blob where the publisher leaves it to the broker.
  package var windowRing = 2 * 1024 * 1024
  /// The most blobs that are kept although nobody uses them and they may go, and their bytes in memory;
  /// nil: as many as there is room for.
  package var cachedBlobCount: Int?
  package var cachedByteCount: Int?
  /// Where extents go that do not fit; nil: nowhere.
  package var spool: SpoolTerms?
  /// Bytes in memory of the blobs that one client writes at the same time; nil: as many as all together.
  package var memoryPerClient: Int?
  /// Whether users other than the broker's own may connect.
  package var isShared = false
  /// What one user may have that is neither the broker's own nor root. Bytes: rings, inline blobs and
  /// what the journal keeps of its blobs.
  package var memoryPerOtherUser: Int
  package var connectionsPerOtherUser = 256
  package var handlesPerOtherUser = 65536
  package var waitingOpensPerOtherUser = 16384
  package var blobsPerOtherUser = 65536
  package var accessClassesPerOtherUser = 8
  /// Places among those that the publisher of one blob waits for.
  package var subscriptionsPerOtherUser = 64
  package init(memoryByteCount: Int) {
    self.memoryByteCount = memoryByteCount
    memoryPerOtherUser = memoryByteCount / 2
  }
}
