// Windowed blobs in the ledger: what may be created, and whom a publisher is told to wait for.

import PatchbayLedger
import PatchbayTypes
import PatchbayWire
import Testing

@Suite struct WindowLedgerTests {
  private func window(_ policy: FlowPolicy = .backpressure) -> (inout CreateRequest) -> Void {
    { request in
      request.policy = policy
      request.order = .appendOnly
      request.firstExtent = 20_000
      request.segment = 8192
    }
  }

  @Test func `a window is one ring of whole segments, whatever the length`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let plain = try need(
      rig.create(writer, "plain") {
        $0.policy = .dropOldest
        $0.order = .appendOnly
        $0.byteCount = 1 << 40
      })
    #expect(plain.plan.first == 2 << 20 && plain.plan.limit == 2 << 20 && plain.segment == 1 << 18)
    #expect(plain.policy == .dropOldest && plain.extent?.dataByteCount == 2 << 20)
    let chosen = try need(rig.create(writer, "chosen", window()))
    #expect(chosen.plan.first == 24576 && chosen.segment == 8192)
    #expect(
      rig.ask(writer, .grow(GrowRequest(blob: chosen.blob, index: 1)))?.code == .rangeOutOfBounds)
    let sealed = rig.ask(writer, .seal(SealRequest(blob: plain.blob, byteCount: 1 << 40)))
    #expect(sealed == .done)
  }

  @Test func `what makes no window is refused`() {
    var rig = Rig()
    let writer = rig.connect()
    for change in [
      { $0.order = .any }, { $0.segment = 5000 }, { $0.segment = 1 << 31 },
      { $0.inlineBytes = [1] },
    ] as [(inout CreateRequest) -> Void] {
      let code = rig.createError(writer, "k") { request in
        self.window()(&request)
        change(&request)
      }
      #expect(code == .protocolViolation)
    }
    let huge = rig.createError(writer, "k") { request in
      self.window()(&request)
      request.firstExtent = 1 << 39
    }
    #expect(huge == .noSpaceMemory)
  }

  @Test func `a publisher learns who comes and goes, and is woken for who goes`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let reader = rig.connect()
    let blob = try need(rig.create(writer, "k", window()))
    let generation = blob.blob.generation
    _ = rig.open(reader, "k")
    let request = SubscriptionRequest(generation: generation, entry: 5)
    let before = rig.trace.count
    #expect(rig.ask(reader, .subscribe(request)) == .done)
    #expect(rig.trace[before...].contains { if case .ring = $0 { true } else { false } } == false)
    #expect(Array(rig.trace[before...]).posts.last?.subscriptionVersion == 1)
    #expect(rig.ask(reader, .subscribe(request)) == .done, "once more is no second one")
    let list = try need(rig.ask(writer, .subscriptions(blob.blob))?.list)
    #expect(list.version == 1 && list.subscriptions.map(\.entry) == [5])
    let clientID = list.subscriptions[0].clientID
    let table = rig.post(
      writer, .attachTable(TableRequest(blob: blob.blob, clientID: clientID)))
    #expect(rig.descriptors(writer, table) == [.peerTable(reader)])
    let going = rig.trace.count
    #expect(rig.ask(reader, .unsubscribe(request)) == .done)
    #expect(rig.trace[going...].contains { if case .ring = $0 { true } else { false } })
    #expect(rig.ask(writer, .subscriptions(blob.blob))?.list?.subscriptions == [])
    let gone = TableRequest(blob: blob.blob, clientID: clientID)
    #expect(rig.ask(writer, .attachTable(gone))?.code == .closed)
  }

  @Test func `a subscriber that closes, hangs up or is detached holds nobody`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k", window()))
    let generation = blob.blob.generation
    for way in 0..<3 {
      let reader = rig.connect()
      let grant = try need(rig.open(reader, "k")?.grant)
      rig.ask(reader, .subscribe(SubscriptionRequest(generation: generation, entry: 1)))
      let list = try need(rig.ask(writer, .subscriptions(blob.blob))?.list)
      #expect(list.subscriptions.count == 1)
      switch way {
      case 0: rig.close(reader, grant.reader)
      case 1: rig.send(.hungUp(reader))
      default:
        let detach = DetachRequest(blob: blob.blob, subscription: list.subscriptions[0])
        #expect(rig.ask(writer, .detach(detach)) == .done)
        #expect(rig.ask(writer, .detach(detach)) == .done, "whoever has gone is no error")
      }
      #expect(rig.ask(writer, .subscriptions(blob.blob))?.list?.subscriptions == [])
    }
  }

  @Test func `only readers of a blob whose publisher waits may hold it`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let reader = rig.connect()
    let kept = try need(rig.create(writer, "kept")).blob.generation
    let held = try need(rig.create(writer, "held", window()))
    let request = SubscriptionRequest(generation: held.blob.generation, entry: 0)
    #expect(rig.ask(reader, .subscribe(request))?.code == .closed)
    #expect(rig.ask(reader, .subscriptions(held.blob))?.code == .closed)
    _ = rig.open(reader, "kept")
    let other = SubscriptionRequest(generation: kept, entry: 0)
    #expect(rig.ask(reader, .subscribe(other))?.code == .protocolViolation)
    _ = rig.open(reader, "held")
    for entry in 0..<1024 {
      let next = SubscriptionRequest(generation: held.blob.generation, entry: entry)
      #expect(rig.ask(reader, .subscribe(next)) == .done)
    }
    let last = SubscriptionRequest(generation: held.blob.generation, entry: 1024)
    #expect(rig.ask(reader, .subscribe(last))?.code == .limitReached)
  }
}

extension Reply {
  fileprivate var list: SubscriptionList? {
    if case .subscriptions(let list) = self { list } else { nil }
  }
}
