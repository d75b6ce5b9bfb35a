// How long a complete blob stays. Its time is over when it has lived as long as its creator said, or when
// nobody has opened it for as long, whichever comes first; then its key is taken away, and whoever has it
// open finishes undisturbed. Where a grace was given it is served on for that long, as a stale one, while
// somebody makes another.
//
// Two rules: nothing goes a nanosecond early, and nothing is served late. Each event first ends what is due
// by its moment, so it does not matter when a tick comes. Moments are those of the monotonic clock, which
// goes on when a broker takes the place of another; only what is found on disk after a restart of the
// machine is dated by the wall clock.

import PatchbayTypes
import PatchbayWire

/// What is known of a blob's time, beside its terms.
struct Lifetime: Sendable {
  /// When it was sealed or has failed, by the monotonic clock; nil before.
  var ended: Int64?
  /// When it was last opened, while it was not stale.
  var used: Int64?
  /// When its time is over by the embedder's word, while nobody uses it.
  var decided: Int64?
  /// When its time is over; nil: never, as things stand.
  var end: Int64?
  /// The same for people.
  var shownEnd: WallTime?
  /// When it is next looked at.
  var look: Int64?
}

/// When a blob's time may be over.
struct LifetimeLook: Sendable, Hashable, Comparable {
  let moment: Int64
  let generation: Generation
  static func < (left: Self, right: Self) -> Bool {
    (left.moment, left.generation) < (right.moment, right.generation)
  }
}

extension Ledger {
  // MARK: What happens to it

  /// A blob has just been sealed, or has failed.
  mutating func noteEnd(_ generation: Generation) {
    blobs[generation]?.lifetime.ended = now.monotonicNanoseconds
    settleLifetime(generation)
  }

  /// Somebody opens a blob to read it. What is stale stays so.
  mutating func noteUse(_ generation: Generation) {
    guard let blob = blobs[generation], !isStale(blob) else { return }
    blobs[generation]?.lifetime.used = now.monotonicNanoseconds
    blobs[generation]?.lifetime.decided = nil
    guard blob.state == .sealed,
      blob.origin.terms.lifetime.idleExpiry != nil || blob.lifetime.decided != nil
    else { return }
    settleLifetime(generation)
    // The next broker must not take it away early.
    record(generation)
  }

  /// To be called when anything has changed that its time depends on.
  mutating func settleLifetime(_ generation: Generation) {
    guard let blob = blobs[generation] else { return }
    let end = blob.endOfLife
    let now = now
    blobs[generation]?.lifetime.end = end
    blobs[generation]?.lifetime.shownEnd = end.map {
      WallTime(
        rawValue: now.wall.rawValue.addingClamped(Self.distance(now.monotonicNanoseconds, $0)))
    }
    lookAtLifetime(generation)
  }

  private static func distance(_ start: Int64, _ end: Int64) -> Int64 {
    let (distance, overflow) = end.subtractingReportingOverflow(start)
    return overflow ? .max : distance
  }

  private mutating func lookAtLifetime(_ generation: Generation) {
    guard let blob = blobs[generation], let moment = blob.endOfGrace else { return }
    if let look = blob.lifetime.look, look <= moment { return }
    blobs[generation]?.lifetime.look = moment
    lifetimes.push(LifetimeLook(moment: moment, generation: generation))
    sweepLifetimes()
  }

  /// Blobs that were removed before their time leave their entries behind.
  private mutating func sweepLifetimes() {
    guard lifetimes.count > 2 * blobs.count + 64 else { return }
    let live = blobs
    lifetimes.keep { live[$0.generation]?.lifetime.look == $0.moment }
  }

  // MARK: Over

  /// Whether its time is over, and only its grace keeps it.
  func isStale(_ blob: Blob) -> Bool {
    blob.lifetime.end.map { $0 <= now.monotonicNanoseconds } ?? false
  }

  /// Called with each event, before it is looked at.
  mutating func endLifetimes() {
    while let first = lifetimes.first, first.moment <= now.monotonicNanoseconds {
      _ = lifetimes.pop()
      let generation = first.generation
      guard let blob = blobs[generation], blob.lifetime.look == first.moment else { continue }
      blobs[generation]?.lifetime.look = nil
      if let moment = blob.endOfGrace, moment <= now.monotonicNanoseconds {
        if case .becomes(.gone) = LifeCycle.outcome(of: .expired, in: blob.state) {
          unname(generation, as: .expired)
        }
      } else {
        lookAtLifetime(generation)
      }
    }
  }

  // MARK: Failures

  /// Refuses to begin anew as long as a failure is told.
  func checkFailure(_ blob: Blob) throws(PatchbayError) {
    guard blob.isProduced, blob.state == .failed, let ended = blob.lifetime.ended,
      let lifetime = blob.origin.terms.production.failureLifetime,
      now.monotonicNanoseconds < ended.addingClamped(lifetime.wholeNanoseconds)
    else { return }
    throw blob.failure
  }

  // MARK: Another broker's

  /// The times of a blob that another broker has left in memory: the clock has gone on.
  mutating func takeUpLifetime(_ record: BlobRecord) {
    let generation = record.info.generation
    let now = now.monotonicNanoseconds
    blobs[generation]?.lifetime.ended = record.ended.map { min($0, now) }
    blobs[generation]?.lifetime.used = record.used.map { min($0, now) }
    settleLifetime(generation)
  }

  /// The times of a blob that was found on disk: as long ago as the wall clock says, and never in the
  /// future. When it was last opened nobody knows any more; it counts as opened now.
  mutating func takeUpLifetime(found generation: Generation) {
    guard let blob = blobs[generation] else { return }
    let age = max(0, Self.distance(blob.modified.rawValue, now.wall.rawValue))
    blobs[generation]?.lifetime.ended = now.monotonicNanoseconds - age
    blobs[generation]?.lifetime.used = now.monotonicNanoseconds
    settleLifetime(generation)
  }
}

extension Blob {
  /// When its time is over; nil: never, as things stand.
  fileprivate var endOfLife: Int64? {
    guard state == .sealed, isNamed, !isPinned, let ended = lifetime.ended else { return nil }
    let terms = origin.terms.lifetime
    let byAge = terms.timeToLive.map { ended.addingClamped($0.wholeNanoseconds) }
    let byUse = terms.idleExpiry.map {
      max(ended, lifetime.used ?? ended).addingClamped($0.wholeNanoseconds)
    }
    return [byAge, byUse, lifetime.decided].compactMap(\.self).min()
  }

  /// When it is served no more.
  fileprivate var endOfGrace: Int64? {
    lifetime.end?.addingClamped(origin.terms.lifetime.grace?.wholeNanoseconds ?? 0)
  }
}
