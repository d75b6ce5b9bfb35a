// Containers with gaps, as the tool that everybody has sees them.

import PatchbaySpool
import PatchbayTestSupport
import PatchbayTypes
import Testing

@Suite struct GapTests {
  @Test(arguments: SpoolCompression.allCases)
  func `lz4 accepts the file after every segment, and gives those that are there in order`(
    _ compression: SpoolCompression
  ) throws {
    let shelf = try Shelf()
    let blob = try SampleBlob(segment: 16_384, byteCount: 16_384 * 11 + 5, compression) {
      $0 % 3 == 0
    }
    var random = SeededRandom(seed: 3)
    let writer = try shelf.create(blob)
    #expect(try lz4(["-t", shelf.file("blob")]).code == 0)
    var written: Set<Int> = []
    for segment in (0..<blob.segmentCount).shuffled(using: &random) {
      try writer.write(segment: segment, blob.bytes(ofSegment: segment))
      written.insert(segment)
      #expect(try lz4(["-t", shelf.file("blob")]).code == 0, "\(written)")
      let decoded = try lz4(["-dc", shelf.file("blob")])
      #expect(decoded.output == written.sorted().flatMap(blob.bytes(ofSegment:)), "\(written)")
      let report = try shelf.scan()
      let missing = (0..<blob.segmentCount).filter { !written.contains($0) }
      #expect(report.isSound && report.presentCount == written.count)
      #expect(report.missing == Array(missing.prefix(ContainerReport.listLimit)))
      #expect(report.missingCount == missing.count)
    }
    #expect(try lz4(["-dc", shelf.file("blob")]).output == blob.bytes)
  }
}
