// Who needs memory while some can be had by spilling waits for it: its request is served again when some
// has come back, and refused when none will. Memory may be short in three ways: as a whole, or in the
// share of one user, or of one client. What is spilled for somebody is of the share that is short, so
// nobody's blobs leave memory because somebody else has used up its own. Those that wait for the same
// share are served in the order of coming, and nobody passes those that wait for the whole; who comes
// meanwhile and needs less may find enough and pass them. Shares take turns in what is spilled for them.
//
// After each event everybody is served that can be, and what can be spilled for the others is on its way
// (`spillMore`); so nobody is left waiting for what nobody has begun. What was looked at in vain is not
// looked at again for a request that waited already, or there would be no end.

import PatchbayLayout
import PatchbayTypes
import PatchbayWire

/// Whose share of memory something is charged to.
enum RoomScope: Hashable, Sendable {
  /// All that the broker has.
  case broker
  /// One that is neither the broker's own user nor root.
  case user(UInt32)
  /// By its connection.
  case client(SessionID)
}

struct RoomWaiter: Sendable {
  let asker: RequestID
  let request: Request
  /// Who came first has the lower one.
  let ticket: UInt64
}

/// Requests that wait for memory, by the share that they found too little of when they were last tried.
struct RoomLine: Sendable {
  private var waiters: [RoomScope: [RoomWaiter]] = [:]
  /// The shares that somebody waits for, those first that come next.
  private(set) var scopes: [RoomScope] = []
  private(set) var count = 0
  /// How many requests of each session wait.
  private(set) var counts: [SessionID: Int] = [:]
  private var lastTicket: UInt64 = 0

  static let limit = 4096
  /// Of one session; and of one user that is neither the broker's own nor root.
  static let sessionLimit = 256
  static let otherUserLimit = 1024

  /// In the order of coming.
  func waiters(in scope: RoomScope) -> [RoomWaiter] { waiters[scope] ?? [] }
  func first(in scope: RoomScope) -> RoomWaiter? { waiters[scope]?.first }

  mutating func nextTicket() -> UInt64 {
    lastTicket += 1
    return lastTicket
  }

  mutating func add(_ waiter: RoomWaiter, in scope: RoomScope) {
    if waiters[scope] == nil { scopes.append(scope) }
    var own = waiters.removeValue(forKey: scope) ?? []
    let place = own.lastIndex { $0.ticket < waiter.ticket }.map { $0 + 1 } ?? 0
    own.insert(waiter, at: place)
    waiters[scope] = own
    count += 1
    counts[waiter.asker.session, default: 0] += 1
  }

  mutating func removeFirst(in scope: RoomScope) {
    guard var own = waiters.removeValue(forKey: scope), !own.isEmpty else { return }
    leave(own.removeFirst())
    put(own, in: scope)
  }

  /// Nobody is left to be answered.
  mutating func forget(_ session: SessionID) {
    if counts[session] != nil { _ = remove { $0.session == session } }
  }

  /// Takes a request out; false if it does not wait.
  mutating func remove(_ asker: RequestID) -> Bool {
    counts[asker.session] != nil && remove { $0 == asker }
  }

  private mutating func remove(where isGone: (RequestID) -> Bool) -> Bool {
    let before = count
    for scope in scopes {
      guard var own = waiters.removeValue(forKey: scope) else { continue }
      for waiter in own where isGone(waiter.asker) { leave(waiter) }
      own.removeAll { isGone($0.asker) }
      put(own, in: scope)
    }
    return count < before
  }

  private mutating func put(_ own: [RoomWaiter], in scope: RoomScope) {
    if own.isEmpty { scopes.removeAll { $0 == scope } } else { waiters[scope] = own }
  }

  private mutating func leave(_ waiter: RoomWaiter) {
    count -= 1
    let left = (counts[waiter.asker.session] ?? 1) - 1
    counts[waiter.asker.session] = left > 0 ? left : nil
  }

  /// Something was started for a share: the others come before it.
  mutating func moveBack(_ scope: RoomScope) {
    guard let place = scopes.firstIndex(of: scope) else { return }
    scopes.append(scopes.remove(at: place))
  }
}

/// Among which candidates for spilling a blob stands.
struct SpillOffers: OptionSet, Sendable {
  let rawValue: UInt8
  static let broker = Self(rawValue: 1)
  static let user = Self(rawValue: 2)
  static let client = Self(rawValue: 4)
}

/// A blob that may have extents to spill: the one that was read least recently first.
struct SpillCandidate: Sendable, Hashable, Comparable {
  let stamp: UInt64
  let generation: Generation
  static func < (left: Self, right: Self) -> Bool {
    (left.stamp, left.generation) < (right.stamp, right.generation)
  }
}

/// Candidates of one share, each once. Some have gone, or are charged elsewhere by now; they are swept
/// when they may be the majority.
struct SpillQueue: Sendable {
  private var heap = Heap<SpillCandidate>()
  private var members: Set<Generation> = []
  private var sweepCount = Self.leastSweepCount
  private static let leastSweepCount = 64

