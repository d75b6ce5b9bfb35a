// Blobs many times as large as memory, between processes: at the live end, from the start when most of
// it has left memory, and by random ranges.

import Glibc
import Patchbay
import PatchbaySystem
import PatchbayTestSupport
import Testing

@Suite struct SpoolProcessTests {
  private struct Size {
    let total: Int
    let memory: String
    let memoryByteCount: Int
  }

  private static let size =
    isFullTier
    ? Size(total: 6 << 30, memory: "256MiB", memoryByteCount: 256 << 20)
    : Size(total: 1 << 30, memory: "64MiB", memoryByteCount: 64 << 20)

  /// A file of bytes that do not repeat: a key stream, made as fast as it can be written.
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

  @Test(arguments: ["none", "lz4"])
  func `a stream far larger than memory is exact for everybody, within the limit`(
    _ compression: String
  ) throws {
    let (place, size) = (try TemporaryDirectory(), Self.size)
    let (file, spool) = (place.file("source"), place.file("spool"))
    try makeFile(file, size.total)
    let broker = try BrokerProcess(
      memory: size.memory, options: ["--spool", spool, "--compress", compression])
    let live = try shell(broker, "\"$PATCHBAY\" cat big --wait-for 1m | cmp - \(file)")
    let publisher = try shell(broker, "\"$PATCHBAY\" put big \(file) -q")
    var highest = 0
    while publisher.isRunning { highest = max(highest, blockByteCount(broker)) }
    #expect(try publisher.waitForExit() == 0)
    #expect(try live.waitForExit(within: 600) == 0, "at the live end")
    #expect(highest > 0 && highest <= size.memoryByteCount)
    let late = try shell(broker, "\"$PATCHBAY\" cat big | cmp - \(file)")
    #expect(try late.waitForExit(within: 600) == 0, "from the start, afterwards")
    #expect(try broker.statistic("spills") > 0)
    #expect(try broker.statistic("spoolBytes") > size.total / 2)
    try readRandomly(broker, file, size.total)
    try broker.stop()
    #expect(names(in: spool) == ["broker.lock"])
  }

  private func readRandomly(_ broker: BrokerProcess, _ file: String, _ total: Int) throws {
    let source = open(file, O_RDONLY)
    defer { _ = close(source) }
    let subscriber = try PatchbayClient(socketPath: broker.socket).open("big")
    var random = SeededRandom(seed: 11)
    for _ in 0..<300 {
      let start = Int.random(in: 0..<total, using: &random)
      let count = min(total - start, Int.random(in: 1...600_000, using: &random))
      var expected = [UInt8](repeating: 0, count: count)
      try #require(pread(source, &expected, count, off_t(start)) == count)
      let bytes = try subscriber.readFully(start..<start + count)
      #expect(bytes == expected, "\(count) bytes at \(start)")
    }
  }

  @Test func `a spool serves one broker, and what a killed one left is taken away`() throws {
    let place = try TemporaryDirectory()
    let (file, spool) = (place.file("source"), place.file("spool"))
    try makeFile(file, 64 << 20)
    let killed = try BrokerProcess(memory: "32MiB", options: ["--spool", spool])
    #expect(try killed.run(["put", "big", file, "-q"]).exitCode == 0)
    #expect(names(in: spool).count == 2)
    let second = try runProgram(
      "patchbay", ["serve", "--socket", place.file("other"), "--spool", spool])
    #expect(second.exitCode == 73 && second.error.contains(spool), "\(second.error)")
    // What is somebody else's in there stays.
    try writeFile("\(spool)/patchbay-notes.part", [1, 2, 3])
    killed.process.kill(SIGKILL)
    _ = try killed.process.waitForExit()
    let next = try BrokerProcess(memory: "32MiB", options: ["--spool", spool])
    #expect(names(in: spool) == ["broker.lock", "patchbay-notes.part"])
    try next.stop()
    for name in killed.objects { _ = unlink("/dev/shm/\(name)") }
  }

