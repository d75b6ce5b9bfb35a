// Processes that are killed or stopped at the wrong moment, and blobs that are removed under them.

import Glibc
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct DeathTests {
  @Test func `a killed publisher's readers get what is covered, then the cause`() throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    let reader = try broker.peer()
    let waiter = try broker.peer()
    try publisher.ask("publish k 1000000 any")
    try reader.ask("open k")
    try waiter.ask("open k")
    try waiter.tell("stream k 0")
    try publisher.ask("write k 0 5000")
    try publisher.ask("write k 700001 13")
    publisher.process.kill(SIGKILL)
    let error = try #require(throws: PeerError.self) { try waiter.answer() }
    #expect(error.code == "abandoned")
    #expect(error.description.contains("at 5000:"))
    #expect(error.cause.contains("\(publisher.process.pid)"))
    // Covered bytes stay readable to those who have it open, uncovered ones throw.
    #expect(try reader.ask("full k 0 5000") == "5000")
    #expect(try reader.ask("full k 700001 700014") == "13")
    #expect(try reader.askForError("read k 700014 1").code == "abandoned")
    // Nobody new gets it, and the next publisher starts afresh.
    #expect(try broker.peer().askForError("open k").code == "abandoned")
    let next = try broker.peer()
    try next.ask("publish k 10 any")
    try next.ask("append k 10")
    try next.ask("seal k")
    #expect(try reader.askForError("read k 10000 1").code == "abandoned")
    try broker.stop()
  }

  /// Killed at many moments of a stream at full speed: never a wrong byte, never an end.
  @Test func `a publisher killed at a random moment never looks like an end`() throws {
    let broker = try BrokerProcess()
    var random = SeededRandom(seed: 31)
    for round in 0..<(isFullTier ? 400 : 25) {
      let publisher = try broker.peer()
      let reader = try broker.peer()
      let isPatchwork = round % 2 == 0
      try publisher.ask("publish k\(round) 20000000 \(isPatchwork ? "any" : "append")")
      try reader.ask("open k\(round)")
      try reader.tell("stream k\(round) 0")
      try publisher.tell(
        isPatchwork ? "patchwork k\(round) 0 20000000 3000 \(round)" : "batch k\(round) 20000 1000")
      try eventually("the blob has begun or ended") {
        let info = try broker.run(["info", "k\(round)", "--json"]).output
        return (jsonNumber(info, "coveredBytes") ?? 0) > 0 || !isPatchwork
      }
      var spent = 0
      for _ in 0..<Int.random(in: 0..<200_000, using: &random) { spent &+= 1 }
      publisher.process.kill(SIGKILL)
      let error = try #require(throws: PeerError.self, "round \(round) \(spent)") {
        try reader.answer()
      }
      #expect(error.code == "abandoned", "\(error)")
      _ = try reader.ask("close k\(round)")
      _ = try broker.run(["rm", "k\(round)"])
    }
    try broker.stop()
  }

  @Test func `fail gives its cause to every reader`() throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    let reader = try broker.peer()
    try publisher.ask("publish k - append")
    try publisher.ask("append k 100")
    try reader.ask("open k")
    try reader.tell("stream k 0")
    try publisher.ask("fail k upstream said 404")
    let error = try #require(throws: PeerError.self) { try reader.answer() }
    #expect(error.code == "blobFailed")
    #expect(error.cause == "upstream said 404")
    try broker.stop()
  }

  @Test func `a dropped publisher has failed its blob`() throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    let reader = try broker.peer()
    try publisher.ask("publish k - append")
    try reader.ask("open k")
    try publisher.ask("drop k")
    #expect(try reader.askForError("read k 0 1").code == "abandoned")
    try broker.stop()
  }

  @Test func `killed readers with views leave nothing behind`() throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    try publisher.ask("publish k 8000000 append")
    try publisher.ask("append k 8000000")
    try publisher.ask("seal k")
    let before = try figures(broker)
    for _ in 0..<5 {
      let readers = try (0..<4).map { _ in try broker.peer() }
      for (index, reader) in readers.enumerated() {
        try reader.ask("open k")
        try reader.ask("lease k \(index * 1000) \(index * 1000 + 700000)")
      }
      #expect(try broker.statistic("clients") >= 5)
      for reader in readers { reader.process.kill(SIGKILL) }
      for reader in readers { #expect(try reader.process.waitForExit() == 128 + SIGKILL) }
    }
    try eventually("the broker is as it was") { try figures(broker) == before }
    #expect(try broker.run(["rm", "k"]).exitCode == 0)
    try eventually("its memory has come back") { try broker.statistic("rings") == 0 }
    try broker.stop()
  }

  private struct Figures: Equatable {
    let descriptors: Int
    let memory: Int
    let clients: Int
  }

  private func figures(_ broker: BrokerProcess) throws -> Figures {
    // The command that asks is itself a client; it has gone again by the next look.
    Figures(
      descriptors: descriptorCount(of: broker.process.pid),
      memory: try broker.statistic("memoryBytes"), clients: try broker.statistic("clients"))
  }

  @Test func `readers of a removed blob finish on their generation`() throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    let reader = try broker.peer()
    try publisher.ask("publish k 3000000 append")
    try publisher.ask("append k 1000000")
    let first = try reader.ask("open k").split(separator: " ")[0]
    #expect(try broker.run(["rm", "k"]).exitCode == 0)
    #expect(try broker.run(["info", "k"]).exitCode == 66)
    // The key is free at once; the old blob goes on for those who have it.
    let other = try broker.peer()
    let second = try other.ask("publish k 5 any")
    #expect(first != second)
    try other.ask("append k 5")
    try other.ask("seal k")
    try reader.tell("stream k 0")
    try publisher.ask("append k 2000000")
    try publisher.ask("seal k")
    #expect(try reader.answer() == "3000000")
    let late = try broker.peer()
    #expect(try late.ask("open k").hasPrefix("\(second) sealed"))
    #expect(try late.ask("stream k 0") == "5")
    try reader.ask("close k")
    try eventually("only the second life is left") {
      try broker.statistic("blobs") == 1 && broker.statistic("rings") <= 1
    }
    try broker.stop()
  }

  @Test func `a stopped reader slows nobody`() throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    let stopped = try broker.peer()
    let reader = try broker.peer()
    try publisher.ask("publish k 50000000 append")
    try stopped.ask("open k")
    try stopped.tell("stream k 0")
    stopped.process.kill(SIGSTOP)
    try reader.ask("open k")
    try reader.tell("stream k 0")
    try publisher.ask("append k 50000000")
    try publisher.ask("seal k")
    #expect(try reader.answer() == "50000000")
    stopped.process.kill(SIGCONT)
    #expect(try stopped.answer() == "50000000")
    try broker.stop()
  }

  @Test func `a waiting open is answered when its key appears`() throws {
    let broker = try BrokerProcess()
    let reader = try broker.peer()
    try reader.tell("open later 60000")
    let publisher = try broker.peer()
    try publisher.ask("publish later 10 any")
    #expect(try reader.answer().hasSuffix("open 10"))
    #expect(try reader.askForError("open never 30").code == "timedOut")
    try publisher.ask("drop later")
    try broker.stop()
  }

  @Test func `a client of a killed broker is told, and nothing stays after the next start`() throws
  {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    let reader = try broker.peer()
    try publisher.ask("publish k 100000 append")
    try publisher.ask("append k 50000")
    try reader.ask("open k")
    #expect(try reader.ask("full k 0 50000") == "50000")
    broker.process.kill(SIGKILL)
    #expect(try broker.process.waitForExit() == 128 + SIGKILL)
    // What is in memory can still be read and written; what will never come is told.
    #expect(try reader.ask("full k 0 50000") == "50000")
    try publisher.ask("append k 100")
    #expect(try reader.ask("full k 49000 50100") == "1100")
    #expect(try reader.askForError("read k 50100 1").code == "noBroker")
    let again = try ChildProcess(
      program("patchbay"), ["serve", "--socket", broker.socket], errorPath: broker.logPath)
    try eventually("the next broker answers") { try broker.run(["ping"]).exitCode == 0 }
    again.kill(SIGTERM)
    #expect(try again.waitForExit() == 0)
    #expect(broker.objects.isEmpty, "\(broker.objects)")
  }

  @Test func `a stopped publisher's ring serves nobody else before its process is gone`() throws {
    let broker = try BrokerProcess()
    let content = String(repeating: "x", count: 20_000)
    let publisher = try broker.start(["put", "a"])
    try publisher.send(content)
    try eventually("the bytes are there") {
      try broker.run(["cat", "a", "--count", "20000"]).output == content
    }
    publisher.kill(SIGSTOP)
    _ = try broker.run(["rm", "a"])
    for key in ["b", "c"] { try #require(broker.run(["put", key], input: content).exitCode == 0) }
    #expect(try broker.statistic("reuses") == 0 && broker.statistic("poolBytes") == 0)
    publisher.kill(SIGKILL)
    try eventually("its ring is in the pool") { try broker.statistic("poolBytes") > 0 }
    try #require(broker.run(["put", "d"], input: content).exitCode == 0)
    #expect(try broker.run(["cat", "d"]).output == content)
    #expect(try broker.statistic("reuses") == 1)
    try broker.stop()
  }

  @Test(arguments: [false, true])
  func `who goes with a blob open that is on disk only leaves nothing of it behind`(
    lives: Bool
  ) throws {
    let brokers = try Succession()
    try brokers.start()
    let content = String(repeating: "x", count: 20_000)
    _ = try brokers.run(["put", "k", "--ack", "retained"], input: content)
    try brokers.stop()
    // Of what the next broker finds on disk a reader is given no ring.
    try brokers.start()
    let reader = try brokers.peer()
    try reader.ask("open k")
    _ = try brokers.run(["rm", "k"])
    #expect(names(in: brokers.spool).count == 2, "the reader has it open")
    if lives { try reader.ask("hangUp") } else { reader.process.kill(SIGKILL) }
    try eventually("its container is gone") { names(in: brokers.spool) == ["broker.lock"] }
    let left = try brokers.run(["stats", "--json"]).output
    #expect(jsonNumber(left, "spoolBytes") == 0, "\(left)")
    try brokers.stop()
  }
}
