// Claims: which range of a joinable blob which publisher may write. A publisher claims before it
// writes and releases after it has covered, so claims of different sessions never overlap, and
// whoever is granted a range sees all that was covered there before: the marks were made before the
// release was sent. A claim ends by its release, with its session's leave or abandon, and with the
// blob. A hang-up alone ends none: its process may be in the middle of a write, so what it had
// claimed stays claimed until the process has exited. Of a process that is not watched any more
// nobody will ever know; its claims stay for the blob's life.

import PatchbayTypes
import PatchbayWire

/// A range that one session alone may write.
struct Claim: Sendable, Hashable {
  let session: SessionID
  /// The request that made it; its name for the release.
  let number: UInt64
  let range: Range<Int>
}

extension Ledger {
  mutating func claim(
    _ session: SessionID, _ number: UInt64, _ request: ClaimRequest
  ) throws(PatchbayError) {
    let blob = try published(request.blob, by: session, for: .claim)
    guard blob.isJoinable else { throw .notJoinable(blob) }
    guard blob.pendingSeal?.isPersisting != true else { throw .beingSealed(blob) }
    try checkClaim(session, number, request.range, blob)
    addClaim(
      Claim(session: session, number: number, range: request.range), request.blob.generation)
    reply(
      session, number,
      .claimed(ClaimGrant(blob: request.blob, claim: number, range: request.range)))
  }

  mutating func addClaim(_ claim: Claim, _ generation: Generation) {
    let end = max(blobs[generation]?.claimedEnd ?? 0, claim.range.upperBound)
    blobs[generation]?.claims.append(claim)
    blobs[generation]?.claimedEnd = end
    blobs[generation]?.pendingSeal?.isDisturbed = true
  }

  func checkClaim(
    _ session: SessionID, _ number: UInt64, _ range: Range<Int>, _ blob: Blob
  ) throws(PatchbayError) {
    guard !range.isEmpty, range.upperBound <= blob.byteCount ?? ExtentPlan.positionLimit else {
      throw .claimOutOfBounds(blob, range)
    }
    var ownCount = 0
    var first: Claim?
    for claim in blob.claims {
      if claim.session == session {
        guard claim.number != number else { throw .numberInUse(number) }
        ownCount += 1
      } else if claim.range.overlaps(range),
        claim.range.lowerBound < first?.range.lowerBound ?? .max
      {
        first = claim
      }
    }
    if let first { throw .claimedByOther(blob, range, first, holder: holder(of: first)) }
    guard ownCount < limits.claimsPerPublisher, blob.claims.count < limits.claimsPerBlob else {
      throw .tooManyClaims(blob, ownCount, limits)
    }
  }

  /// Who holds a claim, for people.
  func holder(of claim: Claim) -> String {
    guard let session = sessions[claim.session] else { return "a process that is out of sight" }
    let hasHungUp = session.phase == .ghost ? ", which has hung up and not exited yet" : ""
    return "process \(session.peer.process)\(hasHungUp)"
  }

  /// Ends one claim. Releasing what is not claimed is harmless: the answer is the same.
  mutating func release(_ session: SessionID, _ number: UInt64, _ request: ReleaseRequest) {
    let generation = request.blob.generation
    let place = blobs[generation]?.claims.firstIndex {
      $0.session == session && $0.number == request.claim
    }
    if let place { blobs[generation]?.claims.remove(at: place) }
    reply(session, number, .done)
  }

  mutating func dropClaims(of session: SessionID, _ generation: Generation) {
    blobs[generation]?.claims.removeAll { $0.session == session }
  }
}
