// What an acknowledgement promises, by killed brokers, disks that fail at every call, and power that goes
// between any two.

import Glibc
import Patchbay
import PatchbayBroker
import PatchbaySystem
import PatchbayTestSupport
import Testing

@Suite struct DurabilityTests {
  private static func content(_ byteCount: Int, seed: UInt64 = 5) -> [UInt8] {
    var random = SeededRandom(seed: seed)
    return (0..<byteCount).map { _ in UInt8.random(in: 1...255, using: &random) }
  }

  private func serve(_ spool: String, _ options: [String] = []) throws -> BrokerProcess {
    try BrokerProcess(memory: "32MiB", options: ["--spool", spool] + options)
  }

  /// As a crash leaves things: the process gone, and what it had in memory.
  private func kill(_ broker: BrokerProcess) throws {
    let objects = broker.objects
    broker.process.kill(SIGKILL)
    _ = try broker.process.waitForExit()
    for name in objects { _ = unlink("/dev/shm/\(name)") }
  }

  // MARK: What survives the broker

  @Test(arguments: ["none", "lz4"])
  func `what was acknowledged outlives the broker and its memory, whole and as it was described`(
    _ compression: String
  ) throws {
    let place = try TemporaryDirectory()
    let (spool, file) = (place.file("spool"), place.file("file"))
    // More than memory, half of it such that something is to be compressed.
    let bytes = Self.content(8 << 20) + [UInt8](repeating: 7, count: 40 << 20)
    try writeFile(file, bytes)
    try writeFile(place.file("small"), [1, 2, 3])
    try writeFile(place.file("empty"), [])
    let first = try serve(spool, ["--compress", compression])
    for (key, file, options) in [
      ("big", "file", ["--ack", "durable", "--type", "x/y", "--label", "a=b"]),
      ("small", "small", ["--ack", "retained"]), ("empty", "empty", ["--ack", "durable"]),
      ("own", "small", ["--ack", "durable", "--compress", "lz4", "--ring", "4KiB"]),
      ("gone", "small", ["--ack", "durable"]), ("plain", "small", []),
      ("shuffled", "small", ["--ack", "durable", "--shuffle", "3", "--block", "1"]),
    ] {
      let put = try first.run(["put", key, place.file(file), "-q"] + options)
      try #require(put.exitCode == 0, "\(key): \(put.error)")
    }
    #expect(try first.run(["rm", "gone"]).exitCode == 0)
    try kill(first)
    let second = try serve(spool)
    #expect(
      try second.run(["ls"]).output == "big\nempty\nown\nshuffled\nsmall\n")
    #expect(try second.run(["cat", "big"]).bytes == bytes)
    for key in ["small", "own", "shuffled"] {
      #expect(try second.run(["cat", key]).bytes == [1, 2, 3], "\(key)")
    }
    #expect(try second.run(["cat", "empty"]).bytes.isEmpty)
    let info = try second.run(["info", "big", "--json"]).output
    #expect(info.contains("\"ack\":\"durable\"") && info.contains("\"type\":\"x/y\""), "\(info)")
    #expect(
      info.contains("\"residentBytes\":0") && info.contains("\"state\":\"sealed\""), "\(info)")
    // A new life of a key replaces the one on disk, and an end in order keeps what is kept.
    #expect(
      try second.run(["put", "small", place.file("file"), "--replace", "--ack", "durable", "-q"])
        .exitCode == 0)
    try second.stop()
    let third = try serve(spool)
    #expect(try third.run(["cat", "small"]).bytes == bytes)
    #expect(try third.run(["rm", "big", "small", "empty", "own", "shuffled"]).exitCode == 0)
    try third.stop()
    #expect(names(in: spool) == ["broker.lock"])
  }

  @Test func `a promise that cannot be kept is refused before anything is written`() throws {
    let broker = try BrokerProcess(memory: "32MiB")
    let put = try broker.run(["put", "a", "--ack", "durable"], input: "bytes")
    #expect(put.exitCode == 77 && put.error.contains("--spool"), "\(put.error)")
    let window = try broker.run(
      ["put", "a", "--ack", "retained", "--policy", "drop-oldest"], input: "bytes")
    #expect(window.exitCode == 64 && window.error.contains("--ack"), "\(window.error)")
    #expect(try broker.run(["ls"]).output.isEmpty)
    try broker.stop()
  }

  @Test func `so much of the disk as was asked for is left to others`() throws {
    let place = try TemporaryDirectory()
    let broker = try serve(place.file("spool"), ["--spool-floor", "1000TiB"])
    let put = try broker.run(["put", "a", "--ack", "durable"], input: "bytes")
    #expect(put.exitCode == 81 && put.error.contains("--spool-floor"), "\(put.error)")
    try broker.stop()
  }

  // MARK: Power

  /// The steps by which a broker makes a blob durable.
  private func recorded(
    _ spool: String, _ file: String
  ) throws -> (steps: [DiskStep], lock: [UInt8]) {
    let broker = try serve(spool)
    let trace = try SpoolTrace(broker, ["-y", "-xx", "-s", "1000000"])
    let put = try broker.run(["put", "blob", file, "--ack", "durable", "--ring", "4KiB", "-q"])
    try #require(put.exitCode == 0, "\(put.error)")
    let steps = try trace.end().compactMap { try DiskStep($0, in: spool) }
    let lock = try readBytes("\(spool)/broker.lock")
    try kill(broker)
    return (steps, lock)
  }

  /// What a broker serves that starts over such a disk: nil for no blob.
  private func served(_ image: DiskImage, _ spool: String, _ lock: [UInt8]) throws -> [UInt8]? {
    try image.put(in: spool, lock: lock)
    let configuration = BrokerConfiguration(
      socketPath: "\(spool).sock", memoryLimit: 32 << 20, spool: .directory(spool))
    return try Broker.withBroker(configuration) { broker in
      do {
        let blob = try broker.makeClient().open("blob")
        return try blob.readFully(0..<(blob.byteCount ?? 0))
      } catch let error as PatchbayError where error.code == .noSuchKey {
        return nil
      }
    }
  }

  @Test func `after loss of power at any moment a durable blob is whole or absent`() throws {
    let place = try TemporaryDirectory()
    let (spool, file) = (place.file("spool"), place.file("file"))
    let bytes = Self.content(10_000)
    try writeFile(file, bytes)
    let (steps, lock) = try recorded(spool, file)
    let renaming = try #require(steps.firstIndex { if case .rename = $0 { true } else { false } })
    let writing = try #require(steps.lastIndex { if case .write = $0 { true } else { false } })
    let through = try #require(
      steps.firstIndex { if case .synchronize = $0 { true } else { false } })
    // Bytes, header, file through, name, directory through.
    #expect(writing < through && through < renaming)
    #expect(steps.lastIndex(of: .synchronizeDirectory) == steps.count - 1)
    #expect(renaming < steps.count - 1)
    var image = DiskImage()
    for (index, step) in steps.enumerated() {
      // Nothing that a seal was answered for is ever absent, nothing else ever wrong.
      let found = try served(image, spool, lock)
      #expect(found == nil || index > renaming && found == bytes, "before step \(index)")
      for torn in Self.torn(step) {
        var partly = image
        partly.apply(torn)
        #expect(try served(partly, spool, lock) == nil, "in step \(index)")
      }
      image.apply(step)
    }
    #expect(try served(image, spool, lock) == bytes)
    // The name may reach the device before anything that nobody has waited for.
    for index in steps.indices where index > through && index < renaming {
      Issue.record("step \(index) comes between the file and its name: \(steps[index])")
    }
  }

  /// What may be left of a step that was cut short.
  private static func torn(_ step: DiskStep) -> [DiskStep] {
    guard case .write(let name, let offset, let bytes) = step else { return [] }
    let lengths = Set([1, bytes.count / 2, bytes.count - 1, 512, 4096]).filter {
      (1..<bytes.count).contains($0)
    }
    return lengths.sorted().map { .write(name, at: offset, Array(bytes[..<$0])) }
  }

  /// Were the name given first, a crash would serve what is not there: the check above can fail.
  @Test func `a container that is named too early is noticed`() throws {
    let place = try TemporaryDirectory()
    let (spool, file) = (place.file("spool"), place.file("file"))
    try writeFile(file, Self.content(10_000))
    let (steps, lock) = try recorded(spool, file)
    let renaming = try #require(steps.firstIndex { if case .rename = $0 { true } else { false } })
    guard case .rename(let old, let new) = steps[renaming] else { return }
    var image = DiskImage()
    image.apply(.create(new))
    // All segments but the last: of two thirds of the file nobody would know.
    for step in steps[..<renaming] {
      if case .write(old, let offset, let bytes) = step, offset < 65536 + 2 * 12288 {
        image.apply(.write(new, at: offset, bytes))
      }
      if case .resize(old, let byteCount) = step { image.apply(.resize(new, byteCount)) }
    }
    #expect(throws: PatchbayError.self) { try served(image, spool, lock) }
  }

  // MARK: Disks that fail

  @Test(arguments: [
    ("pwrite64", "EIO"), ("pwrite64", "ENOSPC"), ("ftruncate", "ENOSPC"), ("pread64", "EIO"),
    ("openat", "EMFILE"), ("fdatasync", "EIO"), ("fsync", "EIO"), ("renameat", "EIO"),
    ("statfs", "EIO"),
  ])
  func `no call that fails makes a false promise, and the next blob is kept`(
    _ call: String, _ error: String
  ) throws {
    let place = try TemporaryDirectory()
    let file = place.file("file")
    let bytes = Self.content(10_000)
    try writeFile(file, bytes)
    var number = 1
    while true {
      let spool = place.file("spool\(number)")
      let broker = try serve(spool)
      let trace = try SpoolTrace(
        broker, ["-e", "trace=\(call)", "-e", "inject=\(call):error=\(error):when=\(number)"])
      let put = try broker.run(["put", "blob", file, "--ack", "durable", "--ring", "4KiB", "-q"])
      let wasHit = try trace.end().contains { $0.contains("INJECTED") }
      #expect([0, 74, 81].contains(put.exitCode), "call \(number): \(put.exitCode) \(put.error)")
      #expect(
        try broker.run(["put", "next", file, "--ack", "durable", "-q"]).exitCode == 0,
        "after call \(number)")
      try kill(broker)
      let after = try serve(spool)
      let found = try after.run(["cat", "blob"])
      #expect(
        put.exitCode == 0 ? found.bytes == bytes : found.exitCode == 66,
        "call \(number): \(put.exitCode), then \(found.exitCode) \(found.error)")
      #expect(try after.run(["cat", "next"]).bytes == bytes)
      try after.stop()
      if !wasHit { break }
      number += 1
    }
    #expect(number > 1, "\(call) was never made")
  }

  /// A tmpfs of every size up to one that is enough: writes that come up short, and the ones after them.
  @Test func `a disk that is full after any page makes no false promise`() throws {
    let place = try TemporaryDirectory()
    let (disk, file) = (place.file("disk"), place.file("file"))
    _ = mkdir(disk, 0o700)
    let bytes = Self.content(30_000)
    try writeFile(file, bytes)
    var pages = 4
    var isDone = false
    while !isDone {
      let size = "size=\(pages * 4096),mode=0700"
      let mounted = try runProgram("/bin/mount", ["-t", "tmpfs", "-o", size, "none", disk])
      try #require(mounted.exitCode == 0, "\(mounted.error)")
      defer { _ = umount2(disk, Int32(MNT_DETACH)) }
      let broker = try serve("\(disk)/spool", ["--spool-limit", "1GiB", "--spool-floor", "0"])
      let put = try broker.run(["put", "blob", file, "--ack", "durable", "-q"])
      #expect([0, 81].contains(put.exitCode), "\(pages) pages: \(put.exitCode) \(put.error)")
      try kill(broker)
      let after = try serve("\(disk)/spool", ["--spool-limit", "1GiB"])
      let found = try after.run(["cat", "blob"])
      isDone = put.exitCode == 0
      #expect(isDone ? found.bytes == bytes : found.exitCode == 66, "\(pages) pages")
      try after.stop()
      pages += 1
    }
    #expect(pages > 12)
  }

  // MARK: Starting

  @Test func `a start serves what is whole, puts aside what is not, and leaves the rest alone`()
    throws
  {
    let place = try TemporaryDirectory()
    let (spool, file) = (place.file("spool"), place.file("file"))
    let bytes = Self.content(300_000)
    try writeFile(file, bytes)
    let first = try serve(spool)
    for key in ["whole", "cut", "scribbled", "newer", "twin"] {
      let put = try first.run(["put", key, file, "--ack", "durable", "-q"])
      try #require(put.exitCode == 0, "\(put.error)")
    }
    try kill(first)
    let stem = names(in: spool).filter { $0.hasSuffix(".blob") }.map { "\(spool)/\($0)" }
    try #require(stem.count == 5)
    _ = truncate(stem[1], 70_000)
    try damage(stem[2], at: [4096, 32_768])
    try damage(stem[3], at: [4096 + 8, 32_768 + 8])
    try writeFile(stem[4].replacing("0005.blob", with: "0006.blob"), try readBytes(stem[4]))
    try writeFile("\(spool)/notes.txt", [1])
    try writeFile("\(spool)/patchbay-0000000000000001-0000000000000001.part", [1])
    _ = symlink(file, "\(spool)/patchbay-0000000000000001-0000000000000007.blob")
    let second = try serve(spool)
    #expect(try second.run(["ls"]).output == "twin\nwhole\n")
    #expect(try second.run(["cat", "whole"]).bytes == bytes)
    let left = names(in: spool)
    #expect(left.count { $0.hasSuffix(".quarantined") } == 3, "\(left)")
    for name in ["notes.txt", "patchbay-0000000000000001-0000000000000001.part"] {
      #expect(left.contains(name), "\(left)")
    }
    #expect(try readBytes(file) == bytes)
    #expect(second.log.contains("notes.txt") && second.log.contains("format"), "\(second.log)")
    try second.stop()
    // And again: nothing has changed, nothing is said twice about what was put aside.
    let third = try serve(spool)
    #expect(try third.run(["ls"]).output == "twin\nwhole\n")
    #expect(!third.log.contains("is damaged"))
    try third.stop()
    #expect(names(in: spool) == left)
  }

  /// Turns one bit at each place.
  private func damage(_ path: String, at places: [Int]) throws {
    var bytes = try readBytes(path)
    for place in places { bytes[place] ^= 2 }
    try writeFile(path, bytes)
  }
}
