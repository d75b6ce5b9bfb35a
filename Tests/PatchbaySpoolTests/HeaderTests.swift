// The header, its two copies, and what is refused.

import Glibc
import PatchbaySpool
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Testing

@Suite struct HeaderTests {
  private func area(_ shelf: Shelf) throws -> [UInt8] {
    Array(try readBytes(shelf.file("blob")).prefix(65_536))
  }

  @Test func `the header of a new container is these bytes`() throws {
    let header = ContainerHeader(
      key: "k", generation: Generation(rawValue: 0x0102), shape: try .init(segmentByteCount: 4096),
      compression: .lz4, byteCount: nil, isSealed: true, digest: "d", note: [9])
    let bytes = try header.encoded(sequence: 3)
    let checksum: [UInt8] = Array(bytes[24..<32])
    #expect(
      bytes == Array("PBAYSPOL".utf8) + [1, 0, 0, 0, 67, 0, 0, 0] + [3, 0, 0, 0, 0, 0, 0, 0]
        + checksum + [2, 1, 0, 0, 0, 0, 0, 0] + [UInt8](repeating: 255, count: 8)
        + [0, 16, 0, 0, 1, 0, 0, 0] + [1, 0, 1, 0, 3, 2, 0, 0] + Array("kd".utf8) + [9])
    var zeroed = bytes
    zeroed.replaceSubrange(24..<32, with: repeatElement(0, count: 8))
    let sum = RecordChecksum.of(zeroed)
    #expect(checksum == (0..<8).map { UInt8(truncatingIfNeeded: sum >> (8 * $0)) })
  }

  @Test func `headers are written in turn, and the newest whole one counts`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(byteCount: 8192, .none)
    let writer = try shelf.create(blob)
    var header = blob.header
    var before = try area(shelf)
    for round in 1...5 {
      header.note = [UInt8](repeating: UInt8(round), count: round * 3000)
      try writer.write(header: header)
      let after = try area(shelf)
      let copies = [4096..<32_768, 32_768..<65_536]
      let changed = copies.filter { before[$0] != after[$0] }
      #expect(changed.count == 1)
      #expect(try ContainerHeaders(after).header == header)
      // The write is cut short after any number of its pages: the other copy is whole.
      let place = try #require(changed.first)
      for cut in stride(from: place.lowerBound, to: place.upperBound, by: 4096) {
        let torn = after[..<cut] + before[cut..<place.upperBound] + after[place.upperBound...]
        let found = try ContainerHeaders(Array(torn)).header.note.first ?? 0
        #expect([round - 1, round, 1].contains(Int(found)))
      }
      before = after
    }
  }

  @Test func `a header with any bit flipped is right or refused`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(byteCount: 8192, .none)
    let writer = try shelf.create(blob)
    try expectEveryFlip(try area(shelf), oneOf: [blob.header])
    var sealed = blob.header
    sealed.isSealed = true
    try writer.write(header: sealed)
    try expectEveryFlip(try area(shelf), oneOf: [blob.header, sealed])
    try writer.write(header: sealed)
    try expectEveryFlip(try area(shelf), oneOf: [sealed])
    // With one copy only there is nothing to fall back to.
    var single = try area(shelf)
    single.replaceSubrange(4096..<8192, with: repeatElement(0, count: 4096))
    try expectEveryFlip(single, oneOf: [sealed], refusals: (64 + 5 + 11 + 3) * 8)
  }

  /// Flips every bit of what the copies hold, and one of every other byte.
  private func expectEveryFlip(
    _ area: [UInt8], oneOf allowed: [ContainerHeader], refusals: Int = 0
  ) throws {
    var area = area
    var refused = 0
    var damaged = 0
    for index in area.indices {
      let isUsed = [4096, 32_768].contains { ($0..<$0 + 64 + 5 + 11 + 3).contains(index) }
      for bit in isUsed || isFullTier ? Array(0..<8) : [index % 8] {
        area[index] ^= 1 << bit
        do throws(PatchbayError) {
          let found = try ContainerHeaders(area)
          if found.damagedCopyCount > 0 { damaged += 1 }
          #expect(allowed.contains(found.header), "bit \(bit) of byte \(index)")
        } catch {
          refused += 1
          #expect([.corrupt, .versionMismatch].contains(error.code), "\(error)")
        }
        area[index] ^= 1 << bit
      }
    }
    #expect(refused == refusals)
    #expect(refusals > 0 || damaged == (64 + 5 + 11 + 3) * 8 * 2)
  }

  @Test func `a header cut off anywhere is right or refused`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(byteCount: 8192, .none)
    _ = try shelf.create(blob)
    var bytes = try area(shelf)
    let end = 4096 + (try blob.header.encoded(sequence: 1)).count
    while !bytes.isEmpty {
      bytes.removeLast()
      let found = try? ContainerHeaders(bytes).header
      #expect(found == (bytes.count >= end ? blob.header : nil), "\(bytes.count) bytes")
    }
  }

  @Test func `a header of a later format is refused by its number`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(byteCount: 8192, .none)
    _ = try shelf.create(blob)
    var bytes = try area(shelf)
    bytes[4096 + 8] = 2
    bytes[32_768 + 8] = 2
    let error = #expect(throws: PatchbayError.self) { try ContainerHeaders(bytes) }
    #expect(error?.code == .versionMismatch && error?.message.contains("format 2") == true)
  }

  @Test func `what does not fit into a header is refused and leaves nothing behind`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(byteCount: 8192, .none)
    for change: (inout ContainerHeader) -> Void in [
      { $0.note = [UInt8](repeating: 1, count: 20_481) },
      { $0.digest = String(repeating: "x", count: 257) },
      { $0.byteCount = 1 << 46 + 1 }, { $0.byteCount = -1 },
    ] {
      var header = blob.header
      change(&header)
      let error = #expect(throws: PatchbayError.self) {
        _ = try ContainerWriter.create(in: shelf.directory, name: "blob", header)
      }
      #expect(error?.code == .limitReached)
    }
    #expect(names(in: shelf.path).isEmpty)
  }

  @Test func `sizes of segments are powers of two from 4 KiB to 4 MiB`() {
    for good in (12...22).map({ 1 << $0 }) {
      #expect(throws: Never.self) { try ContainerShape(segmentByteCount: good) }
    }
    for bad in [Int.min, -4096, 0, 1, 2048, 4095, 4097, 12_288, 1 << 23, Int.max] {
      #expect(throws: PatchbayError.self) { try ContainerShape(segmentByteCount: bad) }
    }
  }

  @Test func `a name that is taken is left alone, and links are not followed`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(byteCount: 8192, .none)
    try writeFile(shelf.file("taken"), [1, 2, 3])
    #expect(symlink(shelf.file("taken"), shelf.file("link")) == 0)
    #expect(mkfifo(shelf.file("pipe"), 0o600) == 0)
    for name in ["taken", "link", "pipe"] {
      #expect(throws: PatchbayError.self) { _ = try shelf.create(blob, name) }
      #expect(throws: PatchbayError.self) {
        _ = try ContainerWriter.open(in: shelf.directory, name: name)
      }
    }
    for name in ["link", "pipe", "none"] {
      #expect(throws: PatchbayError.self) { _ = try shelf.scan(name) }
    }
    #expect(try readBytes(shelf.file("taken")) == [1, 2, 3])
    _ = try shelf.create(blob, "new")
    var facts = stat()
    #expect(lstat(shelf.file("new"), &facts) == 0 && facts.st_mode & 0o7777 == 0o600)
  }

  @Test func `segments outside of the blob and wrong lengths are refused`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(byteCount: 5000, .none)
    let writer = try shelf.create(blob)
    let page = [UInt8](repeating: 1, count: 4096)
    for (segment, count) in [(-1, 4096), (2, 4096), (1 << 40, 4096), (0, 4095), (1, 905), (1, 0)] {
      let error = #expect(throws: PatchbayError.self) {
        try writer.write(segment: segment, Array(page.prefix(count)))
      }
      #expect(error?.code == .rangeOutOfBounds, "segment \(segment), \(count) bytes")
    }
    let reader = try shelf.reader(blob)
    for (segment, count) in [(-1, 1), (1 << 40, 1), (Int.max, 1), (0, 0), (0, 4097), (0, -1)] {
      let error = #expect(throws: PatchbayError.self) {
        _ = try reader.read(segment: segment, expecting: count)
      }
      #expect(error?.code == .rangeOutOfBounds, "segment \(segment), \(count) bytes")
    }
    #expect(try shelf.scan().isSound)
  }
}
