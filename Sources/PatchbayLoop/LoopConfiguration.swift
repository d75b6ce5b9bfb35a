// What a broker is told when it starts.

import Logging
import PatchbayLedger
import PatchbaySystem
import PatchbayTypes

/// A directory for what does not fit in memory.
package struct SpoolPlace: Sendable {
  package var directory: String
  /// Bytes of disk; nil: half of what is free there, or taken by blobs that it finds.
  package var byteLimit: Int?
  package var compression: SpoolCompression
  /// Bytes of the disk that are left to others; nil: a thirty-second of it, at most 1 GiB.
  package var floor: Int?
  package init(
    directory: String, byteLimit: Int?, compression: SpoolCompression, floor: Int? = nil
  ) {
    self.directory = directory
    self.byteLimit = byteLimit
    self.compression = compression
    self.floor = floor
  }

  func chosenFloor() throws(PatchbayError) -> Int {
    if let floor { return floor }
    return min(1 << 30, try DiskFile.space(at: directory).wholeByteCount / 32)
  }

  /// What the ledger has to know of it.
  /// - Parameter found: bytes of disk that complete blobs take already.
  func terms(found: Int) throws(PatchbayError) -> SpoolTerms {
    let limit =
      if let byteLimit { byteLimit } else {
        (try DiskFile.space(at: directory).freeByteCount + found) / 2
      }
    return SpoolTerms(byteCount: limit, compression: compression)
  }
}

package struct LoopConfiguration: Sendable {
  package var socketPath: SocketPath
  /// Bytes of shared memory; nil: a quarter of what is free when the broker starts.
  package var memoryLimit: Int?
  /// How long a connection may take to say hello.
  package var handshakeLimit: Duration = .seconds(5)
  /// How long `requestDrain` lets open blobs finish.
  package var drainLimit: Duration = .seconds(30)
  /// Ends when there has been no client and no open blob for so long; nil: never.
  package var idleLimit: Duration?
  /// A socket that listens on the path already; the broker closes it. Nil: it makes its own.
  package var listener: Int32?
  /// Whether users other than the broker's own may connect.
  package var isShared = false
  /// Bytes that blobs of one other user may take; nil: half of the memory limit.
  package var userMemoryLimit: Int?
  /// Bytes in memory of the blobs that one client writes at the same time; nil: the memory limit.
  package var clientMemoryLimit: Int?
  /// Bounds of what is kept although nobody uses it; nil: as much as there is room for.
  package var cacheByteLimit: Int?
  package var cacheBlobLimit: Int?
  /// How long a ring is kept for its next use; nil: as long as the ledger likes.
  package var poolRest: Duration?
  /// Ranges that are fetched on demand at the same time; nil: as many as are asked for.
  package var transferLimit: Int?
  /// Asked about each complete blob that has lost its last user, on the loop's thread.
  package var cachePolicy: CachePolicy?
  /// Where what does not fit in memory goes; nil: nowhere.
  package var spool: SpoolPlace?
  /// Whether no worker has a thread of its own: then the same requests lead to the same system calls.
  package var runsWorkersInline = false
  package var logger: Logger

  /// Less would not hold the first chunk of the journal and a board.
  package static let leastMemory = 16 * 1024 * 1024

  /// Less would not hold what a stream needs in memory at once.
  package static let leastClientMemory = 2 * 1024 * 1024

  package init(socketPath: SocketPath, logger: Logger) {
    self.socketPath = socketPath
    self.logger = logger
  }

  /// The limit in bytes.
  /// - Parameter found: bytes that blobs of the broker before take already.
  /// - Throws: `noSpaceMemory` when there is too little for a broker at all.
  func chosenMemoryLimit(found: Int) throws(PatchbayError) -> Int {
    let limit: Int
    if let memoryLimit {
      limit = memoryLimit
    } else {
      limit = (try SharedObject.freeByteCount() + found) / 4
    }
    guard limit >= Self.leastMemory else {
      throw PatchbayError(
        .noSpaceMemory,
        "The memory limit is \(limit) bytes; a broker needs at least \(Self.leastMemory). "
          + "Choose more with --memory, or enlarge /dev/shm.")
    }
    return limit
  }

  /// - Throws: `noSpaceMemory` when there is too little for a client to write anything.
  func checkClientMemory() throws(PatchbayError) {
    guard let clientMemoryLimit, clientMemoryLimit < Self.leastClientMemory else { return }
    throw PatchbayError(
      .noSpaceMemory,
      "A client's share of memory is \(clientMemoryLimit) bytes; a blob that is written needs up to "
        + "\(Self.leastClientMemory) at once. Choose more with --client-memory.")
  }
}
