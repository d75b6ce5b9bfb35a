// Reads a journal that another process, perhaps a dead one, has written. The bytes are a private
// copy and they are input: each length and index is checked, nothing is taken on trust, nothing
// traps. A record counts in the newest copy whose own checksum, body and fields are all right. The
// chunks may have gaps in their numbers; the first is always there.

import CPatchbayLayout
import PatchbayLedger
import PatchbayTypes
import Synchronization

/// What a journal holds.
package struct JournalContents: Sendable, Hashable {
  package var instance: UInt64
  package var numbers: JournalNumbers?
  /// By generation.
  package var blobs: [JournaledBlob] = []
  /// By client number.
  package var clients: [JournaledClient] = []
  /// Copies that were neither whole nor fresh: cut short by a death, or damaged.
  package var damagedCopyCount = 0
}

package enum JournalReader {
  private enum Entry {
    case empty
    case broker(JournalNumbers)
    case client(JournaledClient)
    case blob(JournaledBlob)
  }

  /// Reads the chunks that are there, by number.
  /// - Throws: `corrupt` when the first is missing, or one is not a chunk of the same journal, in its
  ///   place.
  package static func scan(
    _ chunks: [Int: [UInt8]], shape: JournalShape = .standard
  ) throws(PatchbayError) -> JournalContents {
    // acquiring (fence): whatever a record names was written before the record. Pairs with
    // JOURNAL-SCAN.
    atomicMemoryFence(ordering: .acquiring)
    guard let first = chunks[0] else {
      throw PatchbayError(.corrupt, "The first chunk of the journal is missing.")
    }
    var contents = JournalContents(instance: try checkHeader(first, index: 0, shape))
    var whole: [Int: [UInt8]] = [:]
    for (index, chunk) in chunks {
      if index != 0, isUnborn(chunk, index: index, shape, contents.instance) { continue }
      guard try checkHeader(chunk, index: index, shape) == contents.instance else {
        throw PatchbayError(.corrupt, "Chunk \(index) belongs to the journal of another broker.")
      }
      whole[index] = chunk
    }
    for chunk in whole.values {
      for slot in 0..<shape.recordCount {
        let entry = self.entry(
          whole, chunk, slot: slot, shape, contents.instance, &contents.damagedCopyCount)
        switch entry {
        case .empty: break
        case .broker(let numbers): contents.numbers = numbers
        case .client(let client): contents.clients.append(client)
        case .blob(let blob): contents.blobs.append(blob)
        }
      }
    }
    contents.blobs.sort { $0.record.info.generation < $1.record.info.generation }
    contents.clients.sort { $0.record.clientID < $1.record.clientID }
    return contents
  }

  /// Whether its maker died before its head stood; nothing was recorded in it then. The first chunk
  /// is made before anything else, so without its head there is no journal.
  private static func isUnborn(
    _ chunk: [UInt8], index: Int, _ shape: JournalShape, _ instance: UInt64
  ) -> Bool {
    if chunk.isEmpty { return true }
    return (try? checkHeader(chunk, index: index, shape)) != instance
      && chunk.count == shape.chunkByteCount
      && chunk[Int(PB_CHUNK_RECORDS_AT)...].allSatisfy { $0 == 0 }
  }

  private static func checkHeader(
    _ chunk: [UInt8], index: Int, _ shape: JournalShape
  ) throws(PatchbayError) -> UInt64 {
    guard chunk.count == shape.chunkByteCount else {
      throw PatchbayError(
        .corrupt,
        "Chunk \(index) of the journal has \(chunk.count) bytes, not \(shape.chunkByteCount).")
    }
    let header = unsafe chunk.withUnsafeBytes {
      unsafe $0.loadUnaligned(as: pb_journal_header.self)
    }
    guard header.magic == UInt64(PB_JOURNAL_MAGIC),
      header.layout_version == UInt32(PB_LAYOUT_VERSION), Int(header.chunk_index) == index
    else {
      throw PatchbayError(
        .corrupt,
        "Chunk \(index) of the journal says that it is chunk \(header.chunk_index) of layout "
          + "\(header.layout_version), or is no journal at all.")
    }
    return header.instance
  }

  /// A record whose copy says that it is valid, or nil.
  private static func copy(_ bytes: ArraySlice<UInt8>) -> pb_journal_record? {
    let record = unsafe bytes.withUnsafeBytes {
      unsafe $0.loadUnaligned(as: pb_journal_record.self)
    }
    let summed = bytes[(bytes.startIndex + Int(PB_RECORD_SEQUENCE_AT))...]
    return RecordChecksum.of(summed) == record.checksum ? record : nil
  }

  private static func entry(
    _ chunks: [Int: [UInt8]], _ chunk: [UInt8], slot: Int, _ shape: JournalShape,
    _ instance: UInt64, _ damagedCopyCount: inout Int
  ) -> Entry {
    var valid: [pb_journal_record] = []
    for number in 0..<JournalShape.copyCount {
      let at = shape.recordAt(slot: slot, copy: number)
      let bytes = chunk[at..<at + JournalShape.recordByteCount]
      if let record = copy(bytes) {
        valid.append(record)
      } else if bytes.contains(where: { $0 != 0 }) {
        damagedCopyCount += 1
      }
    }
    valid.sort { $0.sequence > $1.sequence }
    for record in valid {
      if let entry = try? decode(record, chunks, shape, instance) { return entry }
      damagedCopyCount += 1
    }
    return .empty
  }

  private static func decode(
    _ record: pb_journal_record, _ chunks: [Int: [UInt8]], _ shape: JournalShape,
    _ instance: UInt64
  ) throws(PatchbayError) -> Entry {
    let body = try body(of: record, chunks, shape)
    switch Int(record.kind) {
    case Int(PB_RECORD_EMPTY): return .empty
    case Int(PB_RECORD_BROKER) where record.identity == instance:
      return .broker(JournalCoding.numbers(record))
    case Int(PB_RECORD_CLIENT): return .client(try JournalCoding.client(record, body))
    case Int(PB_RECORD_BLOB): return .blob(try JournalCoding.blob(record, body))
    default: throw PatchbayError(.corrupt, "A journal record is of kind \(record.kind).")
    }
  }

  private static func body(
    of record: pb_journal_record, _ chunks: [Int: [UInt8]], _ shape: JournalShape
  ) throws(PatchbayError) -> ArraySlice<UInt8> {
    guard record.body_byte_count > 0 else { return [] }
    let granule = Int(record.body_granule)
    let byteCount = Int(record.body_byte_count)
    guard let chunk = chunks[Int(record.body_chunk)],
      granule + JournalShape.granules(for: byteCount) <= shape.granuleCount
    else {
      throw PatchbayError(.corrupt, "A journal record names a body outside of the journal.")
    }
    let at = shape.granuleAt(granule)
    let body = chunk[at..<at + byteCount]
    guard RecordChecksum.of(body) == record.body_checksum else {
      throw PatchbayError(.corrupt, "The body of a journal record is damaged.")
    }
    return body
  }
}