  var count: Int { heap.count }

  mutating func pop() -> SpillCandidate? {
    guard let candidate = heap.pop() else { return nil }
    members.remove(candidate.generation)
    return candidate
  }

  mutating func push(_ candidate: SpillCandidate, keeping isWanted: (Generation) -> Bool) {
    if heap.count >= sweepCount {
      heap.keep { isWanted($0.generation) }
      members = members.filter(isWanted)
      sweepCount = max(Self.leastSweepCount, 2 * heap.count)
    }
    if members.insert(candidate.generation).inserted { heap.push(candidate) }
  }
}

extension RoomScope {
  var offer: SpillOffers {
    switch self {
    case .broker: .broker
    case .user: .user
    case .client: .client
    }
  }
}

extension Ledger {
  // MARK: Candidates

  /// Whether a blob's rings are charged to a share.
  private func isCharged(_ blob: Blob, to scope: RoomScope) -> Bool {
    switch scope {
    case .broker: true
    case .user(let uid): blob.origin.access.uid == uid
    case .client(let session): blob.payer == session
    }
  }

  private func isOffered(_ generation: Generation, in scope: RoomScope) -> Bool {
    guard let blob = blobs[generation] else { return false }
    return blob.offered.contains(scope.offer) && isCharged(blob, to: scope)
  }

  /// Takes note that a blob may have extents to spill.
  mutating func offerToSpill(_ generation: Generation) {
    guard limits.spool != nil, let blob = blobs[generation] else { return }
    let uid = blob.origin.access.uid
    var offers: SpillOffers = isTrusted(uid) ? .broker : [.broker, .user]
    if limits.memoryPerClient != nil, blob.payer != nil { offers.insert(.client) }
    let missing = offers.subtracting(blob.offered)
    guard !missing.isEmpty, blob.nextToSpill != nil else { return }
    blobs[generation]?.offered.formUnion(missing)
    if missing.contains(.broker) { offer(blob, in: .broker) }
    if missing.contains(.user) { offer(blob, in: .user(uid)) }
    if missing.contains(.client), let payer = blob.payer { offer(blob, in: .client(payer)) }
  }

  private mutating func offer(_ blob: Blob, in scope: RoomScope) {
    let candidate = SpillCandidate(stamp: blob.accessStamp, generation: blob.origin.generation)
    var queue = spilling.candidates.removeValue(forKey: scope) ?? SpillQueue()
    queue.push(candidate) { isOffered($0, in: scope) }
    spilling.candidates[scope] = queue
  }

  /// The blob of a share that was read least recently of those that may have extents to spill; it is no
  /// candidate any more.
  mutating func nextCandidate(in scope: RoomScope) -> Generation? {
    while let candidate = spilling.candidates[scope]?.pop() {
      let generation = candidate.generation
      guard isOffered(generation, in: scope) else { continue }
      blobs[generation]?.offered.remove(scope.offer)
      if blobs[generation]?.accessStamp == candidate.stamp { return generation }
      offerToSpill(generation)
    }
    spilling.candidates[scope] = nil
    return nil
  }

  // MARK: What may still leave

  /// Whether spilling may still free memory of a share: some is on its way, or could be. Nothing is evicted
  /// for it then.
  func canSpill(in scope: RoomScope) -> Bool {
    guard limits.spool != nil else { return false }
    return leaves(scope)
      || spilling.pause == nil && spilling.candidates[scope]?.count ?? 0 > 0
  }

  /// Whether it is worth while to wait for memory of a share.
  private func mayWait(for scope: RoomScope) -> Bool {
    canSpill(in: scope) || limits.spool != nil && mayLeaveSoon(scope)
  }

  /// Whether something that is charged to a share is on its way.
  func leaves(_ scope: RoomScope) -> Bool {
    let spills = spilling.underWay.contains { generation in
      blobs[generation].map { isCharged($0, to: scope) } ?? (scope == .broker)
    }
    return spills
      || spilling.retracting.contains { ring in
        guard let known = rings[ring] else { return false }
        return switch scope {
        case .broker: true
        // Whatever has become of its blob.
        case .user(let uid): known.owner == uid
        case .client: blobs[known.generation].map { isCharged($0, to: scope) } ?? false
        }
      }
  }

  /// Whether something of a share is being sealed, or waits for a process that is about to end.
  private func mayLeaveSoon(_ scope: RoomScope) -> Bool {
    switch scope {
    case .broker:
      spilling.persistCount > 0 || spilling.ghostPatience.keys.contains(where: isTrusted)
    case .user(let uid):
      accounts[uid]?.persistCount ?? 0 > 0 || spilling.ghostPatience[uid] != nil
    case .client(let session):
      isSealing(session)
        || user(of: scope).map { spilling.ghostPatience[$0] != nil } ?? false
    }
  }

  private func isSealing(_ session: SessionID) -> Bool {
    unanswered[session]?.values.contains { $0.kind == .seal } ?? false
  }

