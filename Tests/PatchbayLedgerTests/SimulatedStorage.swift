// What the next broker would find on disk, as the simulation knows it: complete containers, and whether
// each of them may be there.

import PatchbayTypes
import PatchbayWire

@testable import PatchbayLedger

struct SimulatedStorage: Sendable {
  /// Blobs whose containers are being completed, and those that are complete.
  private var underWay: [Generation: Set<Int>] = [:]
  private(set) var complete: Set<Generation> = []
  private var pinned: Set<Generation> = []
  /// Those that are not to become complete any more.
  private var barred: Set<Generation> = []

  mutating func persists(_ order: PersistOrder) -> String? {
    let generation = order.blob.generation
    guard underWay[generation] == nil else { return "\(generation) is persisted twice at once" }
    // All of the blob: what is not ordered stands there already, or was found where the simulation has no
    // extent, by an inspection that does not look.
    let last = order.blob.byteCount == 0 ? -1 : order.blob.plan.index(of: order.blob.byteCount - 1)
    underWay[generation] = Set(0..<last + 1)
    barred.remove(generation)
    var end = order.extents.isEmpty ? order.blob.byteCount : 0
    for extent in order.extents {
      guard !order.range(of: extent).isEmpty else { return "\(extent) holds nothing to persist" }
      end = max(end, order.range(of: extent).upperBound)
    }
    return end <= order.blob.byteCount ? nil : "\(generation) is persisted beyond its end"
  }

  /// The worker gives the container its name, unless that was forbidden; the ledger hears of it later.
  mutating func completes(_ generation: Generation) -> Bool {
    guard !barred.contains(generation) else { return false }
    complete.insert(generation)
    return true
  }

  /// The extents that stand on disk from now on.
  mutating func persisted(_ generation: Generation, _ result: PersistResult) -> Set<Int> {
    let indices = underWay.removeValue(forKey: generation) ?? []
    guard case .done = result else { return [] }
    return indices
  }

  mutating func marked(_ generation: Generation, _ isPinned: Bool) {
    if isPinned { pinned.insert(generation) } else { pinned.remove(generation) }
  }

  mutating func withdrawn(_ generation: Generation) {
    complete.remove(generation)
    if underWay[generation] != nil { barred.insert(generation) }
  }

  mutating func removed(_ generation: Generation) -> String? {
    complete.remove(generation)
    return underWay[generation] == nil ? nil : "a container goes while it is completed"
  }

  /// After all actions of an event: what is complete on disk is a sealed blob that has its key, and
  /// every such blob that was to outlive its broker is complete.
  func violation(_ records: [Generation: BlobRecord]) -> String? {
    for generation in complete.sorted() where records[generation]?.info.state != .sealed {
      // Between the name and the ledger's knowledge of it.
      if underWay[generation] != nil, records[generation]?.info.state == .open { continue }
      return "a broker would find \(generation), which is not sealed or has no key"
    }
    for (generation, record) in records
    where record.info.state == .sealed && record.info.acknowledgement != .visible {
      if !complete.contains(generation) { return "no broker would find \(generation)" }
      if pinned.contains(generation) != record.info.isPinned {
        return "a broker would not know whether \(generation) is pinned"
      }
    }
    return nil
  }
}