  @Test func `a disk that is full is told to the writer, readers go on, and space is used again`()
    throws
  {
    let place = try TemporaryDirectory()
    let (disk, file) = (place.file("disk"), place.file("source"))
    _ = mkdir(disk, 0o700)
    let mounted = try runProgram(
      "/bin/mount", ["-t", "tmpfs", "-o", "size=16m,mode=0700", "none", disk])
    try #require(mounted.exitCode == 0, "\(mounted.error)")
    defer { _ = umount2(disk, Int32(MNT_DETACH)) }
    try makeFile(file, 80 << 20)
    let broker = try BrokerProcess(
      memory: "32MiB", options: ["--spool", "\(disk)/spool", "--spool-limit", "1GiB"])
    for round in 1...20 {
      let put = try broker.run(["put", "big", file, "--replace", "-q"])
      #expect(put.exitCode == 81, "round \(round): \(put.exitCode) \(put.error)")
      #expect(put.error.contains("spool") || put.error.contains("No space"), "\(put.error)")
      #expect(try broker.run(["ping"]).exitCode == 0)
    }
    let small = try shell(
      broker,
      "head -c 4194304 \(file) | \"$PATCHBAY\" put small - -q && "
        + "\"$PATCHBAY\" cat small | cmp -n 4194304 - \(file)")
    #expect(try small.waitForExit() == 0)
    try broker.stop()
  }
}

@Suite struct SpoolCostTests {
  /// Bytes that `patchbay cat` reads from files below a directory.
  private func readByteCount(_ report: String, below directory: String) throws -> Int {
    try readFile(report).split(separator: "\n").reduce(0) { sum, line in
      guard line.contains("pread64("), line.contains("<\(directory)/"),
        let count = line.split(separator: " ").last.flatMap({ Int($0) })
      else { return sum }
      return sum + count
    }
  }

  @Test(arguments: ["none", "lz4"])
  func `a random read of 4 KiB costs one segment of the file`(_ compression: String) throws {
    let place = try TemporaryDirectory()
    let (spool, file) = (place.file("spool"), place.file("file"))
    // A period that is no multiple of a segment.
    let part = (0..<300_007).map { UInt8(truncatingIfNeeded: $0 / 97 ^ $0 >> 9) }
    let bytes = Array(repeatElement(part, count: 160).joined())
    try writeFile(file, bytes)
    let broker = try BrokerProcess(
      memory: "32MiB", options: ["--spool", spool, "--compress", compression])
    #expect(try broker.run(["put", "big", file, "-q"]).exitCode == 0)
    for position in [300_000, 5 << 20, 12_345_678] {
      let report = place.file("report\(position)")
      let cat = try runProgram(
        "/usr/bin/strace",
        [
          "-f", "-y", "-e", "trace=pread64", "-o", report, try program("patchbay"), "cat", "big",
          "--from", "\(position)", "--count", "4096",
        ], environment: ["PATCHBAY_SOCKET": broker.socket])
      #expect(cat.bytes == Array(bytes[position..<position + 4096]), "\(cat.error)")
      let read = try readByteCount(report, below: spool)
      #expect(read >= 4096 && read <= 2 * (256 << 10) + 8192, "\(read) bytes at \(position)")
      #expect(position % (256 << 10) > (256 << 10) - 4096 || read <= 256 << 10 + 8192, "\(read)")
    }
    try broker.stop()
  }

  @Test func `the load tool measures the way to disk beside the programs that do the same`() throws
  {
    let outcome = try runProgram(
      "patchbay-load",
      ["spill", "--total", "1MiB", "--memory", "16MiB", "--repeats", "1", "--floor", "--json"])
    #expect(outcome.exitCode == 0, "\(outcome.error)")
    let cells = outcome.output.split(separator: "\n").dropFirst()
    #expect(cells.count == 4, "\(outcome.output)")
    for cell in cells {
      #expect(cell.contains("\"ratio\":{") && cell.contains("\"per core\":{"), "\(cell)")
    }
    let refused = try runProgram("patchbay-load", ["spill", "--total", "1KiB"])
    #expect(refused.exitCode == 64 && refused.error.contains("--total"), "\(refused.error)")
  }
}
