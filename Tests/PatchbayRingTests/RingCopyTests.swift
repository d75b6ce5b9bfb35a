// Filling a ring from another: what was covered is there, nothing else is, and the ring is in use.

import PatchbayLayout
import PatchbayTestSupport
import PatchbayTypes
import Testing

@testable import PatchbayRing
@testable import PatchbaySystem

@Suite struct RingCopyTests {
  private func fresh(_ geometry: RingGeometry) throws -> Descriptor {
    try SharedObject.sealedMemfd(name: "patchbay-test", byteCount: geometry.objectByteCount)
  }

  private func extent(
    _ descriptor: borrowing Descriptor, _ geometry: RingGeometry
  ) throws -> Extent {
    try Extent(
      descriptor, index: 3, start: 0, ringID: 1, useNumber: 1, geometry: geometry,
      isWritable: true)
  }

  @Test(arguments: [1, 2, 3, 4, 5] as [UInt64])
  func `a copy covers exactly what its source covered`(seed: UInt64) throws {
    let byteCount = 96 * 4096
    let geometry = try RingGeometry(dataByteCount: byteCount, hasMap: true)
    let from = try fresh(geometry)
    let to = try fresh(geometry)
    let source = try extent(from, geometry)
    try RingUse(number: 1, index: 3).begin(from, geometry)
    try RingUse(number: 1, index: 3).begin(to, geometry)
    var random = SeededRandom(seed: seed)
    var isCovered = [Bool](repeating: false, count: byteCount)
    // Ragged pieces and whole stretches, so that all levels of the map have bits.
    var ranges = raggedRanges(byteCount, seed: seed).filter { _ in
      UInt64.random(in: 0..<4, using: &random) == 0
    }
    ranges.append(64 * 4096..<64 * 4096 + 5000)
    for range in ranges where !isCovered[range].contains(true) {
      source.copyIn(oracleBytes(seed, range).span, at: range.lowerBound)
      source.cover(range)
      for position in range { isCovered[position] = true }
    }
    // Bytes that stand in the source and are not covered must not come along.
    let hole = try #require(isCovered.firstIndex(of: false))
    source.copyIn(([77] as [UInt8]).span, at: hole)
    try RingCopy.fill(to, from: from, geometry)
    // What is written later is not taken over.
    source.cover(hole..<hole + 1)
    let copy = try extent(to, geometry)
    #expect(copy.isCurrent)
    var at = 0
    while at < byteCount {
      let end = isCovered[at] ? copy.coveredEnd(from: at, limit: byteCount) : at + 1
      if isCovered[at] != (copy.coveredEnd(from: at, limit: byteCount) > at) {
        Issue.record("byte \(at) is covered: \(!isCovered[at])")
        return
      }
      let bytes = unsafe Array(copy.bytes(at..<end))
      let expected = isCovered[at] ? oracleBytes(seed, at..<end) : [0]
      if bytes != expected { Issue.record("bytes \(at)..<\(end) differ") }
      at = end
    }
    let hints = try RingInspector.hints(to, limit: byteCount)
    #expect(hints.coveredByteCount == isCovered.count { $0 })
    #expect(copy.frontier == (isCovered.firstIndex(of: false) ?? byteCount))
    // It can be written further.
    copy.copyIn(([5] as [UInt8]).span, at: hole)
    copy.cover(hole..<hole + 1)
    #expect(copy.coveredEnd(from: hole, limit: byteCount) > hole)
  }

  @Test func `a copy without a map ends at its source's frontier`() throws {
    let geometry = try RingGeometry(dataByteCount: 8192, hasMap: false)
    let from = try fresh(geometry)
    let to = try fresh(geometry)
    let source = try extent(from, geometry)
    try RingUse(number: 1, index: 3).begin(from, geometry)
    try RingUse(number: 1, index: 3).begin(to, geometry)
    source.copyIn(oracleBytes(1, 0..<6000).span, at: 0)
    source.coverPrefix(to: 5000)
    try RingCopy.fill(to, from: from, geometry)
    let copy = try extent(to, geometry)
    #expect(copy.isCurrent && copy.frontier == 5000)
    #expect(unsafe Array(copy.bytes(0..<5000)) == oracleBytes(1, 0..<5000))
    #expect(unsafe Array(copy.bytes(5000..<6000)) == [UInt8](repeating: 0, count: 1000))
  }

  @Test func `a source that was cut short is an error, not a signal`() throws {
    let geometry = try RingGeometry(dataByteCount: 8192, hasMap: true)
    let from = try SharedObject.sealedMemfd(name: "patchbay-test", byteCount: 4096)
    let to = try fresh(geometry)
    #expect(throws: PatchbayError.self) {
      try RingCopy.fill(to, from: from, geometry)
    }
  }
}
