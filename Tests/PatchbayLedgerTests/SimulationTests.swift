// The ledger among random clients, thousands of steps a seed. A failure names its seed; the
// environment variable PATCHBAY_SEED runs that one alone, PATCHBAY_SEED_COUNT that many random ones.

import Glibc
import PatchbayLedger
import PatchbayTypes
import Testing

@Suite struct SimulationTests {
  private static let steps = 1500
  /// Seeds that once found something wrong, in the ledger or in the model.
  private static let provenSeeds: [UInt64] = [
    463_288_779_678_386_189, 4_071_790_631_270_389_158, 10,
    7_102_314_531_620_484_728, 8_686_057_143_246_592_990, 988_375_049_516_452_696,
  ]

  private static func number(_ variable: String) -> UInt64? {
    guard let text = unsafe getenv(variable) else { return nil }
    return unsafe UInt64(String(cString: text))
  }

  private static var chosenSeed: UInt64? { number("PATCHBAY_SEED") }

  private static var seeds: [UInt64] {
    if let chosenSeed { return [chosenSeed] }
    let count = number("PATCHBAY_SEED_COUNT") ?? 1
    return provenSeeds + Array(1...12) + (0..<count).map { _ in UInt64.random(in: 0 ... .max) }
  }

  private func expectNothingWrong(_ world: SimulatedWorld, _ seed: UInt64, _ kind: String = "") {
    guard let violation = world.violation else { return }
    Issue.record("PATCHBAY_SEED=\(seed) \(kind), action \(world.trace.count): \(violation)")
  }

  @Test(arguments: seeds)
  func `no run of random clients breaks a promise`(seed: UInt64) {
    var world = SimulatedWorld(seed: seed)
    world.run(steps: Self.steps)
    expectNothingWrong(world, seed)
  }

  @Test(arguments: seeds)
  func `no run of random clients of several users breaks a promise`(seed: UInt64) {
    var world = SimulatedWorld(seed: seed, isShared: true)
    world.run(steps: Self.steps)
    expectNothingWrong(world, seed, "shared")
  }

  @Test(arguments: seeds)
  func `no run of random clients over a spool breaks a promise`(seed: UInt64) {
    var world = SimulatedWorld(seed: seed, isShared: seed % 2 == 0, spools: true)
    world.run(steps: Self.steps)
    expectNothingWrong(world, seed, "spool")
  }

  @Test(arguments: seeds)
  func `no run of random clients that pin and import breaks a promise`(seed: UInt64) {
    var world = SimulatedWorld(
      seed: seed, isShared: seed % 2 == 0, spools: seed % 3 == 0, keeps: true)
    world.run(steps: Self.steps)
    expectNothingWrong(world, seed, "keeping")
  }

  @Test func `the runs that pin and import reach what they are meant to reach`() {
    var seen: Set<String> = []
    let kinds: Set = [
      "keep", "drop", "release", "look", "pinned", "imported", "corrupt", "eviction",
    ]
    for seed in 1...24 as ClosedRange<UInt64> where !kinds.isSubset(of: seen) {
      var world = SimulatedWorld(seed: seed, isShared: seed % 2 == 0, keeps: true)
      world.run(steps: Self.steps)
      expectNothingWrong(world, seed)
      if world.evictionCount > 0 { seen.insert("eviction") }
      for action in world.trace {
        switch action {
        case .keepFile: seen.insert("keep")
        case .dropOffer: seen.insert("drop")
        case .releaseFile: seen.insert("release")
        case .lookAtFile: seen.insert("look")
        case .recordBlob(let record) where record.info.isPinned: seen.insert("pinned")
        case .reply(_, _, .imported, _): seen.insert("imported")
        case .reply(_, _, .failure(let error), _): seen.insert("\(error.code)")
        default: break
        }
      }
    }
    #expect(kinds.subtracting(seen) == [], "this never happened")
  }

