// A written map that is kept elsewhere and put into another ring: it says the same there.

import PatchbayLayout
import PatchbayTestSupport
import PatchbayTypes
import Testing

@testable import PatchbayRing
@testable import PatchbaySystem

@Suite struct MapSnapshotTests {
  private static let byteCount = 96 * 4096

  private func ring(_ geometry: RingGeometry) throws -> Descriptor {
    let descriptor = try SharedObject.sealedMemfd(
      name: "patchbay-test", byteCount: geometry.objectByteCount)
    try RingUse(number: 1, index: 0).begin(descriptor, geometry)
    return descriptor
  }

  private func extent(
    _ descriptor: borrowing Descriptor, _ geometry: RingGeometry
  ) throws -> Extent {
    try Extent(
      descriptor, index: 0, start: 0, ringID: 1, useNumber: 1, geometry: geometry,
      isWritable: true)
  }

  @Test(arguments: [1, 2, 3, 4, 5] as [UInt64])
  func `a snapshot keeps every byte of a map and nothing else`(seed: UInt64) throws {
    let geometry = try RingGeometry(dataByteCount: Self.byteCount, hasMap: true)
    let from = try ring(geometry)
    let source = try extent(from, geometry)
    var random = SeededRandom(seed: seed)
    var isCovered = [Bool](repeating: false, count: Self.byteCount)
    for range in raggedRanges(Self.byteCount, seed: seed)
    where UInt64.random(in: 0..<3, using: &random) > 0 && !isCovered[range].contains(true) {
      source.cover(range)
      for position in range { isCovered[position] = true }
    }
    let taken = try MapSnapshot(from, geometry)
    #expect(taken.words.count <= MapSnapshot.wordLimit(geometry))
    let kept = try MapSnapshot(geometry, words: taken.words)
    let to = try ring(geometry)
    try kept.put(into: to)
    let copy = try extent(to, geometry)
    let runs = kept.runs(in: 0..<Self.byteCount)
    var isKept = [Bool](repeating: false, count: Self.byteCount)
    for run in runs { for position in run { isKept[position] = true } }
    #expect(isKept == isCovered)
    for run in runs {
      #expect(copy.coveredEnd(from: run.lowerBound, limit: Self.byteCount) == run.upperBound)
    }
    #expect(copy.frontier == (isCovered.firstIndex(of: false) ?? Self.byteCount))
    let found = kept.coverage(upTo: Self.byteCount, missingLimit: 3)
    #expect(found.coveredByteCount == isCovered.count { $0 })
    #expect(found.missing.first?.lowerBound == isCovered.firstIndex(of: false))
    let hints = try RingInspector.hints(to, limit: Self.byteCount)
    #expect(hints.coveredByteCount == found.coveredByteCount)
  }

  @Test func `words that are no map of the size are refused`() throws {
    let geometry = try RingGeometry(dataByteCount: Self.byteCount, hasMap: true)
    let words = try MapSnapshot(try ring(geometry), geometry).words
    for wrong in [
      Array(words.dropLast()), words + [0], words + [96] + Array(repeating: 1, count: 64),
    ] {
      #expect(throws: PatchbayError.self) { try MapSnapshot(geometry, words: wrong) }
    }
    let page: [UInt64] = [5] + Array(repeating: 1, count: 64)
    #expect(throws: PatchbayError.self) { try MapSnapshot(geometry, words: words + page + page) }
    _ = try MapSnapshot(geometry, words: words + page)
  }
}
