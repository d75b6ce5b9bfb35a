// Carrying out what the ledger wants of the disk. Copying is a worker's; taking a ring from its readers
// is done here, where the tables of all clients are known.

import Glibc
import PatchbayLedger
import PatchbayRing
import PatchbaySystem
import PatchbayTypes

extension EventLoop {
  func spill(_ order: SpillOrder) {
    let place = rings[order.extent.ring]
    guard let spool else { return }
    let isTaken = spooler.submit { .spilled(order.generation, spool.spill(order, from: place)) }
    if !isTaken { finish(.spilled(order.generation, .incomplete)) }
  }

  func persist(_ order: PersistOrder) {
    let places = order.extents.map { rings[$0.ring] }
    let generation = order.blob.generation
    guard let spool else { return }
    let isTaken = spooler.submit { .persisted(generation, spool.persist(order, from: places)) }
    if !isTaken { finish(.persisted(generation, .failed(busy, containerByteCount: nil))) }
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
      if [EMFILE, ENFILE, ENOMEM].contains(error.systemErrno) {
        return submit(.retracted(ring, isViewed: true))
      }
    }
    let isViewed = holders.contains { connections[$0]?.views(ring.rawValue) == true }
    submit(.retracted(ring, isViewed: isViewed))
  }
}
