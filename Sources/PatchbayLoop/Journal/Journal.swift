// What must outlive the broker, written where it does. Each change is whole or absent whenever the
// broker dies: the body goes into granules that nothing names, then the older of the record's two
// copies is overwritten with a higher sequence; a copy that was cut short fails its checksum, and
// the other one still stands with a body that is not reused before the change is complete.
//
// An erased record is overwritten in both copies, the older one first: a copy damaged later must
// not bring back what was removed. Nothing here reads the shared bytes; `JournalReader` does, and
// trusts nothing.
//
// Chunks come and go; a chunk keeps its number while it is there, since records name bodies by it,
// and a number is given again once its chunk is gone. Only a chunk goes in which no record stands
// and no granule is taken, and nothing can come back by that:
// - Its own records are fresh or erased in both copies. A record has one place for life and leaves
//   it only erased, so no copy of it is anywhere else either.
// - The newest copy of a record that stands elsewhere names no body in it, or the body's granules
//   would be taken; and they are released only after that copy is whole. So the copy that counts
//   while the next one is being written always has its body, too.
// - An older copy may name a body in it still. That copy is overruled by the newest, which is whole.
//   Should the newest be damaged later, the older one names a chunk that is missing, or other bytes
//   under its checksum in a new chunk of that number: it is damaged, too, exactly as when granules
//   within a chunk are used again.
// The name goes in one step, so the next broker finds the chunk whole or not at all. One that was
// being made has no head yet or an empty rest, and is nothing.

import CPatchbayLayout
import PatchbayLedger
import PatchbayTypes
import Synchronization

