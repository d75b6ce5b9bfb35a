// Who may talk, in which order, and what a session leaves behind.

import PatchbayLedger
import PatchbayTypes
import PatchbayWire
import Testing

@Suite struct SessionTests {
  @Test func `a hello is welcomed with a client table and recorded before`() throws {
    var rig = Rig()
    let session = rig.connectOnly()
    let number = rig.post(session, .hello(Rig.hello()))
    guard case .welcome(let welcome)? = rig.reply(session, number) else {
      Issue.record("no welcome")
      return
    }
    #expect(welcome.instance == 7)
    #expect(welcome.brokerProcess == 42)
    #expect(welcome.token != .none)
    #expect(
      rig.descriptors(session, number) == [.clientTable(session, clientID: welcome.clientID)])
    let recorded = rig.trace.place { if case .recordClient = $0 { true } else { false } }
    let replied = rig.trace.place { if case .reply = $0 { true } else { false } }
    #expect(try #require(recorded) < #require(replied))
  }

  @Test func `another user is refused and disconnected`() {
    var rig = Rig()
    let session = rig.connectOnly(uid: 0)
    #expect(rig.reply(session, 0)?.code == .notPermitted)
    #expect(rig.trace.last == .disconnect(session))
  }

  @Test func `connections are bounded, and a hang-up makes room`() {
    var rig = Rig { $0.connectionsPerUser = 2 }
    let first = rig.connect()
    _ = rig.connect()
    let third = rig.connectOnly()
    #expect(rig.reply(third, 0)?.code == .limitReached)
    rig.send(.hungUp(first))
    let fourth = rig.connectOnly()
    #expect(rig.reply(fourth, 0) == nil)
  }

  @Test func `whoever does not greet in time is told so and disconnected`() {
    var rig = Rig()
    let late = rig.connectOnly()
    let greeted = rig.connect()
    #expect(rig.ledger.nextDeadline == 6_000_000_000)
    rig.pass(.seconds(4))
    rig.send(.tick)
    #expect(!rig.trace.contains(.disconnect(late)))
    rig.pass(.seconds(1))
    rig.send(.tick)
    #expect(rig.trace.last == .disconnect(late))
    #expect(rig.reply(late, 0)?.code == .timedOut)
    #expect(rig.reply(late, 0)?.error?.message.contains("5.0 seconds") == true)
    #expect(!rig.trace.contains(.disconnect(greeted)))
    #expect(rig.ledger.nextDeadline == nil)
  }

  @Test func `anything before hello ends the connection`() {
    var rig = Rig()
    let session = rig.connectOnly()
    #expect(rig.ask(session, .ping)?.code == .protocolViolation)
    #expect(rig.trace.last == .disconnect(session))
    #expect(rig.ask(session, .ping) == nil)
  }

  @Test func `a second hello ends the connection`() {
    var rig = Rig()
    let session = rig.connect()
    #expect(rig.ask(session, .hello(Rig.hello()))?.code == .protocolViolation)
    #expect(rig.trace.contains(.disconnect(session)))
  }

  @Test func `versions without overlap are refused with both ranges`() throws {
    var rig = Rig()
    let session = rig.connectOnly()
    let next = Frame.protocolVersion + 1
    let hello = Hello(oldestVersion: next, newestVersion: next + 1, token: .none, name: "")
    let error = try need(rig.ask(session, .hello(hello))?.error)
    #expect(error.code == .versionMismatch)
    #expect(error.message.contains("\(next) to \(next + 1)"))
    #expect(rig.trace.last == .disconnect(session))
  }

  @Test func `a client that comes back with its token keeps its number`() {
    var rig = Rig()
    func welcome(_ rig: inout Rig, _ token: Token) -> (SessionID, Welcome?) {
      let session = rig.connectOnly()
      if case .welcome(let welcome)? = rig.ask(session, .hello(Rig.hello(token: token))) {
        return (session, welcome)
      }
      return (session, nil)
    }
    let (first, granted) = welcome(&rig, .none)
    let token = granted?.token ?? .none
    let (_, stranger) = welcome(&rig, token)
    #expect(stranger?.clientID != granted?.clientID)
    rig.send(.hungUp(first))
    let (_, returned) = welcome(&rig, token)
    #expect(returned?.clientID == granted?.clientID)
    #expect(returned?.token == token)
  }

  @Test func `a session ends once, by hang-up or by the process's end`() {
    var rig = Rig()
    let first = rig.connect()
    rig.send(.exited(first))
    #expect(rig.trace.contains(.disconnect(first)))
    let before = rig.trace.count
    rig.send(.hungUp(first))
    rig.send(.exited(first))
    #expect(rig.trace.count == before)
    let second = rig.connect()
    rig.send(.hungUp(second))
    let later = rig.trace.count
    rig.send(.exited(second))
    #expect(rig.trace.count == later)
    let clients = rig.connect()
    #expect(rig.statistics(clients)?.clientCount == 1)
  }

  @Test func `a ping is answered`() {
    var rig = Rig()
    let session = rig.connect()
    #expect(rig.ask(session, .ping) == .pong)
  }

  @Test func `a drain refuses new work and ends with the last publisher`() {
    var rig = Rig()
    let writer = rig.connect()
    let reader = rig.connect()
    let blob = rig.create(writer, "k") { $0.byteCount = 10 }
    let parked = rig.post(reader, .open(OpenRequest(key: "later", waits: true, observes: false)))
    rig.send(.drainBegan)
    #expect(rig.reply(reader, parked)?.code == .noBroker)
    #expect(rig.open(reader, "k")?.code == .noBroker)
    #expect(rig.createError(writer, "other") == .noBroker)
    let late = rig.connectOnly()
    #expect(rig.reply(late, 0)?.code == .noBroker)
    #expect(!rig.ledger.isDrained)
    if let blob {
      #expect(rig.ask(writer, .seal(SealRequest(blob: blob.blob, byteCount: 10))) == .done)
    }
    #expect(rig.ledger.isDrained)
  }
}
