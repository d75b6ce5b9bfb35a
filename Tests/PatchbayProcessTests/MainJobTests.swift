// The main job with real processes: one publisher, many readers, while it is being written. Every
// byte that any of them sees is checked against the oracle.

import Glibc
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct MainJobTests {
  /// Publisher, two readers from the start, one from the middle, one by ranges.
  private func stream(
    length: Int, announced: Bool, order: String, write: (Peer) throws -> Void
  ) throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    try publisher.ask("publish k \(announced ? "\(length)" : "-") \(order)")
    let readers = try (0..<3).map { _ in try broker.peer() }
    for reader in readers {
      let opened = try reader.ask("open k").split(separator: " ")
      #expect(opened[1] == "open", "readers begin before the seal")
    }
    try readers[0].tell("stream k 0")
    try readers[1].tell("stream k \(length / 2)")
    try readers[2].tell("full k \(length / 3) \(length / 3 + length / 7)")
    try write(publisher)
    try publisher.ask("seal k")
    #expect(try readers[0].answer() == "\(length)")
    #expect(try readers[1].answer() == "\(length - length / 2)")
    #expect(try readers[2].answer() == "\(length / 7)")
    let late = try broker.peer()
    #expect(try late.ask("open k").hasSuffix("sealed \(length)"))
    #expect(try late.ask("stream k 0") == "\(length)")
    #expect(try late.ask("whole k") == "\(length)")
    try broker.stop()
  }

  @Test(arguments: [1, 4095, 16_385, 1_000_003, 40_000_001])
  func `appended with an announced length`(length: Int) throws {
    try stream(length: length, announced: true, order: "append") { publisher in
      try appendUnevenly(publisher, length)
    }
  }

  @Test(arguments: [1, 65_537, 3_000_001])
  func `appended with an unknown length`(length: Int) throws {
    try stream(length: length, announced: false, order: "append") { publisher in
      try appendUnevenly(publisher, length)
    }
  }

  @Test(arguments: [(1, 1), (20_001, 200), (300_007, 200), (30_000_001, 300_000)])
  func `written in a random order with an announced length`(length: Int, largest: Int) throws {
    try stream(length: length, announced: true, order: "any") { publisher in
      try publisher.ask("patchwork k 0 \(length) \(largest) 7")
    }
  }

  @Test(arguments: [(70_001, 200), (5_000_001, 60_000)])
  func `written in a random order with an unknown length`(length: Int, largest: Int) throws {
    try stream(length: length, announced: false, order: "any") { publisher in
      try publisher.ask("patchwork k 0 \(length) \(largest) 11")
    }
  }

  private func appendUnevenly(_ publisher: Peer, _ length: Int) throws {
    var at = 0
    var size = 1
    while at < length {
      let count = min(size, length - at)
      try publisher.ask("append k \(count)")
      at += count
      size = size * 7 % 9_999_991 + 1
    }
  }

  @Test(arguments: ["0 any", "- any", "0 append", "- append"])
  func `an empty blob has an end and nothing else`(kind: String) throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    try publisher.ask("publish k \(kind)")
    let reader = try broker.peer()
    try reader.ask("open k")
    try reader.tell("read k 0 10")
    try publisher.ask("seal k")
    #expect(try reader.answer() == "end")
    #expect(try reader.ask("whole k") == "0")
    try broker.stop()
  }

  @Test func `a range can be read as soon as exactly that range is covered`() throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    let reader = try broker.peer()
    try publisher.ask("publish k 100000 any")
    try reader.ask("open k")
    var random = SeededRandom(seed: 4711)
    // Odd positions, 1 to 200 bytes, nothing in front of them covered.
    var at = 1
    while at < 90_000 {
      let count = Int.random(in: 1...200, using: &random)
      #expect(try reader.ask("try k \(at) \(count)") == "wouldBlock")
      try reader.tell("full k \(at) \(at + count) 20000")
      try publisher.ask("write k \(at) \(count)")
      #expect(try reader.answer() == "\(count)")
      #expect(try reader.ask("try k \(at - 1) 1") == "wouldBlock")
      #expect(try reader.ask("try k \(at + count) 1") == "wouldBlock")
      at += count + 1 + 2 * Int.random(in: 0...2000, using: &random)
    }
    try publisher.ask("drop k")
    try broker.stop()
  }

  @Test func `duplicate writes from several threads never change a covered byte`() throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    let reader = try broker.peer()
    try publisher.ask("publish k 300000 any")
    try reader.ask("open k")
    try reader.tell("stream k 0")
    try publisher.ask("threads k 4 300000 99")
    #expect(try publisher.ask("missing k") == "")
    try publisher.ask("seal k")
    #expect(try reader.answer() == "300000")
    try broker.stop()
  }

  @Test func `a write over covered bytes is refused and one that skips them fills the rest`() throws
  {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    try publisher.ask("publish k 1000 any")
    #expect(try publisher.ask("write k 100 50") == "50")
    #expect(try publisher.askForError("write k 149 10").code == "rangeOverlap")
    #expect(try publisher.askForError("write k 990 11").code == "rangeOutOfBounds")
    #expect(try publisher.askForError("seal k").code == "holesAtSeal")
    #expect(try publisher.ask("write k 0 1000 skip") == "950")
    try publisher.ask("seal k")
    try broker.stop()
  }

  @Test func `batches become readable at their end, loans when committed`() throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    let reader = try broker.peer()
    for order in ["any", "append"] {
      try publisher.ask("publish \(order) - \(order)")
      try reader.ask("open \(order)")
      try publisher.ask("batch \(order) 1000 64")
      #expect(try reader.ask("full \(order) 0 64000") == "64000")
      #expect(try publisher.ask("loan \(order) 1000 400") == "1000")
      #expect(try reader.ask("full \(order) 64000 64400") == "400")
      #expect(try reader.ask("try \(order) 64400 1") == "wouldBlock")
      try publisher.ask("append \(order) 7")
      try publisher.ask("seal \(order)")
      #expect(try reader.ask("stream \(order) 0") == "64407")
    }
    try broker.stop()
  }

  @Test func `200 waiters on 200 ranges are woken for their own`() throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    let reader = try broker.peer()
    try publisher.ask("publish k 20000 any")
    try reader.ask("open k")
    try reader.ask("waiters k 200 100")
    // All are asleep once nobody spins any more and each has counted itself.
    try eventually("200 waiters sleep") {
      try sleepingThreads(of: reader.process.pid) >= 200
    }
    try publisher.ask("write k 7700 100")
    #expect(try reader.process.line() == "range 77 right")
    try eventually("the others sleep again") {
      try sleepingThreads(of: reader.process.pid) >= 199
    }
    let wakes = try broker.statistic("wakes")
    let needless = try broker.statistic("needlessWakes")
    print("200 waiters, one range written: \(wakes) woken, \(needless) of them needlessly")
    #expect(wakes >= 1 && wakes - needless == 1)
    #expect(needless * 16 <= 200)
    for index in 0..<200 where index != 77 { try publisher.ask("write k \(index * 100) 100") }
    var seen = Set<String>()
    for _ in 0..<199 { seen.insert(try reader.process.line()) }
    #expect(seen.count == 199 && seen.allSatisfy { $0.hasSuffix("right") })
    #expect(try broker.statistic("rescuedWaits") == 0)
    try publisher.ask("drop k")
    try broker.stop()
  }

  /// Threads of a process that sleep in a futex.
  private func sleepingThreads(of pid: Int32) throws -> Int {
    names(in: "/proc/\(pid)/task").count { thread in
      (try? readFile("/proc/\(pid)/task/\(thread)/wchan"))?.contains("futex") == true
    }
  }
}
