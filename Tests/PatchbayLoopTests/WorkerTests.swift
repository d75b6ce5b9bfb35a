// What takes long is done elsewhere, and one long job holds up no look into a ring.

import Dispatch
import PatchbayLoop
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Testing

@Suite(.serialized) struct WorkerTests {
  @Test func `jobs of one worker go on while another's is blocked, each in their order`() throws {
    let blocked = try Worker<Int>("the blocked", jobLimit: 10)
    let free = try Worker<Int>("the free", jobLimit: 10)
    try blocked.start()
    try free.start()
    let gate = DispatchSemaphore(value: 0)
    #expect(
      blocked.submit {
        gate.wait()
        return 1
      })
    #expect(blocked.submit { 2 })
    for number in 10..<15 { #expect(free.submit { number }) }
    var results: [Int] = []
    let isDone = eventually {
      results += free.takeResults()
      return results.count == 5
    }
    #expect(isDone)
    #expect(results == [10, 11, 12, 13, 14])
    #expect(blocked.takeResults().isEmpty)
    gate.signal()
    var late: [Int] = []
    let isDoneToo = eventually {
      late += blocked.takeResults()
      return late.count == 2
    }
    #expect(isDoneToo)
    #expect(late == [1, 2])
    blocked.stop()
    free.stop()
  }

  @Test func `a worker takes no more jobs than its limit`() throws {
    let worker = try Worker<Int>("the full", jobLimit: 3)
    for _ in 0..<3 { #expect(worker.submit { 1 }) }
    #expect(!worker.submit { 1 })
    worker.stop()
  }

  @Test func `a seal does not wait behind rings that are being made`() throws {
    let broker = try TestBroker(memory: 2 << 30)
    let sealer = try broker.client()
    var small = CreateRequest(key: "small")
    small.byteCount = 8 << 20
    let (grant, _) = try sealer.create(small)
    let creator = try broker.client()
    let largeCount = 6
    for index in 0..<largeCount {
      var large = CreateRequest(key: try BlobKey("large/\(index)"))
      large.byteCount = 256 << 20
      large.order = .appendOnly
      try creator.send(.create(large))
    }
    // Behind the creates on the socket, and answered at once: all of them have been asked for.
    let ping = try creator.send(.ping)
    var answers: Set<UInt64> = []
    while !answers.contains(ping) { answers.insert(try #require(try creator.receive()).number) }
    let holes = try sealer.refusal(.seal(SealRequest(blob: grant.blob, byteCount: 8 << 20)))
    #expect(holes.code == .holesAtSeal)
    while let answer = try creator.receiveIfThere() {
      answers.insert(try #require(answer).number)
    }
    #expect(answers.count < largeCount + 1, "the seal was looked at after all creates")
  }
}
