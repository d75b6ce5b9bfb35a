// Who needs memory while some can be had by spilling waits for it: its request is served again when a
// ring has come back, and refused when none will. Memory may be short in three ways: as a whole, or in
// the share of one user, or of one client. What is spilled for somebody is of the share that is short,
// so nobody's blobs leave memory because somebody else has used up its own. Those that wait for the same
// share are served in the order of coming, and nobody passes those that wait for the whole; who comes
// meanwhile and needs less may find enough and pass them.

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
  /// What it found too little of when it was last tried.
  var scope: RoomScope
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

/// Candidates of one share. Some have gone, or are charged elsewhere by now; they are swept when they may
/// be the majority.
struct SpillQueue: Sendable {
  private var heap = Heap<SpillCandidate>()
  private var sweepCount = Self.leastSweepCount
  private static let leastSweepCount = 64

  var count: Int { heap.count }
  mutating func pop() -> SpillCandidate? { heap.pop() }

  mutating func push(_ candidate: SpillCandidate, keeping isWanted: (Generation) -> Bool) {
    if heap.count >= sweepCount {
      heap.keep { isWanted($0.generation) }
      sweepCount = max(Self.leastSweepCount, 2 * heap.count)
    }
    heap.push(candidate)
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

  // MARK: Waiting

  /// Whether spilling may still free memory of a share: some is on its way, or could be.
  func canSpill(in scope: RoomScope) -> Bool {
    guard limits.spool != nil else { return false }
    return spilling.ghostPatience != nil || leaves(scope)
      || spilling.pause == nil && spilling.candidates[scope]?.count ?? 0 > 0
  }

  /// Whether something that is charged to a share is on its way.
  func leaves(_ scope: RoomScope) -> Bool {
    let leaving = spilling.underWay + spilling.retracting.compactMap { rings[$0]?.generation }
    return leaving.contains { blobs[$0].map { isCharged($0, to: scope) } ?? (scope == .broker) }
  }

  /// The shares that somebody waits for, in the order of coming.
  var awaitedScopes: [RoomScope] {
    var known: Set<RoomScope> = []
    return spilling.waiters.map(\.scope).filter { known.insert($0).inserted }
  }

  /// Puts a request that found no memory in line, if that is worth while.
  mutating func parksForRoom(_ asker: RequestID, _ request: Request) -> Bool {
    guard let shortage, canSpill(in: shortage), spilling.waiters.count < Spilling.waiterLimit else {
      return false
    }
    spilling.waiters.append(RoomWaiter(asker: asker, request: request, scope: shortage))
    spillMore()
    return true
  }

  /// Why there is no memory: when nothing can leave it, what the disk said.
  func explained(_ error: PatchbayError) -> PatchbayError {
    guard error.code == .noSpaceMemory, let pause = spilling.pause else { return error }
    return pause.error
  }

  /// Serves those that wait for memory again; behind one that has to wait on only those that wait for
  /// another share, or in vain.
  mutating func serveRoomWaiters() {
    let waiters = spilling.waiters
    spilling.waiters = []
    var stuck: Set<RoomScope> = []
    var left: [RoomWaiter] = []
    for waiter in waiters {
      guard stuck.isDisjoint(with: [.broker, waiter.scope]) || !canSpill(in: waiter.scope) else {
        left.append(waiter)
        continue
      }
      guard let scope = serveAgain(waiter) else { continue }
      stuck.insert(scope)
      left.append(RoomWaiter(asker: waiter.asker, request: waiter.request, scope: scope))
    }
    spilling.waiters = left + spilling.waiters
  }

  /// Serves a request that has waited for memory, or refuses it; what it waits for if it has to wait on.
  private mutating func serveAgain(_ waiter: RoomWaiter) -> RoomScope? {
    let asker = waiter.asker
    guard sessions[asker.session]?.phase == .talking else { return nil }
    do throws(PatchbayError) {
      try serve(asker.session, asker.number, waiter.request)
    } catch {
      if let shortage, canSpill(in: shortage) { return shortage }
      refuse(asker.session, asker.number, explained(error))
    }
    return nil
  }

  /// Where nothing can be spilled any more, who waits is told, or served by eviction.
  mutating func serveRoomWaitersInVain() {
    guard spilling.waiters.contains(where: { !canSpill(in: $0.scope) }) else { return }
    serveRoomWaiters()
  }
}
