// Writing a scratch file: the blocks, then the head with their sums and the map, once. It is never
// changed afterwards, and nobody is told of it before it is whole.

import PatchbaySystem
import PatchbayTypes

/// Writes one scratch file. Belongs to one thread.
package final class ScratchWriter {
  private let file: Descriptor
  private let shape: ScratchShape
  private let words: [UInt64]
  private var table: [UInt64]

  /// A new file with mode 0600, in place of one of that name.
  /// - Parameter mapWords: what tells which bytes of the extent are covered.
  /// - Throws: `noSpaceSpool`, `inputOutput`.
  package init(
    in directory: borrowing Descriptor, name: String, _ shape: ScratchShape, mapWords: [UInt64]
  ) throws(PatchbayError) {
    try DiskFile.remove(in: directory, name: name)
    file = try DiskFile.create(in: directory, name: name)
    self.shape = shape
    words = mapWords
    table = Array(repeating: 0, count: shape.blockCount)
  }

  /// Writes a block: the covered bytes at their places, zeros elsewhere.
  /// - Throws: `noSpaceSpool`, `inputOutput`.
  package func write(block: Int, _ bytes: [UInt8]) throws(PatchbayError) {
    precondition(bytes.count == shape.range(ofBlock: block).count)
    let at = shape.dataOffset(mapWordCount: words.count) + shape.range(ofBlock: block).lowerBound
    try DiskFile.write(file, at: at, bytes)
    table[block] = ScratchLayout.presentBit | UInt64(XXH32.of(bytes))
  }

  /// Makes the file whole; bytes of disk that it takes.
  /// - Throws: `noSpaceSpool`, `inputOutput`.
  package func finish() throws(PatchbayError) -> Int {
    var head = [UInt8](repeating: 0, count: ScratchField.byteCountOfAll)
    head.reserveCapacity(shape.headByteCount(mapWordCount: words.count))
    ScratchField.magic.store(ScratchLayout.magic, in: &head)
    ScratchField.formatVersion.store(UInt64(ScratchLayout.formatVersion), in: &head)
    ScratchField.extentIndex.store(UInt64(shape.index), in: &head)
    ScratchField.generation.store(shape.generation.rawValue, in: &head)
    ScratchField.dataByteCount.store(UInt64(shape.dataByteCount), in: &head)
    ScratchField.mapWordCount.store(UInt64(words.count), in: &head)
    for word in table + words {
      for shift in stride(from: 0, to: 64, by: 8) {
        head.append(UInt8(truncatingIfNeeded: word >> UInt64(shift)))
      }
    }
    ScratchField.checksum.store(RecordChecksum.of(head), in: &head)
    try DiskFile.write(file, at: 0, head)
    return try DiskFile.facts(of: file).allocatedByteCount
  }
}
