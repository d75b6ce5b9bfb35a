// The written map against a plain array: what is covered, where it ends, and the frontier.

import CPatchbayLayout
import Glibc
import PatchbayLayout
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import PatchbayRing

/// Taken from the environment so that a failing run can be repeated.
let seed = unsafe getenv("PATCHBAY_SEED").flatMap { unsafe UInt64(String(cString: $0)) } ?? 20_261

@Suite struct WrittenMapTests {
  /// Compares every answer of a reader with the plain array.
  private func compare(
    _ extent: Extent, _ plain: PlainMap, _ note: @autoclosure () -> String,
    at places: some Sequence<Int>
  ) {
    let count = plain.isCovered.count
    #expect(extent.frontier == plain.frontier, "frontier, \(note())")
    for place in places where place < count {
      let covered = extent.coveredEnd(from: place, limit: count)
      #expect(covered == plain.coveredEnd(from: place, limit: count), "at \(place), \(note())")
      let uncovered = extent.uncoveredEnd(from: place, limit: count)
      #expect(uncovered == plain.uncoveredEnd(from: place, limit: count), "at \(place), \(note())")
    }
  }

  @Test(arguments: [1, 63, 64, 65, 200, 4096, 5000, 40_000])
  func `random ranges up to a size agree with a plain array`(largest: Int) throws {
    let count = 1 << 18
    let ring = try RingFixture(dataByteCount: count)
    var plain = PlainMap(count: count)
    var random = SeededRandom(seed: seed &+ UInt64(largest))
    for step in 0..<120 {
      let start = Int.random(in: 0..<count, using: &random)
      let range = start..<min(count, start + Int.random(in: 1...largest, using: &random))
      ring.writer.cover(range)
      plain.cover(range)
      let places = (0..<12).map { _ in Int.random(in: 0..<count, using: &random) }
      compare(
        ring.reader, plain, "seed \(seed) step \(step) range \(range)",
        at: places + [range.lowerBound, range.upperBound - 1, max(0, range.lowerBound - 1)])
    }
  }

  @Test func `every order of six ragged ranges gives the same map after each step`() throws {
    // Cuts at and beside the edges of bytes, lines, pages and words of lines.
    let cuts = [0, 1, 64, 4095, 4097, 262_144, 266_240]
    let ranges = zip(cuts, cuts.dropFirst()).map { $0..<$1 }
    let places = cuts.flatMap { [max(0, $0 - 1), $0, $0 + 1] }
    let ring = try RingFixture(dataByteCount: 266_240)
    var useNumber: UInt32 = 1
    for order in permutations(Array(ranges.indices)) {
      // The same ring in its next use: that also tries the reset.
      useNumber += 1
      let writer = try ring.extent(useNumber, isWritable: true)
      try ring.begin(useNumber)
      let reader = try ring.extent(useNumber, isWritable: false)
      var covered = Set<Int>()
      for index in order {
        writer.cover(ranges[index])
        covered.insert(index)
        for place in places where place < 266_240 {
          let expected = end(ofRunAt: place, ranges, covered)
          #expect(reader.coveredEnd(from: place, limit: 266_240) == expected, "order \(order)")
        }
        let frontier = end(ofRunAt: 0, ranges, covered)
        #expect(reader.frontier == frontier, "order \(order)")
      }
    }
  }

  @Test func `all orders of fewer ranges cover all places`() throws {
    for count in 1...5 {
      let ranges = (0..<count).map { $0 * 37..<($0 + 1) * 37 }
      for order in permutations(Array(0..<count)) {
        let ring = try RingFixture(dataByteCount: 4096)
        for index in order { ring.writer.cover(ranges[index]) }
        #expect(ring.reader.frontier == count * 37)
        #expect(ring.reader.uncoveredEnd(from: count * 37, limit: 4096) == 4096)
      }
    }
  }

  private func end(ofRunAt place: Int, _ ranges: [Range<Int>], _ covered: Set<Int>) -> Int {
    var end = place
    while let index = ranges.firstIndex(where: { $0.contains(end) }), covered.contains(index) {
      end = ranges[index].upperBound
    }
    return end
  }

  private func permutations(_ items: [Int]) -> [[Int]] {
    guard items.count > 1 else { return [items] }
    return items.flatMap { first in
      permutations(items.filter { $0 != first }).map { [first] + $0 }
    }
  }

