// Rings that are read through their descriptor while another process could do anything to them.

import Glibc
import PatchbayLayout
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import PatchbayRing

@Suite struct ForeignRingTests {
  /// A ring that is written through a mapping and read through a descriptor.
  private struct Rings {
    let extent: Extent
    let foreign: ForeignRing
    let object: Int32
    let geometry: RingGeometry

    init(byteCount: Int, hasMap: Bool) throws {
      geometry = try RingGeometry(dataByteCount: byteCount, hasMap: hasMap)
      // Unlike a ring's name, nobody has to clear it up.
      let memory = Descriptor(
        owning: try checked(pb_memory(geometry.objectByteCount), "Making a ring"))
      extent = try Extent(
        memory, index: 3, start: 1 << 20, ringID: 1, useNumber: 1, geometry: geometry,
        isWritable: true)
      foreign = ForeignRing(
        try SharedObject.readOnlyCopy(of: memory), index: 3, start: 1 << 20, useNumber: 1,
        geometry: geometry, window: nil)
      object = memory.release()
    }
  }

  private static func pb_memory(_ byteCount: Int) -> Int32 {
    let result = unsafe memfd_create("ring", 0)
    guard result >= 0, ftruncate(result, off_t(byteCount)) == 0 else { return -errno }
    return result
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
