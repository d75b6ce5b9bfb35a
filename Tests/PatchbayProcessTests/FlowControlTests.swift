// Blobs that keep their last bytes only, between processes: who is waited for, who is let go, and who
// is told that it came too late.

import Glibc
import PatchbayTestSupport
import Testing

@Suite struct FlowControlTests {
  private static let total = isFullTier ? 10 << 30 : 400 << 20
  private static let ring = 8 << 20
  private static let segment = 1 << 20

  /// A publisher of `k` under backpressure and readers that hold it.
  private func stream(
    _ broker: BrokerProcess, readers count: Int, slowest: Int = 10_000
  ) throws -> (publisher: Peer, readers: [Peer]) {
    let publisher = try broker.peer()
    try publisher.ask("publish k - backpressure \(Self.ring) \(Self.segment) \(slowest)")
    let readers = try (0..<count).map { _ in try broker.peer() }
    for reader in readers {
      try reader.ask("open k")
      try reader.ask("attach k")
    }
    return (publisher, readers)
  }

  @Test func `three readers of different speeds get every byte through a small ring`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let (publisher, readers) = try stream(broker, readers: 3)
    for reader in readers { try reader.tell("stream k 0") }
    try publisher.tell("oracle k \(Self.total) 262144")
    #expect(try publisher.answer(within: 1000) == "")
    try publisher.ask("seal k")
    for reader in readers { #expect(try reader.answer(within: 1000) == "\(Self.total)") }
    #expect(try broker.statistic("rings") <= 1)
    try broker.stop()
  }

  @Test func `the publisher is held by its slowest reader and by nobody else`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let (publisher, readers) = try stream(broker, readers: 2)
    try readers[0].tell("stream k 0")
    // The other one has read nothing: the window is as far as it goes.
    try publisher.tell("oracle k \(64 << 20) 262144")
    try eventually("the window is full") {
      jsonNumber(try broker.run(["info", "k", "--json"]).output, "frontier") == Self.ring
    }
    try readers[1].tell("stream k 0")
    #expect(try publisher.answer() == "")
    try publisher.ask("seal k")
    for reader in readers { #expect(try reader.answer() == "\(64 << 20)") }
    try broker.stop()
  }

  @Test func `a killed reader is forgotten at once, a stopped one after the limit`() throws {
    for signal in [SIGKILL, SIGSTOP] {
      let broker = try BrokerProcess(memory: "64MiB")
      let (publisher, readers) = try stream(
        broker, readers: 2, slowest: signal == SIGKILL ? 60_000 : 300)
      try readers[0].tell("stream k 0")
      try publisher.tell("oracle k \(64 << 20) 262144")
      try eventually("the other one holds the publisher") {
        jsonNumber(try broker.run(["info", "k", "--json"]).output, "frontier") == Self.ring
      }
      readers[1].process.kill(signal)
      // Long before the limit of 60 s where it was killed: the answer's watchdog is 20 s.
      #expect(try publisher.answer() == "")
      try publisher.ask("seal k")
      #expect(try readers[0].answer() == "\(64 << 20)")
      if signal == SIGSTOP {
        readers[1].process.kill(SIGCONT)
        let error = try readers[1].askForError("stream k 0")
        #expect(error.code == "overrun", "\(error)")
      }
      try broker.stop()
    }
  }

  @Test func `a reader that is too slow for dropOldest goes on with whole records`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let publisher = try broker.peer()
    try publisher.ask("publish k - dropOldest 65536 8192 0")
    let readers = try (0..<3).map { _ in try broker.peer() }
    let record = 1000
    for reader in readers {
      try reader.ask("open k")
      try reader.tell("resume k \(record)")
    }
    let end = ContinuousClock.now + .seconds(isFullTier ? 600 : 0)
    var total = 0
    repeat {
      total += 400_000 * record
      try publisher.tell("oracle k \(total) \(record)")
      #expect(try publisher.answer(within: 1000) == "")
    } while ContinuousClock.now < end
    try publisher.ask("seal k")
    var overruns = 0
    for reader in readers {
      let answer = try reader.answer(within: 1000)
      let words = answer.split(separator: " ").compactMap { Int($0) }
      try #require(words.count == 2, "\(answer)")
      #expect(words[0] > 0)
      overruns += words[1]
    }
    #expect(overruns > 0, "nobody was ever too slow, so nothing was shown")
    try broker.stop()
  }

  @Test func `the command publishes and reads windows`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let put = try broker.start([
      "put", "log", "--policy", "drop-oldest", "--ring", "16KiB", "--segment", "4KiB", "--lines",
    ])
    let lines = (0..<2000).map { "line \($0) of a log\n" }
    try put.send(lines.joined())
    // A line that is not whole yet: who comes now begins with it.
    try put.send("the last")
    try eventually("all of it is there") {
      jsonNumber(try broker.run(["info", "log", "--json"]).output, "frontier")
        == lines.joined().utf8.count + 8
    }
    let late = try broker.run(["cat", "log", "--no-wait"])
    #expect(late.exitCode == 80)
    #expect(late.error.contains("resume at: "))
    let live = try broker.run(["cat", "log", "--from", "live", "--count", "8"])
    #expect(live.output == "the last", "\(live.error)")
    try put.send(" line\n")
    put.closeInput()
    #expect(try put.waitForExit() == 0)
    #expect(try broker.run(["cat", "log", "--from", "live"]).output == "")
    for wrong in [
      ["--segment", "4KiB"], ["--slowest", "1s"], ["--policy", "lossy"],
      ["--policy", "backpressure", "--segment", "5000"],
    ] {
      let outcome = try broker.run(["put", "k", "-"] + wrong)
      #expect(outcome.exitCode == 64 || outcome.exitCode == 76, "\(wrong): \(outcome.error)")
    }
    try broker.stop()
  }
}
