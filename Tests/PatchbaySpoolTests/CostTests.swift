// What reading and keeping costs: bytes read, calls, and pages of disk.

import Glibc
import PatchbaySpool
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Testing

@Suite struct CostTests {
  /// Bytes and calls that this thread has read with, but for those of asking. `body` does not wait.
  private func reading(_ body: () throws -> Void) throws -> (byteCount: Int, callCount: Int) {
    func figures() throws -> (byteCount: Int, callCount: Int, own: Int) {
      let text = try readFile("/proc/thread-self/io")
      let numbers = text.split(separator: "\n").map { line in
        line.split(separator: " ").last.flatMap { Int($0) } ?? 0
      }
      return (numbers[0], numbers[2], text.utf8.count)
    }
    let before = try figures()
    try body()
    let after = try figures()
    // Asking took one call that gave the text, and one that gave nothing.
    return (
      after.byteCount - before.byteCount - before.own, after.callCount - before.callCount - 2
    )
  }

  @Test func `a read of a small segment is one call of less than a stride`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(byteCount: 4096 * 9, .lz4) { $0 % 2 == 0 }
    let writer = try shelf.create(blob)
    for index in 0..<9 { try writer.write(segment: index, blob.bytes(ofSegment: index)) }
    let reader = try shelf.reader(blob)
    for index in 0..<9 {
      let wanted = blob.bytes(ofSegment: index)
      var found: [UInt8] = []
      let cost = try reading { found = try reader.read(segment: index, expecting: 4096) }
      #expect(found == wanted)
      #expect(cost.byteCount <= blob.header.shape.stride && cost.callCount == 1, "\(cost)")
    }
  }

  @Test func `a read of a large segment takes the bytes that it has on disk`() throws {
    let shelf = try Shelf()
    for compression in SpoolCompression.allCases {
      let blob = try SampleBlob(segment: 1 << 20, byteCount: 2 << 20, compression) { $0 == 0 }
      let writer = try shelf.create(blob, "\(compression)")
      for index in 0..<2 {
        let outcome = try writer.write(segment: index, blob.bytes(ofSegment: index))
        let reader = try shelf.reader(blob, "\(compression)")
        let cost = try reading { _ = try reader.read(segment: index, expecting: 1 << 20) }
        #expect(cost.byteCount <= max(outcome.diskByteCount, 65_536), "\(cost)")
        #expect(cost.callCount == (outcome.isCompressed || compression == .none ? 1 : 2))
      }
    }
  }

  @Test func `a container takes the pages of its segments, not their strides`() throws {
    let shelf = try Shelf()
    let count = 40
    let blob = try SampleBlob(segment: 1 << 18, byteCount: count << 18, .lz4) { $0 == 20 }
    let writer = try shelf.create(blob)
    var expected = 3 * 4096
    for index in [30, 20, 10] {
      expected += try writer.write(segment: index, blob.bytes(ofSegment: index)).diskByteCount
    }
    // A page for each missing segment below the highest.
    expected += 28 * 4096
    try writer.synchronize()
    let found = try writer.allocatedByteCount()
    // The file system counts some blocks for its own map.
    #expect((expected...expected + 65_536).contains(found), "\(found), expected \(expected)")
    #expect(try shelf.scan().allocatedByteCount == found)
    #expect(try shelf.scan().fileByteCount == blob.header.shape.offset(ofSegment: 31))
  }

  @Test func `segments that were asked for come into memory`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(segment: 65_536, byteCount: 65_536 * 8, .none)
    let writer = try shelf.create(blob)
    for index in 0..<8 { try writer.write(segment: index, blob.bytes(ofSegment: index)) }
    try writer.synchronize()
    let file = try writer.readOnlyDescriptor()
    let length = blob.header.shape.offset(ofSegment: 8)
    #expect(posix_fadvise(file.rawValue, 0, 0, POSIX_FADV_DONTNEED) == 0)
    let pages = mmap(nil, length, PROT_READ, MAP_SHARED, file.rawValue, 0)
    defer { munmap(pages, length) }
    let reader = ContainerReader(file, shape: blob.header.shape)
    reader.prefetch(segments: 5..<7)
    var resident = [UInt8](repeating: 0, count: length / 4096)
    let first = blob.header.shape.offset(ofSegment: 5) / 4096
    try eventually("segments 5 and 6 are in memory") {
      #expect(mincore(pages, length, &resident) == 0)
      return resident[first + 1..<first + 17].allSatisfy { $0 & 1 == 1 }
    }
    reader.prefetch(segments: -5 ..< -3)
    reader.prefetch(segments: Int.max - 1..<Int.max)
  }
}
