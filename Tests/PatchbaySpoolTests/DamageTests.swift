// Damaged containers: the right bytes or a typed refusal, whatever the file holds.

import Glibc
import PatchbaySpool
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Testing

@Suite struct DamageTests {
  /// Three segments, two stored, one of them short, and one compressed, all there.
  private func sample(_ shelf: Shelf) throws -> SampleBlob {
    let blob = try SampleBlob(byteCount: 8192 + 700, .lz4) { $0 != 1 }
    let writer = try shelf.create(blob)
    let compressed = try (0..<3).map {
      try writer.write(segment: $0, blob.bytes(ofSegment: $0)).isCompressed
    }
    #expect(compressed == [false, true, false])
    return blob
  }

  @Test func `a segment with any bit flipped is right or refused`() throws {
    let shelf = try Shelf()
    let blob = try sample(shelf)
    let reader = try shelf.reader(blob)
    let bytes = try readBytes(shelf.file("blob"))
    let file = try DiskFile.open(in: shelf.directory, name: "blob", isWritable: true)
    var found: [Found: Int] = [:]
    for index in 65_536..<bytes.count {
      let segment = (index - 65_536) / blob.header.shape.stride
      let isPadding = bytes[index] == 0 && bytes[index - 1] == 0 && index % 4 != 0
      for bit in isPadding && !isFullTier ? [index % 8] : Array(0..<8) {
        try DiskFile.write(file, at: index, [bytes[index] ^ 1 << bit])
        let result = blob.read(segment, reader)
        found[result, default: 0] += 1
      }
      try DiskFile.write(file, at: index, [bytes[index]])
    }
    #expect(Set(found.keys) == [.right, .refused(.corrupt)], "\(found)")
    // Every bit of the two stored segments counts.
    #expect(found[.refused(.corrupt), default: 0] >= (4096 + 700) * 8)
    #expect(try shelf.scan().isComplete)
  }

  @Test func `a scan finds every flipped bit that lz4 would find, and names its segment`() throws {
    let shelf = try Shelf()
    let blob = try sample(shelf)
    let bytes = try readBytes(shelf.file("blob"))
    let file = try DiskFile.open(in: shelf.directory, name: "blob", isWritable: true)
    var random = SeededRandom(seed: 5)
    let used = bytes.indices.filter { bytes[$0] != 0 }
    for _ in 0..<(isFullTier ? 2000 : 150) {
      let index = used.randomElement(using: &random) ?? 0
      let bit = UInt8.random(in: 0..<8, using: &random)
      try DiskFile.write(file, at: index, [bytes[index] ^ 1 << bit])
      let report = try shelf.scan()
      let isGood = try lz4(["-t", shelf.file("blob")]).code == 0
      #expect(isGood || !report.isSound, "byte \(index)")
      for segment in report.corrupt.keys {
        let start = blob.header.shape.offset(ofSegment: segment)
        #expect((start..<start + blob.header.shape.stride).contains(index))
      }
      try DiskFile.write(file, at: index, [bytes[index]])
    }
  }

  @Test func `a file cut off anywhere gives right bytes or a refusal`() throws {
    let shelf = try Shelf()
    let blob = try sample(shelf)
    let reader = try shelf.reader(blob)
    let file = try DiskFile.open(in: shelf.directory, name: "blob", isWritable: true)
    let full = try DiskFile.facts(of: file).byteCount
    for byteCount in (0...full).reversed() {
      try DiskFile.setByteCount(file, byteCount)
      for segment in 0..<3 {
        let found = blob.read(segment, reader)
        let isCut = blob.header.shape.offset(ofSegment: segment + 1) > byteCount
        #expect(found == .right || isCut && found == .refused(.corrupt), "\(byteCount)")
      }
      if byteCount % 4096 <= 1 || byteCount % 97 == 0 || isFullTier { try expectScan(shelf, blob) }
    }
  }

