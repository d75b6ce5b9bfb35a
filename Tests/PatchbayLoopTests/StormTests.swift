// Whatever clients send, in whatever order: the broker answers each well-formed request once, or
// ends the connection, and goes on.

import PatchbayLoop
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Testing

@Suite(.serialized) struct StormTests {
  private struct Storm {
    var generator: SeededGenerator
    /// What the broker has granted to anybody: so that handles are often real, and often another's.
    var blobs: [BlobReference] = []

    mutating func pick<Element>(_ choices: [Element]) -> Element {
      choices[Int.random(in: 0..<choices.count, using: &generator)]
    }

    mutating func key() throws -> BlobKey { try BlobKey("k\(pick([0, 1, 2, 3, 4]))") }

    mutating func blob() -> BlobReference {
      let made = BlobReference(
        generation: Generation(rawValue: pick([0, 1, 2, 7, .max])), epoch: pick([0, 1, .max]))
      return blobs.isEmpty ? made : pick([made, pick(blobs), pick(blobs), pick(blobs)])
    }

    mutating func size() -> Int {
      pick([0, 1, 4095, 4096, 5000, 1 << 16, 1 << 23, 1 << 30, 1 << 46])
    }

    mutating func create() throws -> Request {
      var create = CreateRequest(key: try key())
      create.byteCount = pick([nil, size()])
      create.order = pick([.any, .appendOnly])
      create.policy = pick([.keep, .keep, .keep, .backpressure])
      create.acknowledgement = pick([.visible, .visible, .retained, .durable])
      create.mode = pick([0o600, 0o600, 0o644, 0o7777])
      create.replaces = pick([true, false])
      create.isCache = pick([true, false])
      create.firstExtent = pick([0, 0, 4096, 1, 1 << 46])
      create.extentLimit = pick([0, 0, 8192, 1, 1 << 46])
      if pick([true, false]) {
        create.inlineBytes = [UInt8](repeating: 1, count: pick([0, 1, 5000, 16384]))
        if pick([true, true, false]) { create.byteCount = create.inlineBytes?.count }
      }
      return .create(create)
    }

    mutating func request() throws -> Request {
      switch Int.random(in: 0..<18, using: &generator) {
      case 0...2: try create()
      case 3: .grow(GrowRequest(blob: blob(), index: pick([0, 1, 2, 16383, 1 << 30])))
      case 4: .seal(SealRequest(blob: blob(), byteCount: size()))
      case 5: .fail(FailRequest(blob: blob(), cause: String(repeating: "é", count: 500)))
      case 6: .abandon(blob())
      case 7:
        .open(
          OpenRequest(key: try key(), waits: pick([true, false]), observes: pick([true, false])))
      case 8: .cancel(CancelRequest(request: UInt64(pick([0, 1, 5, 50]))))
      case 9:
        .attachExtent(ExtentRequest(generation: blob().generation, index: pick([0, 1, 1 << 30])))
      case 10: .attachBoard(BoardRequest(board: pick([0, 1, 2, .max])))
      case 11: .close(CloseRequest(blob: blob(), opened: UInt64(pick([0, 1, 5, 50]))))
      case 12: .info(InfoRequest(key: try key()))
      case 13: .list(ListRequest(prefix: [], after: [], limit: pick([0, 1, 512, 1 << 31])))
      case 14:
        .reattach(
          ReattachRequest(
            blob: blob(), role: pick(ReattachRequest.Role.allCases),
            number: UInt64(pick([0, 1, 5, 50]))))
      case 15: .reattached
      case 16: .standBy(StandByRequest(generation: blob().generation, opened: 1))
      default: .remove(RemoveRequest(key: try key(), generation: pick([nil, blob().generation])))
      }
    }
  }

  /// Takes what is there to take, and remembers granted handles. False: hung up.
  private func drain(_ client: RawClient, _ storm: inout Storm) throws -> Bool {
    while let answer = try client.receiveIfThere() {
      guard let answer else { return false }
      switch answer.reply {
      case .created(let grant), .opened(let grant): storm.blobs.append(grant.blob)
      default: break
      }
      if storm.blobs.count > 40 { storm.blobs.removeFirst(20) }
    }
    return true
  }

  @Test(arguments: [1, 2, 3, 4] as [UInt64])
  func `no order of requests and no damaged packet brings the broker down`(seed: UInt64) throws {
    let broker = try TestBroker(memory: 48 << 20)
    let before = Listing.descriptorCount
    var storm = Storm(generator: SeededGenerator(seed: seed))
    var clients: [RawClient] = []
    for _ in 0..<4 { clients.append(try broker.client()) }
    for _ in 0..<1500 {
      let index = storm.pick([0, 1, 2, 3])
      var packet = Frame.encode(try storm.request(), request: storm.pick([1, 2, 3, .max]))
      if storm.pick(Array(repeating: false, count: 60) + [true]) {
        let at = Int.random(in: 0..<packet.count, using: &storm.generator)
        packet[at] ^= UInt8.random(in: 1...255, using: &storm.generator)
      }
      let outcome = try clients[index].send(raw: packet)
      let isThere = try drain(clients[index], &storm)
      if outcome == .hungUp || !isThere || storm.pick(Array(repeating: false, count: 200) + [true])
      {
        clients[index] = try broker.client()
      }
    }
    #expect(try broker.client().call(.ping).reply == .pong)
    clients = []
    let witness = try broker.client()
    // Every connection and every handle of theirs is gone again.
    let isForgotten = try eventually {
      guard case .statistics(let statistics) = try witness.call(.statistics).reply else {
        return false
      }
      return statistics.clientCount == 1 && statistics.memoryByteCount <= 48 << 20
    }
    #expect(isForgotten, "seed \(seed)")
    // Board and bells of at most three access classes stay, and the witness has two.
    #expect(eventually { Listing.descriptorCount <= before + 3 * 2 + 2 })
    broker.loop.stopNow()
    #expect(Listing.sharedObjects(of: broker.loop.instance).isEmpty)
  }
}
