// Blobs many times as large as memory that are written in any order, between processes.

import Glibc
import Patchbay
import PatchbayTestSupport
import Synchronization
import Testing

@Suite struct AnyOrderProcessTests {
  private struct Size {
    let total: Int
    let memory: String
    let memoryByteCount: Int
  }

  private static let size =
    isFullTier
    ? Size(total: 6 << 30, memory: "256MiB", memoryByteCount: 256 << 20)
    : Size(total: 1 << 30, memory: "64MiB", memoryByteCount: 64 << 20)

  private func makeFile(_ path: String, _ total: Int) throws {
    let outcome = try runProgram(
      "/bin/sh", ["-c", "head -c \(total) /dev/urandom > \(path)"])
    try #require(outcome.exitCode == 0, "\(outcome.error)")
  }

  private func shell(_ broker: BrokerProcess, _ script: String) throws -> ChildProcess {
    try ChildProcess(
      "/bin/sh", ["-c", script],
      environment: ["PATCHBAY_SOCKET": broker.socket, "PATCHBAY": try program("patchbay")])
  }

  /// Bytes of memory that the broker's objects take, as the system counts them.
  private func blockByteCount(_ broker: BrokerProcess) -> Int {
    broker.objects.reduce(0) { sum, name in
      var facts = stat()
      guard stat("/dev/shm/\(name)", &facts) == 0 else { return sum }
      return sum + Int(facts.st_blocks) * 512
    }
  }

  /// Reads random ranges, waiting for each, and compares them with a file.
  private final class RandomReader: Sendable {
    private let said: Complaint
    private let thread: TestThread

    init(_ broker: BrokerProcess, _ file: String, _ total: Int, count: Int) {
      let complaint = Complaint()
      let socket = broker.socket
      self.said = complaint
      thread = TestThread {
        do {
          let source = open(file, O_RDONLY)
          defer { _ = close(source) }
          let blob = try PatchbayClient(socketPath: socket).open(
            "big", waitUntil: .after(.seconds(60)))
          var random = SeededRandom(seed: 11)
          for _ in 0..<count {
            let start = Int.random(in: 0..<total, using: &random)
            let length = min(total - start, Int.random(in: 1...600_000, using: &random))
            var expected = [UInt8](repeating: 0, count: length)
            guard pread(source, &expected, length, off_t(start)) == length,
              try blob.readFully(start..<start + length, deadline: .after(.seconds(500)))
                == expected
            else { return complaint.set("\(length) wrong bytes at \(start)") }
          }
        } catch {
          complaint.set("\(error)")
        }
      }
    }

    /// What it found wrong; empty for nothing.
    func finish() -> String {
      thread.join()
      return said.value
    }
  }

  private final class Complaint: Sendable {
    private let text = Mutex("")
    func set(_ found: String) { text.withLock { $0 = found } }
    var value: String { text.withLock { $0 } }
  }

  @Test(arguments: ["none", "lz4"])
  func `blocks in random order, far more than memory holds, are exact for everybody`(
    _ compression: String
  ) throws {
    let (place, size) = (try TemporaryDirectory(), Self.size)
    let (file, spool) = (place.file("source"), place.file("spool"))
    try makeFile(file, size.total)
    let broker = try BrokerProcess(
      memory: size.memory, options: ["--spool", spool, "--compress", compression])
    let sequential = try shell(broker, "\"$PATCHBAY\" cat big --wait-for 1m | cmp - \(file)")
    let random = RandomReader(broker, file, size.total, count: 60)
    let publisher = try shell(
      broker, "\"$PATCHBAY\" put big \(file) --shuffle 7 --block 1MiB -q")
    var highest = 0
    while publisher.isRunning { highest = max(highest, blockByteCount(broker)) }
    #expect(try publisher.waitForExit() == 0)
    #expect(try sequential.waitForExit(within: 600) == 0, "in sequence")
    #expect(random.finish() == "")
    #expect(highest > 0 && highest <= size.memoryByteCount)
    #expect(try broker.statistic("spills") > 0)
    #expect(try broker.statistic("restores") > 0)
    try pushOut(broker, size)
    #expect(names(in: spool).filter { $0.hasSuffix(".scratch") } == [])
    let container = try largest(spool)
    let sums = try shell(
      broker,
      "lz4 -t -q \(container) && lz4 -dc \(container) | sha256sum && sha256sum < \(file)")
    let lines = String(decoding: try sums.rest(within: 600), as: UTF8.self).split(separator: "\n")
    #expect(try sums.waitForExit() == 0)
    #expect(lines.count == 2 && lines.first == lines.last)
    let late = try shell(broker, "\"$PATCHBAY\" cat big | cmp - \(file)")
    #expect(try late.waitForExit(within: 600) == 0, "from the start, afterwards")
    try broker.stop()
    #expect(names(in: spool) == ["broker.lock"])
  }

