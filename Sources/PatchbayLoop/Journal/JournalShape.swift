// Where things stand in a journal's chunks, and where the chunks themselves live. Offsets come from
// the layout header; a test may ask for smaller chunks, whose arithmetic is the same.

import CPatchbayLayout
import PatchbayTypes

/// The division of one chunk.
package struct JournalShape: Sendable, Hashable {
  package let chunkByteCount: Int
  package let recordCount: Int

  package init(chunkByteCount: Int, recordCount: Int) {
    self.chunkByteCount = chunkByteCount
    self.recordCount = recordCount
  }

  /// The shape of every journal outside of tests.
  package static let standard = JournalShape(
    chunkByteCount: Int(PB_CHUNK_BYTES), recordCount: Int(PB_CHUNK_RECORD_COUNT))

  package static let granule = Int(PB_GRANULE)
  package static let recordByteCount = Int(PB_RECORD_BYTES)
  package static let copyCount = Int(PB_RECORD_COPIES)

  package var bodiesAt: Int {
    Int(PB_CHUNK_RECORDS_AT) + recordCount * Self.copyCount * Self.recordByteCount
  }
  package var granuleCount: Int { (chunkByteCount - bodiesAt) / Self.granule }

  /// Offset of one copy of a record within its chunk.
  package func recordAt(slot: Int, copy: Int) -> Int {
    Int(PB_CHUNK_RECORDS_AT) + (slot * Self.copyCount + copy) * Self.recordByteCount
  }

  /// Offset of a granule within its chunk.
  package func granuleAt(_ index: Int) -> Int { bodiesAt + index * Self.granule }

  /// Granules that a body of this many bytes takes.
  package static func granules(for byteCount: Int) -> Int {
    (byteCount + granule - 1) / granule
  }

  /// The head of a chunk.
  package static func header(chunk: Int, instance: UInt64) -> [UInt8] {
    var header = pb_journal_header()
    header.magic = UInt64(PB_JOURNAL_MAGIC)
    header.layout_version = UInt32(PB_LAYOUT_VERSION)
    header.chunk_index = UInt32(chunk)
    header.instance = instance
    return unsafe withUnsafeBytes(of: header) { unsafe Array($0) }
  }
}

/// Where the bytes of a journal's chunks are kept.
package protocol JournalStorage: AnyObject {
  /// Adds a zeroed chunk under a number that has none, and writes its head.
  func addChunk(_ chunk: Int, header: [UInt8], byteCount: Int) throws(PatchbayError)
  /// Takes a chunk away, in one step for whoever reads the journal later.
  func removeChunk(_ chunk: Int) throws(PatchbayError)
  /// Stores bytes; the caller keeps them within the chunk.
  func write(_ bytes: [UInt8], chunk: Int, at offset: Int)
}
