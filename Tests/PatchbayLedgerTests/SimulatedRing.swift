// Rings as the model of the simulation knows them, and what they and the rest add up to.

import PatchbayLedger
import PatchbayTypes

/// A ring as the model knows it.
struct SimulatedRing {
  let byteCount: Int
  let access: Access
  /// The extent as which it serves.
  var index: Int
  var isUnlinked = false
  var useNumber: UInt32 = 1
  /// Sessions that were given it and may still use it, those that hung up and live included.
  var holders: [SessionID: Hold] = [:]
  /// The reply that gave it to a session first: if it did not arrive, nothing was given.
  var firstGrants: [SessionID: SimulatedModel.RequestID] = [:]

  enum Hold { case reader, writer }
}

extension SimulatedModel {
  /// What is charged, between any two events.
  func chargedByteCount(boardByteCount: Int) -> Int {
    let ringBytes = rings.values.reduce(0) { $0 + ($1.isUnlinked ? 0 : $1.byteCount) }
    let inlineBytes = records.values.reduce(0) { $0 + ($1.inlineBytes?.count ?? 0) }
    return overhead + ringBytes + inlineBytes + pendingBoards.count * boardByteCount
  }

  /// What a user has in use at the least: inline blobs, and rings of blobs that are there or open, or
  /// that a process may still write into or be reading.
  func usedByteCount(by uid: UInt32) -> Int {
    let ringBytes = rings.reduce(0) { sum, known in
      let isUsed = !known.value.isUnlinked && known.value.access.uid == uid && isUsed(known.key)
      return sum + (isUsed ? known.value.byteCount : 0)
    }
    return records.values.reduce(ringBytes) {
      $0 + ($1.info.access.uid == uid ? $1.inlineBytes?.count ?? 0 : 0)
    }
  }

  private func isUsed(_ ring: RingID) -> Bool {
    let isServing = extentOwners[ring].map { records[$0] != nil || isHeld($0) } ?? false
    let holders = rings[ring]?.holders ?? [:]
    return isServing || holders.contains { $0.value == .writer || !live.contains($0.key) }
  }
}
