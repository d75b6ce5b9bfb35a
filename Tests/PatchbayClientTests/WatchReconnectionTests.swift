// Watches without a broker: before they have begun, and after theirs has gone without a word.

import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import PatchbayWire
import Testing

@testable import Patchbay

@Suite struct WatchReconnectionTests {
  private static let place = EventPosition(instance: FakeBroker.instance, number: 30)

  /// How a watch is asked for.
  enum Caller: CaseIterable {
    case thread, task

    func watch(
      _ client: PatchbayClient, deadline: Deadline = .standard
    ) -> Started<BlobEvents> {
      switch self {
      case .thread:
        Started { () throws(PatchbayError) in try client.events(deadline: deadline) }
      case .task:
        Started(task: { () async throws(PatchbayError) in
          try await client.events(deadline: deadline)
        })
      }
    }

    func next(_ events: BlobEvents) -> Started<BlobEvent> {
      switch self {
      case .thread: Started { () throws(PatchbayError) in try events.next() }
      case .task: Started(task: { () async throws(PatchbayError) in try await events.next() })
      }
    }
  }

  /// Takes a watch's two requests and says where it stands.
  /// - Returns: what it has asked for.
  @discardableResult
  private func begin(
    _ peer: FakePeer, _ broker: FakeBroker, at place: EventPosition = place, hasGap: Bool = false
  ) throws -> Request {
    try peer.greet(broker, isAwaited: false)
    let (number, request) = try peer.next()
    try peer.say(.events(EventPage(hasGap: hasGap, position: place, changes: [])), to: number)
    return request
  }

  /// A client with a watch that has begun.
  private func watched(
    _ broker: FakeBroker, reconnectLimit: Duration = .seconds(20)
  ) throws -> (client: PatchbayClient, other: FakePeer, events: BlobEvents, peer: FakePeer) {
    let (client, other) = try broker.client(reconnectLimit: reconnectLimit)
    let watching = Caller.thread.watch(client)
    let peer = try broker.accept()
    try begin(peer, broker)
    return (client, other, try watching.value, peer)
  }

  private func isGap(_ event: BlobEvent) -> Bool {
    guard case .gap = event else { return false }
    return true
  }

  // MARK: Before it has begun

  @Test(arguments: Caller.allCases)
  func `a watch that is asked for while there is no broker begins with the next one`(
    caller: Caller
  ) throws {
    let broker = try FakeBroker()
    let (client, gone) = try broker.client()
    broker.stopListening()
    gone.vanish()
    try eventually("the client has noticed") { isInterrupted(client) }
    let watching = caller.watch(client)
    let late = caller.watch(client, deadline: .after(.milliseconds(5)))
    let error = #expect(throws: PatchbayError.self) { try late.value }
    #expect(error?.code == .noBroker)
    #expect(error?.message.contains("before the deadline. No broker listens on") == true)
    try broker.listen()
    // The client comes, too, in either order.
    for _ in 0..<2 {
      let peer = try broker.accept()
      guard try peer.greet(broker, isAwaited: true).token == .none else { continue }
      let (number, request) = try peer.next()
      #expect(request == .watch(WatchRequest(prefix: [], after: nil, wantsProgress: true)))
      try peer.say(
        .events(EventPage(hasGap: false, position: Self.place, changes: [])), to: number)
      #expect(try watching.value.position == Self.place)
    }
  }

  @Test(arguments: Caller.allCases)
  func `a watch whose broker goes in the middle of its greeting greets the next one`(
    caller: Caller
  ) throws {
    let broker = try FakeBroker()
    let (client, other) = try broker.client()
    let watching = caller.watch(client)
    // Before, between and after its two requests.
    for count in 0..<3 {
      let peer = try broker.accept()
      if count > 0 { try peer.greet(broker, isAwaited: false) }
      if count > 1 { _ = try peer.next() }
      peer.vanish()
    }
    let request = try begin(try broker.accept(), broker)
    #expect(request == .watch(WatchRequest(prefix: [], after: nil, wantsProgress: true)))
    #expect(try watching.value.position == Self.place)
    withExtendedLifetime(other) {}
  }

  @Test(arguments: Caller.allCases, [Duration.zero, .seconds(20)])
  func `a broker whose queue is full is waited for until the deadline`(
    caller: Caller, reconnectLimit: Duration
  ) throws {
    let broker = try FakeBroker()
    let (client, other) = try broker.client(reconnectLimit: reconnectLimit)
    let plug = try broker.listenToOne()
    let watching = caller.watch(client, deadline: .never)
    let late = caller.watch(client, deadline: .after(.milliseconds(5)))
    let error = #expect(throws: PatchbayError.self) { try late.value }
    #expect(error?.code == .timedOut && error?.message.contains("queue of new ones") == true)
    _ = try broker.accept()
    try begin(try broker.accept(), broker)
    #expect(try watching.value.position == Self.place)
    withExtendedLifetime((other, plug)) {}
  }

  @Test(arguments: Caller.allCases)
  func `a broker that does not say where a watch stands is named at its deadline`(
    caller: Caller
  ) throws {
    let broker = try FakeBroker()
    let (client, other) = try broker.client()
    let watching = caller.watch(client, deadline: .after(.milliseconds(50)))
    let peer = try broker.accept()
    let error = #expect(throws: PatchbayError.self) { try watching.value }
    #expect(error?.code == .timedOut && error?.message.contains("did not answer") == true)
    #expect(error?.message.contains(broker.path) == true)
    withExtendedLifetime((other, peer)) {}
  }

