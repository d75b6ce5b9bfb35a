// Files that are blobs. An import is born sealed, with the length that its file has; it has no ring
// and takes no memory, and the loop keeps a descriptor by which readers get at the bytes. The file
// is its owner's: nothing is ever written to it, and whatever becomes of the blob, the file stays
// as it is.
//
// Only the broker's own user and root import. A file may be served by another process, which need
// not answer: then a read of it waits, and so does the close of the broker's descriptor. Nobody
// else gets a descriptor into the broker.
//
// A file can change. Whoever reads it compares its stamp after each read with the one that it had
// when it was imported, and believes nothing else. The ledger has it looked at whenever somebody
// opens the blob or asks for it: if it has changed the blob has failed, and its descriptor goes. An
// import is never evicted, for that would free nothing; their number is bounded instead.

import PatchbayLayout
import PatchbayTypes
import PatchbayWire

extension Ledger {
  mutating func offered(
    _ session: SessionID, _ number: UInt64, _ request: ImportRequest, _ offer: FileOffer,
    _ found: Result<FileStamp, PatchbayError>
  ) {
    guard sessions[session]?.phase == .talking else {
      actions.append(.dropOffer(offer))
      return requested(session, number, .import(request))
    }
    noteRequest(session, number, .import(request))
    do throws(PatchbayError) {
      // Before anything that says more than that.
      try checkImporter(session, request)
      try importFile(session, number, request, offer, try found.get())
    } catch {
      actions.append(.dropOffer(offer))
      refuse(session, number, explained(error))
    }
  }

  /// Whether a file of this peer may become a blob, and so whether its descriptor may come in at all.
  package func mayImport(_ peer: Peer) -> Bool { isTrusted(peer.uid) }

  private func checkImporter(
    _ session: SessionID, _ request: ImportRequest
  ) throws(PatchbayError) {
    guard let peer = sessions[session]?.peer, !mayImport(peer) else { return }
    throw .foreignImport(request.key, by: peer.uid, broker: brokerUser)
  }

  /// Everything that can be refused is refused before anything changes.
  private mutating func importFile(
    _ session: SessionID, _ number: UInt64, _ request: ImportRequest, _ offer: FileOffer,
    _ file: FileStamp
  ) throws(PatchbayError) {
    guard file.byteCount <= ExtentPlan.positionLimit else {
      throw .fileTooLong(request.key, byteCount: file.byteCount)
    }
    let create = request.asCreation(byteCount: file.byteCount)
    try checkOffer(create)
    guard !isDraining else { throw .draining }
    guard !isJournalFull else { throw .journalFull(request.key) }
    let old = owners[request.key]
    if let own = ownCreation(old, session, number) {
      actions.append(.dropOffer(offer))
      return answerCreation(of: own, RequestID(session: session, number: number))
    }
    try checkOwner(old, session, create)
    try checkTaken(old, create)
    guard let uid = sessions[session]?.peer.uid else { return }
    try checkImports(replacing: old)
    let whole = max(ExtentPlan.page, RingGeometry.roundedToPage(file.byteCount))
    let plan = try ExtentPlan(first: whole, limit: whole)
    _ = try findRoom(of: uid, create, replacing: old)
    guard
      let origin = makeOrigin(session, number, create, .plain, plan: plan, file: file)
    else { return }
    var blob = Blob(origin: origin)
    blob.state = .sealed
    blob.holdsFile = true
    blob.sealer = session
    keep(blob)
    importCount += 1
    // Its record says where the file is.
    preparations.append(.keepFile(origin.generation, offer))
    owners[request.key] = origin.generation
    born(origin.generation)
    settle(origin.generation)
  }

  /// - Throws: `limitReached` when as many files are held as may be.
  private func checkImports(replacing old: Generation?) throws(PatchbayError) {
    // Only one that goes at once makes room.
    let goes = old.flatMap { blobs[$0] }.map { $0.holdsFile && !$0.isHeld && $0.ghostCount == 0 }
    let count = importCount - (goes == true ? 1 : 0)
    guard count < limits.importCount else { throw .tooManyImports(limit: limits.importCount) }
  }

  // MARK: Looking

