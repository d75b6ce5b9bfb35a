// Readers and sources of a blob that is fetched on demand, at random: each waits, gives up, fails, comes and
// goes as it likes. A failure names its seed.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct DemandSimulationTests {
  private static let piece = 4096
  private static let end = 9 * piece + 100

  private static var seeds: [UInt64] { Array(1...40) + [UInt64.random(in: 0 ... .max)] }

  @Test(arguments: seeds)
  func `whatever readers and sources do, every count is right and every answer comes`(
    seed: UInt64
  ) throws {
    var world = try World(seed)
    for step in 0..<300 {
      world.step()
      if let wrong = world.wrong ?? world.rig.ledger.inconsistency {
        Issue.record("seed \(seed), step \(step): \(wrong)")
        return
      }
    }
    world.finish()
    #expect(world.wanted.isEmpty, "seed \(seed): \(world.wanted.count) wait in vain")
    #expect(world.rig.ledger.inconsistency == nil, "seed \(seed)")
    #expect(world.rig.ledger.transferCount == 0, "seed \(seed)")
  }

  /// One blob, two sources that share it, and three readers.
  private struct World {
    struct Source {
      let session: SessionID
      var blob: BlobReference?
      /// Requests for something to do, and what is being fetched.
      var slots: [UInt64] = []
      var held: [Range<Int>] = []
    }

    var rig: Rig
    var wanted: [(session: SessionID, number: UInt64)] = []
    var wrong: String?
    private var random: SeededGenerator
    private var sources: [Source] = []
    private var readers: [SessionID] = []
    private let generation: Generation

    init(_ seed: UInt64) throws {
      random = SeededGenerator(seed: seed)
      let limit = [1, 2, Int.max].randomElement(using: &random) ?? 1
      rig = Rig { $0.transferLimit = limit }
      var create = CreateRequest(key: "k")
      create.byteCount = end
      var terms = CreateTerms(ownership: .joinable, idleLimit: .seconds(600), resumes: false)
      terms.demand = DemandTerms(
        pieceByteCount: piece, readAhead: Int.random(in: 0...2, using: &random) * piece,
        fills: Bool.random(using: &random))
      let first = rig.connect(process: 1)
      let blob = try need(rig.ask(first, .createWith(create, terms))?.grant).blob
      generation = blob.generation
      sources = [
        Source(session: first, blob: blob), Source(session: rig.connect(process: 2)),
      ]
      readers = (0..<3).map { rig.connect(process: 10 + Int32($0)) }
      for reader in readers { _ = rig.open(reader, "k") }
    }

    private mutating func chance(_ one: Int, in all: Int) -> Bool {
      Int.random(in: 0..<all, using: &random) < one
    }

    mutating func step() {
      let place = Int.random(in: 0..<sources.count, using: &random)
      switch Int.random(in: 0..<20, using: &random) {
      case 0...4: want(atEnd: false)
      case 5: want(atEnd: true)
      case 6...7: cancelWant()
      case 8...11: askForMore(place)
      case 12...16: report(place, anyOutcome())
      case 17: cancelSlot(place)
      case 18 where chance(1, in: 3): reopen()
      default: if chance(1, in: 4) { leaveOrJoin(place) }
      }
      harvest()
    }

    private mutating func want(atEnd: Bool) {
      guard let reader = readers.randomElement(using: &random) else { return }
      let start = atEnd ? end : Int.random(in: 0..<end, using: &random)
      let stop = min(end, start + Int.random(in: 1...3 * piece, using: &random))
      let number = rig.post(
        reader, .demand(DemandRequest(generation: generation, range: start..<stop)))
      wanted.append((reader, number))
    }

    private mutating func cancelWant() {
      guard let want = wanted.randomElement(using: &random) else { return }
      rig.ask(want.session, .cancel(CancelRequest(request: want.number)))
      if rig.reply(want.session, want.number) == nil { wrong = "a cancelled wait goes on" }
    }

    private mutating func askForMore(_ place: Int) {
      guard let blob = sources[place].blob, sources[place].slots.count < 3 else { return }
      sources[place].slots.append(
        rig.post(sources[place].session, .nextDemand(blob)))
    }

    private mutating func report(_ place: Int, _ outcome: SettleDemandRequest.Outcome) {
      guard let blob = sources[place].blob,
        let range = sources[place].held.randomElement(using: &random)
      else { return }
      sources[place].held.removeAll { $0 == range }
      rig.ask(
        sources[place].session,
        .settleDemand(SettleDemandRequest(blob: blob, range: range, outcome: outcome)))
      if chance(7, in: 8) { askForMore(place) }
    }

    private mutating func anyOutcome() -> SettleDemandRequest.Outcome {
      switch Int.random(in: 0..<8, using: &random) {
      case 0...1: .failed("no")
      case 2: .returned
      default: .fetched
      }
    }

    private mutating func cancelSlot(_ place: Int) {
      guard let slot = sources[place].slots.randomElement(using: &random) else { return }
      rig.ask(sources[place].session, .cancel(CancelRequest(request: slot)))
    }

    private mutating func reopen() {
      guard let reader = readers.randomElement(using: &random) else { return }
      rig.close(reader, BlobReference(generation: generation, epoch: 0))
      _ = rig.open(reader, "k")
    }

    private mutating func leaveOrJoin(_ place: Int) {
      let session = sources[place].session
      if let blob = sources[place].blob {
        rig.ask(session, .leave(blob))
        sources[place].blob = nil
        sources[place].held = []
      } else {
        sources[place].blob = rig.join(session, "k")?.grant?.blob
      }
    }

    /// Takes in what was answered.
    private mutating func harvest() {
      for place in sources.indices {
        for slot in sources[place].slots {
          guard let reply = rig.reply(sources[place].session, slot) else { continue }
          sources[place].slots.removeAll { $0 == slot }
          guard case .demanded(let range) = reply else { continue }
          if sources.contains(where: { $0.held.contains(range) }) { wrong = "\(range) twice" }
          sources[place].held.append(range)
        }
      }
      let rig = rig
      wanted.removeAll { rig.reply($0.session, $0.number) != nil }
    }

    /// From now on all that is handed out is fetched.
    mutating func finish() {
      for place in sources.indices where sources[place].blob == nil { leaveOrJoin(place) }
      for _ in 0..<50 {
        for place in sources.indices {
          if sources[place].slots.isEmpty { askForMore(place) }
          harvest()
          while !sources[place].held.isEmpty {
            report(place, .fetched)
            harvest()
          }
        }
      }
    }
  }
}
