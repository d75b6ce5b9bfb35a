// Producing a stale blob again while it is served on. Who is told that a blob is stale may create its
// successor: one at a time, a generation that has not the key and that nobody sees. With its seal it takes
// the key, and the stale one is gone for whoever comes then. If it comes to nothing nobody is told: the
// stale one stays until its grace is over, and is not produced again for a moment.
//
// When the stale one goes before its successor is complete, because its grace is over or its memory is
// needed, the successor takes the key as it is: it is being produced, as after any other `openOrCreate`. A
// key that somebody takes away, or gives to another blob, ends the succession.

import PatchbayTypes
import PatchbayWire

extension Ledger {
  /// How long a failure to make a successor is remembered unless the successor's terms say so.
  static let successionRest = Duration.seconds(1)

  /// Whether a session that has asked for a blob, to have it produced if need be, may make its successor.
  func maySucceed(_ asker: ParkedOpen, _ blob: Blob) -> Bool {
    unanswered[asker.session]?[asker.number]?.kind == .openOrCreate && isToBeSucceeded(blob)
      && mayTake(asker.session, blob.origin.access)
  }

  private func isToBeSucceeded(_ blob: Blob) -> Bool {
    isStale(blob) && successors[blob.key] == nil
      && blob.refreshAfter.map { $0 <= now.monotonicNanoseconds } ?? true
  }

  /// The successor that a creation has begun already.
  func ownSuccessor(_ key: BlobKey, _ session: SessionID, _ number: UInt64) -> Blob? {
    ownCreation(successors[key], session, number)
  }

  mutating func createSuccessor(
    of stale: Generation, _ session: SessionID, _ number: UInt64, _ request: CreateRequest,
    _ terms: CreateTerms
  ) throws(PatchbayError) {
    guard terms.ownership == .produced, !request.replaces, request.inlineBytes == nil else {
      throw .badTerms(request.key, "a successor is produced, and replaces nothing before its seal")
    }
    guard owners[request.key] == stale, let blob = blobs[stale], isToBeSucceeded(blob),
      mayTake(session, blob.origin.access)
    else { throw .notToBeSucceeded(request.key) }
    try checkHandles(session)
    try createWithExtents(session, number, request, terms, replacing: nil)
  }

  // MARK: Taking the key

  /// A successor is complete: from now on the key leads to it.
  mutating func takeKey(_ generation: Generation) {
    guard let blob = blobs[generation], let stale = blob.succeeds else { return }
    successors[blob.key] = nil
    blobs[generation]?.succeeds = nil
    // What was wanted often enough is so in its next life.
    if blobs[stale]?.isAdmitted == true { blobs[generation]?.isAdmitted = true }
    if owners[blob.key] == stale { unname(stale) }
    blobs[generation]?.isNamed = true
    owners[blob.key] = generation
    catalog.insert(blob.key)
    touch(generation)
    admitIfWanted(generation)
  }

  /// A blob has lost its key; if it has a successor, that has the key now or comes to nothing.
  mutating func endSuccession(of stale: Blob, as kind: BlobChange.Kind) {
    guard let generation = successors[stale.key], let blob = blobs[generation],
      blob.succeeds == stale.origin.generation
    else { return }
    switch kind {
    case .expired, .evicted: promote(blob)
    case .created, .progress, .suspended, .sealed, .failed, .removed:
      let error = PatchbayError(
        .removed, "The blob \(blob.key) that was to be succeeded was removed or replaced.")
      guard blob.isBorn else { return discardUnborn(generation, error) }
      failBlob(generation, .removed, "the key was taken away from it", raisesEpoch: true)
    }
  }

  /// The key is a successor's before its seal.
  mutating func promote(_ blob: Blob) {
    let generation = blob.origin.generation
    successors[blob.key] = nil
    blobs[generation]?.succeeds = nil
    blobs[generation]?.isNamed = true
    owners[blob.key] = generation
    guard blob.isBorn else { return }
    catalog.insert(blob.key)
    changed(generation)
    record(generation)
    answerParked(blob.key)
  }

  /// A successor came to nothing.
  mutating func forgetSuccessor(_ blob: Blob) {
    guard let stale = blob.succeeds, successors[blob.key] == blob.origin.generation else { return }
    successors[blob.key] = nil
    blobs[blob.origin.generation]?.succeeds = nil
    let rest = blob.origin.terms.production.failureLifetime ?? Self.successionRest
    blobs[stale]?.refreshAfter = now.monotonicNanoseconds.addingClamped(rest.wholeNanoseconds)
  }

  // MARK: Another broker's

  /// To be called when all blobs of the broker before are there.
  mutating func takeUpSuccessors() {
    for (key, generation) in successors.sorted(by: { $0.value < $1.value }) {
      guard let blob = blobs[generation], let stale = blob.succeeds else { continue }
      if owners[key] == nil {
        promote(blob)
      } else if owners[key] != stale {
        failBlob(generation, .removed, "the key was taken away from it", raisesEpoch: true)
      }
    }
  }
}

extension PatchbayError {
  static func notToBeSucceeded(_ key: BlobKey) -> PatchbayError {
    PatchbayError(
      .keyExists,
      "The blob \(key) was to be produced again, but it is not stale, or somebody does so already, or "
        + "has just failed to.")
  }
}
