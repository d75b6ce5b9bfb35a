// A journal that the next broker goes on with: nothing is lost and nothing comes back, whenever the
// broker before died, and whenever the next one dies.

import CPatchbayLayout
import PatchbayLedger
import PatchbayLoop
import PatchbayTypes
import Testing

/// What should stand in a journal.
private struct Standing: Hashable {
  var blobs: [UInt64: JournaledBlob] = [:]
  var clients: Set<UInt64> = []

  init() {}

  init(_ contents: JournalContents) {
    for blob in contents.blobs { blobs[blob.record.info.generation.rawValue] = blob }
    clients = Set(contents.clients.map(\.record.clientID))
    #expect(blobs.count == contents.blobs.count && clients.count == contents.clients.count)
    #expect(contents.clients.allSatisfy { $0 == Sample.client($0.record.clientID) })
  }
}

/// Random changes of a journal, and all the moments at which its broker may die.
private struct Fate {
  var generator: SeededGenerator
  private var changeCount = 0

  init(seed: UInt64) { generator = SeededGenerator(seed: seed) }

  /// A change, and what stands after it.
  mutating func change(_ journal: Journal, _ before: Standing) throws -> Standing {
    var after = before
    changeCount += 1
    let client = UInt64.random(in: 1...4, using: &generator)
    let generation = UInt64.random(in: 1...12, using: &generator)
    switch Int.random(in: 0..<10, using: &generator) {
    case 0:
      try journal.record(Sample.client(client))
      after.clients.insert(client)
    case 1:
      journal.eraseClient(client)
      after.clients.remove(client)
    case 2:
      try journal.reserveRing(RingID(rawValue: UInt64(changeCount) * 1024))
    case 3...5:
      journal.erase(Generation(rawValue: generation))
      after.blobs[generation] = nil
    default:
      // The rings of the samples have been made.
      try journal.reserveRing(RingID(rawValue: 100))
      let byteCount = Int.random(in: 0...900, using: &generator)
      let blob = try Sample.blob(
        generation,
        inlineBytes: [UInt8](repeating: UInt8(truncatingIfNeeded: changeCount), count: byteCount),
        extentCount: Int.random(in: 0...3, using: &generator))
      try journal.record(blob)
      after.blobs[generation] = blob
    }
    journal.giveBackChunks()
    #expect(journal.ensureReserve())
    return after
  }

  /// What a broker leaves that dies before a step, within it, or after the last one.
  mutating func deaths(
    _ steps: [RecordingStorage.Step], from chunks: [Int: [UInt8]]
  ) -> [[Int: [UInt8]]] {
    var chunks = chunks
    var left = [chunks]
    for step in steps {
      if case .write(let bytes, let chunk, let offset) = step {
        // Any words of it may have come to memory.
        var torn = chunks
        for start in stride(from: 0, to: bytes.count, by: 8)
        where Bool.random(using: &generator) {
          let piece = Array(bytes[start..<min(start + 8, bytes.count)])
          torn.apply(.write(piece, chunk: chunk, offset: offset + start))
        }
        left.append(torn)
      }
      chunks.apply(step)
      left.append(chunks)
    }
    return left
  }
}

@Suite struct JournalContinuationTests {
  private func scan(_ chunks: [Int: [UInt8]]) throws -> JournalContents {
    try JournalReader.scan(chunks, shape: Sample.tinyShape)
  }

  private func continued(_ storage: RecordingStorage) throws -> Journal {
    try Journal(
      continuing: scan(storage.chunks), storage: storage, shape: Sample.tinyShape)
  }

  /// Nothing is left that could come to count later, and no granule has two owners.
  private func expectClean(_ contents: JournalContents) {
    #expect(contents.discarded.isEmpty)
    #expect(contents.standing.allSatisfy { $0.overruling == nil })
    #expect(contents.unbornChunks.isEmpty)
    #expect(contents.hasNumbers)
    var taken: Set<[Int]> = []
    for case let body? in contents.standing.map(\.body) {
      for granule in body.granules {
        let isFree = taken.insert([body.chunk, granule]).inserted
        #expect(isFree, "granule \(granule) of chunk \(body.chunk)")
      }
    }
  }

