// Connections: who may connect, the greeting, and every way a session can end. A session that hung
// up while its process lives becomes a ghost: it may still have rings mapped, so the blobs it had
// open stay charged until the process has exited. Ghosts are bounded; the oldest is let go first.

import PatchbayTypes
import PatchbayWire

extension Ledger {
  /// The next broker waits for those only that may have something to come back to.
  mutating func keepRecord(of session: SessionID, _ request: Request) {
    guard let known = sessions[session] else { return }
    var onlyWatches = false
    if case .watch = request {
      onlyWatches =
        known.handles.isEmpty && known.writes.isEmpty && known.parked.isEmpty
        && returning?.arriving[session] == nil
    }
    let recording = onlyWatches ? Session.Recording.unrecorded : .asked
    guard recording != known.recording else { return }
    sessions[session]?.recording = recording
    recording == .asked
      ? recordClient(session) : actions.append(.eraseClient(known.clientID))
  }

  private mutating func recordClient(_ session: SessionID) {
    guard let known = sessions[session] else { return }
    actions.append(
      .recordClient(
        ClientRecord(
          clientID: known.clientID, token: known.token, peer: known.peer,
          hasAsked: known.recording == .asked)))
  }

  mutating func connected(_ session: SessionID, _ peer: Peer) {
    guard sessions[session] == nil else { return }
    if let refusal = connectionRefusal(peer) {
      actions.append(.reply(session, number: 0, .failure(refusal), []))
      actions.append(.disconnect(session))
      return
    }
    sessions[session] = Session(peer: peer)
    connectionCount += 1
    accounts[peer.uid, default: UserAccount()].sessions.insert(session)
    let deadline = now.monotonicNanoseconds.addingClamped(limits.handshake.wholeNanoseconds)
    handshakes.append(session, deadline: deadline)
  }

  private func connectionRefusal(_ peer: Peer) -> PatchbayError? {
    if isDraining { return .draining }
    if !limits.isShared, peer.uid != brokerUser {
      return .foreignUser(peer.uid, broker: brokerUser)
    }
    if connectionCount >= limits.connectionCount {
      return .tooManyConnections(connectionCount, limit: limits.connectionCount, of: "this broker")
    }
    let count = accounts[peer.uid]?.sessions.count ?? 0
    let limit =
      isTrusted(peer.uid)
      ? limits.connectionsPerUser
      : min(limits.connectionsPerUser, limits.connectionsPerOtherUser)
    guard count >= limit else { return nil }
    return .tooManyConnections(count, limit: limit, of: "user \(peer.uid)")
  }

  mutating func greet(_ session: SessionID, _ number: UInt64, _ hello: Hello) {
    let version = Frame.protocolVersion
    guard hello.oldestVersion <= version, hello.newestVersion >= version else {
      refuse(session, number, .noCommonVersion(hello))
      disconnect(session)
      return
    }
    guard let peer = sessions[session]?.peer else { return }
    let before = standIn(for: hello.token, peer)
    let client =
      before.flatMap { sessions[$0] }.map {
        PastClient(clientID: $0.clientID, token: $0.token, uid: peer.uid)
      } ?? pastClients.take(hello.token, uid: peer.uid) ?? newClient(uid: peer.uid)
    sessions[session]?.phase = .talking
    sessions[session]?.clientID = client.clientID
    sessions[session]?.token = client.token
    sessions[session]?.name = hello.name.cut(toUTF8Count: WireLimit.name)
    clientCount += 1
    if let before { takeOver(before, by: session) }
    forgetGreeted()
    recordClient(session)
    let welcome = Welcome(
      version: version, clientID: client.clientID, token: client.token, instance: instance,
      brokerProcess: brokerProcess, isAwaited: before != nil)
    reply(
      session, number, .welcome(welcome), [.clientTable(session, clientID: client.clientID)])
  }

  private mutating func newClient(uid: UInt32) -> PastClient {
    lastClient += 1
    // Zeros stand for "no token", so they are never given out.
    let token = Token(high: tokenSource.next() | 1, low: tokenSource.next())
    return PastClient(clientID: lastClient, token: token, uid: uid)
  }

  mutating func endLateHandshakes() {
    while let late = handshakes.popLate(at: now.monotonicNanoseconds) {
      guard sessions[late]?.phase == .greeting else { continue }
      refuse(late, 0, .lateHello(limit: limits.handshake))
      disconnect(late)
    }
    forgetGreeted()
  }

  private mutating func forgetGreeted() {
    while let first = handshakes.first, sessions[first]?.phase != .greeting {
      handshakes.removeFirst()
    }
  }

  /// Ends a session from this side.
  mutating func disconnect(_ session: SessionID) {
    actions.append(.disconnect(session))
    end(session, isProcessGone: false)
  }

  mutating func hungUp(_ session: SessionID) {
    end(session, isProcessGone: false)
  }

  /// The process is gone. If the connection is not, a child inherited it: it is closed.
  mutating func exited(_ session: SessionID) {
    guard let phase = sessions[session]?.phase else { return }
    guard phase == .ghost else {
      actions.append(.disconnect(session))
      end(session, isProcessGone: true)
      return
    }
    ghosts.removeAll { $0 == session }
    layToRest(session, isProcessGone: true)
  }

