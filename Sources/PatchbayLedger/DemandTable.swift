// Which pieces of one blob are wanted, fetched, and there, and who waits for them. Plain bookkeeping: who is
// told, and how many may be fetched at once, is decided elsewhere (Demands). A piece is fetched by one
// publisher at a time; what is wanted by nobody any more is in no queue; each queue takes about as much room
// as pieces stand in it, however often they come and go.

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
  /// Who waits for the end, and so for all that nobody knows to be there.
  private(set) var endAskers: [RequestID] = []
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

  var hasNothingToDo: Bool {
    underWay.isEmpty && wanted.isEmpty && ahead.isEmpty && endAskers.isEmpty
  }

  /// Whether its sources wait, for something to do or for their turn.
  var isIdle: Bool { underWay.isEmpty && !idle.isEmpty }

  /// What it would have fetched next, the lower the more urgent; nil: nothing.
  func urgency(pieceCount: Int, fills: Bool) -> Int? {
    if idle.isEmpty { return nil }
    if !wanted.isEmpty { return 0 }
    if !ahead.isEmpty { return 1 }
    let goesOn = fills || !endAskers.isEmpty
    return goesOn && (fillStart < pieceCount || !lost.isEmpty) ? 2 : nil
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

  /// What could not be fetched before is tried again, too.
  mutating func addForEnd(_ asker: RequestID) {
    if endAskers.isEmpty { fillStart = 0 }
    endAskers.append(asker)
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
    guard fills || !endAskers.isEmpty else { return nil }
    while fillStart < pieceCount, !isOpen(fillStart) { fillStart += 1 }
    if fillStart < pieceCount {
      fillStart += 1
      return fillStart - 1
    }
    while let piece = lost.takeFirst() { if isOpen(piece) { return piece } }
    return nil
  }

  /// A fetch has ended. What is there is so also when it was the broker before who had asked for it. Where a
  /// piece cannot be had there is no end.
  /// - Returns: who waited for it, and whether it was under way; nil when this session does not fetch it.
  mutating func settle(
    _ piece: Int, by session: SessionID, isComplete: Bool
  ) -> (askers: [RequestID], wasUnderWay: Bool)? {
    let fetcher = underWay[piece]
    guard fetcher == session || fetcher == nil && isComplete else { return nil }
    underWay[piece] = nil
    if isComplete { complete.insert(contentsOf: piece..<piece + 1) }
    return (takeAskers(of: piece) + (isComplete ? [] : takeEndAskers()), fetcher != nil)
  }

  private mutating func takeAskers(of piece: Int) -> [RequestID] {
    wanted.remove(piece)
    let waiting = askers.removeValue(forKey: piece) ?? []
    for asker in waiting { count(asker, -1) }
    return waiting
  }

  private mutating func takeEndAskers() -> [RequestID] {
    defer { endAskers = [] }
    for asker in endAskers { count(asker, -1) }
    return endAskers
  }

  /// A publisher fetches nothing more: what it had begun is wanted again by those that wait for it.
  /// - Returns: its requests for something to do, and how many fetches it had under way.
  mutating func withdraw(_ session: SessionID) -> (idle: [RequestID], count: Int) {
    let begun = underWay.filter { $0.value == session }.keys.sorted()
    for piece in begun { reopen(piece) }
    let own = idle.filter { $0.session == session }
    idle.removeAll { $0.session == session }
    return (own, begun.count)
  }

  /// A publisher does not fetch a piece any more.
  /// - Returns: whether it did.
  mutating func putBack(_ piece: Int, by session: SessionID) -> Bool {
    guard underWay[piece] == session else { return false }
    reopen(piece)
    return true
  }

  /// What was begun in vain is wanted again by those that wait for it, and part of the rest.
  private mutating func reopen(_ piece: Int) {
    underWay[piece] = nil
    lost.add(piece)
    if askers[piece] != nil { wanted.add(piece) }
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
    gone += endAskers.filter(isGone)
    endAskers.removeAll(where: isGone)
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
    let all = askers.sorted { $0.key < $1.key }.flatMap(\.value) + endAskers
    defer {
      askers = [:]
      endAskers = []
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