  func user(of scope: RoomScope) -> UInt32? {
    switch scope {
    case .broker: nil
    case .user(let uid): uid
    case .client(let session): sessions[session]?.peer.uid
    }
  }

  mutating func countPersists(of blob: Blob, _ change: Int) {
    spilling.persistCount += change
    accounts[blob.origin.access.uid]?.persistCount += change
  }

  // MARK: Waiting

  /// The share that a request has to wait for that found no memory; nil: waiting would be in vain.
  mutating func waitingScope(_ request: Request) -> RoomScope? {
    guard let shortage else { return nil }
    if case .grow(let grow) = request {
      // What was not complete when it was looked at may be by now.
      blobs[grow.blob.generation]?.spillLimit = .max
      offerToSpill(grow.blob.generation)
    }
    return mayWait(for: shortage) ? shortage : nil
  }

  /// Puts a request in line.
  mutating func wait(_ asker: RequestID, _ request: Request, for scope: RoomScope) {
    if let error = lineRefusal(asker.session) {
      return refuse(asker.session, asker.number, error)
    }
    let waiter = RoomWaiter(asker: asker, request: request, ticket: spilling.line.nextTicket())
    spilling.line.add(waiter, in: scope)
  }

  private func lineRefusal(_ session: SessionID) -> PatchbayError? {
    let line = spilling.line
    guard let uid = sessions[session]?.peer.uid else { return nil }
    if line.count >= RoomLine.limit { return .lineFull(line.count, of: "this broker") }
    let own = line.counts[session] ?? 0
    if own >= RoomLine.sessionLimit { return .lineFull(own, of: "one client") }
    guard !isTrusted(uid) else { return nil }
    let all = (accounts[uid]?.sessions ?? []).reduce(0) { $0 + (line.counts[$1] ?? 0) }
    return all >= RoomLine.otherUserLimit ? .lineFull(all, of: "user \(uid)") : nil
  }

  /// Why there is no memory: when something could leave it but for the disk, what the disk said.
  func explained(_ error: PatchbayError) -> PatchbayError {
    guard error.code == .noSpaceMemory, let pause = spilling.pause, let shortage,
      spilling.candidates[shortage]?.count ?? 0 > 0
    else { return error }
    return pause.error
  }

  /// Serves those that wait for memory again. While somebody waits for the whole, only those are served
  /// besides that wait in vain.
  mutating func serveLine() {
    spilling.isRelieved = false
    guard spilling.line.count > 0 else { return }
    if !serve(.broker) { return }
    for scope in spilling.line.scopes where scope != .broker { _ = serve(scope) }
  }

  /// Serves those that wait for a share until one has to wait on for it; false then.
  private mutating func serve(_ scope: RoomScope) -> Bool {
    while let waiter = spilling.line.first(in: scope) {
      let next = serveAgain(waiter)
      if next == scope { return false }
      move(waiter, from: scope, to: next)
    }
    return true
  }

  private mutating func move(_ waiter: RoomWaiter, from scope: RoomScope, to next: RoomScope?) {
    spilling.line.removeFirst(in: scope)
    if let next { spilling.line.add(waiter, in: next) }
  }

  /// Where nothing of a share can be spilled any more, who waits for it is told, or served by eviction, or
  /// waits for another share. True: somebody was.
  mutating func serveInVain() -> Bool {
    var isChanged = false
    for scope in spilling.line.scopes {
      while !mayWait(for: scope), let waiter = spilling.line.first(in: scope) {
        isChanged = true
        move(waiter, from: scope, to: serveAgain(waiter))
      }
    }
    return isChanged
  }

  /// Serves a request that has waited for memory, or refuses it; what it waits for if it has to wait on.
  private mutating func serveAgain(_ waiter: RoomWaiter) -> RoomScope? {
    let asker = waiter.asker
    guard sessions[asker.session]?.phase == .talking else { return nil }
    do throws(PatchbayError) {
      try serve(asker.session, asker.number, waiter.request)
    } catch {
      if let shortage, mayWait(for: shortage) { return shortage }
      refuse(asker.session, asker.number, explained(error))
    }
    return nil
  }

  /// Takes a request out of the line that nobody waits for any more.
  mutating func cancelRoomWait(_ asker: RequestID) {
    guard spilling.line.remove(asker) else { return }
    // Who stood behind it comes next.
    spilling.isRelieved = true
    refuse(asker.session, asker.number, .roomWaitCancelled(asker.number))
  }
}

extension PatchbayError {
  static func roomWaitCancelled(_ number: UInt64) -> PatchbayError {
    PatchbayError(
      .timedOut,
      "Request \(number) waited for memory and was given up before there was some. Wait longer, or raise "
        + "the broker's memory limit.")
  }

  static func lineFull(_ count: Int, of whom: String) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "\(count) requests of \(whom) wait for memory already, the most that may. Wait for some of them, or "
        + "raise the broker's memory limit.")
  }
}
