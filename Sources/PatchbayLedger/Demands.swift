// Blobs of which a source fetches what is wanted. Readers say which bytes they wait for, in whole pieces of
// one size; each piece is fetched once, whoever wants it, by a publisher of the blob that has asked for
// something to do. First come the pieces that readers wait for, in the order of coming; then those behind
// them, where somebody reads on; then, if the blob is to become complete by itself, the rest. A fetch that
// fails fails those that wait for its piece, and nobody else: whoever wants it next has it tried again.
//
// What is complete is known from the reports of the source; a broker that takes the place of another knows
// nothing of it, and has a piece handed out again of which the source then finds nothing missing.

import PatchbayTypes
import PatchbayWire

/// Which pieces of a blob are wanted, fetched, and there.
struct Demands: Sendable {
  /// Pieces that readers wait for, and pieces behind those.
  private(set) var wanted = PieceQueue()
  private(set) var ahead = PieceQueue()
  /// Who fetches a piece.
  private(set) var underWay: [Int: SessionID] = [:]
  private(set) var complete = RangeSet<Int>()
  /// Who waits for a piece.
  private(set) var askers: [Int: [RequestID]] = [:]
  private(set) var askerCount = 0
  /// Publishers that have nothing to do.
  private(set) var idle: [RequestID] = []
  /// Below this every piece is complete or under way.
  private var fillStart = 0

  static let askerLimit = 4096
  static let idleLimit = 1024
  /// The most pieces that one demand brings into the queue.
  static let pieceLimit = 64

  var hasNothingToDo: Bool { underWay.isEmpty && wanted.isEmpty && ahead.isEmpty }

  mutating func want(_ piece: Int, readAhead: Range<Int>) {
    if isOpen(piece) { wanted.add(piece) }
    for next in readAhead where isOpen(next) && !wanted.contains(next) { ahead.add(next) }
  }

  /// Whether a piece is neither there nor being fetched.
  private func isOpen(_ piece: Int) -> Bool { !complete.contains(piece) && underWay[piece] == nil }

  mutating func add(_ asker: RequestID, for piece: Int) {
    askers[piece, default: []].append(asker)
    askerCount += 1
  }

  mutating func addIdle(_ server: RequestID) { idle.append(server) }

  /// The next piece to fetch, and the publisher that is to fetch it.
  mutating func handOut(pieceCount: Int, fills: Bool) -> (piece: Int, server: RequestID)? {
    guard let server = idle.first, let piece = next(pieceCount, fills: fills) else { return nil }
    idle.removeFirst()
    underWay[piece] = server.session
    return (piece, server)
  }

  private mutating func next(_ pieceCount: Int, fills: Bool) -> Int? {
    while let piece = wanted.takeFirst() ?? ahead.takeFirst() {
      if isOpen(piece) { return piece }
    }
    guard fills else { return nil }
    while fillStart < pieceCount, !isOpen(fillStart) { fillStart += 1 }
    return fillStart < pieceCount ? fillStart : nil
  }

  /// A fetch has ended.
  /// - Returns: who waited for it; nil when this session does not fetch it.
  mutating func settle(
    _ piece: Int, by session: SessionID, isComplete: Bool
  ) -> [RequestID]? {
    guard underWay[piece] == session else { return nil }
    underWay[piece] = nil
    if isComplete { complete.insert(contentsOf: piece..<piece + 1) }
    if !isComplete { fillStart = min(fillStart, piece) }
    return takeAskers(of: piece)
  }

  private mutating func takeAskers(of piece: Int) -> [RequestID] {
    let waiting = askers.removeValue(forKey: piece) ?? []
    askerCount -= waiting.count
    return waiting
  }

  /// A publisher fetches nothing more: what it had begun is wanted again by those that wait for it.
  /// - Returns: its requests for something to do, and how many fetches it had under way.
  mutating func withdraw(_ session: SessionID) -> (idle: [RequestID], count: Int) {
    let lost = underWay.filter { $0.value == session }.keys.sorted()
    for piece in lost {
      underWay[piece] = nil
      fillStart = min(fillStart, piece)
      if askers[piece] != nil { wanted.add(piece) }
    }
    let own = idle.filter { $0.session == session }
    idle.removeAll { $0.session == session }
    return (own, lost.count)
  }

  /// Whoever does not wait any more.
  mutating func drop(where isGone: (RequestID) -> Bool) -> [RequestID] {
    var gone: [RequestID] = []
    for (piece, waiting) in askers.sorted(by: { $0.key < $1.key }) {
      let leaving = waiting.filter(isGone)
      guard !leaving.isEmpty else { continue }
      gone += leaving
      let staying = waiting.filter { !isGone($0) }
      askers[piece] = staying.isEmpty ? nil : staying
      if staying.isEmpty { wanted.remove(piece) }
    }
    askerCount -= gone.count
    return gone
  }

  mutating func dropIdle(_ server: RequestID) -> Bool {
    guard let place = idle.firstIndex(of: server) else { return false }
    idle.remove(at: place)
    return true
  }

  /// Everybody that waits, in the order of their pieces; nobody does afterwards.
  mutating func dismiss() -> (askers: [RequestID], idle: [RequestID]) {
    let all = askers.sorted { $0.key < $1.key }.flatMap(\.value)
    defer {
      askers = [:]
      askerCount = 0
      idle = []
      wanted = PieceQueue()
      ahead = PieceQueue()
    }
    return (all, idle)
  }
}

