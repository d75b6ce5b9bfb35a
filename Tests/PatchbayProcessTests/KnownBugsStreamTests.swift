// Bugs that caches of streams have had (C3 to C9): each is a check that Patchbay passes, that a sound model
// passes, and in which a model with this very bug is found out.

import Patchbay
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct KnownBugsStreamTests {
  private static let content = Array("0123456789".utf8)

  /// What is wrong with the end of a stream of which only a part came.
  private func complaints(
    ofPart count: Int, _ cache: any StreamCache, _ end: (any StreamWriter) throws -> Void
  ) throws -> [String] {
    let writer = try cache.create("k", byteCount: Self.content.count)
    let reader = try #require(try cache.open("k"))
    try writer.append(Array(Self.content[..<count]))
    try end(writer)
    var complaints: [String] = []
    switch reader.rest().ending {
    case .failed: break
    case .whole: complaints.append("its reader takes \(count) of 10 bytes for the whole")
    case .waitsForEver: complaints.append("its reader waits for ever")
    }
    if let late = try cache.open("k"), late.rest().ending == .whole {
      complaints.append("\(count) of 10 bytes are served as the whole from now on")
    }
    return complaints
  }

  private func withPatchbay<Result>(
    writtenByCommand command: [String]? = nil, memory: String = "64MiB", options: [String] = [],
    _ body: (PatchbayCache) throws -> Result
  ) throws -> Result {
    let broker = try BrokerProcess(memory: memory, options: options)
    let result = try body(try PatchbayCache(broker.socket, writtenByCommand: command))
    try broker.stop()
    return result
  }

  // MARK: C3, C4

  @Test func `C3: what a broken source leaves is never served as a whole`() throws {
    func complaints(_ cache: any StreamCache) throws -> [String] {
      try self.complaints(ofPart: 6, cache) { try $0.breakOff() }
    }
    #expect(try withPatchbay { try complaints($0) } == [])
    #expect(try withPatchbay(writtenByCommand: []) { try complaints($0) } == [])
    #expect(try complaints(ModelCache()) == [])
    #expect(
      try complaints(ModelCache(.closeMeansComplete)) == [
        "its reader takes 6 of 10 bytes for the whole",
        "6 of 10 bytes are served as the whole from now on",
      ])
  }

  /// One that is whole and one that is not, before a crash of everything.
  private func crash(_ cache: any RestartedCache, byteCount: Int) throws {
    let whole = try cache.create("whole", byteCount: nil)
    try whole.append(Self.content)
    try whole.finish()
    let half = try cache.create("half", byteCount: nil)
    try half.append([UInt8](repeating: 65, count: byteCount))
    try cache.crashAndStart()
  }

  /// A stream longer than the memory is on disk in part before it ends.
  private static let long = 24 << 20

  @Test(arguments: [true, false])
  func `C4: a part that a crash left is not taken for a whole at the start`(
    memoryIsLost: Bool
  ) throws {
    func complaints(_ cache: any RestartedCache, byteCount: Int) throws -> [String] {
      try crash(cache, byteCount: byteCount)
      var complaints: [String] = []
      if let part = try cache.open("half"), part.rest().ending != .failed {
        complaints.append("the part is there, and no failure")
      }
      if try cache.open("whole")?.rest() != Reading(bytes: Self.content, ending: .whole) {
        complaints.append("the whole is gone")
      }
      return complaints
    }
    let brokers = try Succession(memory: "16MiB")
    try brokers.start()
    let patchbay = try PatchbayBetweenCrashes(brokers, memoryIsLost: memoryIsLost)
    #expect(try complaints(patchbay, byteCount: Self.long) == [])
    try brokers.stop()
    #expect(try complaints(ModelCache(), byteCount: 6) == [])
    #expect(
      try complaints(ModelCache(.adoptsLeftovers), byteCount: 6) == [
        "the part is there, and no failure"
      ])
  }

  // MARK: C5

  @Test func `C5: a removed blob and the next of its key have nothing to do with each other`()
    throws
  {
    func complaints(_ cache: any StreamCache) throws -> [String] {
      let old = try cache.create("k", byteCount: nil)
      try old.append(Array("the old ".utf8))
      let reader = try #require(try cache.open("k"))
      try cache.remove("k")
      let new = try cache.create("k", byteCount: nil)
      try new.append(Array("the new".utf8))
      try old.append(Array("one".utf8))
      try old.finish()
      try new.finish()
      var complaints: [String] = []
      if reader.rest() != Reading(bytes: Array("the old one".utf8), ending: .whole) {
        complaints.append("the reader of the old one has other bytes")
      }
      reader.close()
      if try cache.open("k")?.rest() != Reading(bytes: Array("the new".utf8), ending: .whole) {
        complaints.append("the new one is gone with the last reader of the old one")
      }
      return complaints
    }
    #expect(try withPatchbay { try complaints($0) } == [])
    #expect(try complaints(ModelCache()) == [])
    #expect(
      try complaints(ModelCache(.reopensByName)) == [
        "the reader of the old one has other bytes",
        "the new one is gone with the last reader of the old one",
      ])
  }

  // MARK: C6

  @Test func `C6: readers of a writer whose process was killed are told`() throws {
    func complaints(_ cache: any StreamCache) throws -> [String] {
      try self.complaints(ofPart: 6, cache) { try $0.die() }
    }
    #expect(try withPatchbay(writtenByCommand: []) { try complaints($0) } == [])
    #expect(try complaints(ModelCache()) == [])
    #expect(try complaints(ModelCache(.diesSilently)) == ["its reader waits for ever"])
  }

  // MARK: C8

  @Test func `C8: an empty blob has an end`() throws {
    func complaints(_ cache: any StreamCache) throws -> [String] {
      let writer = try cache.create("k", byteCount: 0)
      let early = try #require(try cache.open("k"))
      try writer.finish()
      let late = try #require(try cache.open("k"))
      return [("early", early), ("late", late)].compactMap { name, reader in
        let reading = reader.rest()
        return reading == Reading(bytes: [], ending: .whole) ? nil : "\(name): \(reading.ending)"
      }
    }
    #expect(try withPatchbay { try complaints($0) } == [])
    #expect(try withPatchbay(writtenByCommand: []) { try complaints($0) } == [])
    #expect(try complaints(ModelCache()) == [])
    #expect(try complaints(ChunkCounter()) == ["early: waitsForEver", "late: waitsForEver"])
  }

  @Test func `C8: a reader that leaves while bytes come stops nobody`() throws {
    func complaints(_ cache: any StreamCache) throws -> [String] {
      let writer = try cache.create("k", byteCount: Self.content.count)
      let leaver = try #require(try cache.open("k"))
      let stayer = try #require(try cache.open("k"))
      try writer.append(Array(Self.content[..<4]))
      leaver.close()
      do {
        try writer.append(Array(Self.content[4...]))
        try writer.finish()
      } catch {
        return ["the writer is stopped: \(error)"]
      }
      let isRight = stayer.rest() == Reading(bytes: Self.content, ending: .whole)
      return isRight ? [] : ["the other reader has not got it all"]
    }
    #expect(try withPatchbay { try complaints($0) } == [])
    #expect(try complaints(ModelCache()) == [])
    #expect(try complaints(ChunkCounter()) == ["the writer is stopped: Panic()"])
  }

  @Test func `C8: a last piece that came short does not count as full`() throws {
    func complaints(_ cache: any StreamCache) throws -> [String] {
      try self.complaints(ofPart: 9, cache) { try $0.finish() }
    }
    #expect(try withPatchbay { try complaints($0) } == [])
    #expect(try withPatchbay(writtenByCommand: ["--length", "10"]) { try complaints($0) } == [])
    #expect(try complaints(ModelCache()) == [])
    #expect(
      try complaints(ChunkCounter()) == [
        "its reader takes 9 of 10 bytes for the whole",
        "9 of 10 bytes are served as the whole from now on",
      ])
  }

  // MARK: C9

  @Test func `C9: a source that ends too early ends its readers, too`() throws {
    func complaints(_ cache: any StreamCache) throws -> [String] {
      try self.complaints(ofPart: 6, cache) { try $0.finish() }
    }
    #expect(try withPatchbay { try complaints($0) } == [])
    #expect(try withPatchbay(writtenByCommand: ["--length", "10"]) { try complaints($0) } == [])
    #expect(try complaints(ModelCache()) == [])
    #expect(try complaints(ModelCache(.ignoresEarlyEnds)) == ["its reader waits for ever"])
  }

  @Test func `C9: a reader that does not read holds up nobody, and misses nothing`() throws {
    func complaints(_ cache: any StreamCache) throws -> [String] {
      let parts = (0..<24).map { [UInt8](repeating: $0 + 1, count: 1 << 20) }
      let whole = Reading(bytes: parts.reduce(into: []) { $0 += $1 }, ending: .whole)
      func write(_ key: String) throws -> any StreamReader {
        let writer = try cache.create(key, byteCount: nil)
        let slow = try #require(try cache.open(key))
        for part in parts { try writer.append(part) }
        try writer.finish()
        return slow
      }
      let slow = try write("k")
      let quick = try #require(try cache.open("k"))
      var complaints: [String] = []
      if quick.rest() != whole { complaints.append("another reader has not got it all") }
      quick.close()
      do {
        try cache.remove("k")
      } catch is WaitsForEver {
        return complaints + ["its removal waits for the slow reader, and everybody for that"]
      }
      // There is memory for one of them.
      if try write("next").rest() != whole { complaints.append("the next one has no room") }
      if slow.rest() != whole { complaints.append("the slow reader has not got it all") }
      return complaints
    }
    let place = try TemporaryDirectory()
    let found = try withPatchbay(
      memory: "32MiB", options: ["--spool", place.file("spool")]
    ) { try complaints($0) }
    #expect(found == [])
    #expect(try complaints(ModelCache()) == [])
    #expect(
      try complaints(ModelCache(.removalWaitsForReaders)) == [
        "its removal waits for the slow reader, and everybody for that"
      ])
  }

  @Test func `C9: no scratch file outlives a crash and the next start`() throws {
    func leftovers(_ cache: any RestartedCache, byteCount: Int) throws -> [String] {
      try crash(cache, byteCount: byteCount)
      return try cache.leftovers
    }
    let brokers = try Succession(memory: "16MiB")
    try brokers.start()
    #expect(try leftovers(PatchbayBetweenCrashes(brokers), byteCount: Self.long) == [])
    try brokers.stop()
    #expect(try leftovers(ModelCache(), byteCount: 6) == [])
    #expect(try leftovers(ModelCache(.keepsScratchFiles), byteCount: 6) == ["half"])
  }
}
