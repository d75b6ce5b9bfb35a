// Reads a journal that another process, perhaps a dead one, has written. The bytes are a private
// copy and they are input: each length and index is checked, nothing is taken on trust, nothing
// traps. A record counts in the newest copy whose own checksum, body and fields are all right. The
// chunks may have gaps in their numbers; the first is always there.

import CPatchbayLayout
import PatchbayLedger
import PatchbayTypes
import Synchronization

package enum JournalReader {
  private enum Entry {
    case empty
    case broker(JournalNumbers)
    case client(JournaledClient)
    case blob(JournaledBlob)

    var name: JournalName? {
      switch self {
      case .empty: nil
      case .broker: .broker
      case .client(let client): .client(client.record.clientID)
      case .blob(let blob): .blob(blob.record.info.generation)
      }
    }

    var blob: JournaledBlob? {
      if case .blob(let blob) = self { blob } else { nil }
    }
  }
  /// A copy whose checksum is right, with its bytes.
  private struct Copy {
    var number: Int
    var record: pb_journal_record
    var bytes: ArraySlice<UInt8>
  }
  private struct Candidate {
    var entry: Entry
    var record: StandingRecord
  }

  /// Reads the chunks that are there, by number.
  /// - Throws: `corrupt` when the first is missing, or one is not a chunk of the same journal, in its
  ///   place; `versionMismatch` when another version of Patchbay has written it.
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
    for (index, chunk) in chunks.sorted(by: { $0.key < $1.key }) {
      if index != 0, isUnborn(chunk, index: index, shape, contents.instance) {
        contents.unbornChunks.append(index)
        continue
      }
      guard try checkHeader(chunk, index: index, shape) == contents.instance else {
        throw PatchbayError(.corrupt, "Chunk \(index) belongs to the journal of another broker.")
      }
      whole[index] = chunk
      contents.wholeChunks.append(index)
    }
    var candidates: [Candidate] = []
    for chunk in contents.wholeChunks {
      for slot in 0..<shape.recordCount {
        let place = JournalPlace(chunk: chunk, slot: slot)
        if let found = candidate(at: place, whole, shape, &contents) { candidates.append(found) }
      }
    }
    choose(among: candidates, shape, &contents)
    return contents
  }

  /// One record for each name, the younger before the older, and each granule for one of them.
  private static func choose(
    among candidates: [Candidate], _ shape: JournalShape, _ contents: inout JournalContents
  ) {
    var granules = Dictionary(
      uniqueKeysWithValues: contents.wholeChunks.map {
        ($0, GranuleMap(count: shape.granuleCount))
      })
    var names: Set<JournalName> = []
    var numbers: JournalNumbers?
    var blobs: [(generation: Generation, place: Int)] = []
    let byAge = candidates.indices
      .map { (sequence: candidates[$0].record.sequence, place: $0) }
      .sorted { $0.sequence > $1.sequence }
    for (_, place) in byAge {
      let record = candidates[place].record
      let isAlone = record.body.map { granules[$0.chunk]?.occupy($0.granules) == true } ?? true
      guard isAlone, names.insert(record.name).inserted else {
        if isAlone, let body = record.body { granules[body.chunk]?.release(body.granules) }
        contents.discarded.append(
          DiscardedRecord(place: record.place, newestCopy: record.newestCopy))
        contents.damagedCopyCount += 1
        continue
      }
      contents.standing.append(record)
      switch candidates[place].entry {
      case .empty: break
      case .broker(let recorded): numbers = recorded
      case .client(let client): contents.clients.append(client)
      case .blob(let blob): blobs.append((blob.record.info.generation, place))
      }
    }
    contents.blobs = blobs.sorted { $0.generation < $1.generation }
      .compactMap { candidates[$0.place].entry.blob }
    contents.clients.sort { $0.record.clientID < $1.record.clientID }
    contents.settle(numbers)
  }

  // MARK: Chunks

  /// Whether its maker died before its head stood; nothing was recorded in it then.
  static func isUnborn(
    _ chunk: [UInt8], index: Int, _ shape: JournalShape, _ instance: UInt64
  ) -> Bool {
    if chunk.isEmpty { return true }
    return (try? checkHeader(chunk, index: index, shape)) != instance
      && chunk.count == shape.chunkByteCount
      && chunk[Int(PB_CHUNK_RECORDS_AT)...].allSatisfy { $0 == 0 }
  }

  /// The instance that a chunk is of.
  /// - Throws: `versionMismatch` when another version has written it, else `corrupt`.
  static func checkHeader(
    _ chunk: [UInt8], index: Int, _ shape: JournalShape
  ) throws(PatchbayError) -> UInt64 {
    guard chunk.count >= Int(PB_JOURNAL_HEADER_BYTES) else {
      throw PatchbayError(
        .corrupt, "Chunk \(index) of the journal has \(chunk.count) bytes, less than a head.")
    }
    let header = unsafe chunk.withUnsafeBytes {
      unsafe $0.loadUnaligned(as: pb_journal_header.self)
    }
    guard header.magic == UInt64(PB_JOURNAL_MAGIC), Int(header.chunk_index) == index else {
      throw PatchbayError(
        .corrupt,
        "Chunk \(index) of the journal says that it is chunk \(header.chunk_index), or is no "
          + "journal at all.")
    }
    guard header.layout_version == UInt32(PB_LAYOUT_VERSION) else {
      throw PatchbayError(
        .versionMismatch,
        "The journal in shared memory was written in layout \(header.layout_version); this "
          + "Patchbay has layout \(PB_LAYOUT_VERSION). Start the version that wrote it, or remove "
          + "/dev/shm/\(ObjectName.prefix(instance: header.instance))* to give its blobs up.")
    }
    guard chunk.count == shape.chunkByteCount else {
      throw PatchbayError(
        .corrupt,
        "Chunk \(index) of the journal has \(chunk.count) bytes, not \(shape.chunkByteCount).")
    }
    return header.instance
  }

  // MARK: Records

  /// The copies that say that they are valid, the newest first.
  private static func copies(
    at place: JournalPlace, _ chunk: [UInt8], _ shape: JournalShape,
    _ contents: inout JournalContents
  ) -> [Copy] {
    var valid: [Copy] = []
    for number in 0..<JournalShape.copyCount {
      let at = shape.recordAt(slot: place.slot, copy: number)
      let bytes = chunk[at..<at + JournalShape.recordByteCount]
      if let record = record(bytes) {
        contents.sequence = max(contents.sequence, record.sequence)
        valid.append(Copy(number: number, record: record, bytes: bytes))
      } else if bytes.contains(where: { $0 != 0 }) {
        contents.damagedCopyCount += 1
      }
    }
    return valid.sorted { $0.record.sequence > $1.record.sequence }
  }

  /// A copy that says that it is valid, or nil.
  private static func record(_ bytes: ArraySlice<UInt8>) -> pb_journal_record? {
    let record = unsafe bytes.withUnsafeBytes {
      unsafe $0.loadUnaligned(as: pb_journal_record.self)
    }
    let summed = bytes[(bytes.startIndex + Int(PB_RECORD_SEQUENCE_AT))...]
    let isValid =
      RecordChecksum.of(summed) == record.checksum && record.sequence < JournalCoding.numberLimit
    return isValid ? record : nil
  }

  /// What stands in a record. Whatever else might come to count there is noted as discarded.
  private static func candidate(
    at place: JournalPlace, _ chunks: [Int: [UInt8]], _ shape: JournalShape,
    _ contents: inout JournalContents
  ) -> Candidate? {
    let valid = copies(at: place, chunks[place.chunk] ?? [], shape, &contents)
    for (age, copy) in valid.enumerated() {
      guard let entry = try? decode(copy.record, chunks, shape, contents.instance) else {
        contents.damagedCopyCount += 1
        continue
      }
      // An empty copy: the record is free, once the other copy says so, too.
      guard let name = entry.name else { break }
      return Candidate(
        entry: entry,
        record: StandingRecord(
          name: name, place: place, newestCopy: copy.number, sequence: copy.record.sequence,
          body: body(of: copy.record), overruling: age == 0 ? nil : Array(copy.bytes)))
    }
    if let newest = valid.first,
      valid.contains(where: { $0.record.kind != UInt32(PB_RECORD_EMPTY) })
    {
      contents.discarded.append(DiscardedRecord(place: place, newestCopy: newest.number))
    }
    return nil
  }

  private static func decode(
    _ record: pb_journal_record, _ chunks: [Int: [UInt8]], _ shape: JournalShape,
    _ instance: UInt64
  ) throws(PatchbayError) -> Entry {
    let body = try body(of: record, chunks, shape)
    switch Int(record.kind) {
    case Int(PB_RECORD_EMPTY): return .empty
    case Int(PB_RECORD_BROKER) where record.identity == instance && body.isEmpty:
      return .broker(try JournalCoding.numbers(record))
    case Int(PB_RECORD_CLIENT): return .client(try JournalCoding.client(record, body))
    case Int(PB_RECORD_BLOB): return .blob(try JournalCoding.blob(record, body))
    default: throw PatchbayError(.corrupt, "A journal record is of kind \(record.kind).")
    }
  }

  /// Where the body of a record is that was read.
  private static func body(of record: pb_journal_record) -> JournalBody? {
    guard record.body_byte_count > 0 else { return nil }
    let start = Int(record.body_granule)
    let count = JournalShape.granules(for: Int(record.body_byte_count))
    return JournalBody(chunk: Int(record.body_chunk), granules: start..<start + count)
  }

  private static func body(
    of record: pb_journal_record, _ chunks: [Int: [UInt8]], _ shape: JournalShape
  ) throws(PatchbayError) -> ArraySlice<UInt8> {
    guard let place = body(of: record) else { return [] }
    guard let chunk = chunks[place.chunk], place.granules.upperBound <= shape.granuleCount else {
      throw PatchbayError(.corrupt, "A journal record names a body outside of the journal.")
    }
    let at = shape.granuleAt(place.granules.lowerBound)
    let body = chunk[at..<at + Int(record.body_byte_count)]
    guard RecordChecksum.of(body) == record.body_checksum else {
      throw PatchbayError(.corrupt, "The body of a journal record is damaged.")
    }
    return body
  }
}
