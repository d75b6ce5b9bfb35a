// Where everything stands in a scratch file: the constants of the documentation's page on layout,
// "Scratch files of the spool", which says what they are for.

import PatchbayTypes

/// Sizes and numbers of a scratch file.
package enum ScratchLayout {
  package static let page = 4096
  /// Data is summed by blocks of so many bytes.
  package static let blockByteCount = 65_536
  /// `PBAYSCRA`.
  package static let magic: UInt64 = 0x4152_4353_5941_4250
  package static let formatVersion: UInt32 = 1
  /// One of the table's words: whether the block is there, and the sum of its bytes.
  package static let tableWordByteCount = 8
  package static let presentBit: UInt64 = 1 << 32
}

/// What a scratch file begins with. The table of blocks and the words of the map follow, in this order.
package enum ScratchField {
  package static let magic = ByteField("magic", at: 0, 8)
  package static let formatVersion = ByteField("format_version", at: 8, 4)
  package static let extentIndex = ByteField("extent_index", at: 12, 4)
  package static let checksum = ByteField("checksum", at: 16, 8)
  package static let generation = ByteField("generation", at: 24, 8)
  package static let dataByteCount = ByteField("data_byte_count", at: 32, 8)
  package static let mapWordCount = ByteField("map_word_count", at: 40, 8)

  package static let all = [
    magic, formatVersion, extentIndex, checksum, generation, dataByteCount, mapWordCount,
  ]
  /// Where the table begins.
  package static let byteCountOfAll = 48
}

/// The extent that a scratch file is about.
package struct ScratchShape: Sendable, Hashable {
  package let generation: Generation
  package let index: Int
  /// Data bytes of the ring that it was in: whole pages.
  package let dataByteCount: Int

  package init(generation: Generation, index: Int, dataByteCount: Int) {
    self.generation = generation
    self.index = index
    self.dataByteCount = dataByteCount
  }

  package var blockCount: Int {
    (dataByteCount + ScratchLayout.blockByteCount - 1) / ScratchLayout.blockByteCount
  }

  /// The offsets of a block in the extent; the last one may be shorter.
  package func range(ofBlock block: Int) -> Range<Int> {
    let start = block * ScratchLayout.blockByteCount
    return start..<min(start + ScratchLayout.blockByteCount, dataByteCount)
  }

  /// Bytes from the beginning to the end of the map.
  func headByteCount(mapWordCount: Int) -> Int {
    ScratchField.byteCountOfAll + (blockCount + mapWordCount) * ScratchLayout.tableWordByteCount
  }

  /// Where the data begins: on a page.
  func dataOffset(mapWordCount: Int) -> Int {
    let page = ScratchLayout.page
    return (headByteCount(mapWordCount: mapWordCount) + page - 1) / page * page
  }
}