  /// Has all of the blob leave memory, to which nobody has to come back.
  private func pushOut(_ broker: BrokerProcess, _ size: Size) throws {
    let filler = try shell(
      broker, "head -c \(2 * size.memoryByteCount) /dev/zero | \"$PATCHBAY\" put filler - -q")
    #expect(try filler.waitForExit(within: 300) == 0)
    try eventually("all of it is on disk") {
      let info = try broker.run(["info", "big", "--json"])
      return jsonNumber(info.output, "residentBytes") == 0
    }
    #expect(try broker.run(["rm", "filler"]).exitCode == 0)
  }

  private func largest(_ spool: String) throws -> String {
    var found = (name: "", byteCount: 0)
    for name in names(in: spool) {
      var facts = stat()
      guard stat("\(spool)/\(name)", &facts) == 0 else { continue }
      if Int(facts.st_size) > found.byteCount { found = (name, Int(facts.st_size)) }
    }
    return "\(spool)/\(found.name)"
  }

  @Test func `several processes patch a blob larger than memory, and one of them is killed`() throws
  {
    let place = try TemporaryDirectory()
    let (file, spool) = (place.file("source"), place.file("spool"))
    let (slice, count) = (16 << 20, 10)
    try makeFile(file, slice * count)
    let broker = try BrokerProcess(memory: "32MiB", options: ["--spool", spool])
    let created = try broker.run(["create", "big", "--length", "\(slice * count)", "--idle", "1h"])
    #expect(created.exitCode == 0)
    let reader = try shell(broker, "\"$PATCHBAY\" cat big | cmp - \(file)")
    // Its input does not end; it is killed when it has written what it has.
    let fifo = place.file("fifo")
    #expect(mkfifo(fifo, 0o600) == 0)
    let killed = try broker.start(["write", "big", fifo, "--at", "0"])
    let feeder = try shell(broker, "exec 3> \(fifo); head -c 5000000 \(file) >&3; read line")
    try eventually("it has written half of its slice") {
      let info = try broker.run(["info", "big", "--json"])
      return jsonNumber(info.output, "coveredBytes") == 5_000_000
    }
    func write(_ number: Int, _ options: String = "") throws -> ChildProcess {
      try shell(
        broker,
        "dd if=\(file) bs=1M skip=\(number * 16) count=16 2>/dev/null | "
          + "\"$PATCHBAY\" write big --at \(number * slice) \(options)")
    }
    for wave in [[9, 1, 5], [3, 7, 2]] {
      let writers = try wave.map { try write($0) }
      for writer in writers { #expect(try writer.waitForExit(within: 120) == 0) }
    }
    killed.kill(SIGKILL)
    _ = try killed.waitForExit()
    feeder.closeInput()
    _ = try feeder.waitForExit()
    for wave in [[8, 4, 6]] {
      let writers = try wave.map { try write($0) }
      for writer in writers { #expect(try writer.waitForExit(within: 120) == 0) }
    }
    #expect(try write(0).waitForExit(within: 120) != 0)
    #expect(try write(0, "--skip-covered").waitForExit(within: 120) == 0)
    #expect(try broker.run(["seal", "big"]).exitCode == 0)
    #expect(try reader.waitForExit(within: 120) == 0)
    #expect(try broker.statistic("spills") > 0)
    try broker.stop()
  }
}
