// The broker killed between any two actions of a random run, and the next one, which knows what had been
// written by then: it must find a whole world, and the one after it the same.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct RecoverySimulationTests {
  private static let steps = 600
  private static let cuts = 40

  /// What stands in the journal, and on disk, when only the first so many actions were carried out.
  private struct Left {
    var blobs: [Generation: BlobRecord] = [:]
    var clients: [UInt64: ClientRecord] = [:]
    var complete: [Generation: StoredBlob] = [:]
    private var orders: [Generation: StoredBlob] = [:]

    init(_ actions: some Sequence<LedgerAction>) {
      for action in actions { take(action) }
    }

    mutating func take(_ action: LedgerAction) {
      switch action {
      case .recordBlob(let record):
        blobs[record.info.generation] = record
        // The name stands before the record that says so.
        if record.isPersisted, record.isNamed {
          complete[record.info.generation] = orders[record.info.generation]
        }
      case .eraseBlob(let generation): blobs[generation] = nil
      case .recordClient(let record): clients[record.clientID] = record
      case .eraseClient(let client): clients[client] = nil
      case .persist(let order): orders[order.blob.generation] = order.blob
      case .withdrawContainer(let generation): complete[generation] = nil
      default: break
      }
    }

    var recovery: Recovery {
      var recovery = Recovery()
      recovery.blobs = blobs.values.sorted { $0.info.generation < $1.info.generation }.map {
        var blob = RecoveredBlob(record: $0)
        blob.stored = complete[$0.info.generation]
        blob.holdsFile = $0.file != nil && $0.info.state == .sealed
        blob.diskByteCount = $0.hasContainer || !$0.scratch.isEmpty ? 4096 : 0
        return blob
      }
      recovery.clients = clients.values.sorted { $0.clientID < $1.clientID }.enumerated().map {
        RecoveredClient(record: $1, session: SessionID(rawValue: 1 << 40 + UInt64($0)))
      }
      recovery.lastGeneration = 1 << 30
      recovery.lastRing = 1 << 30
      recovery.lastClient = 1 << 30
      return recovery
    }
  }

  private struct Broker {
    var ledger: Ledger
    var now = Moment(monotonicNanoseconds: 1 << 50, wall: WallTime(rawValue: 1 << 50))
    var trace: [LedgerAction] = []
    private var lastSession: UInt64 = 1 << 50

    init(_ limits: LedgerLimits) {
      ledger = Ledger(
        limits: limits, instance: 7, run: 7, brokerProcess: 43, brokerUser: 1000, at: now,
        tokenSource: SeededGenerator(seed: 2), digest: simulatedDigest)
    }

    mutating func send(_ event: LedgerEvent) {
      let decided = ledger.handle(event, at: now)
      trace += decided
      for action in decided {
        // Taken at once, as an idle worker would.
        if case .retractRing(let ring, _) = action { send(.retracted(ring, isViewed: false)) }
      }
    }

    /// A client comes back, with all of its handles or with none.
    mutating func comeBack(_ client: RecoveredClient, takesUp: Bool) {
      lastSession += 1
      let session = SessionID(rawValue: lastSession)
      send(.connected(session, client.record.peer))
      send(.request(session, number: 1, .hello(Rig.hello(token: client.record.token))))
      guard takesUp else { return send(.request(session, number: 2, .reattached)) }
      for blob in ledger.blobs.values.sorted(by: { $0.origin.generation < $1.origin.generation }) {
        for publisher in blob.publishers where publisher.session == session {
          let request = ReattachRequest(
            blob: BlobReference(generation: blob.origin.generation, epoch: blob.epoch),
            role: .publisher, number: publisher.number)
          send(
            .request(session, number: 1000 + blob.origin.generation.rawValue, .reattach(request)))
        }
      }
      send(.request(session, number: 3, .reattached))
    }
  }

  private func check(_ world: SimulatedWorld, seed: UInt64, _ label: String) {
    var generator = SeededGenerator(seed: seed)
    for _ in 0..<Self.cuts {
      let cut = Int.random(in: 0...world.trace.count, using: &generator)
      let left = Left(world.trace.prefix(cut))
      if let wrong = violation(left, world.limits, &generator) {
        Issue.record("PATCHBAY_SEED=\(seed), \(label), cut \(cut): \(wrong)")
        return
      }
    }
  }

  /// What is wrong with the broker after the one that left this.
  private func violation(
    _ left: Left, _ limits: LedgerLimits, _ generator: inout SeededGenerator
  ) -> String? {
    var broker = Broker(limits)
    let recovery = left.recovery
    broker.send(.recovered(recovery))
    if let wrong = broker.ledger.inconsistency { return "found: \(wrong)" }
    for record in left.blobs.values {
      let generation = record.info.generation
      guard record.isNamed else {
        if broker.ledger.owners[record.info.key] == generation, !record.isSuccessor {
          return "\(generation) has a key"
        }
        continue
      }
      guard let blob = broker.ledger.blobs[generation] else {
        // Nobody has it open, and it was not wanted often enough to be kept, or is one too many.
        if record.terms.production.leastUses > 0, !record.isAdmitted { continue }
        if limits.cachedBlobCount != nil, record.info.state == .sealed { continue }
        if limits.cachedByteCount != nil, !record.info.state.isLive { continue }
        return "\(generation) is lost"
      }
      if record.info.state == .sealed, blob.state != .sealed { return "\(generation) is unsealed" }
      if record.slot != blob.slot { return "\(generation) has another entry" }
      let rings = Set(record.extents.map(\.ring))
      if rings != Set(blob.extents.map(\.ring)) { return "\(generation) has other rings" }
    }
    var others = left
    for action in broker.trace { others.take(action) }
    var again = Broker(limits)
    again.send(.recovered(others.recovery))
    if let wrong = again.ledger.inconsistency { return "found again: \(wrong)" }
    for (generation, blob) in broker.ledger.blobs where blob.isNamed {
      guard let twin = again.ledger.blobs[generation], twin.isNamed, twin.state == blob.state,
        twin.extents == blob.extents, twin.spooled == blob.spooled
      else { return "\(generation) is not what it was, the second time" }
    }
    for client in recovery.clients {
      switch Int.random(in: 0..<4, using: &generator) {
      case 0: broker.send(.exited(client.session))
      case 1: broker.comeBack(client, takesUp: false)
      case 2: broker.comeBack(client, takesUp: true)
      default: break
      }
      if let wrong = broker.ledger.inconsistency { return "while they return: \(wrong)" }
    }
    broker.now.monotonicNanoseconds += Duration.seconds(5).wholeNanoseconds
    broker.send(.tick)
    if broker.ledger.isReturning { return "somebody is waited for, for ever" }
    if let wrong = broker.ledger.inconsistency { return "afterwards: \(wrong)" }
    for blob in broker.ledger.blobs.values where blob.state == .open && blob.publishers.isEmpty {
      return "\(blob.origin.generation) is open and nobody writes it"
    }
    return nil
  }

  private static let seeds = Array(1...12 as ClosedRange<UInt64>)

  @Test(arguments: seeds)
  func `a broker killed between any two actions is followed by one that has it all`(seed: UInt64) {
    for (label, spools, keeps, digests, produces) in [
      ("plain", false, false, false, false), ("spool", true, false, false, false),
      ("keeping", true, true, false, false), ("digests", true, false, true, false),
      ("producing", false, false, false, true), ("producing, spool", true, false, false, true),
    ] {
      var world = SimulatedWorld(
        seed: seed, isShared: seed % 2 == 0, spools: spools, keeps: keeps, digests: digests,
        produces: produces)
      world.run(steps: Self.steps)
      check(world, seed: seed, label)
    }
  }
}
