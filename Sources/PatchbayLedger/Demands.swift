// Blobs of which a source fetches what is wanted. Readers say which bytes they wait for, in whole pieces of
// one size; each piece is fetched once, whoever wants it, by a publisher of the blob that has asked for
// something to do. First come the pieces that readers wait for, in the order of coming; then those behind
// them, where somebody reads on; then, if the blob is to become complete by itself, the rest. A fetch that
// fails fails those that wait for its piece, and nobody else: whoever wants it next has it tried again,
// and until then nobody does. Where only so many may be under way at once, of all blobs, it goes by what is
// wanted most, and then by who was given something least recently.
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
  private(set) var askerCounts: [SessionID: Int] = [:]
  /// Publishers that have nothing to do.
  private(set) var idle: [RequestID] = []
  /// Below this nothing is left for the fill to begin with, but what sources were lost with.
  private var fillStart = 0
  private var lost = PieceQueue()
  /// When it was last handed out from, in the ledger's count.
  var turn: UInt64 = 0

  static let askerLimit = 4096
  static let askersPerOtherUser = askerLimit / 4
  static let idleLimit = 1024
  /// The most pieces that one demand brings into the queue.
  static let pieceLimit = 64
  static let aheadLimit = 4096

  var hasNothingToDo: Bool { underWay.isEmpty && wanted.isEmpty && ahead.isEmpty }

  /// Whether its sources wait, for something to do or for their turn.
  var isIdle: Bool { underWay.isEmpty && !idle.isEmpty }

  /// What it would have fetched next, the lower the more urgent; nil: nothing.
  func urgency(pieceCount: Int, fills: Bool) -> Int? {
    if idle.isEmpty { return nil }
    if !wanted.isEmpty { return 0 }
    if !ahead.isEmpty { return 1 }
    return fills && (fillStart < pieceCount || !lost.isEmpty) ? 2 : nil
  }

  mutating func want(_ piece: Int, ahead next: Range<Int>) {
    if isOpen(piece) { wanted.add(piece) }
    for piece in next where ahead.count < Self.aheadLimit && isOpen(piece) {
      if !wanted.contains(piece) { ahead.add(piece) }
    }
  }

  /// Nobody reads on.
  mutating func forgetAhead() { ahead = PieceQueue() }

  /// Whether a piece is neither there nor being fetched.
  private func isOpen(_ piece: Int) -> Bool { !complete.contains(piece) && underWay[piece] == nil }

  mutating func add(_ asker: RequestID, for piece: Int) {
    askers[piece, default: []].append(asker)
    count(asker, 1)
  }

  private mutating func count(_ asker: RequestID, _ change: Int) {
    askerCount += change
    let own = askerCounts[asker.session, default: 0] + change
    askerCounts[asker.session] = own == 0 ? nil : own
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
    if fillStart < pieceCount {
      fillStart += 1
      return fillStart - 1
    }
    while let piece = lost.takeFirst() { if isOpen(piece) { return piece } }
    return nil
  }

  /// A fetch has ended. What is there is so also when it was the broker before who had asked for it.
  /// - Returns: who waited for it, and whether it was under way; nil when this session does not fetch it.
  mutating func settle(
    _ piece: Int, by session: SessionID, isComplete: Bool
  ) -> (askers: [RequestID], wasUnderWay: Bool)? {
    let fetcher = underWay[piece]
    guard fetcher == session || fetcher == nil && isComplete else { return nil }
    underWay[piece] = nil
    if isComplete { complete.insert(contentsOf: piece..<piece + 1) }
    return (takeAskers(of: piece), fetcher != nil)
  }

  private mutating func takeAskers(of piece: Int) -> [RequestID] {
    wanted.remove(piece)
    let waiting = askers.removeValue(forKey: piece) ?? []
    for asker in waiting { count(asker, -1) }
    return waiting
  }

  /// A publisher fetches nothing more: what it had begun is wanted again by those that wait for it.
  /// - Returns: its requests for something to do, and how many fetches it had under way.
  mutating func withdraw(_ session: SessionID) -> (idle: [RequestID], count: Int) {
    let begun = underWay.filter { $0.value == session }.keys.sorted()
    for piece in begun {
      underWay[piece] = nil
      lost.add(piece)
      if askers[piece] != nil { wanted.add(piece) }
    }
    let own = idle.filter { $0.session == session }
    idle.removeAll { $0.session == session }
    return (own, begun.count)
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
    for asker in gone { count(asker, -1) }
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
      askerCounts = [:]
      idle = []
      wanted = PieceQueue()
      ahead = PieceQueue()
    }
    return (all, idle)
  }
}

/// Pieces in the order of coming, each once. Those that have left keep their places for a while: never more
/// than about as many as are left.
struct PieceQueue: Sendable {
  private var order: [Int] = []
  private var head = 0
  private var members: Set<Int> = []

  var isEmpty: Bool { members.isEmpty }
  /// Places that it takes, those of pieces that have left included.
  var placeCount: Int { order.count - head }
  var count: Int { members.count }
  func contains(_ piece: Int) -> Bool { members.contains(piece) }

  mutating func add(_ piece: Int) {
    if members.insert(piece).inserted { order.append(piece) }
  }

  mutating func remove(_ piece: Int) {
    guard members.remove(piece) != nil, placeCount > 2 * members.count + 64 else { return }
    var seen: Set<Int> = []
    order = order[head...].filter { members.contains($0) && seen.insert($0).inserted }
    head = 0
  }

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

  var fillsOnDemand: Bool { origin.terms.demand?.fills ?? false }

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
    try checkAskers(session, blob)
    let end = min((range.upperBound - 1) / size + 1, first + Demands.pieceLimit)
    let ahead = max(end, readAhead(of: blob, first, end).upperBound)
    blobs[generation]?.demands.add(RequestID(session: session, number: number), for: first)
    blobs[generation]?.demands.want(first, ahead: first + 1..<ahead)
    handOutDemands(of: generation)
  }

  /// Another user than its own leaves places to those that wait for the blob.
  private func checkAskers(_ session: SessionID, _ blob: Blob) throws(PatchbayError) {
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
    // Compared with what there is before anything is counted with it: a client sent it.
    guard piece < blob.pieceCount, blob.range(ofPiece: piece) == range,
      let (waiting, wasUnderWay) = blobs[blob.origin.generation]?.demands.settle(
        piece, by: session, isComplete: failure == nil)
    else { return }
    if wasUnderWay { transferCount -= 1 }
    for asker in waiting {
      if let failure {
        refuse(asker.session, asker.number, .notFetched(blob, range, failure))
      } else {
        reply(asker.session, asker.number, .done)
      }
    }
    handOutTurns()
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
