// Rings that are read through their descriptor while another process could do anything to them.

import CPatchbayLayout
import Glibc
import PatchbayLayout
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import PatchbayRing

@Suite struct ForeignRingTests {
  /// Positions do not begin with 0, so that an offset taken for a position shows.
  private static let start = 1 << 20

  /// A ring that can be resized, as its publisher has it, and as a reader of another user does.
  private struct Rings: ~Copyable {
    let object: Descriptor
    let geometry: RingGeometry
    let extent: Extent
    let foreign: ForeignRing

    init(byteCount: Int, hasMap: Bool) throws {
      let geometry = try RingGeometry(dataByteCount: byteCount, hasMap: hasMap)
      let object = try resizableObject(geometry.objectByteCount)
      try RingUse(number: 1, index: 3).begin(object, geometry)
      let extent = try Extent(
        object, index: 3, start: start, ringID: 1, useNumber: 1, geometry: geometry,
        isWritable: true)
      foreign = ForeignRing(
        try SharedObject.readOnlyCopy(of: object), index: 3, start: start, useNumber: 1,
        geometry: geometry, window: nil)
      self.geometry = geometry
      self.object = object
      self.extent = extent
    }

    func write(_ range: Range<Int>) {
      extent.copyIn(oracleBytes(1, range).span, at: range.lowerBound)
      if geometry.hasMap { extent.cover(range) } else { extent.coverPrefix(to: range.upperBound) }
    }

    /// Gives pages of the object back, as `fallocate` with `FALLOC_FL_PUNCH_HOLE` does.
    func punch(_ range: Range<Int>) throws {
      let mapping = unsafe mmap(
        nil, range.count, PROT_READ | PROT_WRITE, MAP_SHARED, object.rawValue,
        off_t(range.lowerBound))
      guard unsafe mapping != MAP_FAILED else { throw HarnessError("no mapping") }
      defer { _ = unsafe munmap(mapping, range.count) }
      guard unsafe madvise(mapping, range.count, 9) == 0 else { throw HarnessError("no punch") }
    }
  }

  /// A shared object without a name, of the kind that rings are.
  private static func resizableObject(_ byteCount: Int) throws -> Descriptor {
    var inode: UInt64 = 0
    let name = "/patchbay-test-ring-\(getpid())-\(UInt64.random(in: 0 ... .max))"
    let object = try SharedObject.create(
      name: name, mode: 0o600, byteCount: byteCount, inode: &inode)
    try SharedObject.unlink(name: name)
    return object
  }

  /// Reads everything as readers do, whatever the ring says.
  /// - Returns: the bytes that were found, by position.
  private func readAll(_ ring: ForeignRing, _ range: Range<Int>) throws -> [(Int, [UInt8])] {
    var found: [(Int, [UInt8])] = []
    var at = range.lowerBound
    while at < range.upperBound {
      guard case .covered(let end) = try ring.look(at: at, limit: range.upperBound) else {
        at += 509
        continue
      }
      #expect(end > at && end <= range.upperBound)
      if let bytes = try ring.copyOut(at..<end) { found.append((at, bytes)) }
      at = end
    }
    return found
  }

  // MARK: Reading

  @Test(arguments: [(20_000, true), (300_000, true), (50_000, false)])
  func `what is covered is found through the descriptor as through a mapping`(
    byteCount: Int, hasMap: Bool
  ) throws {
    let count = (byteCount + 4095) / 4096 * 4096
    let rings = try Rings(byteCount: count, hasMap: hasMap)
    let start = Self.start
    var plain = PlainMap(count: count)
    var ranges = raggedRanges(count, seed: 7)
    var random = SeededRandom(seed: 8)
    if hasMap { ranges.shuffle(using: &random) }
    for (number, range) in ranges.enumerated() {
      rings.write(range.lowerBound + start..<range.upperBound + start)
      plain.cover(range)
      guard number % 37 == 0 || number == ranges.count - 1 else { continue }
      #expect(try rings.foreign.frontier() == start + plain.frontier)
      var expected: [Range<Int>] = []
      var at = 0
      while case let first = plain.uncoveredEnd(from: at, limit: count), first < count {
        at = plain.coveredEnd(from: first, limit: count)
        expected.append(start + first..<start + at)
      }
      let written = try rings.foreign.writtenRanges(in: start..<start + count, limit: .max)
      #expect(written == expected)
      let some = Int.random(in: 0..<count, using: &random)
      let end = plain.coveredEnd(from: some, limit: min(count, some + 5000))
      let look = try rings.foreign.look(at: start + some, limit: start + some + 5000)
      #expect(look == (end > some ? .covered(end: start + end) : .nothing))
    }
    for (position, bytes) in try readAll(rings.foreign, start..<start + count) {
      #expect(firstWrong(bytes.span, 1, at: position) == nil)
    }
  }