  @Test func `the runs over a spool reach what they are meant to reach`() {
    var seen: Set<String> = []
    let kinds: Set = [
      "sealed", "open or sealed", "retract", "remove", "spooled", "noSpaceSpool", "persist",
      "withdraw", "inputOutput", "converted", "restore", "dropScratch", "scratch", "corrupt",
      "a client's share", "a user's share",
    ]
    for seed in 1...72 as ClosedRange<UInt64> where !kinds.isSubset(of: seen) {
      var world = SimulatedWorld(seed: seed, isShared: seed % 3 == 0, spools: true)
      world.run(steps: Self.steps)
      expectNothingWrong(world, seed)
      for action in world.trace {
        switch action {
        case .spill(let order):
          seen.insert(order.extent.index == 0 ? "sealed" : "open or sealed")
          if order.scratchWriter != nil { seen.insert("converted") }
        case .restore: seen.insert("restore")
        case .dropScratch: seen.insert("dropScratch")
        case .reply(_, _, .scratch, _): seen.insert("scratch")
        case .retractRing: seen.insert("retract")
        case .removeContainer: seen.insert("remove")
        case .persist: seen.insert("persist")
        case .withdrawContainer: seen.insert("withdraw")
        case .reply(_, _, .spooled, _): seen.insert("spooled")
        case .reply(_, _, .failure(let error), _):
          seen.insert("\(error.code)")
          if error.message.contains("one client") { seen.insert("a client's share") }
          if error.message.contains("one user") { seen.insert("a user's share") }
        default: break
        }
      }
    }
    #expect(kinds.subtracting(seen) == [], "this never happened")
  }

  @Test(arguments: seeds)
  func `no run of random clients who ask for digests breaks a promise`(seed: UInt64) {
    var world = SimulatedWorld(
      seed: seed, isShared: seed % 2 == 0, spools: seed % 3 == 0, digests: true)
    world.run(steps: Self.steps)
    expectNothingWrong(world, seed, "digests")
  }

  @Test func `the runs with digests reach what they are meant to reach`() {
    var seen: Set<String> = []
    let kinds: Set = [
      "followed", "to the end", "sealed", "sealed at once", "died meanwhile", "mismatch",
      "digestMismatch",
    ]
    for seed in 1...12 as ClosedRange<UInt64> where !kinds.isSubset(of: seen) {
      var world = SimulatedWorld(seed: seed, spools: seed % 2 == 0, digests: true)
      world.run(steps: Self.steps)
      expectNothingWrong(world, seed)
      var final: Set<Generation> = []
      for action in world.trace {
        switch action {
        case .digest(let order):
          seen.insert(order.end == nil ? "followed" : "to the end")
          if order.end != nil { final.insert(order.generation) }
          if !order.spooled.isEmpty { seen.insert("read back") }
        case .recordBlob(let record) where record.terms.digest != nil:
          let wasFinal = final.remove(record.info.generation) != nil
          if record.info.digest != nil { seen.insert(wasFinal ? "sealed" : "sealed at once") }
          if wasFinal, record.info.causeCode == .abandoned { seen.insert("died meanwhile") }
          if record.info.causeCode == .digestMismatch { seen.insert("mismatch") }
        case .reply(_, _, .failure(let error), _): seen.insert("\(error.code)")
        default: break
        }
      }
    }
    #expect(kinds.subtracting(seen) == [], "this never happened")
  }

  @Test(arguments: seeds)
  func `no run of random clients that produce what is missing breaks a promise`(seed: UInt64) {
    var world = SimulatedWorld(
      seed: seed, isShared: seed % 2 == 0, spools: seed % 3 == 0, produces: true)
    world.run(steps: Self.steps)
    expectNothingWrong(world, seed, "producing")
  }

  @Test func `the runs that produce reach what they are meant to reach`() {
    var seen: Set<String> = []
    let kinds: Set = [
      "survey", "refit", "measure", "paused", "stopped", "stale", "taken over", "expired",
      "evicted", "admitted", "succeeded", "promoted",
    ]
    for seed in 1...24 as ClosedRange<UInt64> where !kinds.isSubset(of: seen) {
      var world = SimulatedWorld(seed: seed, isShared: seed % 2 == 0, produces: true)
      world.run(steps: Self.steps)
      expectNothingWrong(world, seed)
      var successors: Set<Generation> = []
      for action in world.trace {
        switch action {
        case .survey: seen.insert("survey")
        case .refit: seen.insert("refit")
        case .measure: seen.insert("measure")
        case .post(_, let post) where post.isPaused: seen.insert("paused")
        case .post(_, let post) where post.cause == "its last reader left": seen.insert("stopped")
        case .reply(_, _, .opened(let grant), _) where grant.isStale: seen.insert("stale")
        case .reply(_, _, .joined(let grant), _) where grant.blob.epoch > 1:
          seen.insert("taken over")
        case .reply(_, _, .events(let page), _):
          for change in page.changes { seen.insert("\(change.kind)") }
        case .recordBlob(let record):
          if record.isAdmitted { seen.insert("admitted") }
          if record.isSuccessor { successors.insert(record.info.generation) }
          if record.isNamed, successors.contains(record.info.generation) {
            seen.insert(record.info.state == .sealed ? "succeeded" : "promoted")
          }
        default: break
        }
      }
    }
    #expect(kinds.subtracting(seen) == [], "this never happened")
  }

