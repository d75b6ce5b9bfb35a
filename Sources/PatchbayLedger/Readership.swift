// What becomes of a production when nobody reads it any more: it goes on, it is stopped, or its publisher
// waits until somebody does. A publisher is told by its blob's entry on the board, so it asks nothing while
// it writes. Who only observes does not count, and neither does a successor that nobody sees yet.
//
// Only the last reader's leaving counts: a production that nobody has ever read goes on.

import PatchbayTypes
import PatchbayWire

extension Blob {
  /// Whether somebody has it open to read, or is about to.
  var hasReaders: Bool { readerCount > 0 || askers.contains { !$0.observes } }
}

extension Ledger {
  /// Called after a reader has come or may have gone, or the key has.
  mutating func updateReadership(_ generation: Generation) {
    noteReadership(generation)
    endUnreachable(generation)
  }

  private mutating func noteReadership(_ generation: Generation) {
    guard let blob = blobs[generation], blob.isProduced, blob.hasReaders != blob.isRead else {
      return
    }
    if blob.hasReaders {
      blobs[generation]?.isRead = true
      record(generation)
      resumePublisher(of: generation)
    } else if !blob.isReturning, blob.isBorn {
      // Who has it open may still be on the way back.
      blobs[generation]?.isRead = false
      record(generation)
      if blob.state == .open { endReadership(of: blob) }
    }
  }

  private mutating func endReadership(of blob: Blob) {
    switch blob.origin.terms.production.whenUnread {
    case .finish: break
    case .stop: stopProduction(of: blob)
    // Of a broker that drains no reader comes any more.
    case .pause where isDraining: stopProduction(of: blob)
    case .pause: pausePublisher(of: blob.origin.generation)
    }
  }

  /// Nobody reads a blob without a key, nor can anybody again: who fetches of it what somebody wants, or is
  /// paused until somebody reads, would wait for ever.
  private mutating func endUnreachable(_ generation: Generation) {
    guard let blob = blobs[generation], blob.state == .open, blob.isBorn, !blob.isReturning,
      !blob.isNamed, blob.succeeds == nil, !blob.hasReaders,
      blob.demandPiece != nil
        || blob.isProduced && blob.origin.terms.production.whenUnread == .pause
    else { return }
    failBlob(generation, .removed, "it was removed, and nobody reads it", raisesEpoch: true)
  }

  /// Whoever waits for readers will wait in vain.
  mutating func stopPausedProductions() {
    let paused = blobs.values.filter { $0.isPaused && $0.state == .open }
    for blob in paused.sorted(by: { $0.origin.generation < $1.origin.generation }) {
      stopProduction(of: blob)
    }
  }

  private mutating func stopProduction(of blob: Blob) {
    let generation = blob.origin.generation
    failBlob(generation, .abandoned, "its last reader left", raisesEpoch: true)
    // Nothing has gone wrong: who asks next may begin at once.
    blobs[generation]?.lifetime.ended = nil
  }

  private mutating func pausePublisher(of generation: Generation) {
    blobs[generation]?.isPaused = true
    blobs[generation]?.production.progress = nil
    record(generation)
    post(generation)
  }

  /// Posted before anybody is woken.
  private mutating func resumePublisher(of generation: Generation) {
    guard blobs[generation]?.isPaused == true else { return }
    blobs[generation]?.isPaused = false
    record(generation)
    post(generation)
    ring(generation)
  }
}