  mutating func end(_ session: SessionID, isProcessGone: Bool) {
    guard let ended = sessions[session], ended.phase != .ghost else { return }
    sessions[session]?.phase = .ghost
    countOut(session, ended)
    forgetWatches(of: session)
    unanswered[session] = nil
    unpark(session, ended.parked)
    takeBackAsked(session, ended.asked)
    let opened = ended.handles.keys.sorted()
    if !isProcessGone { haunt(session, ended.writes.union(opened).sorted()) }
    for generation in opened { endHandles(session, generation, isProcessGone: isProcessGone) }
    // What it may still write it now haunts, or it is dead.
    for generation in ended.writes.sorted() {
      forgetWriter(session, generation)
      if isProcessGone { unfence(session, generation) }
    }
    sessions[session]?.handles = [:]
    spilling.candidates[.client(session)] = nil
    spilling.line.forget(session)
    // Who stood behind it comes next.
    spilling.isRelieved = true
    if ended.isKnown { actions.append(.eraseClient(ended.clientID)) }
    if sessions[session]?.haunted.isEmpty ?? true {
      sessions[session] = nil
    } else {
      ghosts.append(session)
    }
    forgetGreeted()
    stopsReturning(session, ended.token)
    if ghosts.count > limits.connectionCount {
      layToRest(ghosts.removeFirst(), isProcessGone: false)
    }
  }

  private mutating func countOut(_ session: SessionID, _ ended: Session) {
    if ended.phase != .absent {
      connectionCount -= 1
      accounts[ended.peer.uid]?.sessions.remove(session)
      forgetIfEmpty(ended.peer.uid)
    }
    guard ended.isKnown else { return }
    clientCount -= 1
    pastClients.add(
      PastClient(clientID: ended.clientID, token: ended.token, uid: ended.peer.uid))
  }

  /// Keeps the blobs charged whose rings this session may have mapped.
  private mutating func haunt(_ session: SessionID, _ opened: [Generation]) {
    for generation in opened {
      guard let blob = blobs[generation], blob.isBorn,
        !blob.extents.isEmpty || !blob.spooled.isEmpty || !blob.patchwork.scratch.isEmpty
      else { continue }
      blobs[generation]?.ghostCount += 1
      sessions[session]?.haunted.append(generation)
      if blob.isPatchwork, blob.state.isLive { awaitGhost(of: blob.origin.access.uid) }
    }
  }

  /// Most ghosts are gone in a moment: who waits for memory waits for that, too; not longer when others
  /// come meanwhile, or it might never be told.
  private mutating func awaitGhost(of uid: UInt32) {
    guard spilling.ghostPatience[uid] == nil else { return }
    spilling.ghostPatience[uid] = now.monotonicNanoseconds.addingClamped(
      Spilling.ghostInterval.wholeNanoseconds)
  }

  private mutating func endHandles(
    _ session: SessionID, _ generation: Generation, isProcessGone: Bool
  ) {
    guard let handle = sessions[session]?.handles[generation] else { return }
    blobs[generation]?.readerCount -= handle.readers.count
    blobs[generation]?.observerCount -= handle.observers.count
    sessions[session]?.handles[generation]?.readers = []
    sessions[session]?.handles[generation]?.observers = []
    dropSubscriptions(of: generation, by: session)
    dropCandidates(of: session, generation)
    dropDemands(of: session, generation)
    if handle.publishes { losePublisher(session, generation, isProcessGone: isProcessGone) }
    settle(generation)
  }

  /// Forgets a ghost. What it had claimed is free only if it cannot write any more.
  private mutating func layToRest(_ ghost: SessionID, isProcessGone: Bool) {
    for generation in sessions.removeValue(forKey: ghost)?.haunted ?? [] {
      blobs[generation]?.ghostCount -= 1
      if isProcessGone {
        dropClaims(of: ghost, generation)
        unfence(ghost, generation)
      } else {
        blobs[generation]?.isAbandoned = true
        // Also those whose extents have left memory, while somebody viewed them.
        for ring in spilling.leaving where rings[ring]?.generation == generation {
          rings[ring]?.isAbandoned = true
        }
      }
      settle(generation)
    }
    if ghosts.isEmpty { spilling.ghostPatience = [:] }
  }
}

/// Connections that have not said hello, the earliest deadline first: all have the same patience,
/// so the order of arrival is the order of deadlines.
struct HandshakeQueue: Sendable {
  private var waiting: [(session: SessionID, deadline: Int64)] = []
  private var head = 0

  var first: SessionID? { head < waiting.count ? waiting[head].session : nil }
  var nextDeadline: Int64? { head < waiting.count ? waiting[head].deadline : nil }

  mutating func append(_ session: SessionID, deadline: Int64) {
    waiting.append((session, deadline))
  }

  mutating func removeFirst() {
    guard head < waiting.count else { return }
    head += 1
    guard head > 64, head * 2 > waiting.count else { return }
    waiting.removeFirst(head)
    head = 0
  }

  mutating func popLate(at moment: Int64) -> SessionID? {
    guard let first, let nextDeadline, nextDeadline <= moment else { return nil }
    removeFirst()
    return first
  }
}

/// A client that may come back: its number is its own for as long as its token is remembered.
struct PastClient: Sendable {
  let clientID: UInt64
  let token: Token
  let uid: UInt32
}

/// The clients whose sessions ended last, bounded.
struct PastClients: Sendable {
  private var clients: [Token: PastClient] = [:]
  private var order: [Token] = []
  private static let limit = 1024

  mutating func add(_ client: PastClient) {
    clients[client.token] = client
    order.append(client.token)
    guard order.count > 2 * Self.limit else { return }
    for token in order.prefix(Self.limit) { clients[token] = nil }
    order.removeFirst(Self.limit)
  }

  mutating func take(_ token: Token, uid: UInt32) -> PastClient? {
    guard let client = clients[token], client.uid == uid else { return nil }
    clients[token] = nil
    return client
  }
}

extension Int64 {
  /// The sum, or the largest number there is.
  func addingClamped(_ other: Int64) -> Int64 {
    let (sum, overflow) = addingReportingOverflow(other)
    return overflow ? .max : sum
  }
}
