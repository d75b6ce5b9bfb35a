// Carrying out what the ledger wants of the disk. Copying is a worker's; taking a ring from its readers
// is done here, where the tables of all clients are known.

import Glibc
import PatchbayLedger
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

extension EventLoop {
  func spill(_ order: SpillOrder) {
    let place = rings[order.extent.ring]
    guard let spool else { return }
    let isTaken = spooler.submit { .spilled(order.generation, spool.spill(order, from: place)) }
    // Not at once again: the thread is in a long job.
    if !isTaken { finish(.spilled(order.generation, .failed(busy, containerByteCount: nil))) }
  }

  func restore(_ order: RestoreOrder) {
    guard let spool else { return }
    let place = rings[order.ring]
    let isTaken = spooler.submit { .restored(order.ring, spool.restore(order, into: place)) }
    if !isTaken { finish(.restored(order.ring, busy)) }
  }

  func adopt(_ order: AdoptOrder) {
    guard let spool else { return }
    let places = order.rings.map { rings[$0.extent.ring] }
    let isTaken = spooler.submit { .adopted(order.copy, spool.adopt(order, places: places)) }
    if !isTaken { finish(.adopted(order.copy, .failure(busy))) }
  }

  func dropScratch(_ generation: Generation, _ index: Int) {
    guard let spool else { return }
    spool.drops(generation, index)
    // With a full queue the next job does it.
    _ = spooler.submit { spool.removeLeaving() }
  }

  func openScratch(_ generation: Generation, _ index: Int) throws(PatchbayError) -> Descriptor {
    guard let spool else { throw Spool.gone(generation) }
    return try spool.openScratch(generation, index)
  }

  /// Scratch files to look into. What cannot be opened is looked for in vain.
  func openScratches(
    _ onDisk: ExtentsOnDisk, _ plan: ExtentPlan, upTo byteCount: Int
  ) -> PlacedScratch {
    var placed = PlacedScratch(records: onDisk.scratch)
    let last = plan.index(of: max(byteCount, 1) - 1)
    let withGaps = onDisk.scratch.filter { !$0.isFull }.prefix(WireLimit.missing + 1)
    let ending = onDisk.scratch.filter { $0.index == last && $0.isFull }
    for record in Array(withGaps) + ending {
      placed.files[record.index] = Result { () throws(PatchbayError) in
        try ScratchFile(openScratch(onDisk.generation, record.index), record)
      }
    }
    return placed
  }

  func persist(_ order: PersistOrder) {
    spool?.unbar(order.blob.generation)
    persist(order, from: 0)
  }

  /// The next step towards a complete container: one extent in memory, one in a scratch file, or the end.
  /// Others have their turns between two of them.
  func persist(_ order: PersistOrder, from step: Int) {
    guard let spool else { return }
    let inMemory = order.extents.count
    let place = step < inMemory ? rings[order.extents[step].ring] : nil
    let isTaken = spooler.submit {
      do throws(PatchbayError) {
        switch step {
        case ..<inMemory: try spool.persist(order, extent: step, from: place)
        case ..<(inMemory + order.scratch.count):
          try spool.persist(order, scratch: step - inMemory)
        default: return .containerReady(order, try spool.ready(order))
        }
        return .extentPersisted(order, next: step + 1)
      } catch {
        let generation = order.blob.generation
        if let suspicion = spool.suspicion(of: generation) {
          spool.losesContainer(generation)
          return .persisted(generation, .lost(suspicion))
        }
        let byteCount = spool.takenByteCount(generation)
        return .persisted(generation, .failed(error, containerByteCount: byteCount))
      }
    }
    if !isTaken { refusePersist(order) }
  }

  /// Waiting for the device is not the work of the thread that others wait for.
  func keep(_ order: PersistOrder, _ container: ReadyContainer) {
    guard let spool else { return }
    let generation = order.blob.generation
    let isTaken = keeper.submit { .persisted(generation, spool.keep(order, container)) }
    if !isTaken { refusePersist(order) }
  }

  private func refusePersist(_ order: PersistOrder) {
    finish(.persisted(order.blob.generation, .failed(busy, containerByteCount: nil)))
  }

  func markContainer(_ generation: Generation, isPinned: Bool) {
    do throws(PatchbayError) {
      try spool?.mark(generation, isPinned: isPinned)
    } catch {
      let word = isPinned ? "unpinned" : "pinned"
      refusals.warn(
        "The container of generation \(generation) kept its name, and the next broker will find the "
          + "blob \(word): \(error.message)")
    }
  }

  /// Done here and now: whoever is told afterwards that the blob is gone can rely on it.
  func withdrawContainer(_ generation: Generation) {
    do throws(PatchbayError) {
      try spool?.withdraw(generation)
    } catch {
      refusals.warn(
        "The container of generation \(generation) kept its name, and the next broker may find the "
          + "blob: \(error.message)")
    }
  }

  /// Behind the spills that are under way.
  func removeContainer(_ generation: Generation) {
    guard let spool else { return }
    spool.leaves(generation)
    // With a full queue the next job does it.
    _ = spooler.submit { spool.removeLeaving() }
  }

  func openContainer(_ generation: Generation) throws(PatchbayError) -> Descriptor {
    guard let spool else { throw Spool.gone(generation) }
    return try spool.open(generation)
  }

  /// Takes a ring's tag away and looks who views it. As long as the tag stands somebody may begin a
  /// view, so a broker that is short of descriptors or memory tries again later. A ring that cannot be
  /// written for another reason has been meddled with by its owner, and cannot be used again either.
  func retract(_ ring: RingID, heldBy holders: [SessionID]) {
    do throws(PatchbayError) {
      try RingUse.end(rings.open(ring, isWritable: true))
    } catch {
      refusals.warn("The ring \(ring.rawValue) could not be taken back: \(error.message)")
      if error.mayPass {
        return submit(.retracted(ring, isViewed: true))
      }
    }
    let isViewed = holders.contains { connections[$0]?.views(ring.rawValue) == true }
    submit(.retracted(ring, isViewed: isViewed))
  }
}
