// Blobs many times as large as memory, between processes: at the live end, from the start when most of
// it has left memory, and by random ranges.

import Glibc
import PatchbayTestSupport
import Testing

@Suite struct SpoolProcessTests {
  /// Everybody reads while it is written: one at the live end, one from the start who comes when
  /// two thirds are there and most of those on disk only, one anywhere in those. The rest is
  /// withheld from the publisher until the late ones have got their first bytes.
  @Test(arguments: ["none", "lz4"])
  func `a stream far larger than memory is exact for everybody, within the limit`(
    _ compression: String
  ) throws {
    let (place, size) = (try TemporaryDirectory(), LargeSize.ofTier)
    let (file, spool) = (place.file("source"), place.file("spool"))
    try makeLargeFile(file, size.total)
    let broker = try BrokerProcess(
      memory: size.memory, options: ["--spool", spool, "--compress", compression])
    let memory = MemoryWatch(broker)
    let live = try broker.shell("\"$PATCHBAY\" cat big --wait-for 1m | cmp - \(file)")
    let written = size.total / 3 * 2
    // Once with its length known from the start, once not.
    let length = compression == "none" ? "--length \(size.total)" : ""
    let publisher = try broker.shell(
      "{ head -c \(written) \(file); read word; tail -c +\(written + 1) \(file); } | "
        + "\"$PATCHBAY\" put big - \(length) -q")
    try eventually("two thirds are written", within: 300) {
      guard publisher.isRunning else { throw HarnessError("the publisher has ended") }
      return try state(broker).coveredByteCount == written
    }
    let random = RandomReader(broker, file, 0..<written, count: 100)
    let late = try broker.shell(
      "\"$PATCHBAY\" cat big | { head -c 65536 | cmp -n 65536 - \(file) && echo begun && "
        + "cmp -i 0:65536 - \(file); }")
    #expect(try late.line(within: 60) == "begun")
    try eventually("a random range has been read") {
      random.rangeCount > 0 || !random.complaint.isEmpty
    }
    let begun = try state(broker)
    #expect(begun.isOpen && begun.coveredByteCount == written && publisher.isRunning)
    #expect(begun.spilledByteCount > written / 2)
    try publisher.send("on\n")
    #expect(try publisher.waitForExit(within: 600) == 0)
    #expect(try live.waitForExit(within: 600) == 0, "at the live end")
    #expect(try late.waitForExit(within: 600) == 0, "from the start, meanwhile")
    #expect(random.finish() == "")
    let again = RandomReader(broker, file, 0..<size.total, count: 200)
    // What the late one had not got from disk; in the full tier all of it once more.
    let start = isFullTier ? 0 : written
    let after = try broker.shell(
      "\"$PATCHBAY\" cat big --from \(start) | cmp -i 0:\(start) - \(file)")
    #expect(try after.waitForExit(within: 600) == 0, "from \(start), afterwards")
    #expect(try broker.statistic("spills") > 0)
    #expect(try broker.statistic("spoolBytes") > size.total / 2)
    #expect(again.finish() == "")
    let highest = memory.finish()
    #expect(highest > 0 && highest <= size.memoryByteCount, "\(highest) bytes of memory")
    try broker.stop()
    #expect(names(in: spool) == ["broker.lock"])
  }

  /// What the broker says about the blob.
  private func state(
    _ broker: BrokerProcess
  ) throws -> (isOpen: Bool, coveredByteCount: Int, spilledByteCount: Int) {
    let info = try broker.run(["info", "big", "--json"]).output
    return (
      info.contains("\"state\":\"open\""), jsonNumber(info, "coveredBytes") ?? 0,
      jsonNumber(info, "spilledBytes") ?? 0
    )
  }

  @Test func `a spool serves one broker, and what a killed one left is taken away`() throws {
    let place = try TemporaryDirectory()
    let (file, spool) = (place.file("source"), place.file("spool"))
    try makeLargeFile(file, 64 << 20)
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
    try makeLargeFile(file, 80 << 20)
    let broker = try BrokerProcess(
      memory: "32MiB", options: ["--spool", "\(disk)/spool", "--spool-limit", "1GiB"])
    for round in 1...20 {
      let put = try broker.run(["put", "big", file, "--replace", "-q"])
      #expect(put.exitCode == 81, "round \(round): \(put.exitCode) \(put.error)")
      #expect(put.error.contains("spool") || put.error.contains("No space"), "\(put.error)")
      #expect(try broker.run(["ping"]).exitCode == 0)
    }
    let small = try broker.shell(
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

  @Test func `the load tool starts brokers over a spool, and finds all of it each time`() throws {
    let place = try TemporaryDirectory()
    // With a /dev/shm that nobody else has, and that is listed at the end: its brokers were killed.
    let script =
      "mount -t tmpfs none /dev/shm && \"$0\" start --blobs 600 --repeats 2 --json && ls -A /dev/shm"
    let outcome = try runProgram(
      "/usr/bin/unshare", ["-m", "/bin/sh", "-c", script, try program("patchbay-load")],
      environment: ["TMPDIR": place.path])
    #expect(outcome.exitCode == 0, "\(outcome.error)")
    #expect(outcome.error.contains("600 of 600 blobs are published."), "\(outcome.error)")
    let lines = outcome.output.split(separator: "\n").dropFirst()
    #expect(lines.count == 1, "\(outcome.output)")
    for name in ["start ms", "VmRSS MiB", "VmHWM MiB"] {
      #expect(lines.last?.contains("\"\(name)\":{\"median\":") == true, "\(outcome.output)")
    }
    #expect(names(in: place.path) == [])
    let refused = try runProgram("patchbay-load", ["start", "--blobs", "0"])
    #expect(refused.exitCode == 64 && refused.error.contains("--blobs"), "\(refused.error)")
  }
}
