// Blobs of which a source fetches what is wanted. Readers say which bytes they wait for, in whole pieces of
// one size; each piece is fetched once, whoever wants it, by a publisher of the blob that has asked for
// something to do. First come the pieces that readers wait for, in the order of coming; then those behind
// them, where somebody reads on; then, if the blob is to become complete by itself, the rest. A fetch that
// fails fails those that wait for its piece, and nobody else: whoever wants it next has it tried again,
// and until then nobody does. Of the successor of a stale blob, which nobody can read yet, everything is
// fetched, and a fetch that fails fails all of it. Where only so many may be under way at once, of all blobs,
// it goes by what is wanted most, and then by who was given something least recently.
//
// What is complete is known from the reports of the source; a broker that takes the place of another knows
// nothing of it, and has a piece handed out again of which the source then finds nothing missing.

import PatchbayTypes
import PatchbayWire

extension Blob {
  /// Bytes of a piece; nil for a blob that nobody fetches on demand.
  var demandPiece: Int? { origin.terms.demand?.pieceByteCount }

  /// The piece that takes just this range; nil: none does.
  func piece(at range: Range<Int>) -> Int? {
    guard let demandPiece, range.lowerBound >= 0 else { return nil }
    let piece = range.lowerBound / demandPiece
    return piece < pieceCount && self.range(ofPiece: piece) == range ? piece : nil
  }

  /// Whether the source fetches what nobody wants. A successor has no readers before it is complete; the
  /// blob it is to succeed was wanted whole.
  var fillsOnDemand: Bool { origin.terms.demand.map { $0.fills || succeeds != nil } ?? false }

  var pieceCount: Int {
    guard let demandPiece, let byteCount else { return 0 }
    return (byteCount + demandPiece - 1) / demandPiece
  }

  /// The bytes of a piece.
  func range(ofPiece piece: Int) -> Range<Int> {
    let size = demandPiece ?? 1
    return piece * size..<min((piece + 1) * size, byteCount ?? 0)
  }

  /// Whether a source has nothing to do because nobody wants anything.
  var isUndemanded: Bool { demandPiece != nil && demands.hasNothingToDo }
  /// Whether a source is given nothing because as many fetches as may be are under way already.
  var awaitsTurn: Bool { demandPiece != nil && demands.isIdle }
}

extension Ledger {
  /// Blobs that are open and become complete only if somebody reads them, which nobody does at the moment.
  var restingBlobCount: Int {
    demandSources.count { generation in
      guard let blob = blobs[generation], blob.state == .open else { return false }
      return blob.isUndemanded && !blob.fillsOnDemand
    }
  }

  /// A reader waits for bytes.
  mutating func demand(
    _ session: SessionID, _ number: UInt64, _ request: DemandRequest
  ) throws(PatchbayError) {
    let generation = request.generation
    guard let handle = sessions[session]?.handles[generation], !handle.readers.isEmpty,
      let blob = blobs[generation], blob.isBorn
    else { throw .notOpen(generation) }
    guard let size = blob.demandPiece, let byteCount = blob.byteCount else {
      throw .notOnDemand(blob)
    }
    if blob.state == .failed { throw blob.failure }
    let range = request.range.clamped(to: 0..<byteCount)
    guard blob.state.isLive, !isWholeOnDemand(blob) else { return reply(session, number, .done) }
    guard !range.isEmpty else { return try awaitEnd(of: blob, session, number) }
    let first = range.lowerBound / size
    guard !blob.demands.complete.contains(first) else { return reply(session, number, .done) }
    try checkAskers(session, blob)
    let end = min((range.upperBound - 1) / size + 1, first + Demands.pieceLimit)
    let ahead = max(end, readAhead(of: blob, first, end).upperBound)
    blobs[generation]?.demands.add(RequestID(session: session, number: number), for: first)
    blobs[generation]?.demands.want(first, ahead: first + 1..<ahead)
    handOutDemands(of: generation)
  }

  private func isWholeOnDemand(_ blob: Blob) -> Bool {
    blob.pieceCount == 0 || blob.demands.complete.ranges.first == 0..<blob.pieceCount
  }

  /// A reader has come to the end of a blob whose source does not know that all of it is there: some of it
  /// was before it came.
  private mutating func awaitEnd(
    of blob: Blob, _ session: SessionID, _ number: UInt64
  ) throws(PatchbayError) {
    try checkAskers(session, blob)
    let asker = RequestID(session: session, number: number)
    blobs[blob.origin.generation]?.demands.addForEnd(asker)
    handOutDemands(of: blob.origin.generation)
  }

