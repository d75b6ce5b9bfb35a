// Many processes that want the same blob: it is produced once, and to its end, whoever is killed or stopped.

import Glibc
import Patchbay
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct ProductionProcessTests {
  private static let pieceByteCount = 1 << 16

  /// Processes that ask for one key, and what they note of what they produce.
  private struct Crew {
    let broker: BrokerProcess
    let directory: TemporaryDirectory
    let key: String
    let byteCount: Int
    let way: String
    var stall = 0
    var members: [ChildProcess] = []

    init(
      _ broker: BrokerProcess, key: String, byteCount: Int, way: String, stall: Int = 0,
      isGateOpen: Bool = true
    ) throws {
      self.broker = broker
      directory = try TemporaryDirectory()
      self.key = key
      self.byteCount = byteCount
      self.way = way
      self.stall = stall
      if isGateOpen { openGate() }
    }

    private var notes: String { directory.file("notes") }
    private var gate: String { directory.file("gate") }
    func openGate() { _ = close(open(gate, O_WRONLY | O_CREAT, 0o600)) }

    mutating func add(_ count: Int) throws {
      for _ in 0..<count {
        members.append(
          try ChildProcess(
            try program("patchbay-peer"),
            [
              "produce", broker.socket, key, "\(byteCount)", way, notes, gate, "\(stall)",
            ], errorPath: directory.file("errors")))
      }
    }

    var errors: String { (try? readFile(directory.file("errors"))) ?? "" }

    /// What was begun: by whom, where, how many bytes.
    var begun: [(process: Int32, position: Int, byteCount: Int)] {
      ((try? readFile(notes)) ?? "").split(separator: "\n").compactMap { line in
        let words = line.split(separator: " ").compactMap { Int($0) }
        return words.count == 3 ? (Int32(words[0]), words[1], words[2]) : nil
      }
    }
    var makers: Set<Int32> { Set(begun.map(\.process)) }

    func awaitReaders(_ count: Int) throws {
      try eventually("all read it", within: 120) {
        jsonNumber(try broker.run(["info", key, "--json"]).output, "subscriberCount") == count
      }
    }

    /// Waits until somebody has begun as many pieces, and returns who was the last.
    func maker(after count: Int, besides others: Set<Int32> = []) throws -> ChildProcess {
      var found: ChildProcess?
      try eventually("somebody produces \(key)", within: 60) {
        let begun = begun.filter { !others.contains($0.process) }
        guard begun.count > count, let last = begun.last else {
          let ended = members.filter { !$0.isRunning && !others.contains($0.pid) }
          guard ended.count < members.count - others.count else {
            throw HarnessError("all have ended: \(errors)")
          }
          return false
        }
        found = members.first { $0.pid == last.process }
        return found != nil
      }
      guard let found else { throw HarnessError("nobody produces") }
      return found
    }

    /// Stops a maker in the middle of its work.
    /// - Returns: false when all was there by then: it goes on.
    func stop(_ maker: ChildProcess) throws -> Bool {
      try maker.suspend()
      let info = try broker.run(["info", key, "--json"]).output
      guard try #require(jsonNumber(info, "coveredBytes"), "\(info)") < byteCount else {
        maker.kill(SIGCONT)
        return false
      }
      return true
    }

    /// All but those that were killed have read everything, of one generation.
    func checkEnds(but killed: Set<Int32> = []) throws {
      var ends: Set<String> = []
      for member in members where !killed.contains(member.pid) {
        #expect(try member.waitForExit(within: 120) == 0, "\(errors)")
        let lines = String(decoding: try member.rest(), as: UTF8.self).split(separator: "\n")
        ends.insert(lines.last.map(String.init) ?? "nothing")
      }
      #expect(ends.count == 1 && ends.first?.hasSuffix(" \(byteCount)") == true, "\(ends)")
    }
  }

  @Test func `two hundred processes that ask at once get the same bytes, produced once`() throws {
    let broker = try BrokerProcess()
    var crew = try Crew(
      broker, key: "k", byteCount: 2_000_000, way: "anywhere", isGateOpen: false)
    try crew.add(200)
    // It goes on when all have asked.
    try crew.awaitReaders(200)
    crew.openGate()
    try crew.checkEnds()
    #expect(crew.makers.count == 1)
    #expect(crew.begun.reduce(0) { $0 + $1.byteCount } == 2_000_000)
    try broker.stop()
  }

  @Test func `all have the first bytes before the production ends`() throws {
    let broker = try BrokerProcess()
    var crew = try Crew(broker, key: "k", byteCount: 1_000_000, way: "zero", isGateOpen: false)
    try crew.add(20)
    for member in crew.members { #expect(try member.line(within: 60) == "first", "\(crew.errors)") }
    #expect(crew.begun.count == 1)
    crew.openGate()
    try crew.checkEnds()
    #expect(crew.makers.count == 1)
    try broker.stop()
  }

  @Test(arguments: ["anywhere", "zero"])
  func `a producer killed at a random moment is followed by one that goes on`(way: String) throws {
    let seed = announcedSeed("producers killed")
    var random = SeededRandom(seed: seed)
    let broker = try BrokerProcess()
    for round in 0..<(isFullTier ? 150 : 15) {
      var crew = try Crew(broker, key: "k\(round)", byteCount: 2_000_000, way: way)
      try crew.add(3)
      var killed: Set<Int32> = []
      for _ in 0..<2 {
        let count = Int.random(in: 0..<20, using: &random)
        let maker = try crew.maker(after: killed.isEmpty ? count : 0, besides: killed)
        _ = poll(nil, 0, Int32.random(in: 0...8, using: &random))
        // What is complete needs nobody any more.
        guard try crew.stop(maker) else { break }
        maker.kill(SIGKILL)
        _ = try maker.waitForExit()
        killed.insert(maker.pid)
        if Bool.random(using: &random) { break }
      }
      try crew.checkEnds(but: killed)
      guard way == "anywhere" else { continue }
      let produced = crew.begun.reduce(0) { $0 + $1.byteCount }
      // Each death costs what was begun and not covered: one piece at most.
      #expect(produced >= 2_000_000, "PATCHBAY_SEED=\(seed) \(round)")
      #expect(produced <= 2_000_000 + killed.count * Self.pieceByteCount)
    }
    try broker.stop()
  }

  @Test func `a producer of another content is never continued`() throws {
    let broker = try BrokerProcess()
    let wanted = isFullTier ? 60 : 6
    var (round, shown) = (0, 0)
    while shown < wanted {
      round += 1
      try #require(round <= 20 * wanted, "\(shown) of \(round) rounds showed something")
      var crew = try Crew(
        broker, key: "k\(round)", byteCount: 4_000_000, way: "own", isGateOpen: false)
      try crew.add(3)
      try crew.awaitReaders(3)
      crew.openGate()
      let maker = try crew.maker(after: 2)
      // One that was faster than this test shows nothing.
      guard try crew.stop(maker) else {
        try crew.checkEnds()
        continue
      }
      shown += 1
      maker.kill(SIGKILL)
      _ = try maker.waitForExit()
      for member in crew.members where member.pid != maker.pid {
        // It has met the failure, or begun anew and read a whole of one maker.
        _ = try member.waitForExit(within: 120)
      }
      let errors = crew.errors
      #expect(!errors.contains("WRONG"), "\(errors)")
      #expect(errors.contains("byte 0 is another one than before"), "\(errors)")
    }
    try broker.stop()
  }

  @Test func `a producer that is stopped past its tenure is fenced, and wakes up to a whole blob`()
    throws
  {
    let seed = announcedSeed("producers stopped")
    var random = SeededRandom(seed: seed)
    let broker = try BrokerProcess()
    let wanted = isFullTier ? 100 : 10
    var (round, shown) = (0, 0)
    while shown < wanted {
      round += 1
      try #require(round <= 20 * wanted, "\(shown) of \(round) rounds showed something")
      var crew = try Crew(
        broker, key: "k\(round)", byteCount: 4_000_000, way: round % 2 == 0 ? "anywhere" : "zero",
        stall: 100)
      try crew.add(3)
      let maker = try crew.maker(after: Int.random(in: 0..<20, using: &random))
      // One that was faster than this test shows nothing.
      guard try crew.stop(maker) else {
        try crew.checkEnds()
        continue
      }
      shown += 1
      let next = try crew.maker(after: 0, besides: [maker.pid])
      #expect(next.pid != maker.pid)
      maker.kill(SIGCONT)
      try crew.checkEnds()
      #expect(crew.makers.count >= 2, "PATCHBAY_SEED=\(seed) \(round)")
    }
    try broker.stop()
  }
}
