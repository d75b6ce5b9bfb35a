// What a broker makes of the files in its spool when it starts.

import Glibc
import PatchbayDigest
import PatchbayLedger
import PatchbaySpool
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLoop

@Suite struct SpoolStartTests {
  /// A spool with containers as a broker leaves them.
  private final class Shelf {
    let place: TemporaryDirectory
    let directory: Descriptor
    static let boot = "11111111-2222-3333-4444-555555555555"

    init() throws {
      place = try TemporaryDirectory()
      directory = try DiskFile.openDirectory(place.path)
    }

    func name(_ generation: UInt64) -> String {
      "patchbay-00000000000000aa-\(ObjectName.hex(generation)).blob"
    }

    static func blob(
      _ generation: UInt64, byteCount: Int = 5000, _ level: Acknowledgement = .durable
    ) throws -> StoredBlob {
      var request = CreateRequest(key: try BlobKey("key/\(generation)"))
      request.byteCount = byteCount
      request.acknowledgement = level
      request.mode = 0o640
      request.type = "x/y"
      request.labels = [BlobInfo.Label(name: "n", value: "v")]
      let whole = (byteCount + 4095) / 4096 * 4096
      return StoredBlob(
        request: request, generation: Generation(rawValue: generation),
        access: Access(uid: 1, gid: 2, mode: 0o640),
        plan: try ExtentPlan(first: whole, limit: whole), byteCount: byteCount,
        segmentByteCount: 1 << 18, created: WallTime(rawValue: 3), modified: WallTime(rawValue: 4),
        containerByteCount: 0)
    }

    func write(_ blob: StoredBlob, boot: String = Shelf.boot) throws {
      var header = ContainerHeader(
        key: blob.request.key, generation: blob.generation,
        shape: try ContainerShape(segmentByteCount: blob.segmentByteCount), compression: .none,
        byteCount: blob.byteCount)
      let writer = try ContainerWriter.create(
        in: directory, name: name(blob.generation.rawValue), header)
      try writer.write(segment: 0, [UInt8](repeating: 9, count: blob.byteCount))
      header.isSealed = true
      header.note = ContainerNote(blob, boot: boot).bytes
      try writer.write(header: header)
      try writer.write(header: header)
    }

    func look(boot: String = Shelf.boot) throws -> SpoolFindings {
      try SpoolStart.look(place.path, directory, previous: nil, kept: KeptFiles(), boot: boot)
    }

    func flip(_ generation: UInt64, at offset: Int) throws {
      let path = place.file(name(generation))
      var bytes = try readBytes(path)
      bytes[offset] ^= 1
      try writeFile(path, bytes)
    }
  }

  @Test func `a complete blob is found with all that its note says`() throws {
    let shelf = try Shelf()
    var blob = try Shelf.blob(7)
    try shelf.write(blob)
    let findings = try shelf.look()
    blob.containerByteCount = try #require(findings.blobs.first).containerByteCount
    #expect(findings.blobs == [blob] && findings.warnings.isEmpty)
    #expect(blob.containerByteCount >= 5000)
    #expect(findings.names == [Generation(rawValue: 7): shelf.name(7)])
  }

  @Test func `what nobody waited for is verified after the machine was started again`() throws {
    let shelf = try Shelf()
    for generation in 1...4 as ClosedRange<UInt64> {
      try shelf.write(try Shelf.blob(generation, generation > 2 ? .durable : .retained))
      // A byte of the content, which only its checksum tells.
      if generation % 2 == 0 { try shelf.flip(generation, at: 65_536 + 4096 + 100) }
    }
    let same = try shelf.look()
    #expect(same.blobs.map(\.generation.rawValue) == [1, 2, 3, 4])
    let later = try shelf.look(boot: "another")
    #expect(later.blobs.map(\.generation.rawValue) == [1, 3, 4])
    #expect(names(in: shelf.place.path).contains(shelf.name(2) + ".quarantined"))
    // Once found whole it is known to be.
    try shelf.flip(1, at: 65_536 + 4096 + 100)
    #expect(try shelf.look(boot: "another").blobs.map(\.generation.rawValue) == [1, 3, 4])
    #expect(try shelf.look(boot: "").blobs.map(\.generation.rawValue) == [3, 4])
  }

