// The arithmetic that broker, publisher and subscriber share: regions of a ring, extents of a blob,
// wake classes.

import PatchbayLayout
import PatchbayTestSupport
import PatchbayTypes
import Testing

@Suite struct RingGeometryTests {
  private static let page = RingGeometry.page

  /// Sizes around every step of the arithmetic, and some between.
  private static let sizes: [Int] = {
    var random = SeededRandom(seed: 11)
    var pages: Set<Int> = [1, 2, 3, 63, 64, 65, 127, 128, 4095, 4096, 4097, 1 << 18, 1 << 28]
    for shift in 0...28 { pages.formUnion([1 << shift, max(1, 1 << shift - 1)]) }
    for _ in 0..<200 { pages.insert(Int.random(in: 1...1 << 28, using: &random)) }
    return pages.sorted().map { $0 * page }
  }()

  /// The regions of a ring, with the name of each.
  private func regions(_ geometry: RingGeometry) -> [(name: String, range: Range<Int>)] {
    var regions = [(name: "header", range: 0..<Self.page)]
    for (level, offset) in geometry.levelOffsets.enumerated() {
      regions.append(
        ("level \(level)", offset..<offset + 8 * geometry.wordCount(level: level)))
    }
    if geometry.hasMap {
      let words = (geometry.dataByteCount / Self.page + 63) / 64
      regions.append(("touched", geometry.touchedOffset..<geometry.touchedOffset + 8 * words))
    }
    regions.append(("data", geometry.dataOffset..<geometry.objectByteCount))
    return regions
  }

  @Test func `the regions of a ring never overlap, are aligned and lie inside the object`() throws {
    for size in Self.sizes {
      for hasMap in [false, true] {
        let geometry = try RingGeometry(dataByteCount: size, hasMap: hasMap)
        let regions = regions(geometry).sorted { $0.range.lowerBound < $1.range.lowerBound }
        for (left, right) in zip(regions, regions.dropFirst()) {
          #expect(
            left.range.upperBound <= right.range.lowerBound,
            "\(left.name) and \(right.name) of \(size)")
        }
        for region in regions {
          let alignment = ["data", "level 0"].contains(region.name) ? Self.page : 8
          #expect(region.range.lowerBound % alignment == 0, "\(region.name) of \(size)")
          #expect(region.range.upperBound <= geometry.objectByteCount)
        }
        #expect(regions.last?.name == "data")
        #expect(geometry.objectByteCount % Self.page == 0)
      }
    }
  }

  @Test func `the highest level of a map is one word, and every level below is too long for one`()
    throws
  {
    for size in Self.sizes {
      let geometry = try RingGeometry(dataByteCount: size, hasMap: true)
      let top = geometry.levelOffsets.count - 1
      #expect(top >= 1)
      #expect(geometry.wordCount(level: top) == 1)
      for level in 0...top {
        // Each level has a bit for every block, and no word more than that takes.
        let blocks = (size + 1 << (6 * level) - 1) >> (6 * level)
        #expect(geometry.wordCount(level: level) == (blocks + 63) / 64)
        if level < top, level > 0 { #expect(geometry.wordCount(level: level) > 1) }
      }
    }
  }

  @Test func `a ring without a map is its header and its data`() throws {
    let geometry = try RingGeometry(dataByteCount: 5 * Self.page, hasMap: false)
    #expect(geometry.levelOffsets.isEmpty)
    #expect(geometry.dataOffset == Self.page)
    #expect(geometry.objectByteCount == 6 * Self.page)
  }

  @Test(arguments: [Int.min, -4096, 0, 1, 4095, 4097, (1 << 40) + 4096, 1 << 41, .max])
  func `a size that no ring can have is refused`(_ size: Int) {
    for hasMap in [false, true] {
      #expect(throws: PatchbayError.self) {
        try RingGeometry(dataByteCount: size, hasMap: hasMap)
      }
    }
  }
}

@Suite struct ExtentPlanTests {
  private static let plans: [(Int, Int)] = [
    (4096, 4096), (4096, 8192), (65536, 1 << 26), (12288, 12288 << 5), (4096, 1 << 46),
    (1 << 46, 1 << 46), (3 * 4096, 3 * 4096 << 20),
  ]

  @Test(arguments: plans)
  func `the extent of a position is the one whose range holds it`(_ first: Int, _ limit: Int) throws
  {
    let plan = try ExtentPlan(first: first, limit: limit)
    var random = SeededRandom(seed: UInt64(first ^ limit))
    func check(_ position: Int) {
      let range = plan.range(of: plan.index(of: position))
      if !range.contains(position) { Issue.record("\(position) is not in \(range)") }
    }
    for shift in 0...46 {
      for near in -2...2 where 1 << shift + near >= 0 { check(1 << shift + near) }
    }
    for _ in 0..<10_000 {
      let bits = Int.random(in: 1...46, using: &random)
      check(Int.random(in: 0...(1 << bits), using: &random))
    }
  }

  @Test(arguments: plans)
  func `extents follow each other without a gap, double, and stop doubling at the limit`(
    _ first: Int, _ limit: Int
  ) throws {
    let plan = try ExtentPlan(first: first, limit: limit)
    var end = 0
    var size = first
    for index in 0..<200 where end < ExtentPlan.positionLimit {
      let range = plan.range(of: index)
      #expect(range == end..<end + size)
      #expect(plan.index(of: range.lowerBound) == index)
      #expect(plan.index(of: range.upperBound - 1) == index)
      end = range.upperBound
      size = min(2 * size, limit)
    }
  }

  @Test(arguments: [
    (0, 0), (4095, 4095), (4097, 4097), (4096, 2048), (4096, 12288), (8192, 12288), (-4096, 4096),
    (4096, -4096), (1 << 47, 1 << 47), (4096, 1 << 47), (.max, .max), (.min, .min),
  ])
  func `a plan that is not of whole pages and a power of two is refused`(_ first: Int, _ limit: Int)
  {
    #expect(throws: PatchbayError.self) { try ExtentPlan(first: first, limit: limit) }
  }
}

@Suite struct WakeClassTests {
  @Test func `the mask of a range has the bit of each of its positions and no other`() throws {
    var random = SeededRandom(seed: 5)
    for shift in [6, 7, 12] as [UInt8] {
      let classes = try WakeClasses(shift: shift)
      for _ in 0..<300 {
        let start = Int.random(in: 0...1 << 20, using: &random)
        let count = Int.random(in: 0...40 << Int(shift), using: &random)
        let range = start..<start + count
        var expected: UInt32 = 0
        for position in stride(from: start, to: range.upperBound, by: 1 << Int(shift)) {
          expected |= classes.bit(of: position)
        }
        if let last = range.last { expected |= classes.bit(of: last) }
        #expect(classes.mask(of: range) == expected, "shift \(shift), \(range)")
      }
    }
  }

  @Test func `a shift outside 6 to 30 is refused, and every length gets one inside`() {
    for shift in UInt8.min...UInt8.max {
      #expect((try? WakeClasses(shift: shift)) != nil || !(6...30).contains(shift))
      if !(6...30).contains(shift) {
        #expect(throws: PatchbayError.self) { try WakeClasses(shift: shift) }
      }
    }
    for length in [nil, 0, 1, 2047, 2048, 1 << 20, ExtentPlan.positionLimit] {
      #expect((6...20).contains(WakeClasses(forByteCount: length).shift))
    }
  }
}
