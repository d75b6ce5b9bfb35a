// What is written is read, in whatever order it came.

import Glibc
import PatchbaySpool
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Testing

@Suite struct RoundTripTests {
  @Test(arguments: SpoolCompression.allCases)
  func `segments written in any order are read, and lz4 gives the blob`(
    _ compression: SpoolCompression
  ) throws {
    let shelf = try Shelf()
    // Of four segments two are noise; the last one is short.
    let blob = try SampleBlob(byteCount: 4096 * 3 + 1000, compression) { $0 % 2 == 0 }
    for (number, order) in orders(Array(0..<4)).enumerated() {
      let name = "blob\(number)"
      let writer = try shelf.create(blob, name)
      let reader = try shelf.reader(blob, name)
      for (done, segment) in order.enumerated() {
        let outcome = try writer.write(segment: segment, blob.bytes(ofSegment: segment))
        #expect(outcome.isCompressed == (compression == .lz4 && segment == 1))
        #expect(outcome.checksum == XXH32.of(blob.bytes(ofSegment: segment)))
        for other in 0..<4 {
          let isThere = order[...done].contains(other)
          #expect(blob.read(other, reader) == (isThere ? .right : .refused(.corrupt)))
        }
      }
      let decoded = try lz4(["-dc", shelf.file(name)])
      #expect(decoded.code == 0 && decoded.output == blob.bytes, "\(order)")
      let report = try shelf.scan(name)
      #expect(report.isComplete && report.isSound && report.presentCount == 4, "\(report)")
      #expect(report.verifiedByteCount == blob.bytes.count)
    }
  }

  @Test(arguments: SpoolCompression.allCases, [65_536, 262_144, 1_048_576, 4_194_304])
  func `large segments are read, whether they compress or not`(
    _ compression: SpoolCompression, _ segment: Int
  ) throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(segment: segment, byteCount: segment * 2 + 77_777, compression) {
      $0 == 1
    }
    let writer = try shelf.create(blob)
    for index in (0..<blob.segmentCount).reversed() {
      try writer.write(segment: index, blob.bytes(ofSegment: index))
    }
    let reader = try shelf.reader(blob)
    for index in 0..<blob.segmentCount { #expect(blob.read(index, reader) == .right) }
    #expect(try lz4(["-dc", shelf.file("blob")]).output == blob.bytes)
    #expect(try shelf.scan().isComplete)
  }

  @Test(arguments: SpoolCompression.allCases, [0, 1, 4095, 4096, 4097])
  func `the shortest blobs are kept, too`(
    _ compression: SpoolCompression, _ byteCount: Int
  ) throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(byteCount: byteCount, compression) { _ in false }
    let writer = try shelf.create(blob)
    for index in 0..<blob.segmentCount {
      try writer.write(segment: index, blob.bytes(ofSegment: index))
    }
    let reader = try shelf.reader(blob)
    for index in 0..<blob.segmentCount { #expect(blob.read(index, reader) == .right) }
    #expect(try lz4(["-t", shelf.file("blob")]).code == 0)
    #expect(try lz4(["-dc", shelf.file("blob")]).output == blob.bytes)
    let report = try shelf.scan()
    #expect(report.isComplete && report.isSound)
  }

  @Test func `a frame is byte for byte the one that lz4 itself writes`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(segment: 65_536, byteCount: 131_072, .lz4) { $0 == 1 }
    let writer = try shelf.create(blob)
    for index in 0..<2 {
      let bytes = blob.bytes(ofSegment: index)
      try writer.write(segment: index, bytes)
      try writeFile(shelf.file("plain"), bytes)
      let frame = try lz4(["-1", "-B4", "--content-size", "-c", shelf.file("plain")]).output
      let start = blob.header.shape.offset(ofSegment: index) + 4077
      let found = try readBytes(shelf.file("blob"))[start...].prefix(frame.count)
      #expect(Array(found) == frame, "segment \(index)")
    }
  }

  @Test func `a blob of unknown length takes full segments, and its last one when it is known`()
    throws
  {
    let shelf = try Shelf()
    let blob = try SampleBlob(byteCount: 9000, .lz4)
    var header = blob.header
    header.byteCount = nil
    let writer = try ContainerWriter.create(in: shelf.directory, name: "blob", header)
    try writer.write(segment: 0, blob.bytes(ofSegment: 0))
    try writer.write(segment: 1, blob.bytes(ofSegment: 1))
    var report = try shelf.scan()
    #expect(report.isSound && !report.isComplete && report.presentCount == 2)
    header.byteCount = 9000
    header.isSealed = true
    try writer.write(header: header)
    report = try shelf.scan()
    #expect(report.missing == [2] && report.missingCount == 1 && report.segmentCount == 3)
    try writer.write(segment: 2, blob.bytes(ofSegment: 2))
    #expect(try shelf.scan().isComplete)
    #expect(try lz4(["-dc", shelf.file("blob")]).output == blob.bytes)
  }

  @Test func `a container that was closed is gone on with`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(byteCount: 4096 * 5, .lz4) { $0 % 2 == 0 }
    var header = blob.header
    for index in [3, 0, 4, 1, 2] {
      let writer =
        index == 3
        ? try shelf.create(blob) : try ContainerWriter.open(in: shelf.directory, name: "blob")
      #expect(writer.header == header)
      header.note = [UInt8(index)]
      try writer.write(header: header)
      try writer.write(segment: index, blob.bytes(ofSegment: index))
      try writer.synchronize()
    }
    #expect(try shelf.scan().isComplete)
    let file = try DiskFile.open(in: shelf.directory, name: "blob", isWritable: false)
    #expect(try ContainerReader.headers(file).header == header)
  }

  @Test func `a segment that is written again holds the new bytes and no more disk`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(segment: 262_144, byteCount: 262_144, .lz4)
    let writer = try shelf.create(blob)
    let full = try writer.write(segment: 0, blob.bytes)
    try writer.synchronize()
    let before = try writer.allocatedByteCount()
    let again = [UInt8](repeating: 65, count: 262_144)
    let small = try writer.write(segment: 0, again)
    try writer.synchronize()
    #expect(!full.isCompressed && small.isCompressed)
    #expect(try shelf.reader(blob).read(segment: 0, expecting: 262_144) == again)
    let saved = full.diskByteCount - small.diskByteCount
    #expect(try before - writer.allocatedByteCount() >= saved - 8192)
  }

  @Test func `readers of a descriptor opened anew can read and not write`() throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(byteCount: 4096, .none)
    let writer = try shelf.create(blob)
    try writer.write(segment: 0, blob.bytes)
    #expect(rename(shelf.file("blob"), shelf.file("moved")) == 0)
    let copy = try writer.readOnlyDescriptor()
    #expect(fcntl(copy.rawValue, F_GETFL) & O_ACCMODE == O_RDONLY)
    let reader = ContainerReader(copy, shape: blob.header.shape)
    #expect(blob.read(0, reader) == .right)
    #expect(unlink(shelf.file("moved")) == 0)
    #expect(blob.read(0, reader) == .right)
  }
}
