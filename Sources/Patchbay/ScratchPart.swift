// An extent that left memory before all of it was covered, as a reader has it: its scratch file, and what
// the file's map says. The file never changes; when more of the extent is covered it is in memory again,
// and the board's extent version says so.

import PatchbayLayout
import PatchbayRing
import PatchbaySpool
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

final class ScratchPart: Sendable {
  let index: Int
  /// The position of the extent's first byte.
  private let start: Int
  private let reader: ScratchReader
  private let map: MapSnapshot

  /// Takes over what the broker granted.
  /// - Throws: `corrupt` for a damaged file; `protocolViolation`, `inputOutput`.
  init(
    _ grant: ScratchGrant, start: Int, _ descriptor: consuming Descriptor
  ) throws(PatchbayError) {
    let geometry = try RingGeometry(dataByteCount: grant.dataByteCount, hasMap: true)
    let shape = ScratchShape(
      generation: grant.writer, index: grant.index, dataByteCount: grant.dataByteCount)
    reader = try ScratchReader(
      descriptor, shape, wordLimit: MapSnapshot.wordLimit(geometry))
    map = try MapSnapshot(geometry, words: reader.mapWords)
    index = grant.index
    self.start = start
  }

  private var positions: Range<Int> { start..<start + map.geometry.dataByteCount }

  /// Where the covered bytes that begin at a position end; the position when it is uncovered.
  func coveredEnd(from position: Int) -> Int {
    guard positions.contains(position) else { return position }
    return start + map.coveredEnd(from: position - start, limit: map.geometry.dataByteCount)
  }

  /// The written parts of some positions, in order.
  func writtenRanges(in range: Range<Int>) -> [Range<Int>] {
    let range = range.clamped(to: positions)
    return map.runs(in: range.lowerBound - start..<range.upperBound - start).map {
      start + $0.lowerBound..<start + $0.upperBound
    }
  }

  /// Reads the covered bytes around a position that is covered, as far as they stand in one block.
  /// - Throws: `corrupt` when they are not what was written; `inputOutput`.
  func load(at position: Int) throws(PatchbayError) -> SpooledSegment {
    let offset = position - start
    let block = reader.shape.range(ofBlock: offset / ScratchLayout.blockByteCount)
    let bytes = try reader.read(block: offset / ScratchLayout.blockByteCount)
    let end = map.coveredEnd(from: offset, limit: block.upperBound)
    return SpooledSegment(
      start: position, bytes: Array(bytes[offset - block.lowerBound..<end - block.lowerBound]))
  }
}