  /// Another user than its own leaves places to those that wait for the blob.
  private func checkAskers(_ session: SessionID, _ blob: Blob) throws(PatchbayError) {
    try checkWaitingRequests(of: session)
    guard blob.demands.askerCount < Demands.askerLimit else {
      throw .tooManyWaiters(blob, limit: Demands.askerLimit)
    }
    guard let uid = sessions[session]?.peer.uid, !isTrusted(uid), uid != blob.origin.access.uid
    else { return }
    let counts = blob.demands.askerCounts
    let own = (accounts[uid]?.sessions ?? []).reduce(0) { $0 + (counts[$1] ?? 0) }
    guard own < Demands.askersPerOtherUser else {
      throw .tooManyWaiters(blob, limit: Demands.askersPerOtherUser)
    }
  }

  /// Pieces behind some that are wanted: where somebody has read up to there.
  private func readAhead(of blob: Blob, _ first: Int, _ end: Int) -> Range<Int> {
    guard let terms = blob.origin.terms.demand, terms.readAhead > 0 else { return 0..<0 }
    let demands = blob.demands
    guard first == 0 || demands.complete.contains(first - 1) || demands.underWay[first - 1] != nil
    else { return 0..<0 }
    let count = (terms.readAhead + terms.pieceByteCount - 1) / terms.pieceByteCount
    return end..<max(end, min(end + min(count, Demands.pieceLimit), blob.pieceCount))
  }

  /// A publisher wants something to fetch.
  mutating func nextDemand(
    _ session: SessionID, _ number: UInt64, _ reference: BlobReference
  ) throws(PatchbayError) {
    let blob = try publishedOnDemand(reference, by: session)
    guard !isWholeOnDemand(blob) else { return reply(session, number, .done) }
    try checkWaitingRequests(of: session)
    guard blob.demands.idle.count < Demands.idleLimit else {
      throw .tooManyWaiters(blob, limit: Demands.idleLimit)
    }
    let generation = reference.generation
    blobs[generation]?.demands.addIdle(RequestID(session: session, number: number))
    demandSources.insert(generation)
    handOutDemands(of: generation)
  }

  private func publishedOnDemand(
    _ reference: BlobReference, by session: SessionID
  ) throws(PatchbayError) -> Blob {
    let blob = try published(reference, by: session, for: .grow)
    guard blob.demandPiece != nil else { throw .notOnDemand(blob) }
    return blob
  }

  /// What a publisher was given to fetch is there, or could not be had, or is to be fetched by somebody
  /// else.
  mutating func settleDemand(
    _ session: SessionID, _ number: UInt64, _ request: SettleDemandRequest
  ) throws(PatchbayError) {
    let blob = try publishedOnDemand(request.blob, by: session)
    reply(session, number, .done)
    // Compared with what there is before anything is counted with it: a client sent it.
    guard let piece = blob.piece(at: request.range) else { return }
    let generation = request.blob.generation
    switch request.outcome {
    case .fetched: endFetch(of: piece, by: session, generation, answer: .done)
    case .failed(let cause) where blob.succeeds != nil:
      guard blob.demands.underWay[piece] == session else { return }
      endSuccessor(blob, without: request.range, cause)
    case .failed(let cause):
      let error = PatchbayError.notFetched(blob, request.range, cause)
      endFetch(of: piece, by: session, generation, answer: .failure(error))
    case .returned:
      guard blobs[generation]?.demands.putBack(piece, by: session) == true else { return }
      transferCount -= 1
    }
    handOutTurns()
    handOutDemands(of: generation)
  }

  /// Nobody reads a successor, and would have the piece tried again.
  private mutating func endSuccessor(_ blob: Blob, without range: Range<Int>, _ cause: String) {
    let cause = "bytes \(range.lowerBound)..<\(range.upperBound) could not be fetched: \(cause)"
    failBlob(
      blob.origin.generation, .blobFailed, cause.cut(toUTF8Count: WireLimit.cause),
      raisesEpoch: true)
  }

  private mutating func endFetch(
    of piece: Int, by session: SessionID, _ generation: Generation, answer: Reply
  ) {
    guard
      let (waiting, wasUnderWay) = blobs[generation]?.demands.settle(
        piece, by: session, isComplete: answer == .done)
    else { return }
    if wasUnderWay { transferCount -= 1 }
    for asker in waiting { reply(asker.session, asker.number, answer) }
    guard let blob = blobs[generation], isWholeOnDemand(blob) else { return }
    dismissDemands(of: generation, nil)
  }

  /// Gives publishers something to do, as long as there is something and more may be fetched at once.
  private mutating func handOutDemands(of generation: Generation) {
    while transferCount < limits.transferLimit, handOutOne(of: generation) {}
    if blobs[generation]?.demands.idle.isEmpty ?? true { demandSources.remove(generation) }
  }

