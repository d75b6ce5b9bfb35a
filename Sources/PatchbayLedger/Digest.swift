// Digests of blobs for which one was asked. A worker follows the contiguous prefix while it is being
// written: when an extent has come, for then those before it are full, and now and then besides, less
// often the longer nothing new is found. A seal that has found every byte covered waits for the rest;
// then the blob is sealed with the digest, or has failed if another one was expected. One order of a
// blob is out at a time, and no order is for more than a piece, so that blobs take turns.
//
// Where the worker is, only it knows for certain: a position here says what to show it and how long to
// pause. Bytes that have left memory it reads back from the disk.

import PatchbayTypes
import PatchbayWire

/// The digest of bytes that are all there. Names no algorithm's maker here: whoever runs the ledger
/// knows one.
package typealias DigestFunction =
  @Sendable (ContentDigest.Algorithm, [UInt8]) -> ContentDigest

/// What a worker is to take into a blob's digest.
package struct DigestOrder: Sendable, Hashable {
  package var generation: Generation
  package var algorithm: ContentDigest.Algorithm
  package var plan: ExtentPlan
  /// The extents that follow the bytes it has taken, without a gap, and not all of them.
  package var extents: [ExtentRecord]
  /// Of them, those that stand on disk, in the container and in files of their own.
  package var spooled: [Int]
  package var scratch: [ScratchRecord]
  package var segmentByteCount: Int
  /// The blob's length, if it is known.
  package var byteCount: Int?
  /// The length with which it is to be sealed: every byte below it is covered, and the digest is
  /// wanted. Nil: what there is is taken.
  package var end: Int?
}

/// How far a worker has come.
package enum DigestResult: Sendable, Hashable {
  /// Everything below a position is taken, as far as could be had or in one go.
  case reached(Int, hasMore: Bool)
  /// The digest of everything below the order's end.
  case found(ContentDigest, byteCount: Int)
  /// Covered bytes could not be read.
  case failed(PatchbayError)
}

/// How far a blob's digest is.
struct DigestProgress: Sendable {
  /// Everything below is taken.
  var position = 0
  /// Whether a worker has an order, and whether that one is for the end.
  var isUnderWay = false
  var isFinal = false
  /// Whether a worker has had one.
  var hasBegun = false
  /// Whether it stands among the looks.
  var isAwaited = false
  var pause = shortestPause

  static let shortestPause = Duration.milliseconds(20)
  static let longestPause = Duration.seconds(1)
  /// Extents of one order.
  static let extentCount = 64
}

/// When a blob's digest goes on.
struct DigestLook: Sendable, Hashable, Comparable {
  let moment: Int64
  let generation: Generation
  static func < (left: Self, right: Self) -> Bool {
    (left.moment, left.generation) < (right.moment, right.generation)
  }
}

extension Ledger {
  // MARK: Ordering

  /// From now on an open blob is looked at now and then.
  mutating func followDigest(_ generation: Generation) {
    guard let blob = blobs[generation], blob.origin.terms.digest != nil, blob.state == .open,
      !blob.digesting.isAwaited
    else { return }
    blobs[generation]?.digesting.isAwaited = true
    let pause = blob.digesting.pause.wholeNanoseconds
    digestLooks.push(
      DigestLook(
        moment: now.monotonicNanoseconds.addingClamped(pause), generation: generation))
  }

  mutating func lookAfterDigests() {
    while let first = digestLooks.first, first.moment <= now.monotonicNanoseconds {
      _ = digestLooks.pop()
      blobs[first.generation]?.digesting.isAwaited = false
      digestMore(first.generation)
    }
  }

  /// Has a worker take what is there, unless one does already.
  mutating func digestMore(_ generation: Generation) {
    guard let blob = blobs[generation], let wish = blob.origin.terms.digest, blob.isBorn,
      blob.state == .open, !blob.digesting.isUnderWay
    else { return }
    let end = blob.pendingSeal.flatMap { $0.isCovered ? $0.byteCount : nil }
    // Sealed shorter than it was: what was taken is too much.
    if let end, end < blob.digesting.position { dropDigest(generation) }
    let order = order(blobs[generation] ?? blob, wish, end: end)
    guard
      end != nil || !order.extents.isEmpty || !order.spooled.isEmpty || !order.scratch.isEmpty
    else {
      return pauseDigest(generation)
    }
    blobs[generation]?.digesting.isUnderWay = true
    blobs[generation]?.digesting.isFinal = end != nil
    blobs[generation]?.digesting.hasBegun = true
    actions.append(.digest(order))
  }

