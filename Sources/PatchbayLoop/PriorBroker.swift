// What a broker has left that was killed on this ground, or has handed over: its journal, the rings and
// files that the journal names, the processes that were its clients. Nothing in shared memory is taken on
// trust but the journal, which only this user can write; a ring is the one that was made if its name,
// owner, size and inode say so, and its geometry is the journal's.
//
// Nothing here changes anything but by `sweep`, which removes what nothing names; whoever is killed while
// it takes over leaves the next one with the same to find.

import CPatchbaySystem
import Glibc
import Logging
import PatchbayLayout
import PatchbayLedger
import PatchbaySystem
import PatchbayTypes

struct PriorBroker {
  let instance: UInt64
  let storage: SharedJournalStorage
  let contents: JournalContents
  private(set) var recovery = Recovery()
  /// The rings that are there.
  private(set) var rings: [RingID: RingPlace] = [:]
  /// Those of them that are named by a record that is taken over, chunks of the journal, and names of
  /// rings that something else has taken.
  private var keptNames: Set<String> = []
  /// When each client's process began.
  private(set) var startTimes: [SessionID: UInt64] = [:]

  /// What an instance has left.
  enum Finding {
    case broker(PriorBroker)
    /// There is no journal: it was killed before it had promised anything, or the machine has been
    /// started again.
    case nothing
    /// Nobody knows any more what was there, or whose that is.
    case unreadable
  }

  /// Reads what an instance has left.
  /// - Parameter logger: is told of a journal that cannot be read.
  /// - Throws: `versionMismatch` when it was of a version with another layout, `notPermitted` when the
  ///   journal's names are taken by something else, `inputOutput`.
  static func find(
    _ instance: UInt64, _ logger: Logger
  ) throws(PatchbayError) -> Finding {
    do throws(PatchbayError) {
      guard let found = try SharedJournalStorage.open(instance: instance) else { return .nothing }
      return .broker(PriorBroker(instance, found.storage, try JournalReader.scan(found.chunks)))
    } catch {
      guard error.code == .corrupt else { throw error }
      logger.error(
        """
        What the broker before this one held in memory is lost: \(error.message) \
        /dev/shm/\(ObjectName.prefix(instance: instance))* is left alone: remove it if nobody wants it.
        """)
      return .unreadable
    }
  }

  private init(
    _ instance: UInt64, _ storage: SharedJournalStorage, _ contents: JournalContents
  ) {
    self.instance = instance
    self.storage = storage
    self.contents = contents
  }

  var generations: Set<Generation> {
    Set(contents.blobs.map(\.record.info.generation))
  }

  /// The files that its records name.
  var files: KeptFiles {
    var files = KeptFiles()
    files.instance = instance
    for record in contents.blobs.map(\.record) {
      let generation = record.info.generation
      files.births[generation] = BlobBirth(key: record.info.key, created: record.info.created)
      if !record.spooled.isEmpty { files.containers.insert(generation) }
      if !record.scratch.isEmpty {
        files.scratches[generation] = Set(record.scratch.map(\.index))
      }
    }
    return files
  }

  /// Boards on which its blobs have entries.
  var boards: [UInt32] {
    Set(contents.blobs.compactMap(\.record.slot?.board)).sorted()
  }

  /// Bytes of the rings that are there.
  var ringByteCount: Int { rings.values.reduce(0) { $0 + $1.geometry.objectByteCount } }

  /// Finds out what of it is still there.
  /// - Parameters:
  ///   - spool: where its files are, if this broker has a spool.
  ///   - firstSession: the number of the first session that stands in for a client.
  /// - Throws: what may be over in a while, as a lack of descriptors: nothing is given up for it.
  mutating func look(
    _ spool: Spool?, _ findings: SpoolFindings?, firstSession: UInt64
  ) throws(PatchbayError) {
    let numbers = contents.numbers
    recovery.lastGeneration = numbers.generation - min(1, numbers.generation)
    recovery.lastRing = numbers.ring - min(1, numbers.ring)
    recovery.lastClient = numbers.client - min(1, numbers.client)
    let stored = Dictionary(
      (findings?.blobs ?? []).map { ($0.generation, $0) }, uniquingKeysWith: { $1 })
    for blob in contents.blobs { try look(at: blob, spool, stored) }
    for (place, client) in contents.clients.enumerated() {
      let session = SessionID(rawValue: firstSession + UInt64(place))
      recovery.clients.append(RecoveredClient(record: client.record, session: session))
      startTimes[session] = client.startTime
    }
    for chunk in contents.wholeChunks {
      keptNames.insert(ObjectName.journal(instance: instance, chunk: chunk))
    }
  }

