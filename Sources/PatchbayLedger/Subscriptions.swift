// Whom the publisher of a windowed blob waits for. The broker brings its sequential subscribers and
// takes them away; how far each has read the publisher sees in their tables by itself. Each coming
// and going is counted on the board, so the publisher asks only when something has changed; a going
// also wakes it, for it may be waiting for the one that went.

import PatchbayTypes
import PatchbayWire

/// A sequential subscriber, and the session whose end is its end.
struct NotedSubscription: Sendable, Hashable {
  let subscription: Subscription
  let session: SessionID
}

extension Ledger {
  mutating func subscribe(
    _ session: SessionID, _ number: UInt64, _ request: SubscriptionRequest
  ) throws(PatchbayError) {
    guard let reader = sessions[session],
      reader.handles[request.generation]?.readers.isEmpty == false,
      let blob = blobs[request.generation], blob.isBorn
    else { throw .notOpen(request.generation) }
    guard blob.origin.request.policy == .backpressure else { throw .holdsNobody(blob) }
    let noted = NotedSubscription(
      subscription: Subscription(clientID: reader.clientID, entry: request.entry), session: session)
    if blob.state == .open, !blob.subscriptions.contains(noted),
      !blob.detachedUsers.contains(reader.peer.uid)
    {
      try checkSubscriptions(to: blob, of: reader.peer.uid)
      guard blob.subscriptions.count < WireLimit.subscriptions else {
        throw .tooManySubscriptions(blob, limit: WireLimit.subscriptions)
      }
      blobs[request.generation]?.subscriptions.append(noted)
      noteSubscriptions(request.generation)
    }
    reply(session, number, .done)
  }

  /// One other user must not take all places of those that a publisher waits for.
  private func checkSubscriptions(to blob: Blob, of uid: UInt32) throws(PatchbayError) {
    guard isGuest(uid, of: blob) else { return }
    let sessions = accounts[uid]?.sessions ?? []
    let count = blob.subscriptions.count { sessions.contains($0.session) }
    guard count >= limits.subscriptionsPerOtherUser else { return }
    throw .userLimit(
      uid, "reads the blob \(blob.key) in sequence \(count) times",
      limit: limits.subscriptionsPerOtherUser)
  }

  /// Whether a user reads a blob by its mode alone.
  private func isGuest(_ uid: UInt32, of blob: Blob) -> Bool {
    uid != blob.origin.access.uid && !isTrusted(uid)
  }

  mutating func unsubscribe(
    _ session: SessionID, _ number: UInt64, _ request: SubscriptionRequest
  ) {
    dropSubscriptions(of: request.generation) {
      $0.session == session && $0.subscription.entry == request.entry
    }
    reply(session, number, .done)
  }

  mutating func subscriptions(
    _ session: SessionID, _ number: UInt64, _ reference: BlobReference
  ) throws(PatchbayError) {
    let blob = try published(reference, by: session, for: .grow)
    reply(
      session, number,
      .subscriptions(
        SubscriptionList(
          version: blob.subscriptionVersion,
          subscriptions: blob.subscriptions.map(\.subscription).sorted())))
  }

  mutating func attachTable(
    _ session: SessionID, _ number: UInt64, _ request: TableRequest
  ) throws(PatchbayError) {
    let blob = try published(request.blob, by: session, for: .grow)
    let noted = blob.subscriptions.first { $0.subscription.clientID == request.clientID }
    guard let noted else { throw .noSubscriber(blob, request.clientID) }
    reply(session, number, .table, [.peerTable(noted.session)])
  }

  /// The publisher has waited for one of them for too long; whoever has gone already is no error.
  /// Another user that has had its publisher wait for too long does so no more: it could come back at
  /// once, again and again.
  mutating func detach(
    _ session: SessionID, _ number: UInt64, _ request: DetachRequest
  ) throws(PatchbayError) {
    let blob = try published(request.blob, by: session, for: .grow)
    let slow = blob.subscriptions.first { $0.subscription == request.subscription }
    if let slow, let uid = sessions[slow.session]?.peer.uid, isGuest(uid, of: blob) {
      blobs[request.blob.generation]?.detachedUsers.insert(uid)
      let own = accounts[uid]?.sessions ?? []
      dropSubscriptions(of: request.blob.generation) { own.contains($0.session) }
    } else {
      dropSubscriptions(of: request.blob.generation) { $0.subscription == request.subscription }
    }
    reply(session, number, .done)
  }

  /// Forgets what a session reads in sequence of one blob, when it has it open no more.
  mutating func dropSubscriptions(of generation: Generation, by session: SessionID) {
    dropSubscriptions(of: generation) { $0.session == session }
  }

  private mutating func dropSubscriptions(
    of generation: Generation, where isGoing: (NotedSubscription) -> Bool
  ) {
    guard let before = blobs[generation]?.subscriptions, before.contains(where: isGoing) else {
      return
    }
    blobs[generation]?.subscriptions.removeAll(where: isGoing)
    noteSubscriptions(generation)
    ring(generation)
  }

  private mutating func noteSubscriptions(_ generation: Generation) {
    blobs[generation]?.subscriptionVersion &+= 1
    record(generation)
    post(generation)
  }
}

extension PatchbayError {
  static func holdsNobody(_ blob: Blob) -> PatchbayError {
    PatchbayError(
      .protocolViolation,
      "The blob \(blob.key) has the policy \(blob.origin.request.policy): its publisher waits for no "
        + "subscriber.")
  }

  static func tooManySubscriptions(_ blob: Blob, limit: Int) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "The publisher of the blob \(blob.key) waits for \(limit) subscribers already, the most it can. "
        + "End some, or create the blob with the policy keep.")
  }

  static func noSubscriber(_ blob: Blob, _ clientID: UInt64) -> PatchbayError {
    PatchbayError(
      .closed, "Client \(clientID) does not read the blob \(blob.key) in sequence any more.")
  }
}