  @Test(arguments: Caller.allCases)
  func `without a limit no watch waits for a broker`(caller: Caller) throws {
    let broker = try FakeBroker()
    let (client, other) = try broker.client(reconnectLimit: .zero)
    let watching = caller.watch(client, deadline: .never)
    let peer = try broker.accept()
    try peer.greet(broker, isAwaited: false)
    peer.vanish()
    #expect(try watching.code == .noBroker)
    broker.stopListening()
    let error = #expect(throws: PatchbayError.self) {
      try caller.watch(client, deadline: .never).value
    }
    #expect(error?.code == .noBroker && error?.message.contains("No broker listens") == true)
    withExtendedLifetime(other) {}
  }

  @Test(arguments: Caller.allCases)
  func `a watch of a client that has ended says why that has`(caller: Caller) throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    try peer.say(.failure(PatchbayError(.noBroker, "It was nice.")), to: 0)
    peer.vanish()
    // Who reads it may be another thread, which this one does not wait for.
    try eventually("the client has ended") {
      code { try client.session.connection.checkAlive() } == .noBroker
    }
    let error = #expect(throws: PatchbayError.self) { try caller.watch(client).value }
    #expect(error?.message == "It was nice." && !broker.isCalled)
  }

  @Test(arguments: Caller.allCases)
  func `a broker that takes no watch says so to who asks for one`(caller: Caller) throws {
    let broker = try FakeBroker()
    let (client, other) = try broker.client()
    let watching = caller.watch(client)
    let peer = try broker.accept()
    try peer.say(.failure(PatchbayError(.limitReached, "Too many connections.")), to: 0)
    #expect(try watching.code == .limitReached)
    withExtendedLifetime(other) {}
  }

  // MARK: After it has begun

  @Test func `a watch goes on with a gap`() throws {
    let broker = try FakeBroker()
    let (client, other) = try broker.client()
    let watching = Started { () throws(PatchbayError) in
      try client.events(prefix: [107], after: nil)
    }
    let peer = try broker.accept()
    let first = try begin(peer, broker)
    #expect(first == .watch(WatchRequest(prefix: [107], after: nil, wantsProgress: true)))
    let events = try watching.value
    peer.vanish()
    let waiting = Caller.thread.next(events)
    let later = EventPosition(instance: FakeBroker.instance, number: 900)
    let again = try begin(try broker.accept(), broker, at: later, hasGap: true)
    #expect(again == .watch(WatchRequest(prefix: [107], after: Self.place, wantsProgress: true)))
    #expect(isGap(try waiting.value))
    #expect(events.position == later)
    withExtendedLifetime(other) {}
  }

  @Test func `a watch whose broker does not come back ends`() throws {
    let broker = try FakeBroker()
    let (client, other, events, peer) = try watched(broker, reconnectLimit: .milliseconds(50))
    broker.stopListening()
    peer.vanish()
    #expect(code { _ = try events.next(deadline: .after(.zero)) } == .timedOut)
    #expect(try Caller.task.next(events).code == .noBroker)
    withExtendedLifetime((client, other)) {}
  }

  @Test(arguments: Caller.allCases, [PatchbayError.Code.noBroker, .limitReached, .timedOut])
  func `a watch that comes back and is taken by nobody at the moment asks again`(
    caller: Caller, refusal: PatchbayError.Code
  ) throws {
    let broker = try FakeBroker()
    let (client, other, events, peer) = try watched(broker)
    peer.vanish()
    let waiting = caller.next(events)
    for _ in 0..<3 {
      let next = try broker.accept()
      try next.say(.failure(PatchbayError(refusal, "Not now.")), to: 0)
      next.vanish()
    }
    try begin(try broker.accept(), broker, hasGap: true)
    #expect(isGap(try waiting.value))
    withExtendedLifetime((client, other)) {}
  }

  @Test func `a watch that nobody takes for its limit ends, and says what it was told last`() throws
  {
    let broker = try FakeBroker()
    let (client, other, events, peer) = try watched(broker, reconnectLimit: .milliseconds(50))
    peer.vanish()
    let waiting = Caller.thread.next(events)
    var peers: [FakePeer] = []
    try eventually("it gives up") {
      if broker.isCalled {
        let next = try broker.accept()
        try next.say(.failure(PatchbayError(.limitReached, "Too many connections.")), to: 0)
        peers.append(next)
      }
      return waiting.isOver
    }
    let error = #expect(throws: PatchbayError.self) { try waiting.value }
    #expect(error?.code == .noBroker && error?.message.contains("0.05 seconds") == true)
    #expect(error?.message.contains("Too many connections.") == true)
    withExtendedLifetime((client, other)) {}
  }

  @Test func `a watch that stands is ended by a broker that says why it goes`() throws {
    let broker = try FakeBroker()
    let (client, other, events, peer) = try watched(broker)
    try peer.say(.failure(PatchbayError(.noBroker, "It was nice.")), to: 0)
    peer.vanish()
    let error = #expect(throws: PatchbayError.self) { try events.next() }
    #expect(error?.message == "It was nice." && !broker.isCalled)
    withExtendedLifetime((client, other)) {}
  }
}
