// The chunks of a journal in /dev/shm: the next broker finds them by name and trusts no name.

import CPatchbayLayout
import Glibc
import PatchbayLedger
import PatchbayLoop
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Testing

@Suite struct JournalStorageTests {
  /// An instance of a test's own, and what it has left in /dev/shm.
  private final class Remains {
    let instance = UInt64.random(in: 1...UInt64.max)
    let shape = Sample.tinyShape

    func path(_ chunk: some CustomStringConvertible) -> String {
      "/dev/shm/patchbay-\(Listing.hex(instance))-journal-\(chunk)"
    }

    var names: [String] { Listing.sharedObjects(of: instance).sorted() }

    func open() throws -> (storage: SharedJournalStorage, chunks: [Int: [UInt8]])? {
      try SharedJournalStorage.open(instance: instance, shape: shape)
    }

    /// A journal with so many blobs, whose broker has died.
    func leave(blobCount: UInt64) throws {
      let storage = SharedJournalStorage(instance: instance)
      let journal = try Journal(instance: instance, storage: storage, shape: shape)
      for number in 0..<blobCount {
        try journal.record(Sample.blob(number + 1, extentCount: 0))
        #expect(journal.ensureReserve())
      }
    }

    func goOn() throws -> (JournalContents, Journal)? {
      guard let (storage, chunks) = try open() else { return nil }
      let contents = try JournalReader.scan(chunks, shape: shape)
      return (contents, try Journal(continuing: contents, storage: storage, shape: shape))
    }

    func write(_ bytes: [UInt8], to path: String, at offset: Int = 0) throws {
      let file = Descriptor(
        owning: try checked(
          unsafe Glibc.open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600), "Opening \(path)"))
      try SharedObject.write(file, at: offset, bytes)
    }