  @Test func `the same seed makes the same trace`() {
    let seed = Self.chosenSeed ?? 4711
    var first = SimulatedWorld(seed: seed)
    var second = SimulatedWorld(seed: seed)
    first.run(steps: Self.steps)
    second.run(steps: Self.steps)
    // It went on to its end, and most of its steps led to something.
    #expect(first.violation == nil && first.trace.count > Self.steps / 2)
    #expect(first.trace == second.trace, "PATCHBAY_SEED=\(seed)")
  }

  @Test func `different seeds make different traces`() {
    var first = SimulatedWorld(seed: 1)
    var second = SimulatedWorld(seed: 2)
    first.run(steps: 100)
    second.run(steps: 100)
    #expect(first.trace != second.trace)
  }

  @Test func `the runs reach what they are meant to reach`() {
    var seen: Set<String> = []
    let kinds: Set = [
      "noSpaceMemory", "holesAtSeal", "lengthMismatch", "fenced", "closed", "keyExists",
      "noSuchKey", "abandoned", "blobFailed", "timedOut", "limitReached", "rangeOutOfBounds",
      "protocolViolation", "notPermitted", "opened", "created", "extent", "board", "eviction",
      "joined", "claimed", "rangeOverlap", "removed", "suspended", "copy", "events", "gap",
      "resumed", "sample", "reuse", "discard",
    ]
    for seed in 1...6 as ClosedRange<UInt64> where !kinds.isSubset(of: seen) {
      var world = SimulatedWorld(seed: seed)
      world.run(steps: Self.steps)
      expectNothingWrong(world, seed)
      for action in world.trace { seen.insert(Self.kind(of: action)) }
      if world.model.watches.resumedCount > 0 { seen.insert("resumed") }
      if world.evictionCount > 0 { seen.insert("eviction") }
    }
    #expect(kinds.subtracting(seen) == [], "this never happened")
  }

  @Test func `the runs of several users use rings again, read by others`() {
    var owners: [RingID: UInt32] = [:]
    var seen: Set<String> = []
    let kinds: Set = [
      "used again of 2000", "discarded of 2000", "used again of 0", "read by others",
    ]
    for seed in 1...12 as ClosedRange<UInt64> where !kinds.isSubset(of: seen) {
      var world = SimulatedWorld(seed: seed, isShared: true)
      world.run(steps: Self.steps)
      expectNothingWrong(world, seed)
      for action in world.trace {
        switch action {
        case .createRing(let ring, _, _, _, let access): owners[ring] = access.uid
        case .reuseRing(let ring, _, _): seen.insert("used again of \(owners[ring] ?? 0)")
        case .discardRing(let ring): seen.insert("discarded of \(owners[ring] ?? 0)")
        case .reply(_, _, .opened(let grant), _) where grant.isForeign:
          if grant.extent?.useNumber ?? 1 > 1 { seen.insert("read by others") }
        default: break
        }
      }
    }
    #expect(kinds.subtracting(seen) == [], "this never happened")
  }

  private static func kind(of action: LedgerAction) -> String {
    switch action {
    case .copy: "copy"
    case .reuseRing: "reuse"
    case .discardRing: "discard"
    case .post(_, let post) where post.state == .suspended: "suspended"
    case .post(_, let post) where post.state == .failed && post.causeCode == .removed: "removed"
    case .reply(_, _, .failure(let error), _): "\(error.code)"
    case .reply(_, _, .events(let page), _) where page.hasGap: "gap"
    case .sample: "sample"
    case .reply(_, _, let reply, _): "\(reply.kind)"
    default: "other"
    }
  }
}