  /// Whether a request waits for a look at the blob's file.
  mutating func looksAtFile(
    of blob: Blob, _ session: SessionID, _ number: UInt64, _ request: Request
  ) -> Bool {
    guard blob.holdsFile, lookedAt != blob.origin.generation else { return false }
    actions.append(.lookAtFile(blob.origin.generation, session, number: number, request))
    return true
  }

  mutating func fileLooked(
    _ generation: Generation, _ found: Result<FileStamp, PatchbayError>, _ session: SessionID,
    _ number: UInt64, _ request: Request
  ) {
    compareFile(of: generation, found)
    guard sessions[session]?.phase == .talking else { return }
    lookedAt = generation
    defer { lookedAt = nil }
    do throws(PatchbayError) {
      try serve(session, number, request)
    } catch {
      refuse(session, number, explained(error))
    }
  }

  private mutating func compareFile(
    of generation: Generation, _ found: Result<FileStamp, PatchbayError>
  ) {
    // Who still reads a removed one looks for itself.
    guard let blob = blobs[generation], blob.isNamed, blob.holdsFile,
      let before = blob.origin.file,
      case .becomes(let next) = LifeCycle.outcome(of: .fileChanged, in: blob.state)
    else { return }
    let cause: String
    switch found {
    case .success(let stamp):
      guard let difference = stamp.difference(from: before) else { return }
      cause = "the file \(difference) since it was imported"
    case .failure(let error): cause = "the file cannot be looked at: \(error.message)"
    }
    blobs[generation]?.state = next
    blobs[generation]?.causeCode = .corrupt
    blobs[generation]?.cause = cause
    blobs[generation]?.modified = now.wall
    releaseFile(generation)
    changed(generation)
    record(generation)
    post(generation)
    ring(generation)
    if let failure = blobs[generation]?.failure { refuseAskers(generation, failure) }
    settle(generation)
  }

  /// Gives the descriptor of a blob's file up, if there is one.
  mutating func releaseFile(_ generation: Generation) {
    guard let blob = blobs[generation], blob.holdsFile else { return }
    blobs[generation]?.holdsFile = false
    importCount -= 1
    actions.append(.releaseFile(generation))
  }

  /// Gives a reader the descriptor of a file that it has open as a blob.
  mutating func attachFile(
    _ session: SessionID, _ number: UInt64, _ request: ExtentRequest, _ blob: Blob
  ) throws(PatchbayError) {
    guard let file = blob.origin.file, request.index == 0, blob.extentEnd == 1 else {
      throw .noExtentYet(blob, request.index)
    }
    guard blob.holdsFile else { throw blob.failure }
    reply(
      session, number, .imported(ImportGrant(stamp: file)), [.file(request.generation)])
  }
}

extension ImportRequest {
  /// The blob that the file becomes.
  fileprivate func asCreation(byteCount: Int) -> CreateRequest {
    var create = CreateRequest(key: key)
    create.byteCount = byteCount
    create.order = .appendOnly
    create.mode = mode
    create.replaces = replaces
    create.type = type
    create.labels = labels
    return create
  }
}

extension PatchbayError {
  package static func noDescriptor(_ key: BlobKey) -> PatchbayError {
    PatchbayError(
      .notPermitted,
      "The import of \(key) came without the descriptor of its file. If the importing program did send "
        + "one, its system refused that (EPERM), as a security module or a seccomp filter does: let "
        + "the program send descriptors, or publish the file with a copy: patchbay put.")
  }

  static func foreignImport(_ key: BlobKey, by uid: UInt32, broker: UInt32) -> PatchbayError {
    PatchbayError(
      .notPermitted,
      "User \(uid) may not import a file as \(key): only the broker's own user (\(broker)) and root "
        + "may, since the broker would have to wait for whoever serves the file. Publish it with a "
        + "copy: patchbay put.")
  }

  static func fileTooLong(_ key: BlobKey, byteCount: Int) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "The file for the blob \(key) has \(byteCount) bytes; a blob has at most "
        + "\(ExtentPlan.positionLimit).")
  }

  static func tooManyImports(limit: Int) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "This broker holds \(limit) imported files open, the most it does. Remove some of their blobs, "
        + "or publish the file with a copy.")
  }
}