  /// As the litmus for BASE: whatever the looks around a copy let through is right.
  @Test func `a copy of a window that another user laps has the bytes of its positions`() throws {
    let shape = try WindowShape(ringByteCount: 8192, segmentByteCount: 4096)
    let geometry = try RingGeometry(dataByteCount: 8192, hasMap: false)
    let object = try Self.resizableObject(geometry.objectByteCount)
    try RingUse(number: 1, index: 0).begin(object, geometry)
    let writer = Window(
      try MappedRing(object, ringID: 1, geometry, isWritable: true), ringID: 1, useNumber: 1,
      shape: shape)
    let reader = ForeignRing(
      try SharedObject.readOnlyCopy(of: object), index: 0, start: 0, useNumber: 1,
      geometry: geometry, window: shape)
    let accepted = Atomic<Int>(0)
    let refused = Atomic<Int>(0)
    let wrong = Atomic<Int>(0)
    let failed = Atomic<Int>(0)
    let isDone = Atomic<Bool>(false)
    let patience = ContinuousClock.now + .seconds(60)
    withThreads(2) { side in
      if side == 0 {
        var at = 0
        var hasBoth = false
        // On a busy machine the two may hardly meet.
        while at < 4096 * 3000 || !hasBoth && ContinuousClock.now < patience {
          let next = shape.base(writing: at)
          if next > writer.base { writer.reclaim(to: next) }
          writer.copyIn(oracleBytes(1, at..<at + 512).span, at: at)
          at += 512
          writer.publish(to: at)
          // relaxed (both): counts of the test.
          hasBoth =
            accepted.load(ordering: .relaxed) > 0 && refused.load(ordering: .relaxed) > 0
        }
        // releasing: test data only.
        isDone.store(true, ordering: .releasing)
        return
      }
      do {
        // acquiring: test data only.
        while !isDone.load(ordering: .acquiring) {
          let frontier = try reader.frontier()
          let at = max(0, frontier - 6000)
          guard case .covered(let end) = try reader.look(at: at, limit: frontier),
            let copy = try reader.copyOut(at..<end)
          else {
            // relaxed (all): counts of the test.
            refused.add(1, ordering: .relaxed)
            continue
          }
          // relaxed: as above.
          accepted.add(1, ordering: .relaxed)
          // relaxed: as above.
          if firstWrong(copy.span, 1, at: at) != nil { wrong.add(1, ordering: .relaxed) }
        }
      } catch {
        // relaxed: as above.
        failed.add(1, ordering: .relaxed)
      }
    }
    // relaxed (all): the threads have ended.
    let counts = (accepted.load(ordering: .relaxed), refused.load(ordering: .relaxed))
    #expect(counts.0 > 0 && counts.1 > 0, "\(counts)")
    // relaxed: as above.
    #expect(wrong.load(ordering: .relaxed) == 0 && failed.load(ordering: .relaxed) == 0)
    let total = try reader.frontier()
    let base = try reader.base()
    #expect(base > 0 && total - base <= 8192)
    #expect(try reader.look(at: base - 1, limit: total) == .gone)
    let rest = try #require(try reader.copyOut(base..<total))
    #expect(firstWrong(rest.span, 1, at: base) == nil)
  }

  // MARK: Rings that are used again

