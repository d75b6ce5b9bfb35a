// Waits that are kept by a few threads: each ends once, for its own reason, and nothing is left.

import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import PatchbayRing

/// A wait for a number to reach a value.
private final class NumberWait: BellWait {
  let bell: Doorbell
  let bits: UInt32
  let until: MonotonicTime
  private let number: Number
  private let goal: Int
  let lookCount = Atomic<Int>(0)
  let endings = Mutex<[String]>([])

  init(
    _ bell: Doorbell, bit: Int = 0, _ number: Number, reaches goal: Int,
    until: MonotonicTime = .distantFuture
  ) {
    self.bell = bell
    bits = 1 << UInt32(bit)
    self.number = number
    self.goal = goal
    self.until = until
  }

  var company: ObjectIdentifier { ObjectIdentifier(number) }

  func look() -> BellLook {
    // relaxed: a count for the test.
    lookCount.add(1, ordering: .relaxed)
    guard endings.withLock({ $0.isEmpty }) else { return .over }
    guard number.value >= goal else { return .nothing }
    end("found")
    return .found
  }

  func timeOut() { end("timed out") }
  func fail(_ error: PatchbayError) { end("\(error.code)") }

  func checkPeer() throws(PatchbayError) {
    if number.isBroken { throw PatchbayError(.noBroker, "gone") }
  }

  func end(_ how: String) { endings.withLock { $0.append(how) } }
  var hasEnded: Bool { endings.withLock { !$0.isEmpty } }
}

private final class Number: Sendable {
  private let atomic = Atomic<Int>(0)
  private let broken = Atomic<Bool>(false)
  // acquiring, releasing: test data; the bell's own orderings are what is tried.
  var value: Int { atomic.load(ordering: .acquiring) }
  func set(_ value: Int) { atomic.store(value, ordering: .releasing) }
  var isBroken: Bool { broken.load(ordering: .acquiring) }
  func breakDown() { broken.store(true, ordering: .releasing) }
}

@Suite struct BellWaitersTests {
  private func bells(_ count: Int) throws -> DoorbellSet {
    let object = try SharedObject.sealedMemfd(
      name: "patchbay-test", byteCount: DoorbellSet.byteCount(count))
    return try DoorbellSet(object, count: count)
  }

  @Test func `each wait ends for its own value, and none is looked for without a ring`() throws {
    let waiters = BellWaiters(idleLimit: .milliseconds(20))
    let bells = try bells(300)
    let numbers = (0..<300).map { _ in Number() }
    let waits = (0..<300).map { NumberWait(bells.bell($0), numbers[$0], reaches: 1) }
    for wait in waits { try waiters.add(wait) }
    #expect(waiters.threadCount == 3 && waiters.waitCount == 300)
    try eventually("all were looked for") {
      // relaxed: a count for the test.
      waits.allSatisfy { $0.lookCount.load(ordering: .relaxed) > 0 }
    }
    for index in (0..<300).shuffled() {
      numbers[index].set(1)
      bells.bell(index).ring(1)
      try eventually("wait \(index) ends") { waits[index].hasEnded }
    }
    #expect(waits.allSatisfy { $0.endings.withLock { $0 } == ["found"] })
    #expect(bells.counts().rescuedWaits == 0)
    try eventually("nothing is left") { waiters.waitCount == 0 && waiters.threadCount == 0 }
  }

  @Test func `no wake of a kept wait is rescued by the bound`() throws {
    let waiters = BellWaiters(idleLimit: .milliseconds(20))
    let bells = try bells(2)
    let number = Number()
    // A thread raises the number as soon as the wait for the one before has ended.
    for round in 1...(isFullTier ? 500_000 : 5000) {
      let bell = bells.bell(round % 2)
      let wait = NumberWait(bell, bit: round % 32, number, reaches: round)
      try waiters.add(wait)
      number.set(round)
      bell.ring(1 << UInt32(round % 32))
      while !wait.hasEnded { Futex.pause() }
      #expect(wait.endings.withLock { $0 } == ["found"])
    }
    #expect(bells.counts().rescuedWaits == 0)
  }

  @Test func `a wait ends at its moment, and others at the bell go on`() throws {
    let waiters = BellWaiters(idleLimit: .milliseconds(20))
    let bell = try bells(1).bell(0)
    let number = Number()
    let soon = NumberWait(
      bell, number, reaches: 1, until: MonotonicTime.now.advanced(by: .milliseconds(10)))
    let patient = NumberWait(bell, number, reaches: 1)
    try waiters.add(patient)
    try waiters.add(soon)
    try eventually("the first gives up") { soon.hasEnded }
    #expect(soon.endings.withLock { $0 } == ["timed out"])
    try eventually("one is left") { waiters.waitCount == 1 }
    number.set(1)
    bell.ring(1)
    try eventually("the other finds") { patient.hasEnded }
    #expect(patient.endings.withLock { $0 } == ["found"])
  }

  @Test func `a wait that was ended from outside is let go`() throws {
    let waiters = BellWaiters(idleLimit: .milliseconds(20))
    let bell = try bells(1).bell(0)
    let wait = NumberWait(bell, Number(), reaches: 1)
    try waiters.add(wait)
    wait.end("cancelled")
    waiters.ended(wait)
    try eventually("nothing is left") { waiters.waitCount == 0 && waiters.threadCount == 0 }
    #expect(wait.endings.withLock { $0 } == ["cancelled"])
  }

  @Test func `waits end when their peer is found dead at the bound`() throws {
    let waiters = BellWaiters(idleLimit: .milliseconds(20))
    let bells = try bells(3)
    let (number, other) = (Number(), Number())
    let waits = (0..<2).map { NumberWait(bells.bell($0), number, reaches: 1) }
    let healthy = NumberWait(bells.bell(2), other, reaches: 1)
    for wait in waits + [healthy] { try waiters.add(wait) }
    number.breakDown()
    try eventually("both hear of it") { waits.allSatisfy(\.hasEnded) }
    #expect(waits.allSatisfy { $0.endings.withLock { $0 } == ["noBroker"] })
    #expect(!healthy.hasEnded && waiters.waitCount == 1)
    other.set(1)
    bells.bell(2).ring(1)
    try eventually("the other finds") { healthy.hasEnded }
  }

  @Test func `a bit that another waiter set again hides no ring`() throws {
    let waiters = BellWaiters(idleLimit: .milliseconds(20))
    let bells = try bells(1)
    let bell = bells.bell(0)
    let number = Number()
    let wait = NumberWait(bell, number, reaches: 1)
    try waiters.add(wait)
    try eventually("the bell is armed") { bell.armed == 1 }
    // Somebody else waits in the same class all the time.
    let stop = Number()
    let rival = TestThread {
      while stop.value == 0 { bell.arm(1) }
    }
    number.set(1)
    bell.ring(1)
    try eventually("it ends") { wait.hasEnded }
    stop.set(1)
    rival.join()
    #expect(bells.counts().rescuedWaits == 0)
  }
}
