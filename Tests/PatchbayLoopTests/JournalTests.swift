// The journal: what goes in comes out, whenever the broker dies, and damage is never taken for
// content.

import CPatchbayLayout
import PatchbayLedger
import PatchbayLoop
import PatchbayTypes
import Testing

@Suite struct JournalTests {
  private func journal(_ storage: RecordingStorage) throws -> Journal {
    try Journal(instance: Sample.instance, storage: storage, shape: Sample.shape)
  }

  private func scan(_ chunks: [Int: [UInt8]]) throws -> JournalContents {
    try JournalReader.scan(chunks, shape: Sample.shape)
  }

  // MARK: Content

  @Test func `every field of blobs and clients comes back`() throws {
    let storage = RecordingStorage()
    let journal = try journal(storage)
    var plain = try Sample.blob(2, key: "plain", state: .open, inlineBytes: nil, extentCount: 0)
    plain.record.info.byteCount = nil
    plain.record.info.lastRead = nil
    plain.record.info.causeCode = nil
    plain.record.info.cause = nil
    plain.record.info.isCache = false
    plain.record.request.isCache = false
    plain.record.info.labels = []
    plain.record.request.labels = []
    plain.record.info.type = ""
    plain.record.request.type = ""
    plain.record.terms = .plain
    plain.record.ended = nil
    plain.record.used = nil
    plain.record.isSuccessor = false
    plain.record.isAdmitted = false
    plain.record.info.isPaused = false
    plain.record.isRead = false
    let full = try Sample.blob(1)
    try journal.record(full)
    try journal.record(plain)
    try journal.record(Sample.client(7))
    let contents = try scan(storage.chunks)
    #expect(contents.instance == Sample.instance)
    #expect(contents.blobs == [full, plain])
    #expect(contents.clients == [Sample.client(7)])
    #expect(contents.damagedCopyCount == 0)
  }

  @Test func `numbers that were used are below the ones the journal would give out`() throws {
    let storage = RecordingStorage()
    let journal = try journal(storage)
    try journal.record(Sample.blob(5000))
    try journal.record(Sample.client(3))
    try journal.reserveRing(RingID(rawValue: 1_000_000))
    let contents = try scan(storage.chunks)
    #expect(contents.hasNumbers)
    let numbers = contents.numbers
    #expect(numbers.generation > 5000)
    #expect(numbers.client > 3)
    #expect(numbers.ring > 1_000_000)
  }

  @Test func `the last of many changes counts and erased records are gone`() throws {
    let storage = RecordingStorage()
    let journal = try journal(storage)
    for round in 0..<50 {
      try journal.record(
        Sample.blob(1, inlineBytes: [UInt8](repeating: UInt8(round + 1), count: round * 7)))
      try journal.record(Sample.blob(UInt64(round + 2)))
      journal.erase(Generation(rawValue: UInt64(round + 2)))
      try journal.record(Sample.client(1))
    }
    journal.eraseClient(1)
    let contents = try scan(storage.chunks)
    #expect(contents.blobs.map(\.record.inlineBytes) == [[UInt8](repeating: 50, count: 49 * 7)])
    #expect(contents.clients.isEmpty)
    #expect(contents.damagedCopyCount == 0)
  }

  @Test func `the largest description there can be fits an empty chunk`() throws {
    let storage = RecordingStorage()
    let journal = try Journal(instance: 1, storage: storage)
    let long = String(repeating: "x", count: 255)
    var largest = try Sample.blob(
      1, key: String(repeating: "k", count: 1024), inlineBytes: Array(repeating: 1, count: 16384),
      extentCount: 0,
      labels: (0..<32).map { _ in BlobInfo.Label(name: long, value: long) })
    largest.record.info.type = long
    largest.record.request.type = long
    largest.record.info.cause = String(repeating: "c", count: 1024)
    largest.record.scratch = (0..<16384).map {
      ScratchRecord(
        index: $0, writer: Generation(rawValue: 2), dataByteCount: 8192,
        standing: ScratchStanding(fileByteCount: 12288, coveredByteCount: 100, frontier: 50))
    }
    largest.record.spooled = (0..<16384).map { 2 * $0..<2 * $0 + 1 }
    try journal.record(largest)
    #expect(journal.ensureReserve())
    try journal.record(largest)
    #expect(journal.hasReserve)
    #expect(try JournalReader.scan(storage.chunks).blobs == [largest])
  }

  // MARK: Room

  @Test func `a journal grows before its reserve is gone`() throws {
    let storage = RecordingStorage()
    let journal = try Journal(instance: 1, storage: storage)
    for number in 0..<3000 {
      try journal.record(Sample.blob(UInt64(number + 1), extentCount: 0))
      #expect(journal.ensureReserve())
    }
    #expect(storage.chunks.count == 2)
    #expect(try JournalReader.scan(storage.chunks).blobs.count == 3000)
  }