  /// The next broker goes on with what was left, and dies at any time in that and in what follows.
  /// - Returns: what it found.
  private func goOn(
    with left: [Int: [UInt8]], changeCount: Int, _ fate: inout Fate
  ) throws -> Standing {
    let found = Standing(try scan(left))
    let storage = RecordingStorage(left)
    let journal = try continued(storage)
    for death in fate.deaths(storage.steps, from: left) {
      #expect(Standing(try scan(death)) == found)
    }
    let taken = try scan(storage.chunks)
    #expect(Standing(taken) == found)
    expectClean(taken)
    var before = found
    for _ in 0..<changeCount {
      storage.forgetSteps()
      let chunks = storage.chunks
      let after = try fate.change(journal, before)
      for death in fate.deaths(storage.steps, from: chunks) {
        let standing = Standing(try scan(death))
        #expect(standing == before || standing == after)
      }
      let settled = try scan(storage.chunks)
      #expect(Standing(settled) == after)
      expectClean(settled)
      before = after
    }
    return found
  }

  @Test(arguments: [1, 2, 3] as [UInt64])
  func `whenever a broker dies the next one goes on with the state before the change or after it`(
    seed: UInt64
  ) throws {
    var fate = Fate(seed: seed)
    var storage = RecordingStorage()
    var journal = try Journal(
      instance: Sample.instance, storage: storage, shape: Sample.tinyShape)
    var before = Standing()
    var outcomes: Set<Bool> = []
    for _ in 0..<25 {
      storage.forgetSteps()
      let chunks = storage.chunks
      let after = try fate.change(journal, before)
      let deaths = fate.deaths(storage.steps, from: chunks)
      for left in deaths {
        let found = try goOn(with: left, changeCount: 2, &fate)
        #expect(found == before || found == after)
        if before != after { outcomes.insert(found == after) }
      }
      // The history goes on after one of the deaths.
      let left = try #require(deaths.randomElement(using: &fate.generator))
      storage = RecordingStorage(left)
      journal = try continued(storage)
      before = Standing(try scan(storage.chunks))
    }
    #expect(outcomes == [true, false], "seed \(seed)")
  }

  @Test func `going on without a change changes nothing`() throws {
    var fate = Fate(seed: 4)
    let storage = RecordingStorage()
    let journal = try Journal(
      instance: Sample.instance, storage: storage, shape: Sample.tinyShape)
    var standing = Standing()
    for _ in 0..<60 { standing = try fate.change(journal, standing) }
    #expect(storage.chunks.count > 1)
    storage.forgetSteps()
    let chunks = storage.chunks
    for _ in 0..<2 { _ = try continued(storage) }
    #expect(storage.steps.isEmpty)
    #expect(storage.chunks == chunks)
    #expect(Standing(try scan(chunks)) == standing)
  }

  @Test func `numbers go on above those that were given out`() throws {
    let storage = RecordingStorage()
    let journal = try Journal(
      instance: Sample.instance, storage: storage, shape: Sample.tinyShape)
    try journal.record(Sample.blob(5000))
    try journal.record(Sample.client(3))
    try journal.reserveRing(RingID(rawValue: 1_000_000))
    journal.erase(Generation(rawValue: 5000))
    let numbers = journal.numbers
    #expect(numbers.generation > 5000 && numbers.client > 3 && numbers.ring > 1_000_000)
    #expect(try continued(storage).numbers == numbers)
    #expect(try scan(storage.chunks).numbers == numbers)
  }