/// Pieces in the order of coming, each once.
struct PieceQueue: Sendable {
  private var order: [Int] = []
  private var head = 0
  private var members: Set<Int> = []

  var isEmpty: Bool { members.isEmpty }
  func contains(_ piece: Int) -> Bool { members.contains(piece) }

  mutating func add(_ piece: Int) {
    if members.insert(piece).inserted { order.append(piece) }
  }

  mutating func remove(_ piece: Int) { members.remove(piece) }

  mutating func takeFirst() -> Int? {
    while head < order.count {
      let piece = order[head]
      head += 1
      if head > 64, head * 2 > order.count {
        order.removeFirst(head)
        head = 0
      }
      if members.remove(piece) != nil { return piece }
    }
    return nil
  }
}

extension Blob {
  /// Bytes of a piece; nil for a blob that nobody fetches on demand.
  var demandPiece: Int? { origin.terms.demand?.pieceByteCount }

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
}

extension Ledger {
  /// Blobs that are open and become complete only if somebody reads them, which nobody does at the moment.
  var restingBlobCount: Int {
    demandSources.count { generation in
      guard let blob = blobs[generation], blob.state == .open else { return false }
      return blob.isUndemanded && blob.origin.terms.demand?.fills == false
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
    guard blob.state.isLive, !range.isEmpty else { return reply(session, number, .done) }
    let first = range.lowerBound / size
    guard !blob.demands.complete.contains(first) else { return reply(session, number, .done) }
    guard blob.demands.askerCount < Demands.askerLimit else {
      throw .tooManyWaiters(blob, limit: Demands.askerLimit)
    }
    let end = min((range.upperBound - 1) / size + 1, first + Demands.pieceLimit)
    let ahead = readAhead(of: blob, first, end)
    blobs[generation]?.demands.add(RequestID(session: session, number: number), for: first)
    for piece in first..<end {
      blobs[generation]?.demands.want(piece, readAhead: piece == end - 1 ? ahead : 0..<0)
    }
    handOutDemands(of: generation)
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

  /// A publisher has fetched what it was to fetch, and wants the next.
  mutating func nextDemand(
    _ session: SessionID, _ number: UInt64, _ request: NextDemandRequest
  ) throws(PatchbayError) {
    let generation = request.blob.generation
    let before = try published(request.blob, by: session, for: .grow)
    guard before.demandPiece != nil else { throw .notOnDemand(before) }
    if let fetched = request.fetched { settleDemand(fetched, request.failure, session, before) }
    guard let blob = blobs[generation] else { return }
    guard blob.demands.complete.ranges.first != 0..<blob.pieceCount, blob.pieceCount > 0 else {
      for server in blobs[generation]?.demands.dismiss().idle ?? [] {
        reply(server.session, server.number, .done)
      }
      return reply(session, number, .done)
    }
    guard blob.demands.idle.count < Demands.idleLimit else {
      throw .tooManyWaiters(blob, limit: Demands.idleLimit)
    }
    blobs[generation]?.demands.addIdle(RequestID(session: session, number: number))
    demandSources.insert(generation)
    handOutDemands(of: generation)
  }

  private mutating func settleDemand(
    _ range: Range<Int>, _ failure: String?, _ session: SessionID, _ blob: Blob
  ) {
    guard let size = blob.demandPiece, range.lowerBound >= 0 else { return }
    let piece = range.lowerBound / size
    guard blob.range(ofPiece: piece) == range,
      let waiting = blobs[blob.origin.generation]?.demands.settle(
        piece, by: session, isComplete: failure == nil)
    else { return }
    transferCount -= 1
    for asker in waiting {
      if let failure {
        refuse(asker.session, asker.number, .notFetched(blob, range, failure))
      } else {
        reply(asker.session, asker.number, .done)
      }
    }
    handOutDemands()
  }

  /// Gives publishers something to do, as long as there is something and more may be fetched at once.
  private mutating func handOutDemands(of generation: Generation) {
    while transferCount < limits.transferLimit, let blob = blobs[generation], blob.state == .open {
      let fills = blob.origin.terms.demand?.fills ?? false
      guard
        let next = blobs[generation]?.demands.handOut(pieceCount: blob.pieceCount, fills: fills)
      else { break }
      transferCount += 1
      reply(
        next.server.session, next.server.number, .demanded(blob.range(ofPiece: next.piece)))
    }
    if blobs[generation]?.demands.idle.isEmpty ?? true { demandSources.remove(generation) }
  }

  private mutating func handOutDemands() {
    for generation in demandSources.sorted() { handOutDemands(of: generation) }
  }

  // MARK: Ends

  /// A session publishes a blob no more.
  mutating func withdrawDemands(of session: SessionID, _ generation: Generation) {
    guard blobs[generation]?.demandPiece != nil,
      let left = blobs[generation]?.demands.withdraw(session)
    else { return }
    transferCount -= left.count
    for server in left.idle { reply(server.session, server.number, .done) }
    handOutDemands()
  }

  /// A session reads a blob no more.
  mutating func dropDemands(of session: SessionID, _ generation: Generation) {
    guard blobs[generation]?.demandPiece != nil else { return }
    let gone = blobs[generation]?.demands.drop { $0.session == session } ?? []
    for asker in gone { reply(asker.session, asker.number, .done) }
  }

  /// Nobody waits any more for the answer to a request.
  mutating func cancelDemand(_ asker: RequestID, _ generation: Generation) {
    guard let blob = blobs[generation], blob.demandPiece != nil else { return }
    if blobs[generation]?.demands.dropIdle(asker) == true {
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