  @Test func `the copy that the broker takes agrees with the shared map`() throws {
    let count = 1 << 20
    let ring = try RingFixture(dataByteCount: count)
    var random = SeededRandom(seed: seed)
    for _ in 0..<400 {
      let start = Int.random(in: 0..<count, using: &random)
      ring.writer.cover(start..<min(count, start + Int.random(in: 1...5000, using: &random)))
    }
    var missing: [Range<Int>] = []
    var at = 0
    while at < count {
      let start = ring.reader.coveredEnd(from: at, limit: count)
      guard start < count else { break }
      at = ring.reader.uncoveredEnd(from: start, limit: count)
      missing.append(start..<at)
    }
    let seen = try RingInspector.coverage(
      ring.descriptor, ring.geometry, upTo: count, missingLimit: .max)
    #expect(seen.missing == missing)
    #expect(seen.coveredByteCount == count - missing.reduce(0) { $0 + $1.count })
  }

  @Test func `threads that write ragged neighbours lose no byte`() throws {
    let count = 1 << 19
    let ring = try RingFixture(dataByteCount: count)
    let ranges = raggedRanges(count, seed: seed)
    let writer = ring.writer
    withThreads(2) { thread in
      for index in stride(from: thread, to: ranges.count, by: 2) { writer.cover(ranges[index]) }
    }
    #expect(ring.reader.coveredEnd(from: 0, limit: count) == count)
    #expect(ring.reader.frontier == count, "seed \(seed)")
  }

  @Test func `processes that write ragged neighbours lose no byte`() throws {
    let count = 1 << 19
    let ring = try RingFixture(dataByteCount: count)
    let peer = try buildDirectory() + "/patchbay-peer"
    let children = try (0..<2).map { number in
      try ChildProcess(
        peer, ["ring", "\(count)", "\(seed)", "\(number)", "2"],
        inherited: [ring.descriptor.rawValue])
    }
    for child in children { #expect(try child.waitForExit() == 0) }
    #expect(ring.reader.frontier == count, "seed \(seed)")
    let coverage = try RingInspector.coverage(
      ring.descriptor, ring.geometry, upTo: count, missingLimit: 8)
    #expect(coverage.coveredByteCount == count)
    var wrong: Int?
    let bytes = unsafe ring.reader.bytes(0..<count)
    for index in 0..<count where unsafe bytes[index] != oracleByte(seed, index) { wrong = index }
    #expect(wrong == nil)
  }

  @Test func `a writer that died between two levels hides nothing`() throws {
    let ring = try RingFixture(dataByteCount: 1 << 16)
    // All bytes of a line by level 0 alone, as if the carry to level 1 had never happened.
    let words = SharedWords(
      try SharedMapping(
        ring.descriptor, byteCount: ring.geometry.objectByteCount, isWritable: true, what: "ring"))
    unsafe words.word64(ring.geometry.touchedOffset).pointee.store(1, ordering: .relaxed)
    unsafe words.word64(ring.geometry.levelOffsets[0]).pointee.store(.max, ordering: .relaxed)
    #expect(ring.reader.coveredEnd(from: 0, limit: 200) == 64)
    ring.writer.cover(64..<128)
    #expect(ring.reader.coveredEnd(from: 0, limit: 200) == 128)
    #expect(ring.reader.frontier == 128, "the next mark makes good what the dead writer left")
  }

  @Test func `a lying frontier never leads outside the ring`() throws {
    let ring = try RingFixture(dataByteCount: 8192)
    let words = SharedWords(
      try SharedMapping(
        ring.descriptor, byteCount: ring.geometry.objectByteCount, isWritable: true, what: "ring"))
    unsafe words.word64(Int(PB_RING_FRONTIER_AT)).pointee.store(.max, ordering: .relaxed)
    #expect(ring.reader.frontier == 8192)
    #expect(ring.reader.coveredEnd(from: 0, limit: .max) == 8192)
    ring.writer.cover(100..<200)
    #expect(ring.reader.frontier == 8192)
  }
}

extension RingFixture {
  /// Begins a use of the ring, as the broker does.
  borrowing func begin(_ useNumber: UInt32) throws {
    try RingUse(number: useNumber, index: 0).begin(descriptor, geometry)
  }

  /// The same ring under another use number.
  borrowing func extent(_ useNumber: UInt32, isWritable: Bool) throws -> Extent {
    try Extent(
      descriptor, index: 0, start: 0, ringID: 1, useNumber: useNumber, geometry: geometry,
      isWritable: isWritable)
  }
}

/// Runs a closure on so many threads and waits for them.
func withThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
  let threads = (0..<count).map { index in TestThread { body(index) } }
  for thread in threads { thread.join() }
}
