// What the ledger says when it refuses: what was tried, on what, with which numbers, and what to do.

import Glibc
import PatchbayTypes
import PatchbayWire

extension PatchbayError {
  // MARK: Connections

  static var draining: PatchbayError {
    PatchbayError(.noBroker, "The broker is shutting down. Start another one and try again.")
  }

  static func foreignUser(_ uid: UInt32, broker: UInt32) -> PatchbayError {
    PatchbayError(
      .notPermitted,
      "User \(uid) may not connect to this broker; it serves user \(broker) alone. Run a broker "
        + "of your own, or have this one started with --shared.")
  }

  static func tooManyConnections(_ count: Int, limit: Int, of whom: String) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "\(count) connections of \(whom) are open and the limit is \(limit). Close some, or use one "
        + "client for many blobs.")
  }

  static func noCommonVersion(_ hello: Hello) -> PatchbayError {
    let own = Frame.protocolVersion
    return PatchbayError(
      .versionMismatch,
      "The client speaks protocol versions \(hello.oldestVersion) to \(hello.newestVersion), the "
        + "broker \(own) to \(own). Use the client and the broker of one release.")
  }

  static func lateHello(limit: Duration) -> PatchbayError {
    PatchbayError(
      .timedOut,
      "The connection was ended because it did not say hello within \(limit). Connect again and "
        + "say hello at once.")
  }

  static func outOfOrder(_ kind: Request.Kind) -> PatchbayError {
    PatchbayError(
      .protocolViolation,
      kind == .hello
        ? "A second hello came on one connection." : "\(kind) came before hello.")
  }

  static func numberInUse(_ number: UInt64) -> PatchbayError {
    PatchbayError(
      .protocolViolation,
      "Request number \(number) was used again while the request that has it still waits.")
  }

  // MARK: Creation

  static func windowOutlives(_ request: CreateRequest) -> PatchbayError {
    PatchbayError(
      .protocolViolation,
      "The blob \(request.key) was to have the acknowledgement \(request.acknowledgement) with the "
        + "policy \(request.policy), of which only the last bytes are there. Use the policy keep, or "
        + "the acknowledgement visible.")
  }

  static func inlineOutlives(_ request: CreateRequest) -> PatchbayError {
    PatchbayError(
      .protocolViolation,
      "The bytes of the blob \(request.key) came with its creation, and were to be acknowledged as "
        + "\(request.acknowledgement). Create the blob, write them, and seal it.")
  }

  static func windowNotAppended(_ request: CreateRequest) -> PatchbayError {
    PatchbayError(
      .protocolViolation,
      "The blob \(request.key) was to be written \(request.order) with the policy \(request.policy); a "
        + "window is written at its end only, and not in one message. Use the order appendOnly.")
  }

  static func badMode(_ request: CreateRequest) -> PatchbayError {
    PatchbayError(
      .protocolViolation,
      "The blob \(request.key) was to have mode 0\(String(request.mode, radix: 8)); only the bits "
        + "of 0666 mean something.")
  }

  static func badSizes(_ request: CreateRequest) -> PatchbayError {
    PatchbayError(
      .protocolViolation,
      "The blob \(request.key) was to have \(request.byteCount ?? 0) bytes in extents of "
        + "\(request.firstExtent) up to \(request.extentLimit); sizes are 0 to "
        + "\(ExtentPlan.positionLimit).")
  }

  static func inlineTooLong(_ key: BlobKey, byteCount: Int) -> PatchbayError {
    PatchbayError(
      .protocolViolation,
      "\(byteCount) bytes came with the creation of \(key); at most \(Frame.inlineByteLimit) may. "
        + "Create the blob and write them.")
  }

  static func keyExists(_ blob: Blob) -> PatchbayError {
    let state = blob.isBorn ? "\(blob.state)" : "being created"
    return PatchbayError(
      .keyExists,
      "The key \(blob.key) has a blob already, generation \(blob.origin.generation), which is "
        + "\(state). Remove it first, or ask to replace it.")
  }

  static func stillWritten(_ blob: Blob) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "The blob \(blob.key) cannot be taken over at this moment: some of it is on its way to disk. Try "
        + "again.")
  }

  static func beingSealed(_ blob: Blob) -> PatchbayError {
    PatchbayError(
      .closed,
      "The blob \(blob.key) has been found complete and is being put on disk: nothing of it is left to "
        + "write. If its seal fails after all, claim again.")
  }

  static func lengthMismatch(_ key: BlobKey, announced: Int, found: Int) -> PatchbayError {
    PatchbayError(
      .lengthMismatch,
      "The blob \(key) has \(announced) bytes by its announcement or seal, but \(found) were named "
        + "now. Name the same length, or leave it unknown at creation.")
  }

  static func impossibleLength(_ key: BlobKey, _ byteCount: Int) -> PatchbayError {
    PatchbayError(
      .rangeOutOfBounds,
      "The blob \(key) was to be sealed with \(byteCount) bytes; lengths are 0 to "
        + "\(ExtentPlan.positionLimit).")
  }

  // MARK: Memory

  static func neverFits(
    _ key: BlobKey, byteCount: Int, limit: Int, overhead: Int
  ) -> PatchbayError {
    PatchbayError(
      .noSpaceMemory,
      "The blob \(key) needs \(byteCount) bytes, but the broker's memory limit is \(limit), of "
        + "which it needs \(overhead) itself. Raise the limit.")
  }

  static func noRoom(
    for what: String, byteCount: Int, used: Int, limit: Int, held: Int
  ) -> PatchbayError {
    PatchbayError(
      .noSpaceMemory,
      "\(byteCount) bytes are needed for \(what), but \(used) of \(limit) are used and \(held) of "
        + "them are held by blobs that are open or still mapped. Close or remove some, or raise "
        + "the broker's memory limit.")
  }

  static func journalFull(_ key: BlobKey) -> PatchbayError {
    PatchbayError(
      .noSpaceMemory,
      "The broker's journal has no room for the blob \(key). Remove blobs, or make /dev/shm larger."
    )
  }

  // MARK: Bounds

  static func tooManyBlobs(limit: Int) -> PatchbayError {
    PatchbayError(
      .limitReached, "The broker holds \(limit) blobs, all in use: its limit. Remove some.")
  }

  static func tooManyHandles(limit: Int) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "This connection has \(limit) blobs open, its limit. Close some, or use another client.")
  }

  static func tooManyWaitingOpens(limit: Int) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "This connection waits for \(limit) keys, its limit. Cancel some, or use another client.")
  }

  static func tooManyWaitingRequests(limit: Int) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "\(limit) requests of this connection wait for their answers, its limit. Cancel some, or use another "
        + "client.")
  }

  static func tooManyWaiters(_ blob: Blob, limit: Int) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "\(limit) requests of one kind wait for the blob \(blob.key) already. Wait for an answer.")
  }

  static func tooManyExtents(_ blob: Blob, limit: Int) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "The blob \(blob.key) has \(limit) extents, the limit. Create it with larger extents.")
  }

  static func extentSpooled(_ blob: Blob, _ index: Int) -> PatchbayError {
    PatchbayError(
      .rangeOverlap,
      "Extent \(index) of the blob \(blob.key) is complete and stands on disk; a covered byte never "
        + "changes.")
  }

  static func tooManyJobs(limit: Int, for what: String) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "The broker makes large rings one by one; \(limit) jobs wait for that, the most it takes, so "
        + "there is no place for \(what). Wait for answers to earlier requests, then ask again.",
      systemErrno: EAGAIN)
  }

  static func tooManyAccessClasses(_ access: Access, limit: Int) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "The broker has blobs of \(limit) different owners, groups and modes, its limit, and none of "
        + "\(access.shown). Use a mode that other blobs have.")
  }

  // MARK: Publishers

  static func notPublished(_ generation: Generation, step: LifeCycle.Step) -> PatchbayError {
    PatchbayError(
      .closed,
      "A \(step.rawValue) names generation \(generation), which this connection does not publish.")
  }

  static func fenced(_ blob: Blob, _ reference: BlobReference) -> PatchbayError {
    PatchbayError(
      .fenced,
      "The blob \(blob.key), generation \(reference.generation), was taken from its publisher of "
        + "epoch \(reference.epoch); it is at epoch \(blob.epoch). Create the key again.")
  }

  static func ended(
    _ blob: Blob, step: LifeCycle.Step, code: PatchbayError.Code
  ) -> PatchbayError {
    PatchbayError(
      code,
      "A \(step.rawValue) came too late: the blob \(blob.key), generation "
        + "\(blob.origin.generation), is \(blob.state).")
  }

  static func otherSealPending(_ key: BlobKey, _ first: Int, _ second: Int) -> PatchbayError {
    PatchbayError(
      .lengthMismatch,
      "A seal of the blob \(key) with \(first) bytes is being verified; another with \(second) "
        + "cannot be.")
  }

  static func incomplete(
    _ blob: Blob, _ coverage: Coverage, byteCount: Int
  ) -> PatchbayError {
    let counts = "\(coverage.coveredByteCount) of \(byteCount) bytes"
    let missing = Array(coverage.missing.prefix(WireLimit.missing))
    guard blob.origin.request.order == .any else {
      return PatchbayError(
        .lengthMismatch,
        "The blob \(blob.key) cannot be sealed: \(counts) were appended. Append the rest, or seal "
          + "the length that is there.", missing: missing)
    }
    return PatchbayError(
      .holesAtSeal,
      "The blob \(blob.key) cannot be sealed: \(counts) are covered. Write the missing ranges and "
        + "seal again.", missing: missing)
  }

  static func extentOutOfBounds(_ blob: Blob, _ index: Int) -> PatchbayError {
    let length = blob.byteCount.map { "\($0) bytes" } ?? "at most \(ExtentPlan.positionLimit) bytes"
    return PatchbayError(
      .rangeOutOfBounds, "The blob \(blob.key) has \(length); its extent \(index) lies outside.")
  }

  // MARK: Several publishers

  static func badTerms(_ key: BlobKey, _ why: String) -> PatchbayError {
    PatchbayError(.protocolViolation, "The blob \(key) cannot be created so: \(why).")
  }

  static func notJoinable(_ blob: Blob) -> PatchbayError {
    PatchbayError(
      .notPermitted,
      "The blob \(blob.key), generation \(blob.origin.generation), belongs to its creator alone: "
        + "nobody can join, claim or leave it. Create it as joinable.")
  }

  static func foreignBlob(_ blob: Blob) -> PatchbayError {
    PatchbayError(
      .notPermitted,
      "The blob \(blob.key) belongs to \(blob.origin.access.shown); only that user may write it.")
  }

  static func joinedAlready(_ blob: Blob) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "This connection publishes the blob \(blob.key), generation \(blob.origin.generation), "
        + "already, and once is all it may. Use that publisher, or another client.")
  }

  static func tooManyPublishers(_ blob: Blob, limit: Int) -> PatchbayError {
    PatchbayError(
      .limitReached, "The blob \(blob.key) has \(limit) publishers, the limit. Let one leave.")
  }

  static func tooManyClaims(_ blob: Blob, _ ownCount: Int, _ limits: LedgerLimits) -> PatchbayError
  {
    PatchbayError(
      .limitReached,
      "This connection has \(ownCount) claims on the blob \(blob.key), of \(blob.claims.count) in "
        + "all; the limits are \(limits.claimsPerPublisher) and \(limits.claimsPerBlob). Release "
        + "some.")
  }

  static func claimOutOfBounds(_ blob: Blob, _ range: Range<Int>) -> PatchbayError {
    let length = blob.byteCount ?? ExtentPlan.positionLimit
    return PatchbayError(
      .rangeOutOfBounds,
      "The range \(range.lowerBound)..<\(range.upperBound) of the blob \(blob.key) cannot be "
        + "claimed: it is empty, or leaves the blob's \(length) bytes.")
  }

  static func claimedByOther(
    _ blob: Blob, _ range: Range<Int>, _ other: Claim, holder: String
  ) -> PatchbayError {
    let first = max(range.lowerBound, other.range.lowerBound)
    return PatchbayError(
      .rangeOverlap,
      "The range \(range.lowerBound)..<\(range.upperBound) of the blob \(blob.key) cannot be "
        + "claimed: \(other.range.lowerBound)..<\(other.range.upperBound) is claimed by \(holder)."
        + " Claim another range, or this one later.", resumePosition: first)
  }

  static func claimedAtSeal(_ blob: Blob, _ other: Claim, holder: String) -> PatchbayError {
    PatchbayError(
      .rangeOverlap,
      "The blob \(blob.key) cannot be sealed yet: \(other.range.lowerBound)..<"
        + "\(other.range.upperBound) is claimed by \(holder). Seal it when that claim has ended.",
      resumePosition: other.range.lowerBound)
  }

  static func disturbedSeal(_ blob: Blob) -> PatchbayError {
    PatchbayError(
      .rangeOverlap,
      "The blob \(blob.key) was not sealed: while its bytes were verified another publisher wrote. "
        + "Seal it again when nobody writes.")
  }

  static func coveredBehindEnd(
    _ blob: Blob, _ coverage: Coverage, byteCount: Int
  ) -> PatchbayError {
    PatchbayError(
      .lengthMismatch,
      "The blob \(blob.key) cannot be sealed with \(byteCount) bytes: "
        + "\(coverage.coveredByteCount) are covered, others behind them. Seal the length that is "
        + "there.")
  }

  static func departed(_ blob: Blob) -> PatchbayError {
    PatchbayError(
      .closed,
      "This connection stopped publishing the blob \(blob.key), generation "
        + "\(blob.origin.generation), before the answer was there.")
  }

  // MARK: Resuming

  static func otherLength(_ blob: Blob, _ byteCount: Int?) -> PatchbayError {
    func shown(_ length: Int?) -> String { length.map { "\($0) bytes" } ?? "an unknown length" }
    return PatchbayError(
      .lengthMismatch,
      "The blob \(blob.key) cannot be resumed: generation \(blob.origin.generation) was announced "
        + "with \(shown(blob.origin.request.byteCount)), not \(shown(byteCount)). Name the same, "
        + "or create it without resuming.")
  }

  static func notResumable(_ blob: Blob, _ why: String) -> PatchbayError {
    PatchbayError(
      .keyExists,
      "The blob \(blob.key), generation \(blob.origin.generation), cannot be resumed: \(why). "
        + "Create it alike, or without resuming.")
  }

  // MARK: Readers

  static func noSuchKey(_ key: BlobKey) -> PatchbayError {
    PatchbayError(.noSuchKey, "No blob has the key \(key).")
  }

  static func otherGeneration(
    _ key: BlobKey, wanted: Generation, found: Generation
  ) -> PatchbayError {
    PatchbayError(
      .noSuchKey,
      "The key \(key) is in its generation \(found), not \(wanted): what was meant is gone already."
    )
  }

  static func notOpen(_ generation: Generation) -> PatchbayError {
    PatchbayError(.closed, "This connection does not have generation \(generation) open.")
  }

  static func noExtentYet(_ blob: Blob, _ index: Int) -> PatchbayError {
    let known = blob.extents.map(\.index) + blob.spooled + blob.patchwork.scratch.keys
    let next = known.filter { $0 > index }.min()
    return PatchbayError(
      .rangeOutOfBounds,
      "Extent \(index) of the blob \(blob.key) does not exist yet. Wait for its doorbell.",
      resumePosition: next.map { blob.origin.plan.range(of: $0).lowerBound })
  }

  static func waitCancelled(_ key: BlobKey) -> PatchbayError {
    PatchbayError(.timedOut, "Nobody created the key \(key) while this open waited for it.")
  }

  static func tooManyWatches(limit: Int) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "This connection has \(limit) watches, the most it may. Cancel one, or watch a shorter prefix."
    )
  }

  static func noSuchBoard(_ board: UInt32) -> PatchbayError {
    PatchbayError(.closed, "There is no board \(board).")
  }

  static func foreignBoard(_ board: UInt32) -> PatchbayError {
    PatchbayError(.notPermitted, "Board \(board) belongs to blobs that this user may not read.")
  }
}

extension Blob {
  /// The failure, as whoever comes too late is told.
  var failure: PatchbayError {
    let what =
      origin.file == nil
      ? "The blob \(key), generation \(origin.generation), has failed. Create the key again."
      : "The file that was imported as \(key) has changed since, so the blob has failed. Import it "
        + "again, or publish it with a copy."
    return PatchbayError(causeCode ?? .blobFailed, what, cause: cause)
  }
}
