// One blob, several processes that write it: together, one after the other, and dying on the way.

import Glibc
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct PatchingTests {
  private static let largest = 300 * 1024

  private func state(_ broker: BrokerProcess, _ key: String) throws -> String {
    let text = try broker.run(["info", key, "--json"]).output
    guard let at = text.firstRange(of: "\"state\":\"") else { throw HarnessError(text) }
    return String(text[at.upperBound...].prefix { $0 != "\"" })
  }

  private func figure(_ broker: BrokerProcess, _ key: String, _ name: String) throws -> Int {
    let text = try broker.run(["info", key, "--json"]).output
    guard let number = jsonNumber(text, name) else { throw HarnessError(text) }
    return number
  }

  /// Every writer cuts the blob in its own way, so their ranges overlap everywhere; the claims and
  /// the map see to it that each byte is written once.
  @Test func `three processes write one blob at random, one dies, and eight read it exactly`()
    throws
  {
    let byteCount = isFullTier ? 2 << 30 : 24 << 20
    let patience: Double = isFullTier ? 3000 : 120
    let broker = try BrokerProcess(memory: isFullTier ? "3GiB" : "256MiB")
    let owner = try broker.peer()
    try owner.ask("create k \(byteCount) 600000")
    let writers = try (0..<3).map { _ in try broker.peer() }
    let readers = try (0..<8).map { _ in try broker.peer() }
    for writer in writers { try writer.ask("join k") }
    for (index, reader) in readers.enumerated() {
      try reader.tell("sample k \(Self.largest) \(index) \(isFullTier ? 1500 : 60)")
    }
    for (index, writer) in writers.enumerated() {
      try writer.tell("patches k \(Self.largest) \(100 + index)")
    }
    try eventually("half of it is written", within: patience) {
      try figure(broker, "k", "coveredBytes") >= byteCount / 2
    }
    writers[1].process.kill(SIGKILL)
    var written = 0
    for writer in [writers[0], writers[2]] {
      let answer = try writer.answer(within: patience)
      written += Int(answer.split(separator: " ")[0]) ?? 0
    }
    #expect(written < byteCount, "the one that died has written nothing")
    for reader in readers { _ = try reader.answer(within: patience) }
    let missing = try writers[0].ask("missing k")
    #expect(missing == "")
    try writers[0].ask("leave k")
    try writers[2].ask("seal k")
    try owner.ask("open k")
    try owner.tell("stream k 0")
    #expect(try owner.answer(within: patience) == "\(byteCount)")
    try broker.stop()
  }

  @Test func `a hang-up keeps what was claimed until its process has exited`() throws {
    let broker = try BrokerProcess()
    let first = try broker.peer()
    let second = try broker.peer()
    try first.ask("share k 100000")
    try first.ask("write k 0 10")
    try second.ask("join k")
    try first.ask("claim k 1000 2000 c")
    let error = try second.askForError("write k 1500 1000")
    #expect(error.code == "rangeOverlap")
    #expect(error.description.contains("1000..<2000") && error.description.contains("process"))
    // The connection ends, the process stays.
    try first.ask("hangUp")
    try eventually("the first one's connection has ended") {
      try figure(broker, "k", "publisherCount") == 1
    }
    #expect(try second.askForError("write k 1500 1000").code == "rangeOverlap")
    #expect(try second.askForError("seal k").code == "rangeOverlap")
    first.process.kill(SIGKILL)
    try eventually("its claim is free") {
      do {
        _ = try second.ask("write k 1500 1000")
        return true
      } catch let error as PeerError where error.code == "rangeOverlap" {
        return false
      }
    }
    #expect(try second.ask("missing k") == "10..<1500,2500..<100000")
    try second.ask("fail k enough")
    try broker.stop()
  }

  @Test func `a blob that no process owns is patched by one process after the other`() throws {
    let broker = try BrokerProcess()
    let creator = try broker.peer()
    try creator.ask("create k 30000 600000")
    creator.process.kill(SIGKILL)
    _ = try creator.process.waitForExit()
    let reader = try broker.peer()
    try reader.ask("open k")
    try reader.tell("stream k 0")
    for part in 0..<3 {
      let writer = try broker.peer()
      try writer.ask("join k")
      #expect(try state(broker, "k") == "open")
      try writer.ask("write k \(part * 10000) 10000")
      if part == 1 { writer.process.kill(SIGKILL) } else { try writer.ask("leave k") }
      try eventually("nobody writes it") { try state(broker, "k") == "suspended" }
    }
    let last = try broker.peer()
    try last.ask("join k")
    try last.ask("seal k")
    #expect(try reader.answer() == "30000")
    try broker.stop()
  }

  @Test func `the last publisher's death fails a blob without an idle limit, suspends one with`()
    throws
  {
    let broker = try BrokerProcess()
    for (key, idle, expected) in [("without", "-", "failed"), ("with", "600000", "suspended")] {
      let (first, second) = (try broker.peer(), try broker.peer())
      try first.ask("share \(key) 1000 \(idle)")
      try second.ask("join \(key)")
      try first.ask("write \(key) 0 10")
      first.process.kill(SIGKILL)
      try eventually("one is left") { try figure(broker, key, "publisherCount") == 1 }
      #expect(try state(broker, key) == "open")
      try second.ask("write \(key) 10 10")
      second.process.kill(SIGKILL)
      try eventually("\(key) is \(expected)") { try state(broker, key) == expected }
    }
    try broker.stop()
  }

  @Test func `a suspended blob fails when its idle limit passes, and its readers are told why`()
    throws
  {
    let broker = try BrokerProcess()
    let writer = try broker.peer()
    let reader = try broker.peer()
    try writer.ask("create k 1000 300")
    try reader.ask("open k")
    try reader.tell("read k 0 1")
    let error = try #require(throws: PeerError.self) { try reader.answer() }
    #expect(error.code == "abandoned" && error.cause.contains("idle limit of 0.3 seconds"))
    #expect(try writer.askForError("join k").code == "abandoned")
    try broker.stop()
  }

  @Test func `a killed upload is resumed by another process, and old readers see nothing new`()
    throws
  {
    let broker = try BrokerProcess()
    let first = try broker.peer()
    let old = try broker.peer()
    // Larger than what the broker copies between two events, so a worker does it.
    let byteCount = 9_000_000
    let generation = try first.ask("publish k \(byteCount) any")
    try first.ask("write k 0 100001")
    try first.ask("write k 3000000 4000003")
    try old.ask("open k")
    first.process.kill(SIGKILL)
    try eventually("the first generation has failed") { try state(broker, "k") == "failed" }
    let second = try broker.peer()
    #expect(try second.askForError("takeOver k 5 -").code == "lengthMismatch")
    #expect(try second.askForError("takeOver k \(byteCount) - append").code == "keyExists")
    #expect(try state(broker, "k") == "failed")
    let next = try second.ask("takeOver k \(byteCount)")
    #expect(next != generation)
    let missing = "100001..<3000000,7000003..<\(byteCount)"
    #expect(try second.ask("missing k") == missing)
    #expect(try old.ask("full k 3000000 7000003") == "4000003")
    for range in missing.split(separator: ",") {
      let bounds = range.split(separator: "..<").compactMap { Int($0) }
      try second.ask("zeroPatch k \(bounds[0]) \(bounds[1] - bounds[0])")
    }
    try second.ask("seal k")
    #expect(try figure(broker, "k", "coveredBytes") == byteCount)
    // The old reader's generation has failed for good: what is new is not its own.
    #expect(try old.askForError("read k 100001 1").code == "abandoned")
    #expect(try old.ask("full k 0 100001") == "100001")
    try broker.stop()
  }

  @Test func `of many processes exactly one creates, and the others read the same generation`()
    throws
  {
    let broker = try BrokerProcess()
    let peers = try (0..<6).map { _ in try broker.peer() }
    for round in 0..<(isFullTier ? 100 : 10) {
      for peer in peers { try peer.tell("openOrCreate k\(round)") }
      let answers = try peers.map { try $0.answer().split(separator: " ") }
      #expect(answers.count { $0[0] == "created" } == 1, "\(answers)")
      #expect(Set(answers.map { $0[1] }).count == 1, "\(answers)")
    }
    for peer in peers { peer.process.kill(SIGKILL) }
    try broker.stop()
  }
}
