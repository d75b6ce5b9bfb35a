// A client whose broker goes without a word: what it tells the next one, in which order, what becomes of
// its calls meanwhile, and when it gives up.

import Glibc
import PatchbayRing
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import PatchbayWire
import Synchronization
import Testing

@testable import Patchbay

private let shared = CreateTerms(ownership: .joinable, idleLimit: nil, resumes: false)

@Suite struct ReconnectionTests {
  /// A client that has a publisher with an extent and a claim, a reader, an observer and a place.
  private func equip(_ client: PatchbayClient, _ peer: FakePeer) throws -> [Request] {
    let connection = client.session.connection
    let grant = try BlobGrant.made(4, heldExtentLimit: 3, extent: 0)
    let opened = try BlobGrant.made(4, epoch: 0)
    let place = SubscriptionRequest(generation: grant.blob.generation, entry: 2)
    func ask(_ request: Request, _ answer: (UInt64) -> Reply) throws -> UInt64 {
      let asking = Started { () throws(PatchbayError) in
        try connection.call(request, deadline: .standard)
      }
      let (number, asked) = try peer.next()
      #expect(asked == request)
      try peer.say(answer(number), to: number)
      _ = try asking.value
      return number
    }
    let made = try ask(.createWith(CreateRequest(key: "k"), shared)) { _ in .created(grant) }
    let claim = try ask(.claim(ClaimRequest(blob: grant.blob, range: 3..<9))) {
      .claimed(ClaimGrant(blob: grant.blob, claim: $0, range: 3..<9))
    }
    let reader = try ask(.open(OpenRequest(key: "k", waits: false, observes: false))) { _ in
      .opened(opened)
    }
    let observer = try ask(.open(OpenRequest(key: "k", waits: false, observes: true))) { _ in
      .opened(opened)
    }
    _ = try ask(.subscribe(place)) { _ in .done }
    var publisher = ReattachRequest(blob: grant.blob, role: .publisher, number: made)
    publisher.extents = [0]
    publisher.claims = [ReattachRequest.Claim(number: claim, range: 3..<9)]
    return [
      .reattach(publisher),
      .reattach(ReattachRequest(blob: opened.blob, role: .reader, number: reader)),
      .reattach(ReattachRequest(blob: opened.blob, role: .observer, number: observer)),
      .subscribe(place),
    ]
  }

  /// A thread's call that the broker has taken and not answered; its number.
  private func unanswered(
    _ request: Request, _ client: PatchbayClient, _ peer: FakePeer, deadline: Deadline = .standard
  ) throws -> (call: Started<Delivery>, number: UInt64) {
    let call = Started { () throws(PatchbayError) in
      try client.session.connection.call(request, deadline: deadline)
    }
    let (number, asked) = try peer.next()
    #expect(asked == request)
    return (call, number)
  }