    deinit {
      for name in names where unsafe unlink("/dev/shm/\(name)") != 0 {
        _ = unsafe rmdir("/dev/shm/\(name)")
      }
    }
  }

  private func refusal(_ remains: Remains) throws -> PatchbayError {
    let before = remains.names
    let error = try #require(#expect(throws: PatchbayError.self) { _ = try remains.open() })
    #expect(remains.names == before)
    return error
  }

  @Test func `where nobody has left a journal there is none`() throws {
    #expect(try Remains().open() == nil)
  }

  @Test func `the next broker finds all chunks, and what it records is found in them`() throws {
    let remains = Remains()
    try remains.leave(blobCount: 60)
    let chunkCount = remains.names.count
    #expect(chunkCount > 3)
    do {
      let (contents, journal) = try #require(try remains.goOn())
      #expect(contents.blobs.count == 60)
      #expect(journal.byteCount == chunkCount * remains.shape.chunkByteCount)
      for number in 1...52 as ClosedRange<UInt64> {
        journal.erase(Generation(rawValue: number))
        journal.giveBackChunks()
      }
      try journal.record(Sample.blob(99))
    }
    let names = remains.names
    #expect(names.count < chunkCount)
    let (contents, _) = try #require(try remains.goOn())
    #expect(contents.blobs.map(\.record.info.generation.rawValue) == Array(53...60) + [99])
    #expect(contents.blobs.last == (try Sample.blob(99)))
    #expect(remains.names == names)
  }

  @Test func `names that are of no chunk are let be`() throws {
    let remains = Remains()
    try remains.leave(blobCount: 1)
    for name in ["x", "01", "-1", "+2", "65536", "99999999999999999999", ""] {
      try remains.write([1], to: remains.path(name))
    }
    let names = remains.names
    #expect(try remains.goOn()?.0.blobs.count == 1)
    #expect(remains.names == names)
  }

  @Test func `a chunk that is no plain file of this user alone is refused by name`() throws {
    let remains = Remains()
    try remains.leave(blobCount: 1)
    let target = remains.path("target")
    try remains.write([1, 2, 3], to: target)
    let path = remains.path(7)
    let makers: [@Sendable (String, String) -> Int32] = [
      { path, target in unsafe symlink(target, path) },
      { path, _ in unsafe mkfifo(path, 0o600) },
      { path, _ in unsafe mkdir(path, 0o700) },
    ]
    for make in makers {
      try #require(make(path, target) == 0)
      let error = try refusal(remains)
      #expect(error.code == .notPermitted)
      #expect(error.description.contains(path))
      if unsafe unlink(path) != 0 { _ = unsafe rmdir(path) }
    }
    #expect(unsafe chmod(remains.path(0), 0o640) == 0)
    #expect(try refusal(remains).code == .notPermitted)
    #expect(unsafe chmod(remains.path(0), 0o600) == 0)
    #expect(try remains.goOn()?.0.blobs.count == 1)
  }

  @Test(.enabled(if: geteuid() == 0, "gives a file to another user"))
  func `a chunk of another user is refused by name`() throws {
    let remains = Remains()
    try remains.leave(blobCount: 1)
    #expect(unsafe chown(remains.path(0), 65534, 65534) == 0)
    let error = try refusal(remains)
    #expect(error.code == .notPermitted)
    #expect(error.description.contains(remains.path(0)))
  }

  @Test func `a chunk of another size is refused, and of another layout by its version`() throws {
    let remains = Remains()
    try remains.leave(blobCount: 1)
    let path = remains.path(0)
    for byteCount in [remains.shape.chunkByteCount + 4096, 5000] {
      #expect(unsafe truncate(path, off_t(byteCount)) == 0)
      #expect(try refusal(remains).code == .corrupt, "\(byteCount) bytes")
    }
    try remains.write([2], to: path, at: 8)
    #expect(try refusal(remains).code == .versionMismatch)
    #expect(unsafe truncate(path, off_t(remains.shape.chunkByteCount)) == 0)
    let error = try refusal(remains)
    #expect(error.code == .versionMismatch)
    #expect(error.description.contains("layout 2"))
    #expect(error.description.contains("patchbay-\(Listing.hex(remains.instance))-*"))
    #expect(unsafe truncate(path, 20) == 0)
    #expect(try refusal(remains).code == .corrupt)
  }

  @Test func `the journal of another broker under this one's name is refused`() throws {
    let remains = Remains()
    try remains.leave(blobCount: 1)
    try remains.write([1, 2, 3, 4, 5, 6, 7, 8], to: remains.path(0), at: 16)
    #expect(try refusal(remains).code == .corrupt)
  }

  @Test func `a chunk that was being made is removed by who goes on`() throws {
    let remains = Remains()
    try remains.leave(blobCount: 1)
    let names = remains.names
    try remains.write([], to: remains.path(8))
    let head = JournalShape.header(chunk: 9, instance: remains.instance)
    try remains.write(Array(head[..<12]), to: remains.path(9))
    #expect(unsafe truncate(remains.path(9), off_t(remains.shape.chunkByteCount)) == 0)
    #expect(try remains.goOn()?.0.unbornChunks == [8, 9])
    #expect(remains.names == names)
  }

  @Test func `a journal whose first chunk was being made, or is gone, is none and is removed`()
    throws
  {
    let remains = Remains()
    try remains.write([], to: remains.path(0))
    #expect(try remains.open() == nil)
    #expect(remains.names.isEmpty)
    let zeros = [UInt8](repeating: 0, count: remains.shape.chunkByteCount)
    try remains.write(zeros, to: remains.path(0))
    #expect(try remains.open() == nil)
    #expect(remains.names.isEmpty)
    // The first name goes first when a broker ends on purpose.
    try remains.leave(blobCount: 20)
    #expect(unsafe unlink(remains.path(0)) == 0)
    #expect(remains.names.count > 1)
    #expect(try remains.open() == nil)
    #expect(remains.names.isEmpty)
  }
}
