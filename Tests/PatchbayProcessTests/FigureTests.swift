// What things cost: descriptors, memory, system calls. Bounds that the design promises are asserted;
// the rest is printed for the record.

import Glibc
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct FigureTests {
  @Test func `a client's descriptors do not grow with the blobs it has open`() throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    for index in 0..<1000 {
      try publisher.ask("publish b\(index) 20000 append")
      try publisher.ask("append b\(index) 20000")
      try publisher.ask("seal b\(index)")
    }
    let reader = try broker.peer()
    let none = descriptorCount(of: reader.process.pid)
    try reader.ask("openMany b 1")
    let one = descriptorCount(of: reader.process.pid)
    try reader.ask("openMany b 1000")
    let thousand = descriptorCount(of: reader.process.pid)
    print(
      "descriptors of a client: \(none) connected, \(one) with one blob open, \(thousand) with 1,000"
    )
    #expect(thousand == one)
    try broker.stop()
  }

  @Test func `ten thousand small sealed blobs cost no descriptor`() throws {
    let broker = try BrokerProcess()
    let client = try broker.peer()
    let brokerBefore = (
      memory: processFigure(broker.process.pid, "VmRSS") ?? 0,
      descriptors: descriptorCount(of: broker.process.pid)
    )
    let clientBefore = (
      memory: processFigure(client.process.pid, "VmRSS") ?? 0,
      descriptors: descriptorCount(of: client.process.pid)
    )
    try client.ask("inline s 10000 1024")
    let brokerAfter = (
      memory: processFigure(broker.process.pid, "VmRSS") ?? 0,
      descriptors: descriptorCount(of: broker.process.pid)
    )
    try client.ask("openMany s 10000")
    let clientAfter = (
      memory: processFigure(client.process.pid, "VmRSS") ?? 0,
      descriptors: descriptorCount(of: client.process.pid)
    )
    print(
      """
      10,000 sealed blobs of 1 KiB:
        broker  \(brokerAfter.memory - brokerBefore.memory) KiB more resident, \
      \(try broker.statistic("memoryBytes")) bytes of shared memory in all, descriptors \
      \(brokerBefore.descriptors) -> \(brokerAfter.descriptors)
        client with all of them open  \(clientAfter.memory - clientBefore.memory) KiB more \
      resident, descriptors \(clientBefore.descriptors) -> \(clientAfter.descriptors)
      """)
    #expect(brokerAfter.descriptors - brokerBefore.descriptors <= 16, "journal chunks only")
    #expect(clientAfter.descriptors == clientBefore.descriptors)
    try broker.stop()
  }

  @Test func `a publish that nobody waits for makes no system call per write`() throws {
    let broker = try BrokerProcess()
    let directory = try TemporaryDirectory()
    var counts: [Int] = []
    for writes in [1000, 21_000] {
      let report = directory.file("strace\(writes)")
      let publisher = try broker.peer(["/usr/bin/strace", "-f", "-c", "-o", report])
      try publisher.ask("publish k\(writes) 2000000 any")
      try publisher.ask("patchwork k\(writes) 0 2000000 180 5 \(writes)")
      try publisher.tell("exit")
      _ = try publisher.process.waitForExit()
      counts.append(try systemCallCount(readFile(report)))
    }
    print("system calls of a publisher: \(counts[0]) for 1,000 writes, \(counts[1]) for 21,000")
    // Whatever the allocator does for 20,000 more writes stays far below one call each.
    #expect(counts[1] - counts[0] < 200)
    try broker.stop()
  }

  @Test(arguments: ["any", "append"])
  func `long writes into fresh memory make fewer system calls than writes`(order: String) throws {
    let broker = try BrokerProcess()
    let directory = try TemporaryDirectory()
    var counts: [Int] = []
    for writes in [1, 201] {
      let report = directory.file("strace\(writes)")
      let publisher = try broker.peer(["/usr/bin/strace", "-f", "-c", "-o", report])
      try publisher.ask("publish k\(writes) \(201 << 20) \(order)")
      // One line of conversation is a call or two of its own, whatever the number of writes.
      try publisher.ask("zeros k\(writes) 1048576 \(writes)")
      try publisher.tell("exit")
      _ = try publisher.process.waitForExit()
      counts.append(try systemCallCount(readFile(report)))
    }
    let more = counts[1] - counts[0]
    print("\(order): \(more) more system calls for 200 more writes of 1 MiB")
    #expect(more < 100)
    try broker.stop()
  }

  /// The total of `strace -c`: the fourth column of its last line.
  private func systemCallCount(_ report: String) throws -> Int {
    guard let total = report.split(separator: "\n").last(where: { $0.hasSuffix("total") }),
      let count = total.split(separator: " ").dropFirst(3).first.flatMap({ Int($0) })
    else { throw HarnessError("no total in \(report)") }
    return count
  }

  @Test func `memory that is full gives room to new blobs from those nobody has open`() throws {
    let broker = try BrokerProcess(memory: "32MiB")
    let publisher = try broker.peer()
    for index in 0..<40 {
      try publisher.ask("publish b\(index) 3000000 append")
      try publisher.ask("append b\(index) 3000000")
      try publisher.ask("seal b\(index)")
      #expect(try broker.statistic("memoryBytes") <= 32 << 20)
    }
    #expect(try broker.statistic("evictions") > 20)
    #expect(try broker.run(["info", "b39"]).exitCode == 0)
    #expect(try broker.run(["info", "b0"]).exitCode == 66)
    // Open ones stay, and when they fill the memory the next writer is told.
    let reader = try broker.peer()
    var isFull = false
    for index in 100..<120 where !isFull {
      do {
        try publisher.ask("publish c\(index) 3000000 append")
        try publisher.ask("append c\(index) 3000000")
        try publisher.ask("seal c\(index)")
        try reader.ask("open c\(index)")
      } catch let error as PeerError {
        #expect(error.code == "noSpaceMemory", "\(error)")
        isFull = true
      }
    }
    #expect(isFull)
    #expect(try reader.ask("stream c100 0") == "3000000")
    try broker.stop()
  }

  @Test func `the least recently read blob goes first`() throws {
    let broker = try BrokerProcess(memory: "32MiB")
    let publisher = try broker.peer()
    for name in ["a", "b", "c"] {
      try publisher.ask("publish \(name) 5000000 append")
      try publisher.ask("append \(name) 5000000")
      try publisher.ask("seal \(name)")
    }
    let reader = try broker.peer()
    for name in ["b", "c", "a"] {
      try reader.ask("open \(name)")
      try reader.ask("close \(name)")
    }
    // The close of the last one is on its way; a request behind it finds it done.
    #expect(try reader.askForError("open nothing").code == "noSuchKey")
    try publisher.ask("publish d 14000000 append")
    try publisher.ask("drop d")
    #expect(try broker.run(["info", "b"]).exitCode == 66)
    #expect(try broker.run(["info", "a"]).exitCode == 0)
    try broker.stop()
  }

  @Test func `a blob of unknown length grows extent by extent beyond a gibibyte`() throws {
    let broker = try BrokerProcess(memory: "2GiB")
    let publisher = try broker.peer()
    let reader = try broker.peer()
    try publisher.ask("publish k - append")
    try reader.ask("open k")
    try reader.tell("count k 0")
    let piece = 50_000_000
    for _ in 0..<22 { try publisher.ask("zeros k \(piece)") }
    let rings = try broker.statistic("rings")
    try publisher.ask("seal k")
    #expect(try reader.answer(within: 300) == "\(22 * piece)")
    print("1.1 GB of unknown length stood in \(rings) extents")
    #expect(rings > 15)
    try broker.stop()
  }
}
