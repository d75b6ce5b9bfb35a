// What disks and threads do for the simulated world: they take extents, bring them back, complete
// containers, compute digests, and fail now and then.

import PatchbayTypes
import PatchbayWire

@testable import PatchbayLedger

extension SimulatedWorld {
  static func isDiskWork(_ action: LedgerAction) -> Bool {
    switch action {
    case .spill, .persist: true
    default: false
    }
  }

  mutating func persist(_ order: PersistOrder, mayFail: Bool) {
    let generation = order.blob.generation
    if mayFail, chance(1, in: 3) {
      containers[generation] = nil
      return tell(.persisted(generation, .lost(PatchbayError(.inputOutput, "fsync"))))
    }
    guard !mayFail, model.completes(generation) else {
      let error = PatchbayError(.noSpaceSpool, "full, or given up")
      return tell(
        .persisted(
          generation, .failed(error, containerByteCount: containers[generation] ?? 0)))
    }
    let byteCount = order.extents.reduce(containers[generation] ?? 4096) {
      $0 + order.range(of: $1).count / 4096 * 4096 + 4096
    }
    containers[generation] = byteCount
    tell(.persisted(generation, .done(containerByteCount: byteCount)))
  }

  mutating func digest(_ order: DigestOrder, mayFail: Bool) {
    if mayFail {
      let error = PatchbayError(.corrupt, "The ring cannot be read.")
      return feed(.digested(order.generation, .failed(error)))
    }
    guard let end = order.end, chance(3, in: 4) else {
      let last =
        (order.extents.map(\.index) + order.spooled + order.scratch.map(\.index)).max() ?? 0
      let reached = min(order.plan.range(of: last).upperBound, order.end ?? .max)
      return feed(
        .digested(order.generation, .reached(reached, hasMore: chance(1, in: 4))))
    }
    let bytes = chance(2, in: 3) ? Self.right : Self.wrong
    feed(
      .digested(
        order.generation, .found(simulatedDigest(order.algorithm, bytes), byteCount: end)))
  }

  mutating func randomWish() -> DigestWish? {
    guard digests, chance(2, in: 3) else { return nil }
    let algorithm = ContentDigest.Algorithm.allCases.randomElement(using: &generator) ?? .sha256
    return chance(1, in: 3)
      ? DigestWish(algorithm) : DigestWish(expecting: simulatedDigest(algorithm, Self.right))
  }

  /// As it is, or with a digest.
  mutating func create(_ request: CreateRequest) -> Request {
    guard let wish = randomWish() else { return .create(request) }
    return .createWith(request, .plain(digest: wish))
  }

  mutating func spill(_ order: SpillOrder, mayFail: Bool) {
    let failures: [SpillResult] = [
      .incomplete,
      .failed(
        PatchbayError(.noSpaceSpool, "full"),
        containerByteCount: containers[order.generation] ?? 0),
      .failed(
        PatchbayError(.inputOutput, "broken"),
        containerByteCount: containers[order.generation] ?? 0),
    ]
    if mayFail, let failure = failures.randomElement(using: &generator) {
      return tell(.spilled(order.generation, failure))
    }
    if order.mayLeavePartly, chance(1, in: 8) { return feed(.spilled(order.generation, .empty)) }
    if order.mayLeavePartly, order.goesToScratch || chance(1, in: 2) {
      scratches[order.generation, default: []].insert(order.extent.index)
      let standing = ScratchStanding(fileByteCount: 12288, coveredByteCount: 100, frontier: 50)
      return feed(.spilled(order.generation, .partial(standing)))
    }
    let byteCount = (containers[order.generation] ?? 0) + order.range.count / 4096 * 4096 + 4096
    containers[order.generation] = byteCount
    tell(.spilled(order.generation, .done(containerByteCount: byteCount)))
  }

  mutating func adopt(_ order: AdoptOrder, fails: Bool) {
    containers[order.target] = containers[order.source] ?? 4096
    scratches[order.target] = Set(order.scratch)
    guard !fails else {
      return feed(.adopted(order.copy, .failure(PatchbayError(.inputOutput, "No second name."))))
    }
    var adoption = Adoption(
      containerByteCount: containers[order.target] ?? 0, whole: [], scratch: [:])
    for ring in order.rings {
      switch Int.random(in: 0..<3, using: &generator) {
      case 0: adoption.whole.append(ring.extent.index)
      case 1:
        scratches[order.target]?.insert(ring.extent.index)
        adoption.scratch[ring.extent.index] = ScratchStanding(
          fileByteCount: 8192, coveredByteCount: 7, frontier: 0)
      default: break
      }
    }
    feed(.adopted(order.copy, .success(adoption)))
  }

  mutating func restore(_ order: RestoreOrder, fails: Bool) {
    let code: PatchbayError.Code = chance(1, in: 2) ? .corrupt : .inputOutput
    feed(.restored(order.ring, fails ? PatchbayError(code, "The file cannot be read.") : nil))
  }
}