  @Test
  func `a journal that cannot grow refuses, keeps what it has, and takes more after a release`()
    throws
  {
    let storage = RecordingStorage(chunkLimit: 1)
    let journal = try journal(storage)
    var written: UInt64 = 0
    let refused = #expect(throws: PatchbayError.self) {
      while written < 100 {
        try journal.record(Sample.blob(written + 1, extentCount: 0))
        written += 1
      }
    }
    #expect(refused?.code == .noSpaceMemory)
    #expect(written == 7)
    #expect(!journal.ensureReserve())
    #expect(try scan(storage.chunks).blobs.count == 7)
    journal.erase(Generation(rawValue: 3))
    try journal.record(Sample.blob(99, extentCount: 0))
    let generations = try scan(storage.chunks).blobs.map(\.record.info.generation.rawValue)
    #expect(generations == [1, 2, 4, 5, 6, 7, 99])
  }

  // MARK: Damage and death

  @Test func `no flipped bit of a record or a body is taken for content`() throws {
    let storage = RecordingStorage()
    let journal = try journal(storage)
    let old = try Sample.blob(1, state: .open, inlineBytes: [1, 2, 3], extentCount: 1)
    let new = try Sample.blob(1, extentCount: 1)
    let other = try Sample.blob(2, inlineBytes: nil, extentCount: 0)
    try journal.record(old)
    try journal.record(other)
    try journal.record(new)
    try journal.record(Sample.client(1))
    let whole = try #require(storage.chunks[0])
    // Both copies of the changed blob's record, zeros included, and all bodies.
    let touched =
      Array(Sample.shape.recordAt(slot: 1, copy: 0)..<Sample.shape.recordAt(slot: 2, copy: 0))
      + whole.indices.filter { $0 >= Sample.shape.bodiesAt && whole[$0] != 0 }
    var chunk = whole
    var wrong = 0
    for at in touched {
      for bit in 0..<8 {
        chunk[at] ^= 1 << UInt8(bit)
        let found = try scan([0: chunk])
        chunk[at] = whole[at]
        let isRight =
          found.blobs.allSatisfy { [old, new, other].contains($0) }
          && found.clients.allSatisfy { $0 == Sample.client(1) }
        if !isRight { wrong += 1 }
      }
    }
    #expect(touched.count > 700)
    #expect(wrong == 0)
  }

  @Test func `a flipped bit never brings an erased record back`() throws {
    let storage = RecordingStorage()
    let journal = try journal(storage)
    try journal.record(Sample.blob(1, extentCount: 0))
    try journal.record(Sample.blob(1, inlineBytes: nil, extentCount: 0))
    journal.erase(Generation(rawValue: 1))
    let whole = try #require(storage.chunks[0])
    let records = Int(PB_CHUNK_RECORDS_AT)..<Sample.shape.bodiesAt
    var chunk = whole
    for at in records where whole[at] != 0 {
      for bit in 0..<8 {
        chunk[at] ^= 1 << UInt8(bit)
        #expect(try scan([0: chunk]).blobs.isEmpty)
        chunk[at] = whole[at]
      }
    }
  }

  /// Applies a change byte by byte (in words of 8, as memory takes them) and scans in between.
  private func tear(
    _ change: (Journal) throws -> Void, before: [JournaledBlob], after: [JournaledBlob],
    prepare: (Journal) throws -> Void
  ) throws {
    let storage = RecordingStorage()
    let journal = try journal(storage)
    try prepare(journal)
    var chunks = storage.chunks
    storage.forgetSteps()
    try change(journal)
    #expect(try scan(chunks).blobs == before)
    for step in storage.steps {
      guard case .write(let bytes, let chunk, let offset) = step else {
        Issue.record("a chunk came or went")
        return
      }
      for start in stride(from: 0, to: bytes.count, by: 8) {
        let piece = Array(bytes[start..<min(start + 8, bytes.count)])
        chunks.apply(.write(piece, chunk: chunk, offset: offset + start))
        let found = try scan(chunks).blobs
        #expect(found == before || found == after)
      }
    }
    #expect(try scan(chunks).blobs == after)
  }

  @Test func `a change cut off at any word leaves the old state or the new one`() throws {
    let first = try Sample.blob(1, state: .open, inlineBytes: nil)
    let second = try Sample.blob(1, state: .open, inlineBytes: [9, 9, 9])
    let third = try Sample.blob(1)
    let other = try Sample.blob(2)
    try tear({ try $0.record(first) }, before: [], after: [first]) { _ in }
    try tear({ try $0.record(second) }, before: [first], after: [second]) {
      try $0.record(first)
    }
    try tear({ try $0.record(third) }, before: [second, other], after: [third, other]) {
      try $0.record(first)
      try $0.record(second)
      try $0.record(other)
    }
  }

  @Test func `an erasure cut off at any word leaves the record or none`() throws {
    let first = try Sample.blob(1)
    let other = try Sample.blob(2)
    for changeCount in 1...3 {
      try tear({ $0.erase(Generation(rawValue: 1)) }, before: [first, other], after: [other]) {
        for _ in 0..<changeCount { try $0.record(first) }
        try $0.record(other)
      }
    }
  }

  @Test func `records that lie with a right checksum are refused field by field, never trapped on`()
    throws
  {
    var generator = SeededGenerator(seed: 0xbad)
    let storage = RecordingStorage()
    try journal(storage).record(Sample.blob(1))
    let whole = try #require(storage.chunks[0])
    let record = Sample.shape.recordAt(slot: 1, copy: 0)
    let body = Sample.shape.granuleAt(0)
    let fields = Int(PB_RECORD_SEQUENCE_AT) + 8..<JournalShape.recordByteCount
    for _ in 0..<2000 {
      var chunk = whole
      for _ in 0..<Int.random(in: 1...3, using: &generator) {
        let at = record + Int.random(in: fields, using: &generator)
        chunk[at] = [0, 1, 0x7f, 0x80, 0xff].randomElement(using: &generator) ?? 0
      }
      for _ in 0..<Int.random(in: 0...2, using: &generator) {
        chunk[body + Int.random(in: 0..<200, using: &generator)] = UInt8.random(
          in: 0...255, using: &generator)
      }
      repairChecksums(&chunk, record: record)
      _ = try scan([0: chunk])
    }
  }

  /// Makes a changed record, and the body it names if there is one, look as if they were meant so.
  private func repairChecksums(_ chunk: inout [UInt8], record: Int) {
    func put(_ sum: UInt64, at: Int) {
      for index in 0..<8 { chunk[at + index] = UInt8(truncatingIfNeeded: sum >> (8 * index)) }
    }
    func word(_ at: Int) -> Int {
      (0..<4).reduce(0) { $0 | Int(chunk[at + $1]) << (8 * $1) }
    }
    let body = Sample.shape.granuleAt(0)
    let byteCount = word(record + 28)
    if byteCount <= chunk.count - body {
      put(RecordChecksum.of(chunk[body..<body + byteCount]), at: record + 32)
    }
    put(
      RecordChecksum.of(
        chunk[record + Int(PB_RECORD_SEQUENCE_AT)..<record + JournalShape.recordByteCount]),
      at: record + Int(PB_RECORD_CHECKSUM_AT))
  }

  @Test func `extents and entries that a blob cannot have are damage, and never trap`() throws {
    typealias Lie = (inout BlobRecord) throws -> Void
    let lies: [Lie] = [
      { record in
        record.plan = try ExtentPlan(first: 1 << 40, limit: 1 << 40)
        record.extents[0].index = Int(UInt32.max)
      },
      { $0.extents[1].index = $0.extents[0].index },
      { $0.scratch.append($0.scratch[0]) },
      { $0.scratch[0].index = Int(UInt32.max) },
      { $0.spooled = [0..<1 << 46] },
      { $0.spooled = Array(repeating: 0..<1 << 23, count: 3) },
      { $0.slot?.board = .max },
      { $0.slot?.entry = .max },
    ]
    for (place, lie) in lies.enumerated() {
      let storage = RecordingStorage()
      let journal = try Journal(instance: 1, storage: storage)
      var blob = try Sample.blob(1)
      try lie(&blob.record)
      try journal.record(blob)
      let contents = try JournalReader.scan(storage.chunks)
      #expect(contents.blobs.isEmpty && contents.damagedCopyCount == 1, "lie \(place)")
    }
  }

  @Test func `bytes that are no journal are refused or read as empty, never trapped on`() throws {
    var generator = SeededGenerator(seed: 0x5eed)
    let storage = RecordingStorage()
    try journal(storage).record(Sample.blob(1))
    let whole = try #require(storage.chunks[0])
    #expect(throws: PatchbayError.self) { try scan([0: []]) }
    #expect(throws: PatchbayError.self) { try scan([0: Array(whole.dropLast())]) }
    #expect(throws: PatchbayError.self) {
      try scan([0: [UInt8](repeating: 0, count: whole.count)])
    }
    #expect(throws: PatchbayError.self) { try scan([0: whole, 1: whole]) }
    #expect(throws: PatchbayError.self) { try scan([:]) }
    for _ in 0..<200 {
      var chunk = whole
      for _ in 0..<64 {
        let at = Int.random(in: Int(PB_CHUNK_RECORDS_AT)..<chunk.count, using: &generator)
        chunk[at] = UInt8.random(in: 0...255, using: &generator)
      }
      _ = try scan([0: chunk])
    }
  }
}

/// The same numbers for the same seed.
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var word = state
    word = (word ^ (word >> 30)) &* 0xbf58_476d_1ce4_e5b9
    word = (word ^ (word >> 27)) &* 0x94d0_49bb_1331_11eb
    return word ^ (word >> 31)
  }
}
