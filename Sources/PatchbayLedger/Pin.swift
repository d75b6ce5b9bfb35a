// Pins: a blob that is pinned is not evicted, whatever is short, until it is unpinned or removed.
// It is the blob that is kept, not its memory: its extents go to the spool as others do. What is
// pinned counts as held, for its user's limit, too. A blob that outlives its broker stays pinned.

import PatchbayTypes
import PatchbayWire

extension Ledger {
  mutating func pin(
    _ session: SessionID, _ number: UInt64, _ request: PinRequest
  ) throws(PatchbayError) {
    guard let blob = visible(request.key, to: session) else { throw .noSuchKey(request.key) }
    guard mayTake(session, blob.origin.access) else { throw .foreignPin(request.key) }
    if case .refused = LifeCycle.outcome(of: .pin, in: blob.state) {
      throw .noSuchKey(request.key)
    }
    let generation = blob.origin.generation
    if blob.isPinned != request.isPinned {
      blobs[generation]?.isPinned = request.isPinned
      settleLifetime(generation)
      record(generation)
      updateIdle(generation)
      markContainer(of: generation)
      dropIfUnwanted(generation)
    }
    reply(session, number, .done)
  }
}

extension PatchbayError {
  static func foreignPin(_ key: BlobKey) -> PatchbayError {
    PatchbayError(
      .notPermitted,
      "The key \(key) has a blob of another user, which only that user may pin or unpin.")
  }
}