  /// As the litmus for TAG-END: whatever the looks around a copy let through is of its use. Every other
  /// use is ended while it is being copied.
  @Test(arguments: [true, false])
  func `a copy through a descriptor has the bytes of its use, or is none`(hasMap: Bool) throws {
    let count = 65_536
    let geometry = try RingGeometry(dataByteCount: count, hasMap: hasMap)
    let object = try Self.resizableObject(geometry.objectByteCount)
    let mapped = try MappedRing(object, ringID: 1, geometry, isWritable: true)
    let ring = object.rawValue
    let (current, seen, done) = (Shared(0), Shared(0), Shared(0))
    let (accepted, refused, wrong, failed) = (Shared(0), Shared(0), Shared(0), Shared(0))
    let patience = ContinuousClock.now + .seconds(60)
    withThreads(2) { side in
      if side == 0 {
        var use = 0
        while use < 300 || refused.value < 10, ContinuousClock.now < patience {
          use += 1
          do {
            try RingUse(number: UInt32(use), index: 0).begin(
              Descriptor(owning: dup(ring)), geometry)
          } catch {
            failed.add(1)
          }
          current.set(use)
          let extent = Extent(mapped, index: 0, start: 0, ringID: 1, useNumber: UInt32(use))
          extent.copyIn(Self.fill(use, count).span, at: 0)
          if hasMap { extent.cover(0..<count) } else { extent.coverPrefix(to: count) }
          let sign = use % 2 == 0 ? done : seen
          while sign.value < use, ContinuousClock.now < patience { sched_yield() }
        }
        current.set(-1)
        return
      }
      while case let use = current.value, use >= 0 {
        guard use > done.value else { continue }
        do {
          let foreign = ForeignRing(
            Descriptor(owning: dup(ring)), index: 0, start: 0, useNumber: UInt32(use),
            geometry: geometry, window: nil)
          guard case .covered(let end) = try foreign.look(at: 0, limit: count) else { continue }
          seen.set(use)
          let copy = try foreign.copyOut(0..<end)
          if let copy {
            accepted.add(1)
            if copy != Self.fill(use, end) { wrong.add(1) }
          } else {
            refused.add(1)
          }
        } catch {
          failed.add(1)
        }
        done.set(use)
      }
    }
    #expect(accepted.value > 0 && refused.value > 0)
    #expect(wrong.value == 0 && failed.value == 0)
  }

  private static func fill(_ use: Int, _ count: Int) -> [UInt8] {
    [UInt8](repeating: UInt8(use % 251 + 1), count: count)
  }

  /// A number of the test that two threads see.
  private final class Shared: Sendable {
    private let number: Atomic<Int>
    init(_ number: Int) { self.number = Atomic(number) }
    // sequentially consistent (all): test data only.
    var value: Int { number.load(ordering: .sequentiallyConsistent) }
    // sequentially consistent: as above.
    func set(_ value: Int) { number.store(value, ordering: .sequentiallyConsistent) }
    // sequentially consistent: as above.
    func add(_ value: Int) { number.add(value, ordering: .sequentiallyConsistent) }
  }

  @Test(arguments: [true, false])
  func `nothing is found in a ring that serves another blob or whose memory was given back`(
    hasMap: Bool
  ) throws {
    let all = Self.start..<Self.start + 40_960
    for isGivenBack in [true, false] {
      let rings = try Rings(byteCount: 40_960, hasMap: hasMap)
      rings.write(all)
      #expect(try rings.foreign.look(at: all.lowerBound, limit: all.upperBound) != .nothing)
      if isGivenBack {
        try SharedObject.giveBack(rings.object)
      } else {
        try RingUse(number: 2, index: 3).begin(rings.object, rings.geometry)
        rings.write(all)
      }
      // As by who has looked before, and by who looks now: no bytes, and no error either.
      #expect(try rings.foreign.copyOut(all) == nil)
      #expect(try rings.foreign.look(at: all.lowerBound, limit: all.upperBound) == .nothing)
      #expect(try rings.foreign.writtenRanges(in: all, limit: 10) == [])
    }
  }

  @Test func `marks are told as by who has the ring mapped`() throws {
    let rings = try Rings(byteCount: 4096, hasMap: false)
    for number in 0..<300 {
      rings.extent.marks.add(Self.start + number)
      // The place of the oldest one may be about to be taken.
      let first = max(0, number - 126)
      #expect(try rings.foreign.marks() == Array(Self.start + first...Self.start + number))
    }
  }

  // MARK: Owners that do harm