  @Test func `a note with any bit turned is right or refused`() throws {
    let blob = try Shelf.blob(1)
    let header = ContainerHeader(
      key: blob.request.key, generation: blob.generation,
      shape: try ContainerShape(segmentByteCount: blob.segmentByteCount), compression: .none,
      byteCount: blob.byteCount, isSealed: true, note: ContainerNote(blob, boot: Shelf.boot).bytes)
    #expect(try ContainerNote(header, containerByteCount: 0).blob == blob)
    var refusedCount = 0
    for bit in 0..<header.note.count * 8 {
      var changed = header
      changed.note[bit / 8] ^= 1 << UInt8(bit % 8)
      do throws(PatchbayError) {
        #expect(
          try ContainerNote(changed, containerByteCount: 0)
            != ContainerNote(header, containerByteCount: 0))
      } catch {
        refusedCount += 1
      }
    }
    #expect(refusedCount > 0)
    for count in 0..<header.note.count {
      var cut = header
      cut.note.removeLast(header.note.count - count)
      #expect(throws: PatchbayError.self) { try ContainerNote(cut, containerByteCount: 0) }
    }
  }

  @Test func `of two lives of a key the later is served, and no number is used twice`() throws {
    let shelf = try Shelf()
    var (early, late) = (try Shelf.blob(3), try Shelf.blob(9))
    early.request.key = "same"
    late.request.key = "same"
    try shelf.write(early)
    try shelf.write(late)
    try writeFile(shelf.place.file("patchbay-00000000000000aa-\(ObjectName.hex(40)).part"), [1])
    let aside = shelf.name(3) + ".quarantined"
    try writeFile(shelf.place.file(aside), [1])
    let findings = try shelf.look()
    #expect(findings.blobs.map(\.generation.rawValue) == [9])
    #expect(findings.names.keys.map(\.rawValue) == [9] && findings.last.rawValue == 40)
    #expect(names(in: shelf.place.path).contains(aside + ".2"))
    #expect(try readBytes(shelf.place.file(aside)) == [1])
  }

  /// The head is written first, so nothing stands behind half of one.
  @Test func `of unfinished files those stay that a record of the broker before stands on`() throws
  {
    let shelf = try Shelf()
    let stem = "patchbay-00000000000000aa-000000000000000"
    for name in [
      "\(stem)1.part", "\(stem)2.part", "\(stem)1-3.scratch", "\(stem)1-4.scratch",
      "\(stem)2-3.scratch",
    ] { try writeFile(shelf.place.file(name), [1]) }
    var kept = KeptFiles()
    kept.containers = [Generation(rawValue: 1)]
    kept.scratches = [Generation(rawValue: 1): [4]]
    let findings = try SpoolStart.look(
      shelf.place.path, shelf.directory, previous: 0xaa, kept: kept, boot: Shelf.boot)
    #expect(findings.parts == kept.containers && findings.scratches == kept.scratches)
    #expect(findings.sweptCount == 3)
    #expect(names(in: shelf.place.path).sorted() == ["\(stem)1-4.scratch", "\(stem)1.part"])
  }

  @Test func `names that are not exactly ours are nobody's blobs`() throws {
    for name in [
      "patchbay-00000000000000aa-0000000000000001.blob",
      "patchbay-ffffffffffffffff-4000000000000000.blob",
    ] { #expect(SpoolStart.generation(of: name, ".blob") != nil, "\(name)") }
    for name in [
      "", ".blob", "patchbay-.blob", "patchbay-00000000000000aa-4000000000000001.blob",
      "patchbay-00000000000000aa-0000000000000001.part",
      "patchbay-00000000000000AA-0000000000000001.blob",
      "patchbay-00000000000000aa-000000000000001.blob",
      "patchbay-00000000000000aa-+000000000000001.blob",
      "patchbay-00000000000000aa-0000000000000001.blob.blob",
      "xpatchbay-00000000000000aa-0000000000000001.blob",
      "patchbay-00000000000000aa-journal-0000000000000001.blob",
    ] { #expect(SpoolStart.generation(of: name, ".blob") == nil, "\(name)") }
  }

  @Test func `only what a broker leaves unfinished is taken for that`() {
    let stem = "patchbay-00000000000000aa-0000000000000001"
    for name in ["\(stem).part", "\(stem)-0.scratch", "\(stem)-17.scratch"] {
      #expect(SpoolStart.isUnfinished(name), "\(name)")
    }
    for name in [
      "\(stem).blob", "\(stem).blob.bak", "\(stem).part.bak", "\(stem)-.scratch",
      "\(stem)-01.scratch",
      "\(stem)-x.scratch", "\(stem)-1.scratch.old", "\(stem)x-1.scratch", "-1.scratch", "scratch",
      "",
    ] { #expect(!SpoolStart.isUnfinished(name), "\(name)") }
  }

  /// In the full tier the time and the memory are the figures of the documentation.
  @Test func `any number of blobs is found, each by a few reads`() throws {
    let count = isFullTier ? 100_000 : 300
    let shelf = try Shelf()
    for generation in 1...UInt64(count) { try shelf.write(try Shelf.blob(generation)) }
    let memory = processFigure(getpid(), "VmRSS") ?? 0
    let start = MonotonicTime.now
    let findings = try shelf.look()
    let looked = MonotonicTime.now
    #expect(findings.blobs.count == count && findings.warnings.isEmpty)
    var ledger = Ledger(
      limits: LedgerLimits(memoryByteCount: 64 << 20), instance: 1, run: 1, brokerProcess: 1,
      brokerUser: 1,
      at: Moment(monotonicNanoseconds: 0, wall: WallTime(rawValue: 0)),
      tokenSource: SystemRandomNumberGenerator(), digest: { DigestState.digest(of: $1, $0) })
    _ = ledger.handle(
      .found(findings.blobs, last: findings.last),
      at: Moment(monotonicNanoseconds: 0, wall: WallTime(rawValue: 0)))
    let adopted = MonotonicTime.now
    let grown = (processFigure(getpid(), "VmRSS") ?? 0) - memory
    print(
      "\(count) blobs: \((looked.nanoseconds - start.nanoseconds) / 1_000_000) ms to look, "
        + "\((adopted.nanoseconds - looked.nanoseconds) / 1_000_000) ms to take in, \(grown) KiB")
  }
}
