// Bounds on what is kept although nobody uses it, and the embedder's word about it. Blobs that eviction may
// take are a cache: beyond a number of them, or of their bytes in memory, those leave whose last use is
// longest ago, at the end of the event that made it one too many. The embedder is asked once each time
// that a complete blob has lost its last user.

import PatchbayTypes

/// Decides about a blob; the same for the same blob and the same past.
package typealias CachePolicy = @Sendable (BlobInfo) -> CacheDecision

/// Complete blobs that eviction may take.
struct CachedBlobs: Sendable {
  var queue = EvictionQueue()
  var count = 0
  /// Those that have become idle in the event at hand.
  var fresh: [Generation] = []
}

extension Ledger {
  /// Called when a blob becomes idle, or is so no more.
  mutating func noteCached(_ generation: Generation, isIdle: Bool) {
    guard let blob = blobs[generation], blob.state == .sealed else { return }
    cache.count += isIdle ? 1 : -1
    if isIdle {
      queueInCache(generation)
      cache.fresh.append(generation)
    }
  }

  private mutating func queueInCache(_ generation: Generation) {
    guard limits.cachedBlobCount != nil, let blob = blobs[generation], !blob.isQueuedInCache else {
      return
    }
    blobs[generation]?.isQueuedInCache = true
    cache.queue.push(
      EvictionEntry(isFailed: false, stamp: blob.accessStamp, generation: generation))
    guard cache.queue.count > 2 * blobs.count + 64 else { return }
    let live = blobs
    cache.queue.keep { live[$0.generation]?.isQueuedInCache == true }
  }

  /// Called at the end of each event.
  mutating func settleCache() {
    guard !cache.fresh.isEmpty else { return }
    let fresh = cache.fresh
    for generation in fresh { consult(about: generation) }
    trimCache()
    cache.fresh = []
  }

  private mutating func consult(about generation: Generation) {
    guard let cachePolicy, let blob = blobs[generation], blob.isIdle, blob.state == .sealed else {
      return
    }
    blobs[generation]?.isFavoured = false
    switch cachePolicy(blob.info) {
    case .byDefault: break
    case .keep: blobs[generation]?.isFavoured = true
    case .drop: evict(generation)
    case .expire(let duration):
      guard duration > .zero else { return evict(generation) }
      blobs[generation]?.lifetime.decided = now.monotonicNanoseconds.addingClamped(
        duration.wholeNanoseconds)
      settleLifetime(generation)
    }
  }

  private mutating func evict(_ generation: Generation) {
    evictionCount += 1
    unname(generation, as: .evicted)
  }

  private mutating func trimCache() {
    if let limit = limits.cachedBlobCount {
      var aside: [Generation] = []
      while cache.count > limit, let generation = popCached(&aside) { evict(generation) }
      for generation in aside { queueInCache(generation) }
    }
    if let limit = limits.cachedByteCount {
      while idleByteCount > limit, evictOne(sparesFavoured: true) {}
    }
  }

  /// The one that was used longest ago, unless it is on its way to disk or was to be kept: those are put
  /// aside.
  private mutating func popCached(_ aside: inout [Generation]) -> Generation? {
    while let entry = cache.queue.pop() {
      let generation = entry.generation
      guard let blob = blobs[generation] else { continue }
      blobs[generation]?.isQueuedInCache = false
      guard blob.isIdle, blob.state == .sealed else { continue }
      if blob.accessStamp != entry.stamp {
        queueInCache(generation)
      } else if blob.isFavoured || blob.spillingIndex != nil || blob.persistReserve != nil {
        aside.append(generation)
      } else {
        return generation
      }
    }
    return nil
  }
}