  private func order(_ blob: Blob, _ wish: DigestWish, end: Int?) -> DigestOrder {
    var order = DigestOrder(
      generation: blob.origin.generation, algorithm: wish.algorithm, plan: blob.origin.plan,
      extents: [], spooled: [], scratch: [], segmentByteCount: blob.origin.containerSegment,
      byteCount: end ?? blob.byteCount, end: end)
    let first = blob.origin.plan.index(of: blob.digesting.position)
    for index in first..<first + DigestProgress.extentCount {
      if let extent = blob.extent(at: index) {
        order.extents.append(extent)
      } else if blob.spooled.contains(index) {
        order.spooled.append(index)
      } else if let record = blob.patchwork.scratch[index] {
        order.scratch.append(record)
      } else {
        break
      }
    }
    return order
  }

  private mutating func pauseDigest(_ generation: Generation) {
    guard let pause = blobs[generation]?.digesting.pause else { return }
    blobs[generation]?.digesting.pause = min(pause * 2, DigestProgress.longestPause)
    followDigest(generation)
  }

  // MARK: What became of it

  mutating func digested(_ generation: Generation, _ result: DigestResult) {
    guard let blob = blobs[generation], blob.digesting.isUnderWay, blob.state.isLive else { return }
    blobs[generation]?.digesting.isUnderWay = false
    let pending = blob.pendingSeal.flatMap { $0.isCovered ? $0 : nil }
    switch result {
    case .found(let digest, let byteCount):
      blobs[generation]?.digesting.position = byteCount
      guard let pending, pending.byteCount == byteCount else { return followDigest(generation) }
      conclude(blob, pending, digest)
    case .reached(let position, let hasMore):
      blobs[generation]?.digesting.position = position
      if pending != nil || hasMore { return digestMore(generation) }
      guard position > blob.digesting.position else { return pauseDigest(generation) }
      blobs[generation]?.digesting.pause = DigestProgress.shortestPause
      followDigest(generation)
    case .failed(let error):
      guard let pending else { return pauseDigest(generation) }
      // It may be the next extent that could not be read, and all that matter can.
      guard blob.digesting.isFinal else { return digestMore(generation) }
      refuseSeal(generation, pending, error)
      pauseDigest(generation)
    }
  }

  private mutating func conclude(_ blob: Blob, _ pending: PendingSeal, _ digest: ContentDigest) {
    let generation = blob.origin.generation
    do throws(PatchbayError) {
      try checkUndisturbed(pending, blob)
    } catch {
      refuseSeal(generation, pending, error)
      return followDigest(generation)
    }
    blobs[generation]?.pendingSeal = nil
    seal(blob, pending, digest)
  }

  /// Nothing is needed for the digest of no bytes.
  mutating func sealEmpty(_ blob: Blob, _ asker: RequestID) {
    let pending = PendingSeal(byteCount: 0, inspectedEnd: 0, waiters: [asker])
    seal(blob, pending, blob.origin.terms.digest.map { digestOfBytes($0.algorithm, []) })
  }

  /// Seals a blob whose digest is known, or fails it.
  private mutating func seal(_ blob: Blob, _ pending: PendingSeal, _ digest: ContentDigest?) {
    let generation = blob.origin.generation
    if let digest, let cause = blob.mismatch(digest, byteCount: pending.byteCount) {
      failBlob(generation, .digestMismatch, cause, raisesEpoch: false)
      var failed = blob
      failed.causeCode = .digestMismatch
      failed.cause = cause
      for waiter in pending.waiters { refuse(waiter.session, waiter.number, failed.failure) }
    } else {
      var pending = pending
      pending.isCovered = false
      pending.digest = digest
      completeSeal(generation, pending)
    }
  }

  /// The digest of a blob that came in one message is had at once.
  func settleDigest(_ blob: inout Blob, _ bytes: [UInt8]) {
    guard let wish = blob.origin.terms.digest else { return }
    let digest = digestOfBytes(wish.algorithm, bytes)
    guard let cause = blob.mismatch(digest, byteCount: bytes.count) else {
      blob.digest = digest
      return
    }
    blob.state = .failed
    blob.causeCode = .digestMismatch
    blob.cause = cause
    blob.inlineBytes = nil
    blob.residentByteCount = 0
  }

  /// The blob has ended, or begins anew: what a worker knows of it is wanted no more.
  mutating func dropDigest(_ generation: Generation) {
    guard let progress = blobs[generation]?.digesting, progress.hasBegun else { return }
    var fresh = DigestProgress()
    fresh.isAwaited = progress.isAwaited
    blobs[generation]?.digesting = fresh
    actions.append(.dropDigest(generation))
  }
}

extension Blob {
  /// Why content with this digest is not what was expected; nil when it is.
  fileprivate func mismatch(_ digest: ContentDigest, byteCount: Int) -> String? {
    guard let wish = origin.terms.digest, let expected = wish.expected, !wish.accepts(digest) else {
      return nil
    }
    return "its \(byteCount) bytes have the \(digest.algorithm) \(digest.hex), not "
      + "\(expected.hex) as expected"
  }
}
