import Testing
@testable import PatchbayLedger
@Suite struct TempDebug {
  @Test func `temp`() {
    for seed in 1...250 as ClosedRange<UInt64> {
    var world = SimulatedWorld(seed: seed, isShared: seed % 2 == 0, spools: true)
    world.run(steps: 1500)
    if world.violation == nil { continue }
    print("SEED", seed)
    print("VIOLATION", world.violation ?? "", world.trace.count)
    for action in world.trace.suffix(14) { print("ACTION", String("\(action)".prefix(500))) }
    }
  }
}