  @Test func `it takes up what it had, asks again what has no answer, and says that this is all`()
    throws
  {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let handles = try equip(client, peer)
    let first = try FakeBoard()
    first.post(.open)
    let mapping = Started { () throws(PatchbayError) in
      try client.session.board(0, deadline: .standard)
    }
    try peer.giveBoard(first)
    let entry = try mapping.value.entry(0)
    let generation = Generation(rawValue: 4)
    #expect(entry.status.state(of: generation) == .open)
    _ = try client.session.table.announce(ringID: 5, useNumber: 1)
    let create = Request.create(CreateRequest(key: "lost"))
    let (creating, createNumber) = try unanswered(create, client, peer)
    let (looking, lookNumber) = try unanswered(.info(InfoRequest(key: "x")), client, peer)

    peer.vanish()
    try eventually("the client has noticed") { isInterrupted(client) }
    let second = try broker.accept()
    let hello = try second.greet(broker, isAwaited: true)
    #expect(hello.token == FakeBroker.token && hello.name == "a test")
    let board = try FakeBoard()
    board.post(.sealed)
    try second.giveBoard(board)
    for handle in handles { #expect(try second.answer(.done) == handle) }
    let again = [try second.next(), try second.next(), try second.next()]
    #expect(again.map(\.request) == [create, .info(InfoRequest(key: "x")), .reattached])
    #expect(again.prefix(2).map(\.number) == [createNumber, lookNumber])
    #expect(entry.status.state(of: generation) == .sealed, "at the same address")
    #expect(try second.viewCount() == 1)
    #expect(client.session.takeOverCount == 1)
    try second.say(.done, to: again[2].number)
    try second.say(.created(try .made(8)), to: createNumber)
    try second.say(.failure(PatchbayError(.noSuchKey, "none")), to: lookNumber)
    #expect(try creating.value.created.blob.generation.rawValue == 8)
    #expect(try looking.code == .noSuchKey)
    // And on as before.
    let pinging = Started { () throws(PatchbayError) in try client.ping() }
    #expect(try second.answer(.pong) == .ping)
    #expect(try pinging.code == nil)
  }

  @Test func `as many long questions as no socket takes at once are all asked`() throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let generations: Range<UInt64> = 1..<41
    client.session.connection.state.withLock { state in
      for generation in generations {
        guard let grant = try? BlobGrant.made(Int(generation)) else { continue }
        state.attachments.answered(
          .createWith(CreateRequest(key: "k"), shared), generation, by: .created(grant))
        for number in 0..<UInt64(ReattachRequest.claimLimit) {
          let range = Int(number)..<Int(number) + 1
          state.attachments.answered(
            .claim(ClaimRequest(blob: grant.blob, range: range)), number,
            by: .claimed(ClaimGrant(blob: grant.blob, claim: number, range: range)))
        }
      }
    }
    peer.vanish()
    let second = try broker.accept()
    try second.greet(broker, isAwaited: true)
    for generation in generations {
      guard case .reattach(let handle) = try second.answer(.done) else {
        throw HarnessError("no handle")
      }
      #expect(handle.blob.generation.rawValue == generation)
      #expect(handle.claims.count == ReattachRequest.claimLimit)
    }
    #expect(try second.answer(.done) == .reattached)
    try eventually("the client is back") { !isInterrupted(client) }
    #expect(client.session.takeOverCount == 1)
  }

