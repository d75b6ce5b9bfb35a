// Reading a scratch file. Whatever stands in it is checked before it is used: the head as a whole when it
// is opened, each block when it is read. What is not what was written is `corrupt`, never a wrong byte.

import PatchbaySystem
import PatchbayTypes

/// A scratch file with a head that is whole. Any number of threads may read it at once.
package final class ScratchReader: Sendable {
  package let shape: ScratchShape
  /// What tells which bytes of the extent are covered.
  package let mapWords: [UInt64]
  private let file: Descriptor
  private let table: [UInt64]

  /// The file behind a descriptor, which must be that of the shape.
  /// - Parameter wordLimit: the most words that the map of such an extent has.
  /// - Throws: `corrupt`, `inputOutput`.
  package init(
    _ file: consuming Descriptor, _ shape: ScratchShape, wordLimit: Int
  ) throws(PatchbayError) {
    let file = consume file
    let fixed = try DiskFile.read(file, at: 0, byteCount: ScratchField.byteCountOfAll)
    let count = try Self.mapWordCount(fixed, shape, wordLimit)
    let byteCount = shape.headByteCount(mapWordCount: count)
    var head = try DiskFile.read(
      file, at: fixed.count, byteCount: byteCount - fixed.count, behind: fixed)
    guard head.count == byteCount else { throw Self.damaged(shape, "ends within its head") }
    let wanted = ScratchField.checksum.load(head)
    ScratchField.checksum.store(0, in: &head)
    guard RecordChecksum.of(head) == wanted else {
      throw Self.damaged(shape, "has a head with a wrong checksum")
    }
    let words = Self.words(head)
    self.shape = shape
    self.file = file
    table = Array(words.prefix(shape.blockCount))
    mapWords = Array(words.dropFirst(shape.blockCount))
  }

  private static func mapWordCount(
    _ head: [UInt8], _ shape: ScratchShape, _ limit: Int
  ) throws(PatchbayError) -> Int {
    guard head.count == ScratchField.byteCountOfAll,
      ScratchField.magic.load(head) == ScratchLayout.magic,
      ScratchField.formatVersion.load(head) == UInt64(ScratchLayout.formatVersion)
    else { throw damaged(shape, "does not begin as one") }
    let count = ScratchField.mapWordCount.load(head)
    guard ScratchField.generation.load(head) == shape.generation.rawValue,
      ScratchField.extentIndex.load(head) == UInt64(shape.index),
      ScratchField.dataByteCount.load(head) == UInt64(shape.dataByteCount),
      count <= UInt64(limit)
    else { throw damaged(shape, "is another extent's") }
    return Int(count)
  }

  private static func words(_ head: [UInt8]) -> [UInt64] {
    stride(from: ScratchField.byteCountOfAll, to: head.count, by: 8).map { at in
      head[at..<at + 8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    }
  }

  /// The bytes of a block, those that are not covered being zeros.
  /// - Throws: `corrupt` for one that is not there or damaged; `inputOutput`.
  package func read(block: Int) throws(PatchbayError) -> [UInt8] {
    guard table.indices.contains(block), table[block] & ScratchLayout.presentBit != 0 else {
      throw Self.damaged(shape, "has no block \(block)")
    }
    let range = shape.range(ofBlock: block)
    let at = shape.dataOffset(mapWordCount: mapWords.count) + range.lowerBound
    let bytes = try DiskFile.read(file, at: at, byteCount: range.count)
    guard bytes.count == range.count, UInt64(XXH32.of(bytes)) == table[block] & 0xffff_ffff else {
      throw Self.damaged(shape, "has a damaged block \(block)")
    }
    return bytes
  }

  private static func damaged(_ shape: ScratchShape, _ how: String) -> PatchbayError {
    PatchbayError(
      .corrupt,
      "The scratch file of extent \(shape.index) of generation \(shape.generation) \(how). Create the "
        + "blob again.")
  }
}