  private func expectScan(_ shelf: Shelf, _ blob: SampleBlob) throws {
    let report = try shelf.scan()
    switch report.header {
    case .success(let header):
      #expect(header == blob.header)
      #expect(report.presentCount + report.missingCount + report.corruptCount == 3)
      // Cut between two segments it is a container without the later ones.
      let isBetween = (0...3).contains { 65_536 + $0 * 12_288 == report.fileByteCount }
      #expect(report.isSound == isBetween)
      #expect(report.isComplete == (report.presentCount == 3))
    case .failure(let error):
      #expect([.corrupt, .versionMismatch].contains(error.code))
    }
  }

  @Test func `a file of any bytes is scanned, and never read wrongly`() throws {
    let shelf = try Shelf()
    let blob = try sample(shelf)
    let whole = try readBytes(shelf.file("blob"))
    let seed: UInt64 = 11
    var random = SeededRandom(seed: seed)
    var sights: [String: Int] = [:]
    for round in 0..<(isFullTier ? 10_000 : 2000) {
      try writeFile(shelf.file("image"), image(round % 4, whole, &random))
      let report = try shelf.scan("image")
      #expect(
        report.presentCount + report.missingCount + report.corruptCount == report.segmentCount,
        "seed \(seed), round \(round)")
      sights[
        report.corruptCount > 0 ? "corrupt" : report.isSound ? "sound" : "unsound", default: 0] += 1
      let reader = try shelf.reader(blob, "image")
      for segment in 0..<3 {
        #expect(blob.read(segment, reader) != .wrong, "seed \(seed), round \(round)")
      }
    }
    #expect(sights.count == 3, "\(sights)")
  }

  /// An image of a kind: 0 noise, 1 a container with some bytes changed, 2 one with stretches moved
  /// about, 3 a true header, with any length and shape, over the bytes of another container.
  private func image(_ kind: Int, _ whole: [UInt8], _ random: inout SeededRandom) throws -> [UInt8]
  {
    var bytes = whole
    switch kind {
    case 0:
      return (0..<Int.random(in: 0..<3000, using: &random)).map { _ in
        UInt8.random(in: 0...255, using: &random)
      }
    case 1:
      for _ in 0..<Int.random(in: 1..<6, using: &random) {
        bytes[Int.random(in: bytes.indices, using: &random)] = .random(in: 0...255, using: &random)
      }
    case 2:
      let length = Int.random(in: 1..<9000, using: &random)
      let from = Int.random(in: 0..<bytes.count - length, using: &random)
      let to = Int.random(in: 0..<bytes.count - length, using: &random)
      bytes.replaceSubrange(to..<to + length, with: whole[from..<from + length])
      bytes.removeLast(Int.random(in: 0..<9000, using: &random))
    default:
      let shape = try ContainerShape(segmentByteCount: 1 << Int.random(in: 12...22, using: &random))
      let lengths = [nil, 0, 1, 5000, 8892, 20_000, 1 << 30, 1 << 46]
      let header = ContainerHeader(
        key: "k", generation: Generation(rawValue: random.next()), shape: shape,
        compression: .lz4, byteCount: lengths.randomElement(using: &random) ?? nil)
      let copy = try header.encoded(sequence: 101)
      bytes.replaceSubrange(4096..<4096 + copy.count, with: copy)
    }
    return bytes
  }

  @Test func `a file of a terabyte of nothing is scanned by its bytes`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(lengthOnly: 1 << 40)
    let writer = try shelf.create(blob)
    try writer.write(segment: 1, [UInt8](repeating: 1, count: 4096))
    let file = try DiskFile.open(in: shelf.directory, name: "blob", isWritable: true)
    try DiskFile.setByteCount(file, blob.header.shape.offset(ofSegment: 1 << 28))
    let report = try shelf.scan()
    #expect(report.segmentCount == 1 << 28 && report.presentCount == 1)
    #expect(report.missingCount == 1 && report.corruptCount == 1 << 28 - 2)
    #expect(report.corrupt.count == ContainerReport.listLimit)
  }
}
