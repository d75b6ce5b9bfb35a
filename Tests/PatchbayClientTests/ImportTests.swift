// Imported files and pins through the library: right bytes, or an error, whatever becomes of the
// file.

import Glibc
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import Patchbay
@testable import PatchbayBroker

@Suite struct ImportTests {
  /// What a thread has found out.
  private final class Finding: Sendable {
    private let text = Mutex("")
    func set(_ found: String) { text.withLock { $0 = found } }
    var value: String { text.withLock { $0 } }
  }

  private static let size = 3 * ImportedFile.segmentByteCount + 1234

  /// A broker with little memory and no spool, a client, and a file of the oracle's bytes.
  private func withFile(
    memory: Int = 16 << 20, _ count: Int = Self.size,
    _ body: (PatchbayClient, String) throws -> Void
  ) throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("file")
    try writeFile(path, pattern(0..<count))
    try Broker.withBroker(
      BrokerConfiguration(socketPath: directory.file("s"), memoryLimit: memory)
    ) { broker in
      try body(try broker.makeClient(), path)
    }
    #expect(names(in: directory.path).contains("file"), "the file is its owner's")
  }

  /// Overwrites some bytes in place.
  private func scribble(_ path: String, at offset: Int, _ bytes: [UInt8]) throws {
    let file = Descriptor(owning: unsafe open(path, O_WRONLY | O_CLOEXEC))
    try #require(unsafe pwrite(file.rawValue, bytes, bytes.count, off_t(offset)) == bytes.count)
  }

  @Test func `every kind of read of an import is exact`() throws {
    try withFile { client, path in
      let generation = try client.importFile(path, as: "f")
      let blob = try client.open("f")
      #expect(blob.generation == generation && blob.state == .sealed)
      #expect(blob.byteCount == Self.size && blob.policy == .keep)
      #expect(try blob.readFully(0..<Self.size) == pattern(0..<Self.size))
      let edge = ImportedFile.segmentByteCount
      #expect(try blob.readFully(edge - 5..<edge + 5) == pattern(edge - 5..<edge + 5))
      #expect(try blob.read(upTo: 10, at: Self.size - 3) == pattern(Self.size - 3..<Self.size))
      #expect(try blob.read(upTo: 10, at: Self.size) == nil)
      let lease = try blob.lease(edge - 5..<edge + 5)
      lease.withBytes { bytes in
        #expect(bytes.count == 10 && bytes[9] == pattern(edge + 4..<edge + 5)[0])
      }
      try blob.withWholeBlob { bytes in
        #expect(
          bytes.count == Self.size && bytes[Self.size - 1] == pattern(Self.size - 1..<Self.size)[0])
      }
      #expect(try blob.writtenRanges() == [0..<Self.size])
      #expect(try blob.position(of: .live) == Self.size)
      var cursor = blob.cursor(from: Self.size - 7)
      #expect(try cursor.read(upTo: 100) == pattern(Self.size - 7..<Self.size))
      #expect(try cursor.seek(to: .end) == Self.size)
      let copy = path + ".copy"
      let target = Descriptor(owning: unsafe open(copy, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600))
      #expect(try blob.copy(to: target.rawValue, from: 1) == Self.size - 1)
      #expect(try readBytes(copy) == pattern(1..<Self.size))
      let info = try client.info("f")
      #expect(info.isImported && info.residentByteCount == 0)
      #expect(try client.statistics().spoolByteCount == 0)
    }
  }

  @Test func `tasks read an import as threads do`() async throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("file")
    try writeFile(path, pattern(0..<Self.size))
    try await withBroker { _, client in
      try await client.importFile(
        path, as: "f",
        ImportOptions(mode: 0o640, type: "text/plain", labels: [.init(name: "a", value: "b")]))
      let blob = try await client.open("f")
      #expect(try await blob.readFully(0..<Self.size) == pattern(0..<Self.size))
      var seen: [UInt8] = []
      for try await chunk in blob.chunks() {
        chunk.withBytes { (bytes: Span<UInt8>) in
          for index in bytes.indices { seen.append(bytes[index]) }
        }
      }
      #expect(seen == pattern(0..<Self.size))
      let info = try await client.info("f")
      #expect(info.type == "text/plain" && info.labels == [.init(name: "a", value: "b")])
      #expect(info.access.mode == 0o640)
      #expect(await code { try await client.importFile(path, as: "f") } == .keyExists)
      try await client.importFile(path, as: "f", ImportOptions(replaces: true))
      try await client.pin("f")
      #expect(try await client.info("f").isPinned)
      try await client.unpin("f")
      #expect(try await !client.info("f").isPinned)
    }
  }

  @Test func `a file far larger than memory is imported without a spool`() throws {
    try withFile(memory: 16 << 20, 0) { client, path in
      // A hole: no disk needed.
      try #require(truncate(path, off_t(1) << 36) == 0)
      try scribble(path, at: (1 << 36) - 4, [1, 2, 3, 4])
      try client.importFile(path, as: "huge")
      let blob = try client.open("huge")
      #expect(blob.byteCount == 1 << 36)
      #expect(try blob.readFully((1 << 36) - 5..<1 << 36) == [0, 1, 2, 3, 4])
      #expect(try client.info("huge").residentByteCount == 0)
    }
  }

  @Test func `an empty file is an empty blob`() throws {
    try withFile(0) { client, path in
      try client.importFile(path, as: "f")
      let blob = try client.open("f")
      #expect(try blob.read(upTo: 10, at: 0) == nil)
      #expect(try blob.waitUntilSealed() == 0)
      #expect(try blob.withWholeBlob { $0.count } == 0)
    }
  }

  /// What somebody may do to a file while it is read.
  enum Harm: CaseIterable {
    case written, cutOff, lengthened, replaced, removed, renamed, modeChanged
  }

  private func `do`(_ harm: Harm, to path: String) throws {
    switch harm {
    case .written: try scribble(path, at: 5, [0xff, 0xfe])
    case .cutOff: try #require(truncate(path, 100) == 0)
    case .lengthened: try #require(truncate(path, off_t(Self.size + 1)) == 0)
    case .replaced:
      try writeFile(path + ".new", pattern(1..<Self.size + 1))
      try #require(rename(path + ".new", path) == 0)
    case .removed: try #require(unlink(path) == 0)
    case .renamed: try #require(rename(path, path + ".other") == 0)
    case .modeChanged: try #require(chmod(path, 0o644) == 0)
    }
  }

  @Test(arguments: Harm.allCases)
  func `a file that changes gives errors, to those who read it and those who come`(
    _ harm: Harm
  ) throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("file")
    try writeFile(path, pattern(0..<Self.size))
    try Broker.withBroker(
      BrokerConfiguration(socketPath: directory.file("s"), memoryLimit: 16 << 20)
    ) { broker in
      let client = try broker.makeClient()
      try client.importFile(path, as: "f")
      let early = try client.open("f")
      let late = try client.open("f")
      #expect(try early.readFully(0..<10) == pattern(0..<10))
      try `do`(harm, to: path)
      let behind = ImportedFile.segmentByteCount
      #expect(code { _ = try early.readFully(behind..<behind + 10) } == .corrupt)
      #expect(code { _ = try late.readFully(0..<10) } == .corrupt)
      // What was read before it changed was right, and may be given again.
      #expect(try early.readFully(0..<10) == pattern(0..<10))
      do throws(PatchbayError) {
        _ = try client.open("f")
        Issue.record("a changed file was opened")
      } catch {
        #expect(error.code == .corrupt && error.cause?.contains("imported") == true)
      }
      let info = try client.info("f")
      #expect(info.state == .failed && info.causeCode == .corrupt)
      #expect(early.state == .failed)
      #expect(code { _ = try early.readFully(behind..<behind + 10) } == .corrupt)
      try writeFile(path + ".good", [7])
      try client.importFile(path + ".good", as: "f")
      #expect(try client.open("f").readFully(0..<1) == [7])
    }
  }

  @Test func `no reader sees a byte of another content while a file is rewritten`() throws {
    let count = 2 << 20
    try withFile(count) { client, path in
      let old = [UInt8](repeating: 0x11, count: count)
      let new = [UInt8](repeating: 0x22, count: count)
      var refusals = 0
      for _ in 0..<20 {
        try writeFile(path, old)
        try client.importFile(path, as: "f", ImportOptions(replaces: true))
        let blob = try client.open("f")
        let isDone = Atomic<Bool>(false)
        let wrong = Finding()
        let reader = TestThread {
          // relaxed: an end that comes a read later is as good.
          while !isDone.load(ordering: .relaxed) {
            let random = Int.random(in: 0..<count - 4096)
            guard let bytes = try? blob.readFully(random..<random + 4096) else { continue }
            if let byte = bytes.first(where: { $0 != 0x11 }) { wrong.set("a byte \(byte)") }
          }
        }
        try scribble(path, at: 0, new)
        // relaxed: as above.
        isDone.store(true, ordering: .relaxed)
        reader.join()
        #expect(wrong.value == "")
        if code(of: { _ = try client.open("f").readFully(0..<count) }) == .corrupt { refusals += 1 }
      }
      #expect(refusals == 20)
    }
  }

  @Test func `what is no file with bytes of its own is refused with a reason`() throws {
    try withFile { client, path in
      #expect(code { try client.importFile(path + ".none", as: "f") } == .inputOutput)
      #expect(code { try client.importFile("/dev/null", as: "f") } == .inputOutput)
      #expect(code { try client.importFile("/tmp", as: "f") } == .inputOutput)
      #expect(code { try client.importFile("/proc/self/status", as: "f") } == .inputOutput)
      try #require(mkfifo(path + ".pipe", 0o600) == 0)
      #expect(code { try client.importFile(path + ".pipe", as: "f") } == .inputOutput)
      try #require(symlink(path, path + ".link") == 0)
      try client.importFile(path + ".link", as: "f")
      #expect(try client.open("f").readFully(0..<10) == pattern(0..<10))
    }
  }

  @Test func `a removed import is read to its end, and its descriptors go`() throws {
    try withFile { client, path in
      try client.importFile(path, as: "f")
      let blob = try client.open("f")
      try client.remove("f")
      #expect(code { _ = try client.open("f") } == .noSuchKey)
      #expect(try blob.readFully(0..<Self.size) == pattern(0..<Self.size))
      #expect(try readBytes(path) == pattern(0..<Self.size))
    }
  }

  @Test func `a pinned blob stays while others go`() throws {
    try withFile(memory: 24 << 20, 1) { client, _ in
      for key in ["a", "b"] as [BlobKey] { try client.publish(pattern(0..<4 << 20), as: key) }
      try client.pin("a")
      for index in 0..<6 { try client.publish(pattern(0..<4 << 20), as: BlobKey("more\(index)")) }
      #expect(try client.exists("a") && !client.exists("b"))
      #expect(try client.info("a").isPinned)
      #expect(try client.open("a").readFully(0..<100) == pattern(0..<100))
      try client.unpin("a")
      for index in 6..<12 { try client.publish(pattern(0..<4 << 20), as: BlobKey("more\(index)")) }
      #expect(try !client.exists("a"))
      #expect(code { try client.pin("a") } == .noSuchKey)
    }
  }
}
