// Writes every n-th ragged range of a ring that came as descriptor 3.

import PatchbayLayout
import PatchbayRing
import PatchbaySystem
import PatchbayTestSupport

/// Arguments: `ring BYTES SEED NUMBER COUNT`.
func writeRaggedNeighbours(_ arguments: [String]) throws {
  let numbers = arguments.dropFirst().compactMap { UInt64($0) }
  guard numbers.count == 4 else { throw HarnessError("ring BYTES SEED NUMBER COUNT") }
  let count = Int(numbers[0])
  let geometry = try RingGeometry(dataByteCount: count, hasMap: true)
  let extent = Extent(
    try MappedRing(Descriptor(owning: 3), ringID: 1, geometry, isWritable: true), index: 0,
    start: 0, ringID: 1, useNumber: 1)
  let ranges = raggedRanges(count, seed: numbers[1])
  for index in stride(from: Int(numbers[2]), to: ranges.count, by: Int(numbers[3])) {
    extent.copyIn(oracleBytes(numbers[1], ranges[index]).span, at: ranges[index].lowerBound)
    extent.cover(ranges[index])
  }
}
