// Doorbells between threads and processes: nobody sleeps through, nobody far away is woken.

import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import PatchbayRing

@Suite struct DoorbellTests {
  private func bells() throws -> DoorbellSet {
    let object = try SharedObject.sealedMemfd(
      name: "patchbay-test", byteCount: DoorbellSet.byteCount(4))
    return try DoorbellSet(object, count: 4)
  }

  @Test func `no wake pair is rescued by the bound`() throws {
    let bells = try bells()
    let bell = bells.bell(0)
    // Two threads hand a number to and fro; each waits for the other's.
    let turn = Atomic<Int>(0)
    withThreads(2) { [turn] side in
      let patience = SpinPatience()
      for round in stride(from: side, to: isFullTier ? 20_000_000 : 40_000, by: 2) {
        let found: Bool? = try? bell.wait(
          for: 1 << UInt32(side), until: .distantFuture, patience: patience, onBound: {}
        ) { () throws(PatchbayError) in
          // acquiring: test data only; the bell's own orderings are what is tried.
          turn.load(ordering: .acquiring) == round ? true : nil
        }
        #expect(found == true)
        // releasing: as above.
        turn.store(round + 1, ordering: .releasing)
        bell.ring(1 << UInt32(1 - side))
      }
    }
    #expect(bells.counts().rescuedWaits == 0)
  }

  @Test func `a ring without a waiter wakes nobody and changes no word`() throws {
    let bells = try bells()
    bells.bell(1).ring(.max)
    #expect(bells.counts() == DoorbellCounts())
  }

  @Test func `a wait ends at its moment`() throws {
    let bells = try bells()
    let found: Int? = try bells.bell(0).wait(
      for: 1, until: MonotonicTime.now.advanced(by: .milliseconds(5)), patience: SpinPatience(),
      onBound: {}
    ) { () throws(PatchbayError) in nil }
    #expect(found == nil)
  }

  @Test func `ringing one class leaves the others asleep`() throws {
    let bells = try bells()
    let bell = bells.bell(0)
    let stop = Atomic<Bool>(false)
    let numbers = Mutex<[Substring]>([])
    let threads = (0..<8).map { index in
      TestThread {
        // The thread's own number comes first.
        let stat = (try? readFile("/proc/thread-self/stat")) ?? ""
        numbers.withLock { $0.append(stat.prefix { $0 != " " }) }
        _ = try? bell.wait(
          for: 1 << UInt32(index), until: .distantFuture, patience: SpinPatience(), onBound: {}
        ) { () throws(PatchbayError) -> Bool? in
          // acquiring: test data only.
          stop.load(ordering: .acquiring) ? true : nil
        }
      }
    }
    // Who has armed it and not gone to sleep is not woken: it looks again by itself.
    try eventually("all threads sleep") {
      bell.armed == 0xff
        && numbers.withLock { $0 }.allSatisfy {
          (try? readFile("/proc/self/task/\($0)/stat"))?.contains(") S ") == true
        }
    }
    bell.ring(1 << 3)
    try eventually("one was woken for nothing") { bells.counts().needlessWakes == 1 }
    #expect(bells.counts().wakes == 1)
    // releasing: test data only.
    stop.store(true, ordering: .releasing)
    bell.ringAll()
    for thread in threads { thread.join() }
  }

  @Test func `wake classes of a small blob spread over all bits`() {
    let classes = WakeClasses(forByteCount: 20_000)
    let bits = Set((0..<200).map { classes.bit(of: $0 * 100) })
    #expect(bits.count == 32)
  }

  @Test(arguments: [6, 9, 12] as [UInt8])
  func `the mask of a range is the union of its positions' bits`(shift: UInt8) throws {
    let classes = try WakeClasses(shift: shift)
    var random = SeededRandom(seed: seed)
    for _ in 0..<300 {
      let start = Int.random(in: 0..<1_000_000, using: &random)
      let range = start..<start + Int.random(in: 0...10_000, using: &random)
      let union = range.reduce(UInt32(0)) { $0 | classes.bit(of: $1) }
      #expect(classes.mask(of: range) == union, "\(range)")
    }
  }
}
