// Rings and bells in this process, without a broker.

import PatchbayLayout
import PatchbaySystem
import PatchbayTypes

@testable import PatchbayRing

extension Extent {
  convenience init(
    _ descriptor: borrowing Descriptor, index: Int, start: Int, ringID: UInt64,
    useNumber: UInt32, geometry: RingGeometry, isWritable: Bool
  ) throws {
    self.init(
      try MappedRing(descriptor, ringID: ringID, geometry, isWritable: isWritable),
      index: index, start: start, ringID: ringID, useNumber: useNumber)
  }
}

/// A fresh ring, mapped twice as a publisher and a subscriber would.
struct RingFixture: ~Copyable {
  let descriptor: Descriptor
  let geometry: RingGeometry
  let writer: Extent
  let reader: Extent

  init(dataByteCount: Int, hasMap: Bool = true, start: Int = 0) throws {
    let geometry = try RingGeometry(dataByteCount: dataByteCount, hasMap: hasMap)
    let object = try SharedObject.sealedMemfd(
      name: "patchbay-test", byteCount: geometry.objectByteCount)
    try RingUse(number: 1, index: 0).begin(object, geometry)
    let writer = try Self.map(object, geometry, start: start, isWritable: true)
    let reader = try Self.map(object, geometry, start: start, isWritable: false)
    descriptor = object
    self.geometry = geometry
    self.writer = writer
    self.reader = reader
  }

  private static func map(
    _ object: borrowing Descriptor, _ geometry: RingGeometry, start: Int, isWritable: Bool
  ) throws -> Extent {
    try Extent(
      object, index: 0, start: start, ringID: 1, useNumber: 1, geometry: geometry,
      isWritable: isWritable)
  }
}

/// The plain array that the map is compared with.
struct PlainMap {
  var isCovered: [Bool]

  init(count: Int) { isCovered = Array(repeating: false, count: count) }

  mutating func cover(_ range: Range<Int>) {
    for index in range { isCovered[index] = true }
  }

  func coveredEnd(from offset: Int, limit: Int) -> Int {
    var end = offset
    while end < limit, isCovered[end] { end += 1 }
    return end
  }

  func uncoveredEnd(from offset: Int, limit: Int) -> Int {
    var end = offset
    while end < limit, !isCovered[end] { end += 1 }
    return end
  }

  var frontier: Int { coveredEnd(from: 0, limit: isCovered.count) }
}