package final class Journal {
  private struct Standing {
    var place: JournalPlace
    var newestCopy: Int
    var body: JournalBody?
  }

  /// Free records below which the journal grows.
  package static let recordReserve = 16
  /// Numbers are reserved in the broker's record by as many at a time.
  private static let numberStep: UInt64 = 1024

  private let storage: any JournalStorage
  private let shape: JournalShape
  private let instance: UInt64
  private var standing: [JournalName: Standing] = [:]
  private var room: JournalRoom
  private var sequence: UInt64 = 0
  /// Numbers that were never given out: these and all above.
  package private(set) var numbers = JournalNumbers()

  /// A journal of one chunk that holds the broker's own record.
  package init(
    instance: UInt64, storage: any JournalStorage, shape: JournalShape = .standard
  ) throws(PatchbayError) {
    self.instance = instance
    self.storage = storage
    self.shape = shape
    room = JournalRoom(shape)
    try grow()
    try put(.broker, JournalCoding.record(numbers, instance: instance), body: [])
  }

  /// Goes on with the journal of a broker that has died: with what was read from the chunks that
  /// this storage has. All that stands stays as it is, and is changed and erased as ever; what was
  /// cut short or damaged is cleared away, so that it can never come to count. The broker may die
  /// at any time here, too: the next one finds the same.
  package init(
    continuing contents: JournalContents, storage: any JournalStorage,
    shape: JournalShape = .standard
  ) throws(PatchbayError) {
    instance = contents.instance
    self.storage = storage
    self.shape = shape
    room = JournalRoom(shape)
    sequence = contents.sequence
    numbers = contents.numbers
    for chunk in contents.unbornChunks { try storage.removeChunk(chunk) }
    takeIn(contents)
    for record in contents.discarded { eraseCopies(record.place, last: record.newestCopy) }
    for record in contents.standing { overrule(record) }
    if !contents.hasNumbers {
      try put(.broker, JournalCoding.record(numbers, instance: instance), body: [])
    }
  }

  private func takeIn(_ contents: JournalContents) {
    var slots: [Int: Set<Int>] = [:]
    for record in contents.standing {
      slots[record.place.chunk, default: []].insert(record.place.slot)
    }
    for chunk in contents.wholeChunks { room.add(chunk, standing: slots[chunk] ?? []) }
    for record in contents.standing {
      if let body = record.body { room.occupy(body) }
      standing[record.name] = Standing(
        place: record.place, newestCopy: record.newestCopy, body: record.body)
    }
  }

  /// Writes what counts over a copy that says that it is newer, but is damaged.
  private func overrule(_ record: StandingRecord) {
    guard let bytes = record.overruling else { return }
    let copy = 1 - record.newestCopy
    write(bytes, record.place, copy: copy)
    standing[record.name]?.newestCopy = copy
  }

  /// Bytes of memory that the chunks take.
  package var byteCount: Int { room.chunkCount * shape.chunkByteCount }

  private func grow() throws(PatchbayError) {
    let chunk = room.nextChunk
    try storage.addChunk(
      chunk, header: JournalShape.header(chunk: chunk, instance: instance),
      byteCount: shape.chunkByteCount)
    room.add(chunk)
  }

  /// Whether there is room for several changes of any size.
  package var hasReserve: Bool { room.hasReserve }

  /// Grows by a chunk when the reserve is used up. False: there is none, and no memory for more.
  package func ensureReserve() -> Bool {
    if hasReserve { return true }
    do throws(PatchbayError) {
      try grow()
      return hasReserve
    } catch {
      return false
    }
  }

  /// Gives back chunks in which nothing stands and without which there is room to spare.
  package func giveBackChunks() {
    while let chunk = room.superfluousChunk {
      // One whose name does not go away stays, and is asked for again.
      guard (try? storage.removeChunk(chunk)) != nil else { return }
      room.remove(chunk)
    }
  }

  // MARK: Changes

  /// Writes or replaces a blob's record.
  /// - Throws: `noSpaceMemory` when there is no room, `limitReached` when it cannot be written at
  ///   all; what was recorded before still stands.
  package func record(_ blob: JournaledBlob) throws(PatchbayError) {
    let record = blob.record
    let extentCount = record.extents.count + record.scratch.count
    guard extentCount <= JournalCoding.extentLimit,
      record.spooled.count <= JournalCoding.extentLimit,
      blob.inodes.count == record.extents.count
    else {
      throw PatchbayError(
        .limitReached,
        "The blob has \(extentCount) extents in memory and in scratch files, and "
          + "\(record.spooled.count) runs of extents in its container; the journal takes "
          + "\(JournalCoding.extentLimit) of each. Use larger extents.")
    }
    let generation = record.info.generation
    try reserve(\.generation, generation.rawValue)
    try put(.blob(generation), JournalCoding.record(blob), body: JournalCoding.body(blob))
  }

  package func record(_ client: JournaledClient) throws(PatchbayError) {
    try reserve(\.client, client.record.clientID)
    try put(.client(client.record.clientID), JournalCoding.record(client), body: [])
  }

  /// A ring's number must be known as used before an object of that name is made.
  package func reserveRing(_ ring: RingID) throws(PatchbayError) {
    try reserve(\.ring, ring.rawValue)
  }

  package func erase(_ generation: Generation) { erase(.blob(generation)) }
  package func eraseClient(_ clientID: UInt64) { erase(.client(clientID)) }

  private func reserve(
    _ kind: WritableKeyPath<JournalNumbers, UInt64>, _ used: UInt64
  ) throws(PatchbayError) {
    guard used >= numbers[keyPath: kind] else { return }
    var next = numbers
    next[keyPath: kind] = used &+ Self.numberStep
    try put(.broker, JournalCoding.record(next, instance: instance), body: [])
    numbers = next
  }

  // MARK: Writing

  private func put(
    _ name: JournalName, _ draft: pb_journal_record, body bytes: [UInt8]
  ) throws(PatchbayError) {
    let body = bytes.isEmpty ? nil : try takeGranules(for: bytes.count)
    guard let place = standing[name]?.place ?? room.takeRecord() else {
      if let body { room.release(body) }
      throw PatchbayError(.noSpaceMemory, "The journal has no free record; remove blobs.")
    }
    let previous = standing[name]
    let copy = previous.map { 1 - $0.newestCopy } ?? 0
    var record = draft
    if let body {
      storage.write(bytes, chunk: body.chunk, at: shape.granuleAt(body.granules.lowerBound))
      record.body_chunk = UInt32(body.chunk)
      record.body_granule = UInt32(body.granules.lowerBound)
      record.body_byte_count = UInt32(bytes.count)
      record.body_checksum = RecordChecksum.of(bytes)
    }
    // releasing (fence): the body stands before the record that names it. Pairs with JOURNAL-SCAN.
    atomicMemoryFence(ordering: .releasing)
    write(record, place, copy: copy)
    // releasing (fence): the record stands before the granules it no longer needs are reused. Pairs
    // with JOURNAL-SCAN.
    atomicMemoryFence(ordering: .releasing)
    if let old = previous?.body { room.release(old) }
    standing[name] = Standing(place: place, newestCopy: copy, body: body)
  }

  private func write(_ record: pb_journal_record, _ place: JournalPlace, copy: Int) {
    write(unsafe withUnsafeBytes(of: record) { unsafe Array($0) }, place, copy: copy)
  }

  /// Writes a copy under the next sequence.
  private func write(_ draft: [UInt8], _ place: JournalPlace, copy: Int) {
    sequence += 1
    var bytes = draft
    Self.store(sequence, in: &bytes, at: Int(PB_RECORD_SEQUENCE_AT))
    let checksum = RecordChecksum.of(bytes[Int(PB_RECORD_SEQUENCE_AT)...])
    Self.store(checksum, in: &bytes, at: Int(PB_RECORD_CHECKSUM_AT))
    storage.write(bytes, chunk: place.chunk, at: shape.recordAt(slot: place.slot, copy: copy))
  }

  private static func store(_ number: UInt64, in bytes: inout [UInt8], at offset: Int) {
    for index in 0..<8 { bytes[offset + index] = UInt8(truncatingIfNeeded: number >> (8 * index)) }
  }

  private func eraseCopies(_ place: JournalPlace, last: Int) {
    let empty = pb_journal_record()
    write(empty, place, copy: 1 - last)
    // releasing (fence): the erasure stands before the copy that it overrules goes. Pairs with
    // JOURNAL-SCAN.
    atomicMemoryFence(ordering: .releasing)
    write(empty, place, copy: last)
    // releasing (fence): no copy names the granules any more before they are reused. Pairs with
    // JOURNAL-SCAN.
    atomicMemoryFence(ordering: .releasing)
  }

  private func erase(_ name: JournalName) {
    guard let old = standing.removeValue(forKey: name) else { return }
    eraseCopies(old.place, last: old.newestCopy)
    if let body = old.body { room.release(body) }
    room.release(old.place)
  }

  private func takeGranules(for byteCount: Int) throws(PatchbayError) -> JournalBody {
    guard let body = room.takeGranules(JournalShape.granules(for: byteCount)) else {
      throw PatchbayError(
        .noSpaceMemory,
        "The journal has no room for a description of \(byteCount) bytes; remove blobs.")
    }
    return body
  }
}
