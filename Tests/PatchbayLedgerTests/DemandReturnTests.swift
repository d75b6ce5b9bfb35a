// What a source was given to fetch and does not fetch any more.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct DemandReturnTests {
  private static let piece = 4096

  /// A blob of three pieces that two sources share, and a reader.
  private struct Scene {
    var rig: Rig
    let first: SessionID
    let second: SessionID
    let reader: SessionID
    let blob: BlobGrant
    let shared: BlobGrant

    init(fills: Bool = false, transferLimit: Int = .max) throws {
      rig = Rig { $0.transferLimit = transferLimit }
      first = rig.connect(process: 1)
      second = rig.connect(process: 2)
      reader = rig.connect(process: 3)
      var create = CreateRequest(key: "k")
      create.byteCount = 3 * piece
      var terms = CreateTerms(ownership: .joinable, idleLimit: nil, resumes: false)
      terms.demand = DemandTerms(pieceByteCount: piece, readAhead: 0, fills: fills)
      blob = try need(rig.ask(first, .createWith(create, terms))?.grant)
      shared = try need(rig.join(second, "k")?.grant)
      _ = rig.open(reader, "k")
    }

    mutating func want(_ piece: Int) -> UInt64 {
      let start = piece * DemandReturnTests.piece
      return rig.post(
        reader, .demand(DemandRequest(generation: blob.blob.generation, range: start..<start + 1)))
    }
  }

  private func piece(_ index: Int) -> Range<Int> { index * Self.piece..<(index + 1) * Self.piece }

  @Test func `what is given back is handed out to who waits for something to do`() throws {
    var scene = try Scene()
    let wanted = scene.want(1)
    #expect(scene.rig.ask(scene.first, .nextDemand(scene.blob.blob)) == .demanded(piece(1)))
    let idle = scene.rig.post(scene.second, .nextDemand(scene.shared.blob))
    #expect(scene.rig.reply(scene.second, idle) == nil)
    #expect(scene.rig.ask(scene.first, .settle(piece(1), of: scene.blob, .returned)) == .done)
    #expect(scene.rig.reply(scene.second, idle) == .demanded(piece(1)))
    #expect(scene.rig.reply(scene.reader, wanted) == nil, "nobody has failed")
    scene.rig.ask(scene.second, .settle(piece(1), of: scene.shared))
    #expect(scene.rig.reply(scene.reader, wanted) == .done)
    #expect(scene.rig.ledger.transferCount == 0)
  }

  @Test func `what is given back is handed out again to who gave it back`() throws {
    var scene = try Scene()
    let wanted = scene.want(0)
    #expect(scene.rig.ask(scene.first, .nextDemand(scene.blob.blob)) == .demanded(piece(0)))
    scene.rig.ask(scene.first, .settle(piece(0), of: scene.blob, .returned))
    #expect(scene.rig.ask(scene.first, .nextDemand(scene.blob.blob)) == .demanded(piece(0)))
    scene.rig.ask(scene.first, .settle(piece(0), of: scene.blob))
    #expect(scene.rig.reply(scene.reader, wanted) == .done)
  }

  @Test func `what nobody wants any more is given back for good`() throws {
    var scene = try Scene()
    let wanted = scene.want(0)
    #expect(scene.rig.ask(scene.first, .nextDemand(scene.blob.blob)) == .demanded(piece(0)))
    scene.rig.ask(scene.reader, .cancel(CancelRequest(request: wanted)))
    scene.rig.ask(scene.first, .settle(piece(0), of: scene.blob, .returned))
    #expect(scene.rig.ask(scene.first, .nextDemand(scene.blob.blob)) == nil)
    #expect(scene.rig.ledger.transferCount == 0)
  }

  @Test func `what is given back is part of the rest`() throws {
    var scene = try Scene(fills: true)
    #expect(scene.rig.ask(scene.first, .nextDemand(scene.blob.blob)) == .demanded(piece(0)))
    scene.rig.ask(scene.first, .settle(piece(0), of: scene.blob, .returned))
    var order: [Range<Int>] = []
    while case .demanded(let range) = scene.rig.ask(scene.first, .nextDemand(scene.blob.blob)) {
      order.append(range)
      scene.rig.ask(scene.first, .settle(range, of: scene.blob))
    }
    #expect(order == [1, 2, 0].map(piece))
  }

  @Test func `where few may fetch at once, who gives back makes room for another blob`() throws {
    var scene = try Scene(transferLimit: 1)
    var create = CreateRequest(key: "other")
    create.byteCount = Self.piece
    var terms = CreateTerms.plain
    terms.demand = DemandTerms(pieceByteCount: Self.piece, readAhead: 0, fills: true)
    let source = scene.rig.connect(process: 9)
    let other = try need(scene.rig.ask(source, .createWith(create, terms))?.grant)
    _ = scene.want(0)
    #expect(scene.rig.ask(scene.first, .nextDemand(scene.blob.blob)) == .demanded(piece(0)))
    let waiting = scene.rig.post(source, .nextDemand(other.blob))
    #expect(scene.rig.reply(source, waiting) == nil)
    scene.rig.ask(scene.first, .settle(piece(0), of: scene.blob, .returned))
    #expect(scene.rig.reply(source, waiting) == .demanded(piece(0)))
    #expect(scene.rig.ledger.transferCount == 1)
  }

  @Test func `nobody gives back what another one fetches, or what is there`() throws {
    var scene = try Scene()
    let wanted = scene.want(0)
    #expect(scene.rig.ask(scene.first, .nextDemand(scene.blob.blob)) == .demanded(piece(0)))
    let idle = scene.rig.post(scene.second, .nextDemand(scene.shared.blob))
    scene.rig.ask(scene.second, .settle(piece(0), of: scene.shared, .returned))
    scene.rig.ask(scene.second, .settle(0..<5, of: scene.shared, .returned))
    #expect(scene.rig.reply(scene.second, idle) == nil)
    #expect(scene.rig.ledger.transferCount == 1)
    scene.rig.ask(scene.first, .settle(piece(0), of: scene.blob))
    scene.rig.ask(scene.first, .settle(piece(0), of: scene.blob, .returned))
    #expect(scene.rig.reply(scene.reader, wanted) == .done)
    #expect(scene.rig.reply(scene.second, idle) == nil, "it is there")
    #expect(scene.rig.ledger.transferCount == 0)
  }

  @Test func `what is fetched is told at once, whether or not the source asks for more`() throws {
    var scene = try Scene()
    let wanted = (0..<3).map { scene.want($0) }
    for index in 0..<3 {
      #expect(scene.rig.ask(scene.first, .nextDemand(scene.blob.blob)) == .demanded(piece(index)))
    }
    let idle = scene.rig.post(scene.second, .nextDemand(scene.shared.blob))
    for index in 0..<3 {
      scene.rig.ask(scene.first, .settle(piece(index), of: scene.blob))
      #expect(scene.rig.reply(scene.reader, wanted[index]) == .done)
    }
    #expect(scene.rig.reply(scene.second, idle) == .done, "all is there")
  }

  @Test func `only a publisher settles, and only of a blob that is fetched on demand`() throws {
    var scene = try Scene()
    let plain = try need(scene.rig.create(scene.first, "plain"))
    let refused = scene.rig.ask(scene.first, .settle(piece(0), of: plain))
    #expect(refused?.code == .notPermitted)
    let foreign = scene.rig.ask(scene.reader, .settle(piece(0), of: scene.blob))
    #expect(foreign?.code == .closed)
  }

  // MARK: Removed

  @Test(arguments: [false, true])
  func `a source has nothing more to do when its blob is removed and nobody reads it`(
    isRemovedFirst: Bool
  ) throws {
    var scene = try Scene()
    let idle = scene.rig.post(scene.first, .nextDemand(scene.blob.blob))
    func remove(_ scene: inout Scene) {
      scene.rig.ask(scene.first, .remove(RemoveRequest(key: "k", generation: nil)))
    }
    func close(_ scene: inout Scene) {
      scene.rig.close(
        scene.reader, BlobReference(generation: scene.blob.blob.generation, epoch: 0))
    }
    if isRemovedFirst { remove(&scene) } else { close(&scene) }
    #expect(scene.rig.reply(scene.first, idle) == nil)
    if isRemovedFirst { close(&scene) } else { remove(&scene) }
    #expect(scene.rig.reply(scene.first, idle) == .done)
    let seal = SealRequest(blob: scene.blob.blob, byteCount: 3 * Self.piece)
    #expect(scene.rig.ask(scene.first, .seal(seal))?.code != nil, "it has ended")
  }
}