  @Test(arguments: [true, false])
  func `a ring that is cut off is an error and never a signal`(hasMap: Bool) throws {
    let byteCount = 40_960
    let all = Self.start..<Self.start + byteCount
    let layout = try RingGeometry(dataByteCount: byteCount, hasMap: hasMap)
    let lengths = [
      0, 1, 63, 70, 4095, 4096, layout.dataOffset, layout.dataOffset + 1, layout.dataOffset + 9000,
      layout.objectByteCount - 1,
    ]
    for length in lengths {
      let rings = try Rings(byteCount: byteCount, hasMap: hasMap)
      rings.write(all)
      #expect(try readAll(rings.foreign, all).count == 1)
      #expect(ftruncate(rings.object.rawValue, off_t(length)) == 0)
      let found = code { _ = try self.readAll(rings.foreign, all) }
      #expect(found == .corrupt, "cut to \(length)")
      // What is still there can be had.
      let head = length - layout.dataOffset
      guard head > 4096 else { continue }
      let bytes = try #require(try rings.foreign.copyOut(Self.start..<Self.start + head))
      #expect(firstWrong(bytes.span, 1, at: Self.start) == nil)
    }
  }

  @Test(arguments: [true, false])
  func `a hole that was punched into covered bytes is an error`(hasMap: Bool) throws {
    let byteCount = 40_960
    let (start, all) = (Self.start, Self.start..<Self.start + byteCount)
    for page in 0..<10 {
      let rings = try Rings(byteCount: byteCount, hasMap: hasMap)
      rings.write(all)
      let place = rings.geometry.dataOffset + page * 4096
      try rings.punch(place..<place + 4096)
      let hole = start + page * 4096
      for range in [hole..<hole + 1, hole + 4095..<hole + 4096, all] {
        #expect(code { _ = try rings.foreign.copyOut(range) } == .corrupt, "page \(page), \(range)")
      }
      for range in [start..<hole, hole + 4096..<all.upperBound] where !range.isEmpty {
        let bytes = try #require(try rings.foreign.copyOut(range))
        #expect(firstWrong(bytes.span, 1, at: range.lowerBound) == nil)
      }
    }
  }

