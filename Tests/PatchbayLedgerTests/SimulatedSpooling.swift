// What the simulation's model knows of extents that leave memory and come back.

import PatchbayTypes
import PatchbayWire

@testable import PatchbayLedger

extension SimulatedModel {
  mutating func spilled(_ generation: Generation, _ result: SpillResult) {
    guard let index = spilling.removeValue(forKey: generation) else { return }
    switch result {
    case .done: spooled[generation, default: []].insert(index)
    case .partial: scratches[generation, default: []].insert(index)
    case .empty, .incomplete, .failed: break
    }
  }

  mutating func adopted(_ copy: CopyID, _ result: Result<Adoption, PatchbayError>) {
    guard let order = adopting.removeValue(forKey: copy), case .success(let adoption) = result
    else {
      return
    }
    spooled[order.target] = (spooled[order.source] ?? []).union(adoption.whole)
    scratches[order.target] = Set(order.scratch).union(adoption.scratch.keys)
  }

  /// What came back is the extent's ring from now on.
  mutating func restored(_ ring: RingID, _ error: PatchbayError?) {
    demand(restoring.removeValue(forKey: ring) != nil, "\(ring) came back unasked")
  }

  mutating func gaveBack(_ session: SessionID, _ request: GiveBackRequest) {
    for (ring, known) in rings where known.holders[session] == .writer {
      guard extentOwners[ring] == request.blob.generation, known.index == request.index else {
        continue
      }
      rings[ring]?.holders[session] = .reader
    }
  }
}