  @Test func `a client that nobody calls comes back, too`() throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    peer.vanish()
    let second = try broker.accept()
    try broker.stopAndListen()
    try second.greet(broker, isAwaited: true)
    #expect(try second.next().request == .reattached)
    withExtendedLifetime(client) {}
  }

  @Test func `a broker that is another one by then is named`() throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    #expect(client.brokerProcess == 101)
    broker.stopListening()
    peer.vanish()
    try broker.listen()
    let second = try broker.accept()
    try second.greet(broker, isAwaited: true)
    _ = try second.next()
    #expect(client.brokerProcess == 102)
  }

  @Test func `tasks go on, their requests with the same numbers`() throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let create = Request.create(CreateRequest(key: "lost"))
    let created = Started(task: { () async throws(PatchbayError) in
      try await client.session.connection.call(create, deadline: .standard)
    })
    let (number, _) = try peer.next()
    peer.vanish()
    try eventually("the client has noticed") { isInterrupted(client) }
    let later = Started(task: { () async throws(PatchbayError) in try await client.ping() })
    try eventually("it waits") { client.session.connection.pendingCount == 2 }
    let second = try broker.accept()
    try second.greet(broker, isAwaited: true)
    let again = try second.next()
    #expect(again.number == number && again.request == create)
    let ping = try second.next()
    #expect(ping.request == .ping)
    #expect(try second.next().request == .reattached)
    try second.say(.pong, to: ping.number)
    try second.say(.created(try .made(8)), to: number)
    #expect(try created.value.created.blob.generation.rawValue == 8)
    #expect(try later.code == nil)
  }

  @Test func `a broker that knows nothing of the client ends its session`() throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let (waiting, _) = try unanswered(.info(InfoRequest(key: "x")), client, peer)
    peer.vanish()
    let second = try broker.accept()
    try second.greet(broker, isAwaited: false)
    #expect(try waiting.code == .noBroker)
    #expect(code { try client.ping() } == .noBroker)
    try eventually("it hangs up") { try second.seesEnd() }
  }

  @Test func `a broker of another instance ends its session`() throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let (waiting, _) = try unanswered(.info(InfoRequest(key: "x")), client, peer)
    peer.vanish()
    try broker.accept().greet(broker, isAwaited: true, instance: 1)
    #expect(try waiting.code == .noBroker)
  }

  /// It need not speak what the client does: a refusal is the same in all versions.
  @Test(arguments: [1, 3] as [UInt16])
  func `a broker of another version ends its session, and says which`(version: UInt16) throws {
    let refusal = PatchbayError(.versionMismatch, "It speaks 3 to 4, the client 1 to 1.")
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let (waiting, _) = try unanswered(.info(InfoRequest(key: "x")), client, peer)
    peer.vanish()
    let second = try broker.accept()
    let (number, request) = try second.next()
    #expect(request == client.session.helloAgain)
    try second.say(Frame.encode(.failure(refusal), request: number, version: version))
    let error = #expect(throws: PatchbayError.self) { try waiting.value }
    #expect(error?.code == .versionMismatch && error?.message == refusal.message)
    #expect(code { try client.ping() } == .versionMismatch)
  }

  @Test func `when none comes within the limit the session ends, and says how long it was`() throws
  {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client(reconnectLimit: .milliseconds(50))
    let (waiting, _) = try unanswered(.info(InfoRequest(key: "x")), client, peer, deadline: .never)
    broker.stopListening()
    peer.vanish()
    let error = #expect(throws: PatchbayError.self) { try waiting.value }
    #expect(error?.code == .noBroker && error?.message.contains("0.05 seconds") == true)
    #expect(error?.message.contains("patchbay serve --socket \(broker.path)") == true)
  }

  @Test func `without a limit it ends at once, and connects to nobody`() throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client(reconnectLimit: .zero)
    let (waiting, _) = try unanswered(.info(InfoRequest(key: "x")), client, peer, deadline: .never)
    peer.vanish()
    #expect(try waiting.code == .noBroker)
    #expect(!broker.isCalled)
  }

  @Test func `a broker that says why it goes is not waited for`() throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let (waiting, _) = try unanswered(.info(InfoRequest(key: "x")), client, peer, deadline: .never)
    try peer.say(.failure(PatchbayError(.noBroker, "It was nice.")), to: 0)
    peer.vanish()
    let error = #expect(throws: PatchbayError.self) { try waiting.value }
    #expect(error?.message == "It was nice." && !broker.isCalled)
  }

  @Test func `a broker that goes while it is told begins it anew`() throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let handles = try equip(client, peer)
    let (waiting, number) = try unanswered(.info(InfoRequest(key: "x")), client, peer)
    peer.vanish()
    // After the connection, after the hello, and after each of the handles.
    for told in -1...handles.count {
      let next = try broker.accept()
      if told >= 0 {
        try next.greet(broker, isAwaited: true)
        for handle in handles.prefix(told) { #expect(try next.answer(.done) == handle) }
        if told < handles.count { #expect(try next.next().request == handles[told]) }
      }
      next.vanish()
    }
    let last = try broker.accept()
    try last.greet(broker, isAwaited: true)
    for handle in handles { #expect(try last.answer(.done) == handle) }
    let again = try last.next()
    #expect(again.number == number)
    #expect(try last.next().request == .reattached)
    try last.say(.failure(PatchbayError(.noSuchKey, "none")), to: number)
    #expect(try waiting.code == .noSuchKey)
  }

  @Test func `a deadline that comes while there is no broker says so, and the session goes on`()
    throws
  {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let (waiting, _) = try unanswered(
      .info(InfoRequest(key: "x")), client, peer, deadline: .after(.milliseconds(300)))
    broker.stopListening()
    peer.vanish()
    let error = #expect(throws: PatchbayError.self) { try waiting.value }
    #expect(error?.code == .noBroker && error?.message.contains("at the moment") == true)
    #expect(code { try client.ping(deadline: .after(.milliseconds(5))) } == .noBroker)
    let task = Started(task: { () async throws(PatchbayError) in
      try await client.ping(deadline: .after(.milliseconds(5)))
    })
    #expect(try task.code == .noBroker)
    try client.session.connection.checkAlive()
    try broker.listen()
    let second = try broker.accept()
    try second.greet(broker, isAwaited: true)
    #expect(try second.next().request == .reattached, "who gave up is not asked for")
    let pong = Started(task: { () async throws(PatchbayError) in try await client.ping() })
    try second.answer(.pong)
    #expect(try pong.code == nil)
  }

  @Test func `what is ended while there is no broker is not taken up, later ends are said`() throws
  {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let handles = try equip(client, peer)
    broker.stopListening()
    peer.vanish()
    try eventually("the client has noticed") { isInterrupted(client) }
    let connection = client.session.connection
    guard case .reattach(let publisher) = handles[0], case .reattach(let reader) = handles[1]
    else { return }
    connection.post(.abandon(publisher.blob))
    try broker.listen()
    let second = try broker.accept()
    try second.greet(broker, isAwaited: true)
    let (number, told) = try second.next()
    #expect(told == handles[1])
    let end = Request.close(CloseRequest(blob: reader.blob, opened: reader.number))
    connection.post(end)
    try second.say(.done, to: number)
    #expect(try second.answer(.done) == handles[2])
    #expect(try second.answer(.done) == handles[3])
    #expect(try second.next(2) == [.reattached, end])
  }

  @Test func `what the next broker refuses is not asked of the one after it`() throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let handles = try equip(client, peer)
    peer.vanish()
    let second = try broker.accept()
    try second.greet(broker, isAwaited: true)
    try second.answer(.failure(PatchbayError(.fenced, "another has it")))
    for _ in 1..<handles.count { try second.answer(.done) }
    #expect(try second.next().request == .reattached)
    second.vanish()
    let third = try broker.accept()
    try third.greet(broker, isAwaited: true)
    for handle in handles.dropFirst() { #expect(try third.answer(.done) == handle) }
    #expect(try third.next().request == .reattached)
    withExtendedLifetime(client) {}
  }

  @Test(arguments: [
    (Request.remove(RemoveRequest(key: "k", generation: nil)), PatchbayError.Code.noSuchKey),
    (
      .fail(
        FailRequest(
          blob: BlobReference(generation: Generation(rawValue: 4), epoch: 1), cause: "c")), .closed
    ),
  ])
  func `what the first broker has done the second need not do`(
    request: Request, refusal: PatchbayError.Code
  ) throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let (repeated, number) = try unanswered(request, client, peer)
    peer.vanish()
    let second = try broker.accept()
    try second.greet(broker, isAwaited: true)
    #expect(try second.next().number == number)
    _ = try second.next()
    try second.say(.failure(PatchbayError(refusal, "gone")), to: number)
    #expect(try repeated.code == nil)
    let (fresh, other) = try unanswered(request, client, second)
    try second.say(.failure(PatchbayError(refusal, "gone")), to: other)
    #expect(try fresh.code == refusal, "asked once, it is a refusal")
  }

  @Test func `calls of many threads and tasks that were under way all end well`() throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let threads = (0..<8).map { _ in
      Started { () throws(PatchbayError) in for _ in 0..<20 { try client.ping() } }
    }
    let tasks = (0..<8).map { _ in
      Started(task: { () async throws(PatchbayError) in
        for _ in 0..<20 { try await client.ping() }
      })
    }
    var peers = [peer]
    var answered = 0
    var next = peer
    var sinceLoss = 0
    while answered < 320 {
      let (number, request) = try next.next()
      switch request {
      case .reattached: try next.say(.done, to: number)
      case .ping:
        sinceLoss += 1
        // Every so often it goes instead of answering.
        if sinceLoss % 41 == 40 {
          next.vanish()
          next = try broker.accept()
          try next.greet(broker, isAwaited: true)
          peers.append(next)
        } else {
          try next.say(.pong, to: number)
          answered += 1
        }
      default: Issue.record("\(request)")
      }
    }
    for caller in threads + tasks { #expect(try caller.code == nil) }
    #expect(peers.count > 5 && client.session.connection.pendingCount == 0)
  }

  @Test func `a client that is given up while there is no broker leaves nothing`() throws {
    let broker = try FakeBroker()
    weak var session: Session?
    do {
      let (client, peer) = try broker.client()
      session = client.session
      broker.stopListening()
      peer.vanish()
      try eventually("the client has noticed") { isInterrupted(client) }
    }
    try eventually("the session has gone") { session == nil }
  }

  // MARK: Moments

  /// A close names no request.
  @Test(arguments: [false, true])
  func `a late open that is given back leaves the reader that stands to the next broker`(
    observes: Bool
  ) throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let connection = client.session.connection
    let opened = try BlobGrant.made(4, epoch: 0)
    let open = Request.open(OpenRequest(key: "k", waits: false, observes: false))
    let (first, reader) = try unanswered(open, client, peer)
    try peer.say(.opened(opened), to: reader)
    _ = try first.value
    let place = SubscriptionRequest(generation: opened.blob.generation, entry: 2)
    let (joining, number) = try unanswered(.subscribe(place), client, peer)
    try peer.say(.done, to: number)
    _ = try joining.value

    let another = OpenRequest(key: "k", waits: false, observes: observes)
    let (second, late) = try unanswered(
      .open(another), client, peer, deadline: .after(.milliseconds(20)))
    #expect(try second.code == .timedOut)
    try peer.say(.opened(opened), to: late)
    try connection.checkAlive()
    #expect(
      try peer.next().request == .close(CloseRequest(blob: opened.blob, opened: late)))

    peer.vanish()
    let next = try broker.accept()
    try next.greet(broker, isAwaited: true)
    #expect(
      try next.answer(.done)
        == .reattach(ReattachRequest(blob: opened.blob, role: .reader, number: reader)))
    #expect(try next.answer(.done) == .subscribe(place))
    #expect(try next.next().request == .reattached)
  }

  /// Who reads may find the welcome and the end before anybody has said that another one is waited for.
  @Test(arguments: [false, true])
  func `a client whose broker goes right after the welcome comes back`(isTask: Bool) throws {
    for _ in 0..<10 {
      let broker = try FakeBroker()
      let path = broker.path
      let connecting =
        isTask
        ? Started(task: { () async throws(PatchbayError) in
          try await PatchbayClient(socketPath: path, reconnectLimit: .seconds(20))
        })
        : Started { () throws(PatchbayError) in
          try PatchbayClient(socketPath: path, reconnectLimit: .seconds(20))
        }
      let peer = try broker.accept()
      try peer.greet(broker, isAwaited: false)
      peer.vanish()
      let client = try connecting.value
      let second = try broker.accept()
      try second.greet(broker, isAwaited: true)
      #expect(try second.next().request == .reattached)
      let pinging = Started { () throws(PatchbayError) in try client.ping() }
      #expect(try second.answer(.pong) == .ping)
      #expect(try pinging.code == nil)
    }
  }

  /// The order of events that the test above meets now and then.
  @Test func `a connection that ended before it was kept is revived, one that was told why is not`()
    throws
  {
    for isTold in [false, true] {
      let broker = try FakeBroker()
      let (client, peer) = try broker.client()
      let connection = client.session.connection
      connection.state.withLock { $0.session = nil }
      if isTold { try peer.say(.failure(PatchbayError(.noBroker, "It was nice.")), to: 0) }
      peer.vanish()
      // The courier may be reading at this moment.
      try eventually("it has ended") { code { try connection.checkAlive() } == .noBroker }
      #expect(connection.wentSilently == !isTold)
      try connection.keep(for: client.session)
      #expect(code { try connection.checkNotFailed() } == (isTold ? .noBroker : nil))
      guard !isTold else { continue }
      let second = try broker.accept()
      try second.greet(broker, isAwaited: true)
      #expect(try second.next().request == .reattached)
    }
  }

  /// Its broker may have taken it for a publisher, whom nobody else would name to the next.
  @Test(arguments: [false, true], [false, true])
  func `a join that nobody waits for any more is asked again, and left`(
    isTask: Bool, isGivenUpBefore: Bool
  ) throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client()
    let connection = client.session.connection
    let join = Request.join(JoinRequest(key: "k", generation: nil))
    let deadline = Deadline.after(.milliseconds(300))
    let joining =
      isTask
      ? Started(task: { () async throws(PatchbayError) in
        try await connection.call(join, deadline: deadline)
      })
      : Started { () throws(PatchbayError) in try connection.call(join, deadline: deadline) }
    let (number, asked) = try peer.next()
    #expect(asked == join)
    broker.stopListening()
    if isGivenUpBefore { #expect(try joining.code == .timedOut) }
    peer.vanish()
    try eventually("the client has noticed") { isInterrupted(client) }
    #expect([.timedOut, .noBroker].contains(try joining.code))
    try broker.listen()
    let second = try broker.accept()
    try second.greet(broker, isAwaited: true)
    let again = try second.next()
    #expect(again.number == number && again.request == join)
    #expect(try second.next().request == .reattached)
    let grant = try BlobGrant.made(4)
    try second.say(.joined(grant), to: number)
    // Whoever reads next finds it.
    let pinging = Started { () throws(PatchbayError) in try client.ping() }
    #expect(try second.answer(.pong) == .ping)
    let (leave, left) = try second.next()
    #expect(left == .leave(grant.blob))
    #expect(try pinging.code == nil)
    // Nobody knows whether that one has done it.
    second.vanish()
    let third = try broker.accept()
    try third.greet(broker, isAwaited: true)
    let last = try third.next()
    #expect(last.number == leave && last.request == left)
    #expect(try third.next().request == .reattached)
    try third.say(.done, to: leave)
    let later = Started { () throws(PatchbayError) in try client.ping() }
    #expect(try third.answer(.pong) == .ping)
    #expect(try later.code == nil)
    third.vanish()
    let fourth = try broker.accept()
    try fourth.greet(broker, isAwaited: true)
    #expect(try fourth.next().request == .reattached, "it is settled")
  }

  @Test func `a task that is cancelled between two attempts to be greeted is told so`() throws {
    let broker = try FakeBroker()
    let path = broker.path
    let result = Mutex<PatchbayError.Code?>(nil)
    let task = Task {
      do throws(PatchbayError) {
        _ = try await PatchbayClient(socketPath: path, reconnectLimit: .seconds(60))
      } catch {
        result.withLock { $0 = error.code }
      }
    }
    for _ in 0..<8 {
      let peer = try broker.accept()
      _ = try peer.next()
      peer.vanish()
    }
    // From here on it pauses for 50 ms after each attempt, of which nothing comes.
    let last = try broker.accept()
    _ = try last.next()
    broker.stopListening()
    try last.fallSilent()
    try eventually("it has noticed") { try last.seesEnd() }
    task.cancel()
    try eventually("it ends") { result.withLock { $0 != nil } }
    #expect(result.withLock { $0 } == .cancelled)
  }

  // MARK: What connecting meets

  @Test func `an end for want of a broker says what connecting met last`() throws {
    let broker = try FakeBroker()
    let (client, peer) = try broker.client(reconnectLimit: .milliseconds(50))
    let (waiting, _) = try unanswered(.info(InfoRequest(key: "x")), client, peer, deadline: .never)
    let plug = try broker.listenToOne()
    peer.vanish()
    let error = #expect(throws: PatchbayError.self) { try waiting.value }
    #expect(error?.code == .noBroker && error?.message.contains("0.05 seconds") == true)
    #expect(error?.message.contains("its queue of new ones is full") == true)
    withExtendedLifetime(plug) {}
  }

  @Test(arguments: [EACCES, EAGAIN, EMFILE, ENFILE, ENOMEM, ENOBUFS, ECONNREFUSED, ENOENT])
  func `what may be over in a moment does not end the search`(number: Int32) {
    let isNobody = [ECONNREFUSED, ENOENT].contains(number)
    let error = PatchbayError(
      isNobody ? .noBroker : .inputOutput, "a test", systemErrno: number)
    #expect(Reconnection.mayPass(error))
  }

  @Test func `what will not be over in a moment ends the search`() {
    for number in [ENOTDIR, EINVAL, EPROTOTYPE, ELOOP] {
      #expect(!Reconnection.mayPass(PatchbayError(.inputOutput, "a test", systemErrno: number)))
    }
    // As of a stranger's broker.
    #expect(!Reconnection.mayPass(PatchbayError(.notPermitted, "a test")))
  }
}

extension FakeBroker {
  fileprivate func stopAndListen() throws {
    stopListening()
    try listen()
  }
}