  @Test func `a lost broker's record leaves all numbers out that it may have given`() throws {
    let storage = RecordingStorage()
    let journal = try Journal(
      instance: Sample.instance, storage: storage, shape: Sample.tinyShape)
    try journal.record(Sample.blob(7))
    try journal.record(Sample.client(9))
    var chunks = storage.chunks
    for copy in 0...1 { chunks[0]?[Sample.tinyShape.recordAt(slot: 0, copy: copy)] ^= 1 }
    let contents = try scan(chunks)
    #expect(!contents.hasNumbers)
    #expect(contents.numbers.generation > 1 << 40 && contents.numbers.client > 1 << 40)
    #expect(contents.numbers.ring > 1 << 40)
    let next = RecordingStorage(chunks)
    #expect(try continued(next).numbers == contents.numbers)
    let again = try scan(next.chunks)
    #expect(again.hasNumbers && again.numbers == contents.numbers)
    #expect(Standing(again) == Standing(contents))
  }

  // MARK: Damage

  @Test func `a journal with any byte damaged is gone on with, and stays consistent`() throws {
    let storage = RecordingStorage()
    let journal = try Journal(
      instance: Sample.instance, storage: storage, shape: Sample.tinyShape)
    let old = try Sample.blob(1, state: .open, inlineBytes: [1, 2, 3], extentCount: 1)
    let new = try Sample.blob(1, extentCount: 1)
    let other = try Sample.blob(2, inlineBytes: nil, extentCount: 0)
    try journal.record(old)
    try journal.record(other)
    try journal.record(Sample.blob(3, extentCount: 0))
    try journal.record(new)
    try journal.record(Sample.client(1))
    journal.erase(Generation(rawValue: 3))
    let whole = try #require(storage.chunks[0])
    let shape = Sample.tinyShape
    let touched =
      Array(shape.recordAt(slot: 0, copy: 0)..<shape.recordAt(slot: 5, copy: 0))
      + whole.indices.filter { $0 >= shape.bodiesAt && whole[$0] != 0 }
    var generator = SeededGenerator(seed: 0xdead)
    for at in touched {
      var chunk = whole
      chunk[at] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
      let next = RecordingStorage([0: chunk])
      let journal = try continued(next)
      var standing = Standing(try scan([0: chunk]))
      let isRight =
        standing.blobs.values.allSatisfy { [old, new, other].contains($0) }
        && standing.blobs.count >= 1 && standing.clients.isSubset(of: [1])
      #expect(isRight, "byte \(at)")
      #expect(Standing(try scan(next.chunks)) == standing)
      // The same bytes again, in the same granules: what was damaged must not be revived by them.
      try journal.record(new)
      standing.blobs[1] = new
      journal.erase(Generation(rawValue: 2))
      standing.blobs[2] = nil
      let contents = try scan(next.chunks)
      #expect(Standing(contents) == standing, "byte \(at)")
      expectClean(contents)
    }
    #expect(touched.count > 3000)
  }

  @Test func `a damaged change is not revived by its own bytes`() throws {
    let storage = RecordingStorage()
    let journal = try Journal(
      instance: Sample.instance, storage: storage, shape: Sample.tinyShape)
    let old = try Sample.blob(1, state: .open)
    try journal.record(old)
    try journal.record(Sample.blob(1))
    var chunks = storage.chunks
    // The second body stands behind the first, which ends in a granule of its own.
    let body = try #require(try scan(chunks).standing.first { $0.name != .broker }?.body)
    let at = Sample.tinyShape.granuleAt(body.granules.lowerBound)
    chunks[0]?[at] ^= 1
    let next = RecordingStorage(chunks)
    _ = try continued(next)
    #expect(try scan(next.chunks).blobs == [old])
    var healed = next.chunks
    healed[0]?[at] ^= 1
    #expect(try scan(healed).blobs == [old])
  }

