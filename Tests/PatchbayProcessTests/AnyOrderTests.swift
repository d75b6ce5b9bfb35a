// Blobs many times as large as memory that are written in any order, between processes.

import Glibc
import PatchbayTestSupport
import Testing

@Suite struct AnyOrderProcessTests {
  @Test(arguments: ["none", "lz4"])
  func `blocks in random order, far more than memory holds, are exact for everybody`(
    _ compression: String
  ) throws {
    let (place, size) = (try TemporaryDirectory(), LargeSize.ofTier)
    let (file, spool) = (place.file("source"), place.file("spool"))
    try makeLargeFile(file, size.total)
    let broker = try BrokerProcess(
      memory: size.memory, options: ["--spool", spool, "--compress", compression])
    let memory = MemoryWatch(broker)
    let sequential = try broker.shell("\"$PATCHBAY\" cat big --wait-for 1m | cmp - \(file)")
    let random = RandomReader(broker, file, 0..<size.total, count: 60)
    let publisher = try broker.shell(
      "\"$PATCHBAY\" put big \(file) --shuffle 7 --block 1MiB -q")
    #expect(try publisher.waitForExit(within: 600) == 0)
    #expect(try sequential.waitForExit(within: 600) == 0, "in sequence")
    #expect(random.finish() == "")
    #expect(try broker.statistic("spills") > 0)
    #expect(try broker.statistic("restores") > 0)
    try pushOut(broker, size)
    #expect(names(in: spool).filter { $0.hasSuffix(".scratch") } == [])
    let container = try largest(spool)
    let sums = try broker.shell(
      "lz4 -t -q \(container) && lz4 -dc \(container) | sha256sum && sha256sum < \(file)")
    let lines = String(decoding: try sums.rest(within: 600), as: UTF8.self).split(separator: "\n")
    #expect(try sums.waitForExit() == 0)
    #expect(lines.count == 2 && lines.first == lines.last)
    let late = try broker.shell("\"$PATCHBAY\" cat big | cmp - \(file)")
    #expect(try late.waitForExit(within: 600) == 0, "from the start, afterwards")
    let highest = memory.finish()
    #expect(highest > 0 && highest <= size.memoryByteCount, "\(highest) bytes of memory")
    try broker.stop()
    #expect(names(in: spool) == ["broker.lock"])
  }

  /// Has all of the blob leave memory, to which nobody has to come back.
  private func pushOut(_ broker: BrokerProcess, _ size: LargeSize) throws {
    let filler = try broker.shell(
      "head -c \(2 * size.memoryByteCount) /dev/zero | \"$PATCHBAY\" put filler - -q")
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
    try makeLargeFile(file, slice * count)
    let broker = try BrokerProcess(memory: "32MiB", options: ["--spool", spool])
    let created = try broker.run(["create", "big", "--length", "\(slice * count)", "--idle", "1h"])
    #expect(created.exitCode == 0)
    let reader = try broker.shell("\"$PATCHBAY\" cat big | cmp - \(file)")
    // Its input does not end; it is killed when it has written what it has.
    let fifo = place.file("fifo")
    #expect(mkfifo(fifo, 0o600) == 0)
    let killed = try broker.start(["write", "big", fifo, "--at", "0"])
    let feeder = try broker.shell("exec 3> \(fifo); head -c 5000000 \(file) >&3; read line")
    try eventually("it has written half of its slice") {
      let info = try broker.run(["info", "big", "--json"])
      return jsonNumber(info.output, "coveredBytes") == 5_000_000
    }
    func write(_ number: Int, _ options: String = "") throws -> ChildProcess {
      try broker.shell(
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