  @Test func `bytes that are said to be covered and were never written are an error`() throws {
    let rings = try Rings(byteCount: 40_960, hasMap: false)
    rings.extent.coverPrefix(to: Self.start + 40_960)
    #expect(
      code { _ = try rings.foreign.copyOut(Self.start..<Self.start + 10) } == .corrupt)
  }

  @Test func `a header or a map without its pages says that nothing is there`() throws {
    let byteCount = 40_960
    for hasMap in [true, false] {
      let rings = try Rings(byteCount: byteCount, hasMap: hasMap)
      rings.write(Self.start..<Self.start + byteCount)
      try rings.punch(0..<rings.geometry.dataOffset)
      #expect(try rings.foreign.look(at: Self.start, limit: Self.start + 100) == .nothing)
      #expect(try rings.foreign.copyOut(Self.start..<Self.start + 100) == nil)
    }
  }

  /// Random words over header and map: whatever they say, positions stay within the ring.
  @Test(arguments: [true, false])
  func `a ring that says anything at all is read within its bounds`(hasMap: Bool) throws {
    let byteCount = 20_480
    let all = Self.start..<Self.start + byteCount
    let rings = try Rings(byteCount: byteCount, hasMap: hasMap)
    rings.write(all)
    var random = SeededRandom(seed: 99)
    var bytesRead = 0
    for round in 0..<300 {
      let place = Int.random(in: 0..<rings.geometry.dataOffset - 64, using: &random)
      let byteCount = Int.random(in: 1...64, using: &random)
      let fill: UInt8? = [nil, 0, 0xff].randomElement(using: &random) ?? nil
      let noise = (0..<byteCount).map { _ in fill ?? UInt8.random(in: 0...255, using: &random) }
      try SharedObject.write(rings.object, at: place, noise)
      // A right tag every other time, or hardly anything else would be looked at.
      if round % 2 == 0 {
        try SharedObject.write(rings.object, at: Int(PB_RING_TAG_AT), [4, 0, 0, 0, 1, 0, 0, 0])
      }
      let foreign = rings.foreign
      bytesRead += try readAll(foreign, all).reduce(0) { $0 + $1.1.count }
      let frontier = try foreign.frontier()
      #expect((all.lowerBound...all.upperBound).contains(frontier))
      for written in try foreign.writtenRanges(in: all, limit: 1000) {
        #expect(written.lowerBound >= all.lowerBound && written.upperBound <= all.upperBound)
      }
      #expect(try (0...ExtentPlan.positionLimit).contains(foreign.base()))
      #expect(try (0...ExtentPlan.positionLimit).contains(foreign.intent()))
      #expect(try foreign.marks().allSatisfy { (0...ExtentPlan.positionLimit).contains($0) })
    }
    #expect(bytesRead > 0)
  }

  /// What a look finds can be copied, or a reader would look for ever.
  @Test func `a window whose frontier lies far ahead is no larger than its ring`() throws {
    let shape = try WindowShape(ringByteCount: 8192, segmentByteCount: 4096)
    let geometry = try RingGeometry(dataByteCount: 8192, hasMap: false)
    let object = try Self.resizableObject(geometry.objectByteCount)
    try RingUse(number: 1, index: 0).begin(object, geometry)
    let writer = Window(
      try MappedRing(object, ringID: 1, geometry, isWritable: true), ringID: 1, useNumber: 1,
      shape: shape)
    let reader = ForeignRing(
      try SharedObject.readOnlyCopy(of: object), index: 0, start: 0, useNumber: 1,
      geometry: geometry, window: shape)
    writer.copyIn(oracleBytes(1, 0..<4096).span, at: 0)
    writer.copyIn(oracleBytes(1, 4096..<8192).span, at: 4096)
    for exponent in 13...47 {
      var far = [UInt8](repeating: 0, count: 8)
      far[exponent / 8] = 1 << UInt8(exponent % 8)
      try SharedObject.write(object, at: Int(PB_RING_FRONTIER_AT), far)
      for position in [0, 1, 5000] {
        let end = exponent == 13 ? 8192 : position + 8192
        #expect(try reader.look(at: position, limit: 1 << 30) == .covered(end: end))
        #expect(try reader.copyOut(position..<end)?.count == end - position)
      }
    }
  }

  @Test func `a ring that changes its use for ever is an error in the end`() throws {
    let rings = try Rings(byteCount: 4096, hasMap: false)
    rings.write(Self.start..<Self.start + 100)
    try SharedObject.write(rings.object, at: Int(PB_RING_TAG_AT), [9])
    var rounds = 0
    let last = code {
      while rounds < 5000 {
        let bytes = try rings.foreign.copyOut(Self.start..<Self.start + 100)
        #expect(bytes == nil)
        rounds += 1
      }
    }
    #expect(last == .corrupt && rounds > 1)
  }

  private func code(of body: () throws -> Void) -> PatchbayError.Code? {
    do {
      try body()
      return nil
    } catch {
      return (error as? PatchbayError)?.code
    }
  }

  // MARK: Numbers that grow

  @Test func `a number that grows is bounded on both sides however its bytes are read`() {
    var random = SeededRandom(seed: 5)
    for _ in 0..<20_000 {
      // The number as time passes; each byte of each reading is of some moment in its turn.
      var moments: [UInt64] = []
      var number = UInt64.random(in: 0..<1 << 24, using: &random)
      for _ in 0..<60 {
        moments.append(number)
        let steps: [UInt64] = [0, 0, 1, 1, 3, 200, 256, 60_000, 65_536]
        number += steps.randomElement(using: &random) ?? 0
      }
      let count = Growing.readingCount(upTo: 1 << 32)
      var at = Int.random(in: 0..<10, using: &random)
      let first = moments[at]
      var readings: [UInt64] = []
      var last = at
      for _ in 0..<count {
        var reading: UInt64 = 0
        let end = min(moments.count - 1, at + Int.random(in: 0...6, using: &random))
        for place in 0..<8 {
          let moment = Int.random(in: at...end, using: &random)
          reading |= moments[moment] & (0xff << UInt64(8 * place))
        }
        readings.append(reading)
        last = end
        at = end
      }
      let found = Growing(readings)
      guard found.low <= moments[last], found.high >= first else {
        Issue.record("\(found) for \(first) to \(moments[last])")
        return
      }
    }
    #expect(Growing([7, 7, 7]) == Growing([7, 7, 7, 7]))
    #expect(Growing([7, 7]).low == 7)
    #expect(Growing([0x00ff, 0x0100]).low == 0, "the naive reading would be 0x01ff")
  }
}