  /// A journal with two blobs of one description, in slots 1 and 2, as bytes.
  private func two() throws -> ([UInt8], JournaledBlob, JournaledBlob) {
    let storage = RecordingStorage()
    let journal = try Journal(
      instance: Sample.instance, storage: storage, shape: Sample.tinyShape)
    let first = try Sample.blob(1)
    let second = try Sample.blob(2)
    try journal.record(first)
    try journal.record(second)
    return (try #require(storage.chunks[0]), first, second)
  }

  private func expectOnly(
    _ blob: JournaledBlob, in chunk: [UInt8], discarded slot: Int
  ) throws {
    let contents = try scan([0: chunk])
    #expect(contents.blobs == [blob])
    #expect(contents.discarded.map(\.place.slot) == [slot])
    let storage = RecordingStorage([0: chunk])
    let journal = try continued(storage)
    let after = try scan(storage.chunks)
    #expect(after.blobs == [blob])
    expectClean(after)
    journal.erase(blob.record.info.generation)
    #expect(try scan(storage.chunks).blobs.isEmpty)
  }

  @Test func `of two records of one name the younger stands and the other is erased`() throws {
    var (chunk, _, second) = try two()
    forge(&chunk, slot: 1, copy: 0, Sample.tinyShape) { $0.identity = 2 }
    try expectOnly(second, in: chunk, discarded: 1)
    forge(&chunk, slot: 1, copy: 0, Sample.tinyShape) { $0.sequence = 1000 }
    try expectOnly(second, in: chunk, discarded: 2)
  }

  @Test func `of two records with one body the younger stands and the other is erased`() throws {
    var (chunk, _, second) = try two()
    let granules = try #require(
      try scan([0: chunk]).standing.first { $0.place.slot == 2 }?.body?.granules)
    forge(&chunk, slot: 1, copy: 0, Sample.tinyShape) {
      $0.body_granule = UInt32(granules.lowerBound)
    }
    try expectOnly(second, in: chunk, discarded: 1)
  }

  @Test func `numbers that no broker comes to are damage, and never trap`() throws {
    typealias Lie = @Sendable (inout pb_journal_record) -> Void
    let lies: [Lie] = [
      { $0.sequence = .max }, { $0.identity = .max }, { $0.identity = 0 },
      { $0.body_granule = .max }, { $0.body_byte_count = .max }, { $0.body_chunk = .max },
    ]
    for lie in lies {
      var (chunk, first, _) = try two()
      forge(&chunk, slot: 2, copy: 0, Sample.tinyShape, lie)
      let storage = RecordingStorage([0: chunk])
      let journal = try continued(storage)
      try journal.record(Sample.blob(3))
      try journal.record(Sample.client(1))
      journal.erase(Generation(rawValue: 3))
      let contents = try scan(storage.chunks)
      #expect(contents.blobs == [first])
      expectClean(contents)
    }
    var (chunk, first, second) = try two()
    forge(&chunk, slot: 0, copy: 0, Sample.tinyShape) { $0.next_ring = .max }
    forge(&chunk, slot: 0, copy: 1, Sample.tinyShape) { $0.next_client = .max }
    let storage = RecordingStorage([0: chunk])
    try continued(storage).reserveRing(RingID(rawValue: 1 << 61))
    let contents = try scan(storage.chunks)
    #expect(contents.blobs == [first, second])
    #expect(contents.numbers.ring > 1 << 61)
  }

  @Test func `a journal of another layout is a mismatch that names both and the way out`() throws {
    var (chunk, _, _) = try two()
    chunk[8] = 9
    let error = #expect(throws: PatchbayError.self) { try scan([0: chunk]) }
    #expect(error?.code == .versionMismatch)
    #expect(error?.description.contains("layout 9") == true)
    #expect(error?.description.contains("layout \(PB_LAYOUT_VERSION)") == true)
    let name = "/dev/shm/patchbay-\(Listing.hex(Sample.instance))-*"
    #expect(error?.description.contains(name) == true)
    // Chunks of other sizes tell it, too.
    let longer = #expect(throws: PatchbayError.self) { try scan([0: chunk + [0]]) }
    #expect(longer?.code == .versionMismatch)
  }
}
