// A connection whose broker goes and is followed by another. The steps, each under the lock:
//
//   connected --- hang-up without a word ---> interrupted --- another broker knows this client --->
//   reattaching --- it has been told what the client has ---> connected
//
// From `reattaching` a further hang-up leads back to `interrupted`. What is ended while interrupted goes
// out of the mirror and is not said; what is ended while reattaching is said behind everything else.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

extension Connection {
  /// From now on a broker that goes without a word is waited for, also one that has gone since it
  /// greeted this client.
  /// - Throws: `limitReached` when nobody can watch for that.
  func keep(for session: Session) throws(PatchbayError) {
    let (link, isRevived) = state.withLock { state in
      state.session = session
      return (state.link, state.revive())
    }
    if isRevived { session.reconnect() } else { try Courier.shared.watch(link, for: self) }
  }

  /// Whether it has ended because the broker hung up without a word, and no other one was waited for.
  var wentSilently: Bool { state.withLock { $0.wentSilently } }

  /// Which broker this is, counted from the first; also the gaps between them count.
  var life: Int { state.withLock { $0.life } }

  /// The same; nil while there is none.
  var connectedLife: Int? { state.withLock { $0.phase == .connected ? $0.life : nil } }

  /// The broker at the other end of a link has hung up, and all that it had sent has been taken.
  /// - Throws: the end of the connection, when no other broker is waited for.
  func lose(_ link: Link) throws(PatchbayError) {
    let loss = state.withLock { state -> Loss in
      guard state.failure == nil, state.usableLink === link else { return .known }
      guard let session = state.session else {
        // Under one lock with the end: `keep` finds both or neither.
        state.wentSilently = true
        return .ended(
          state.end(
            with: PatchbayError(.noBroker, "The broker on \(path) has ended the connection.")))
      }
      state.interrupt()
      return .interrupted(session)
    }
    switch loss {
    case .known: try checkNotFailed()
    case .ended(let end): throw tell(end)
    case .interrupted(let session): session.reconnect()
    }
  }

  /// What the loss of a broker comes to.
  private enum Loss {
    /// Somebody else has seen to it.
    case known
    case ended(End)
    case interrupted(Session)
  }

  /// Takes what has arrived from a broker that has hung up.
  /// - Returns: whether that is settled; false: another thread reads at the moment.
  func looksLost(_ link: Link) -> Bool {
    // What goes wrong has told everybody.
    _ = try? takeArrived()
    return state.withLock { $0.failure != nil || $0.usableLink !== link }
  }

  // MARK: The next broker

  /// Another broker waits to be told what this client has.
  /// - Returns: what that is; nil when the connection has ended meanwhile.
  func beginReattaching() -> [Request]? {
    state.withLock { state in
      guard state.failure == nil, state.phase == .interrupted else { return nil }
      state.phase = .reattaching
      return state.attachments.requests
    }
  }

  /// That broker has gone, too.
  func endReattaching() {
    state.withLock { state in
      guard state.phase == .reattaching else { return }
      state.phase = .interrupted
      state.interruptedAt = .now
      state.outbox = Outbox()
    }
  }

  /// The next broker has refused something of what this client had.
  func refused(_ request: Request) { state.withLock { $0.attachments.refused(request) } }

  func takeNumber() -> UInt64 { state.withLock { $0.takeNumber() } }

  /// Goes on with the next broker: sends again what has no answer, says that this was all, and then
  /// what has come since.
  /// - Throws: `limitReached` when nobody can watch for its end.
  func resume(on link: Link) throws(PatchbayError) {
    let (isResumed, next) = sending.withLock { _ in
      state.withLock { state in
        guard state.failure == nil, state.phase == .reattaching else {
          return (false, NextReader?.none)
        }
        state.resume(on: link)
        return (true, state.nextReader)
      }
    }
    guard isResumed else { return link.socket.hangUp() }
    // Not before: what is watched and not in use is taken for one that is lost.
    try Courier.shared.watch(link, for: self)
    wake(next)
    trySendOwed()
    attendIfOwing()
  }

  var timedOut: PatchbayError {
    let since = state.withLock { $0.phase == .connected ? nil : $0.interruptedAt }
    guard let since else {
      return PatchbayError(.timedOut, "The broker on \(path) did not answer before the deadline.")
    }
    return PatchbayError(
      .noBroker,
      "There is no broker on \(path) at the moment: the last one went \(since.wholeMilliseconds) ms "
        + "ago without a word, and no other was there before the deadline. Start one with: "
        + "patchbay serve --socket \(path)")
  }
}

extension Connection.State {
  /// Takes back an end that only came because nobody waited for another broker yet.
  /// - Returns: whether there was one; then another broker is to be looked for.
  fileprivate mutating func revive() -> Bool {
    guard wentSilently else { return false }
    wentSilently = false
    failure = nil
    interrupt()
    return true
  }

  /// The broker has gone without a word.
  fileprivate mutating func interrupt() {
    phase = .interrupted
    life += 1
    interruptedAt = .now
    outbox = Outbox()
    // What these would have granted the next broker takes back by itself.
    late = [:]
    for (number, pending) in calls {
      if case .nobody = pending.recipient { _ = takeCall(number) }
    }
  }

  fileprivate mutating func resume(on link: Link) {
    self.link = link
    phase = .connected
    life += 1
    let since = outbox
    outbox = Outbox()
    for number in Set(calls.keys).union(unsettled.keys).sorted() {
      let pending = calls[number]
      calls[number]?.isRepeated = pending?.wasSent == true
      if let packet = pending?.packet ?? unsettled[number] { outbox.add(packet) }
    }
    let number = takeNumber()
    outbox.add(Packet(Frame.encode(.reattached, request: number), number: number))
    outbox.add(contentsOf: since)
  }
}

extension Connection.Pending {
  /// What an answer comes to: a request that was asked of two brokers may be refused by the second
  /// because the first has done it.
  func answer(_ reply: Reply) -> Reply {
    guard isRepeated, case .failure(let refusal) = reply, request.isDone(says: refusal) else {
      return reply
    }
    return .done
  }
}

extension Request {
  /// Whether a refusal of a repeated request says that it has been done.
  fileprivate func isDone(says refusal: PatchbayError) -> Bool {
    switch self {
    case .fail: [.closed, .fenced, .blobFailed, .noSuchKey].contains(refusal.code)
    case .remove: refusal.code == .noSuchKey
    default: false
    }
  }
}

extension MonotonicTime {
  /// How long ago it was.
  fileprivate var wholeMilliseconds: Int64 {
    (MonotonicTime.now.nanoseconds - nanoseconds) / 1_000_000
  }
}
