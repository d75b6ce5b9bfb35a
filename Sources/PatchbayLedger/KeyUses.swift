// How often keys have been asked for: those of productions that are kept only when they are wanted often
// enough. The counts outlive the blobs, or nothing would ever be wanted twice; they are bounded, and the
// keys that nobody has asked for longest are forgotten. Another broker begins to count anew.

import PatchbayTypes

struct KeyUses: Sendable {
  private struct Count: Sendable {
    var uses: UInt32
    var stamp: UInt64
  }

  static let limit = 4096
  private var counts: [BlobKey: Count] = [:]
  /// In the order of their uses; a place is the key's last only if it has its stamp.
  private var order: [(stamp: UInt64, key: BlobKey)] = []
  private var head = 0
  private var clock: UInt64 = 0

  var keyCount: Int { counts.count }
  var placeCount: Int { order.count }

  func uses(of key: BlobKey) -> UInt32 { counts[key]?.uses ?? 0 }

  /// Counts one more.
  mutating func count(_ key: BlobKey) {
    clock += 1
    let uses = self.uses(of: key)
    counts[key] = Count(uses: uses == .max ? uses : uses + 1, stamp: clock)
    order.append((clock, key))
    while counts.count > Self.limit { forgetOldest() }
    sweep()
  }

  private mutating func forgetOldest() {
    while head < order.count {
      let place = order[head]
      head += 1
      guard counts[place.key]?.stamp == place.stamp else { continue }
      counts[place.key] = nil
      return
    }
  }

  private mutating func sweep() {
    guard order.count > 4 * Self.limit else { return }
    let counts = counts
    order = order[head...].filter { counts[$0.key]?.stamp == $0.stamp }
    head = 0
  }
}

extension Ledger {
  /// Somebody has asked for a blob, and got it.
  mutating func countUse(of generation: Generation) {
    guard let blob = blobs[generation], blob.isProduced,
      blob.origin.terms.production.leastUses > 0
    else { return }
    keyUses.count(blob.key)
    admitIfWanted(generation)
  }

  /// Once a blob's key has been asked for often enough it stays.
  mutating func admitIfWanted(_ generation: Generation) {
    guard let blob = blobs[generation], !blob.isAdmitted,
      keyUses.uses(of: blob.key) >= blob.origin.terms.production.leastUses
    else { return }
    blobs[generation]?.isAdmitted = true
    record(generation)
  }

  /// Takes a complete blob away that nobody has open and that was not wanted often enough.
  mutating func dropIfUnwanted(_ generation: Generation) {
    guard let blob = blobs[generation], blob.isProduced, blob.state == .sealed, blob.isNamed,
      !blob.isAdmitted, blob.origin.terms.production.leastUses > 0, !blob.isHeld, !blob.isPinned,
      blob.isBorn
    else { return }
    evictionCount += 1
    unname(generation, as: .evicted)
  }
}
