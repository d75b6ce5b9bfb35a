// A failed blob's files become another generation's, too: by a second name for each, so that nothing is
// copied that is on disk already. A segment or a scratch file that is there never changes, and the readers
// of the old generation know which they may read, so they are not disturbed by what the new one adds.

import PatchbayLedger
import PatchbaySpool
import PatchbaySystem
import PatchbayTypes

extension Spool {
  /// Makes the covered bytes of a blob stand on disk under its new generation. By the worker.
  func adopt(
    _ order: AdoptOrder, places: [RingPlace?]
  ) -> Result<Adoption, PatchbayError> {
    _ = removeLeaving()
    do throws(PatchbayError) {
      if order.hasContainer { try adoptContainer(order) }
      for index in order.scratch {
        try linkScratch(index, from: order.source, to: order.target)
      }
      var adoption = Adoption(containerByteCount: 0, whole: [], scratch: [:])
      for (ring, place) in zip(order.rings, places) {
        try add(spill(ring, from: place), ring.extent.index, to: &adoption)
      }
      adoption.containerByteCount = try containerByteCount(order.target)
      return .success(adoption)
    } catch {
      return .failure(error)
    }
  }

  private func add(
    _ result: SpillResult, _ index: Int, to adoption: inout Adoption
  ) throws(PatchbayError) {
    switch result {
    case .done: adoption.whole.append(index)
    case .partial(let standing): adoption.scratch[index] = standing
    case .empty: break
    case .failed(let error, _): throw error
    case .incomplete:
      throw PatchbayError(
        .inputOutput, "Extent \(index) of a blob that was to be taken over could not be copied.")
    }
  }
}
