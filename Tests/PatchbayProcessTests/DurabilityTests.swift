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
    #expect(try second.run(["pin", "big"]).exitCode == 0)
    #expect(names(in: spool).contains { $0.hasSuffix(".pinned") })
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
    #expect(try third.run(["info", "big", "--json"]).output.contains("\"pinned\":true"))
    #expect(try third.run(["cat", "big"]).bytes == bytes)
    #expect(try third.run(["unpin", "big"]).exitCode == 0)
    #expect(!names(in: spool).contains { $0.hasSuffix(".pinned") })
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
    let calls = "pwrite64,openat,ftruncate,fallocate,fdatasync,fsync,renameat,renameat2,unlinkat"
    let trace = try SpoolTrace(
      broker, ["-y", "-xx", "-s", "1000000", "-e", "trace=\(calls)"])
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
      image.apply(step)
    }
    #expect(try served(image, spool, lock) == bytes)
    // Between the device's word for the file and its name nothing is written.
    #expect(renaming == through + 1)
    // What nobody has waited for may be missing or torn: nothing is served then that is wrong. The file is
    // under its final name here, as it were had nobody waited for anything.
    for index in 0..<through {
      for torn in Self.torn(steps[index]) {
        var image = DiskImage()
        for (place, step) in steps[...renaming].enumerated() {
          if place != index { image.apply(step) } else if let torn { image.apply(torn) }
        }
        let found = Result { try served(image, spool, lock) }
        switch found {
        case .success(let found): #expect(found == nil || found == bytes, "step \(index) torn")
        case .failure(let error): #expect((error as? PatchbayError)?.code == .corrupt, "\(error)")
        }
      }
    }
  }

  /// What may be left of a step that was cut short, or nil for nothing.
  private static func torn(_ step: DiskStep) -> [DiskStep?] {
    guard case .write(let name, let offset, let bytes) = step else { return [nil] }
    let lengths = Set([1, bytes.count / 2, bytes.count - 1, 512, 4096]).filter {
      (1..<bytes.count).contains($0)
    }
    return [nil] + lengths.sorted().map { .write(name, at: offset, Array(bytes[..<$0])) }
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

  /// An empty blob's container is all that there is of it: nothing else is written before it is
  /// tried again.
  @Test(arguments: [0, 10_000])
  func `a seal that is tried again after the device has failed keeps its promise`(
    _ byteCount: Int
  ) throws {
    let place = try TemporaryDirectory()
    let (spool, file) = (place.file("spool"), place.file("file"))
    let bytes = Self.content(byteCount)
    try writeFile(file, bytes)
    let broker = try serve(spool)
    #expect(try broker.run(["create", "k", "--ack", "durable"]).exitCode == 0)
    if byteCount > 0 { #expect(try broker.run(["write", "k", file, "--at", "0"]).exitCode == 0) }
    let trace = try SpoolTrace(
      broker, ["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1"])
    let refused = try broker.run(["seal", "k"])
    #expect(refused.exitCode == 74, "\(refused.exitCode) \(refused.error)")
    let sealed = try broker.run(["seal", "k"])
    #expect(sealed.exitCode == 0, "\(sealed.exitCode) \(sealed.error)")
    try trace.end()
    // With it goes what the device has refused.
    let next = try broker.run(["put", "next", "--ack", "durable", "-q"], input: "bytes")
    #expect(next.exitCode == 0, "\(next.error)")
    try kill(broker)
    let after = try serve(spool)
    #expect(try after.run(["ls"]).output == "k\nnext\n")
    #expect(try after.run(["cat", "k"]).bytes == bytes)
    try after.stop()
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

  // MARK: While the device takes its time

  /// A broker whose device takes seconds for each call of a kind.
  private func slow(_ broker: BrokerProcess, _ call: String) throws -> SpoolTrace {
    try SpoolTrace(
      broker, ["-e", "trace=\(call)", "-e", "inject=\(call):delay_enter=3000000"])
  }

  @Test
  func `a seal that is repeated while the first is on its way to disk promises only what is there`()
    throws
  {
    let place = try TemporaryDirectory()
    let (spool, file) = (place.file("spool"), place.file("file"))
    try writeFile(file, Self.content(10_000))
    let broker = try serve(spool)
    #expect(try broker.run(["create", "k", "--ack", "durable"]).exitCode == 0)
    #expect(try broker.run(["write", "k", file, "--at", "0"]).exitCode == 0)
    let trace = try slow(broker, "fdatasync")
    let first = try broker.start(["seal", "k"])
    try eventually("its container is ready") {
      try broker.run(["why", "k"]).output.contains("seal")
    }
    first.kill(SIGKILL)
    _ = try first.waitForExit()
    #expect(try broker.run(["seal", "k"]).exitCode == 0)
    try trace.end()
    try kill(broker)
    let after = try serve(spool)
    #expect(try after.run(["cat", "k"]).bytes == Self.content(10_000))
    try after.stop()
  }

  @Test func `what is removed while it is put on disk is not there after a crash`() throws {
    let place = try TemporaryDirectory()
    let (spool, file) = (place.file("spool"), place.file("file"))
    try writeFile(file, Self.content(10_000))
    for call in ["fdatasync", "fsync"] {
      let broker = try serve(spool)
      let trace = try slow(broker, call)
      let put = try broker.start(["put", "gone", file, "--ack", "durable", "-q"])
      try eventually("it is on its way") {
        try broker.run(["why", "gone"]).output.contains("seal")
      }
      #expect(try broker.run(["rm", "gone"]).exitCode == 0, "\(call)")
      put.kill(SIGKILL)
      try kill(broker)
      _ = try? trace.end()
      let after = try serve(spool)
      #expect(try after.run(["cat", "gone"]).exitCode == 66, "\(call)")
      try after.stop()
    }
  }

  @Test func `one blob that waits for the device holds up nobody else`() throws {
    let place = try TemporaryDirectory()
    let file = place.file("file")
    try writeFile(file, Self.content(10_000))
    let broker = try serve(place.file("spool"))
    let trace = try slow(broker, "fdatasync")
    let slow = try broker.start(["put", "slow", file, "--ack", "durable", "-q"])
    try eventually("it waits") { try broker.run(["why", "slow"]).output.contains("seal") }
    // Spilling and other blobs go on: here the memory for them comes by spilling.
    let big = place.file("big")
    #expect(
      try runProgram("/bin/sh", ["-c", "head -c 60000000 /dev/urandom > \(big)"]).exitCode == 0)
    #expect(try broker.run(["put", "big", big, "-q"]).exitCode == 0)
    #expect(try broker.statistic("spills") > 0)
    #expect(try slow.waitForExit() == 0)
    try trace.end()
    try broker.stop()
  }

  // MARK: Starting

  @Test func `a number that some file bears is not given out again, whoever can read that file`()
    throws
  {
    let place = try TemporaryDirectory()
    let (spool, file) = (place.file("spool"), place.file("file"))
    try writeFile(file, Self.content(3000))
    let first = try serve(spool)
    for key in ["x", "y", "a"] {
      #expect(try first.run(["put", key, file, "--ack", "durable", "-q"]).exitCode == 0)
    }
    #expect(try first.run(["rm", "x", "y"]).exitCode == 0)
    try first.stop()
    let name = try #require(names(in: spool).first { $0.hasSuffix(".blob") })
    // A later version's file, which this one leaves alone.
    let versions = [4096 + 8, 32_768 + 8]
    try damage("\(spool)/\(name)", at: versions)
    let second = try serve(spool)
    #expect(try second.run(["put", "a", "--ack", "durable", "-q"], input: "new").exitCode == 0)
    try second.stop()
    try damage("\(spool)/\(name)", at: versions)
    let third = try serve(spool)
    #expect(try third.run(["cat", "a"]).output == "new")
    #expect(names(in: spool).contains(name + ".quarantined"))
    try third.stop()
  }

  @Test func `the room for what is kept does not shrink from start to start`() throws {
    let place = try TemporaryDirectory()
    let disk = place.file("disk")
    _ = mkdir(disk, 0o700)
    let mounted = try runProgram(
      "/bin/mount", ["-t", "tmpfs", "-o", "size=64m,mode=0700", "none", disk])
    try #require(mounted.exitCode == 0, "\(mounted.error)")
    defer { _ = umount2(disk, Int32(MNT_DETACH)) }
    let file = place.file("file")
    try writeFile(file, [UInt8](repeating: 1, count: 24 << 20))
    let first = try serve("\(disk)/spool")
    let limit = try first.statistic("spoolLimit")
    #expect(try first.run(["put", "a", file, "--ack", "durable", "-q"]).exitCode == 0)
    try first.stop()
    let second = try serve("\(disk)/spool")
    #expect(try second.statistic("spoolLimit") >= limit - (1 << 20))
    #expect(try second.run(["put", "b", "--ack", "durable", "-q"], input: "x").exitCode == 0)
    try second.stop()
  }

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