  private mutating func handOutOne(of generation: Generation) -> Bool {
    guard let blob = blobs[generation], blob.state == .open,
      let next = blobs[generation]?.demands.handOut(
        pieceCount: blob.pieceCount, fills: blob.fillsOnDemand)
    else { return false }
    transferCount += 1
    turnCount += 1
    blobs[generation]?.demands.turn = turnCount
    reply(next.server.session, next.server.number, .demanded(blob.range(ofPiece: next.piece)))
    return true
  }

  /// Some more may be fetched at once: who has waited for that has its turn. Without a limit nobody has.
  private mutating func handOutTurns() {
    while limits.transferLimit < .max, transferCount < limits.transferLimit,
      let generation = nextTurn
    {
      _ = handOutOne(of: generation)
      if blobs[generation]?.demands.idle.isEmpty ?? true { demandSources.remove(generation) }
    }
  }

  private var nextTurn: Generation? {
    var first: (urgency: Int, turn: UInt64, generation: Generation)?
    for generation in demandSources {
      guard let blob = blobs[generation], blob.state == .open,
        let urgency = blob.demands.urgency(
          pieceCount: blob.pieceCount, fills: blob.fillsOnDemand)
      else { continue }
      let next = (urgency, blob.demands.turn, generation)
      if first.map({ next < ($0.urgency, $0.turn, $0.generation) }) ?? true { first = next }
    }
    return first?.generation
  }

  // MARK: Ends

  /// A session publishes a blob no more.
  mutating func withdrawDemands(of session: SessionID, _ generation: Generation) {
    guard blobs[generation]?.demandPiece != nil,
      let left = blobs[generation]?.demands.withdraw(session)
    else { return }
    transferCount -= left.count
    for server in left.idle { reply(server.session, server.number, .done) }
    handOutDemands(of: generation)
    handOutTurns()
  }

  /// A session reads a blob no more.
  mutating func dropDemands(of session: SessionID, _ generation: Generation) {
    guard blobs[generation]?.demandPiece != nil else { return }
    let gone = blobs[generation]?.demands.drop { $0.session == session } ?? []
    for asker in gone { reply(asker.session, asker.number, .done) }
    if blobs[generation]?.readerCount == 0 { blobs[generation]?.demands.forgetAhead() }
  }

  /// Nobody waits any more for the answer to a request.
  mutating func cancelDemand(_ asker: RequestID, _ generation: Generation) {
    guard let blob = blobs[generation], blob.demandPiece != nil else { return }
    if blobs[generation]?.demands.dropIdle(asker) == true {
      if blobs[generation]?.demands.idle.isEmpty == true { demandSources.remove(generation) }
      return reply(asker.session, asker.number, .done)
    }
    for gone in blobs[generation]?.demands.drop(where: { $0 == asker }) ?? [] {
      reply(gone.session, gone.number, .done)
    }
  }

  /// The blob has ended.
  mutating func dismissDemands(of generation: Generation, _ error: PatchbayError?) {
    guard blobs[generation]?.demandPiece != nil,
      let waiting = blobs[generation]?.demands.dismiss()
    else { return }
    demandSources.remove(generation)
    for asker in waiting.askers + waiting.idle {
      reply(asker.session, asker.number, error.map { .failure($0) } ?? .done)
    }
  }

  /// - Throws: `protocolViolation` for terms that no blob can have.
  func checkDemand(_ request: CreateRequest, _ terms: CreateTerms) throws(PatchbayError) {
    guard let demand = terms.demand else { return }
    guard request.byteCount != nil, request.order == .any else {
      throw .badTerms(request.key, "what is fetched on demand has a length, and no order")
    }
    guard DemandTerms.pieceRange.contains(demand.pieceByteCount), demand.readAhead >= 0 else {
      throw .badTerms(
        request.key, "pieces of \(demand.pieceByteCount) bytes are none: \(DemandTerms.pieceRange)")
    }
  }
}

extension PatchbayError {
  static func notOnDemand(_ blob: Blob) -> PatchbayError {
    PatchbayError(
      .notPermitted,
      "Nothing of the blob \(blob.key) is fetched on demand: it was created otherwise.")
  }

  static func notFetched(_ blob: Blob, _ range: Range<Int>, _ cause: String) -> PatchbayError {
    PatchbayError(
      .inputOutput,
      "Bytes \(range.lowerBound)..<\(range.upperBound) of the blob \(blob.key) could not be fetched. "
        + "Reading them again has it tried again.", cause: cause)
  }
}
