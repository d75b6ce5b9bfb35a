// Asking the ledger who has to do with a key.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

extension Rig {
  fileprivate mutating func why(_ session: SessionID, _ key: BlobKey) throws -> BlobSituation {
    let before = trace.count
    post(session, .why(WhyRequest(key: key)))
    for case .explain(_, _, var situation, let figures) in trace[before...] {
      situation.info = figures?.report.info
      return situation
    }
    throw PatchbayError(.inputOutput, "The ledger explained nothing.")
  }
}

extension BlobSituation {
  /// Waits as words.
  fileprivate var waiting: [String] { waits.map { "\($0.name) for \($0.want)" } }
}

@Suite struct InquiryTests {
  @Test func `who waits for a key that nobody has created is named, the longest wait first`() throws
  {
    var rig = Rig()
    let first = rig.connect(process: 11, name: "first")
    let second = rig.connect(process: 12, name: "second")
    let began = rig.now.wall
    _ = rig.open(first, "k", waits: true)
    rig.pass(.seconds(3))
    let open = rig.post(second, .open(OpenRequest(key: "k", waits: true, observes: false)))
    _ = rig.open(second, "other", waits: true)
    let situation = try rig.why(second, "k")
    #expect(situation.info == nil && situation.waiting == ["first for key", "second for key"])
    #expect(situation.waits[0].since == began && situation.waits[0].process == 11)
    rig.post(second, .cancel(CancelRequest(request: open)))
    #expect(try rig.why(second, "k").waiting == ["first for key"])
    rig.send(.hungUp(first))
    #expect(try rig.why(second, "k").waits.isEmpty)
  }

  @Test func `who writes and reads a blob is named, with handles, since the first`() throws {
    var rig = Rig()
    let writer = rig.connect(process: 21, name: "writer")
    let reader = rig.connect(process: 22, name: "reader")
    let grant = try need(rig.create(writer, "k"))
    rig.pass(.seconds(1))
    let opened = rig.now.wall
    _ = rig.open(reader, "k")
    rig.pass(.seconds(1))
    _ = rig.open(reader, "k")
    _ = rig.open(writer, "k", observes: true)
    let situation = try rig.why(reader, "k")
    #expect(situation.publishers.map(\.process) == [21])
    let readers = situation.subscribers
    #expect(
      readers == [
        BlobSituation.Party(process: 22, name: "reader", handleCount: 2, since: opened)
      ])
    #expect(situation.waits.isEmpty && situation.info?.state == .open)
    rig.post(writer, .seal(SealRequest(blob: grant.blob, byteCount: 0)))
    #expect(try rig.why(reader, "k").publishers.isEmpty)
  }

  @Test func `a creation and a growth wait for memory, a seal to be verified, an open for a board`()
    throws
  {
    var rig = Rig()
    let client = rig.connect(name: "client")
    rig.holdsRings = true
    rig.post(client, .create(CreateRequest(key: "k")))
    #expect(try rig.why(client, "k").waiting == ["client for memory"])
    rig.send(.ringCreated(RingID(rawValue: 1), inode: 1))
    let grant = try need(
      rig.trace.compactMap {
        if case .reply(_, _, .created(let grant), _) = $0 { grant } else { nil }
      }.first)
    #expect(try rig.why(client, "k").waits.isEmpty)
    rig.post(client, .grow(GrowRequest(blob: grant.blob, index: 1)))
    #expect(try rig.why(client, "k").waiting == ["client for memory"])
    rig.send(.ringCreated(RingID(rawValue: 2), inode: 2))
    rig.holdsInspections = true
    rig.post(client, .seal(SealRequest(blob: grant.blob, byteCount: 10)))
    #expect(try rig.why(client, "k").waiting == ["client for verification"])
    rig.post(client, .fail(FailRequest(blob: grant.blob, cause: "enough")))
    #expect(try rig.why(client, "k").waits.isEmpty, "it was refused with the failure")
    rig.holdsBoards = true
    rig.holdsRings = false
    for index in 0..<9 {
      rig.post(client, .create(CreateRequest(key: BlobKey(stringLiteral: "\(index)"))))
    }
    #expect(try rig.why(client, "8").waiting == ["client for memory"])
  }

  @Test func `of many waits the oldest are told, and how many there are`() throws {
    var rig = Rig()
    let client = rig.connect()
    for _ in 0..<100 { _ = rig.open(client, "k", waits: true) }
    let situation = try rig.why(client, "k")
    #expect(situation.waits.count == 64 && situation.waitCount == 100)
  }
}