  private mutating func look(
    at blob: JournaledBlob, _ spool: Spool?, _ stored: [Generation: StoredBlob]
  ) throws(PatchbayError) {
    let generation = blob.record.info.generation
    var found = RecoveredBlob(record: blob.record)
    found.stored = stored[generation]
    let isComplete = found.stored != nil
    found.record.extents = []
    for (extent, inode) in zip(blob.record.extents, blob.inodes) {
      do throws(PatchbayError) {
        try takeRing(extent, inode, hasMap: blob.record.request.order == .any)
        found.record.extents.append(extent)
      } catch {
        if error.mayPass { throw error }
        // What stands complete on disk needs no memory.
        if !isComplete { found.loss = found.loss ?? error }
        let name = ObjectName.ring(instance: instance, extent.ring)
        if SharedObject.isAnother(name: name, inode: inode) { keptNames.insert(name) }
      }
    }
    try lookAtFiles(&found, spool)
    recovery.blobs.append(found)
  }

  private mutating func takeRing(
    _ extent: ExtentRecord, _ inode: UInt64, hasMap: Bool
  ) throws(PatchbayError) {
    let place = RingPlace(
      name: ObjectName.ring(instance: instance, extent.ring),
      geometry: try RingGeometry(dataByteCount: extent.dataByteCount, hasMap: hasMap),
      inode: inode)
    // Whoever has it open may cut it off at any time: that it is there is all that can be known.
    _ = try place.open(isWritable: false)
    guard rings[extent.ring] == nil else {
      throw PatchbayError(.corrupt, "Two blobs are said to have the ring \(extent.ring.rawValue).")
    }
    rings[extent.ring] = place
    keptNames.insert(place.name)
  }

  private func lookAtFiles(
    _ found: inout RecoveredBlob, _ spool: Spool?
  ) throws(PatchbayError) {
    let record = found.record
    guard found.stored == nil else {
      found.diskByteCount = found.stored?.containerByteCount ?? 0
      return
    }
    let inMemory = Set(record.extents.map(\.index))
    if record.spooled.joined().allSatisfy(inMemory.contains) {
      // Without its container it loses nothing; its scratch files are to go when it does.
      found.record.spooled = []
      found.record.isPersisted = false
      found.record.hasContainer = !record.scratch.isEmpty
    }
    do throws(PatchbayError) {
      if !found.record.spooled.isEmpty {
        found.diskByteCount += try part(of: record, in: spool) { (spool) throws(PatchbayError) in
          try spool.byteCountOfPart(record.info.generation)
        }
      }
      for scratch in record.scratch {
        found.diskByteCount += try part(of: record, in: spool) { (spool) throws(PatchbayError) in
          try spool.byteCountOfScratch(record.info.generation, scratch.index)
        }
      }
    } catch {
      if error.mayPass { throw error }
      found.loss = found.loss ?? error
    }
  }

  private func part(
    of record: BlobRecord, in spool: Spool?, _ look: (Spool) throws(PatchbayError) -> Int
  ) throws(PatchbayError) -> Int {
    guard let spool else {
      throw PatchbayError(
        .inputOutput, "some of it stood on disk, and this broker was started without a spool")
    }
    return try look(spool)
  }

  /// Files that were blobs.
  var lostFiles: [LostFile] {
    contents.blobs.compactMap { blob in
      guard let stamp = blob.record.file, let path = blob.filePath,
        blob.record.info.state == .sealed
      else { return nil }
      return LostFile(generation: blob.record.info.generation, path: path, stamp: stamp)
    }
  }

  /// Takes in which of those are open again.
  mutating func note(opened: Set<Generation>) {
    for place in recovery.blobs.indices {
      let record = recovery.blobs[place].record
      guard record.file != nil, record.info.state == .sealed else { continue }
      recovery.blobs[place].holdsFile = opened.contains(record.info.generation)
      if !recovery.blobs[place].holdsFile {
        recovery.blobs[place].loss = PatchbayError(
          .inputOutput,
          "its file is not what and where it was when the broker before this one ended, or did not "
            + "open in time")
      }
    }
  }

  /// Removes the shared memory of the instance that nothing names any more: rings that were resting, or
  /// were on their way, and chunks of the journal that were being made.
  func sweep() -> InstanceSweep {
    InstanceSweep(instance, but: Set(keptNames.map { String($0.dropFirst()) }))
  }
}
