// Chunks of the journal that come and go: what they cost is given back, and nothing is lost or
// brought back by it, whenever the broker dies.

import CPatchbayLayout
import PatchbayLedger
import PatchbayLoop
import PatchbayTypes
import PatchbayWire
import Testing

/// A journal with what it should hold.
private struct Modelled {
  let storage = RecordingStorage()
  let journal: Journal
  var blobs: [UInt64: JournaledBlob] = [:]
  /// Every state that a blob has had.
  var history: [UInt64: Set<JournaledBlob>] = [:]
  private var lastGeneration: UInt64 = 0

  init() throws {
    journal = try Journal(
      instance: Sample.instance, storage: storage, shape: Sample.roomyShape)
  }

  var expected: [JournaledBlob] { blobs.sorted { $0.key < $1.key }.map(\.value) }

  mutating func add(byteCount: Int) throws {
    lastGeneration += 1
    try change(lastGeneration, byteCount: byteCount)
  }

  mutating func change(_ generation: UInt64, byteCount: Int) throws {
    let blob = try Sample.blob(
      generation,
      inlineBytes: [UInt8](repeating: UInt8(truncatingIfNeeded: byteCount), count: byteCount),
      extentCount: 0)
    try journal.record(blob)
    blobs[generation] = blob
    history[generation, default: []].insert(blob)
  }

  mutating func erase(_ generation: UInt64) {
    journal.erase(Generation(rawValue: generation))
    blobs[generation] = nil
  }

  /// What the loop does after every event.
  func settle() {
    journal.giveBackChunks()
    #expect(journal.ensureReserve())
  }

  static func scan(_ chunks: [Int: [UInt8]]) throws -> JournalContents {
    try JournalReader.scan(chunks, shape: Sample.roomyShape)
  }
}

@Suite struct JournalChunkTests {
  @Test func `the chunks that many records took are given back when they are gone`() throws {
    var model = try Modelled()
    for _ in 0..<200 {
      try model.add(byteCount: 100)
      model.settle()
    }
    #expect(model.storage.chunks.count == 5)
    #expect(model.journal.byteCount == 5 * Sample.roomyShape.chunkByteCount)
    for generation in model.blobs.keys.sorted() {
      model.erase(generation)
      model.settle()
    }
    #expect(Array(model.storage.chunks.keys) == [0])
    #expect(model.journal.byteCount == Sample.roomyShape.chunkByteCount)
    #expect(try Modelled.scan(model.storage.chunks).blobs.isEmpty)
  }

  @Test func `the lowest room is filled first, and the reader bears gaps`() throws {
    var model = try Modelled()
    for _ in 0..<260 {
      try model.add(byteCount: 100)
      model.settle()
    }
    #expect(model.storage.chunks.keys.sorted() == [0, 1, 2, 3, 4, 5])
    // What stands in chunks 1 and 2: 47 records are in chunk 0 beside the broker's, then 48 in each.
    for generation: UInt64 in 48...143 { model.erase(generation) }
    model.settle()
    #expect(model.storage.chunks.keys.sorted() == [0, 1, 3, 4, 5])
    #expect(try Modelled.scan(model.storage.chunks).blobs == model.expected)
    let before = model.storage.chunks
    for _ in 0..<32 { try model.add(byteCount: 100) }
    #expect(model.storage.chunks[1] != before[1])
    #expect(model.storage.chunks[5] == before[5])
    for _ in 0..<32 {
      try model.add(byteCount: 100)
      model.settle()
    }
    #expect(model.storage.chunks.keys.sorted() == [0, 1, 2, 3, 4, 5])
    #expect(try Modelled.scan(model.storage.chunks).blobs == model.expected)
  }

  @Test func `blobs that come and go at the edge of a chunk make and unmake none`() throws {
    var model = try Modelled()
    for last in 1...120 as ClosedRange<UInt64> {
      try model.add(byteCount: 100)
      model.settle()
      model.storage.forgetSteps()
      for _ in 0..<10 {
        try model.change(last, byteCount: 100)
        model.settle()
        model.erase(last)
        model.settle()
      }
      #expect(model.storage.chunkChangeCount <= 1, "with \(last) blobs")
      try model.change(last, byteCount: 100)
      model.settle()
    }
  }

  @Test func `a record whose body was in a chunk that is missing is damaged, not misread`() throws {
    var model = try Modelled()
    let extents = (0..<16384).map {
      ExtentRecord(index: $0, ring: RingID(rawValue: 1), useNumber: 1, dataByteCount: 4096)
    }
    // Three such bodies leave less than one free in the first chunk.
    for generation: UInt64 in 1...4 {
      var large = try Sample.blob(generation, inlineBytes: nil, extentCount: 0)
      large.record.extents = extents
      large.record.scratch = []
      large.inodes = Array(repeating: 5, count: extents.count)
      try model.journal.record(large)
      model.blobs[generation] = large
      model.settle()
    }
    var chunks = model.storage.chunks
    #expect(try Modelled.scan(chunks).blobs == model.expected)
    chunks[1] = nil
    let found = try Modelled.scan(chunks)
    #expect(found.blobs == Array(model.expected.prefix(3)))
    #expect(found.damagedCopyCount == 1)
  }

  @Test func `a chunk whose maker died before its head stood is nothing`() throws {
    var model = try Modelled()
    try model.add(byteCount: 100)
    let byteCount = Sample.roomyShape.chunkByteCount
    let head = JournalShape.header(chunk: 1, instance: Sample.instance)
    for cut in [0, 8, 12, 16] {
      var chunks = model.storage.chunks
      var unborn = [UInt8](repeating: 0, count: byteCount)
      unborn.replaceSubrange(0..<cut, with: head[..<cut])
      chunks[1] = unborn
      #expect(try Modelled.scan(chunks).blobs == model.expected)
    }
    var chunks = model.storage.chunks
    chunks[1] = []
    #expect(try Modelled.scan(chunks).blobs == model.expected)
    var damaged = [UInt8](repeating: 0, count: byteCount)
    damaged[byteCount - 1] = 1
    chunks[1] = damaged
    #expect(throws: PatchbayError.self) { try Modelled.scan(chunks) }
  }

  /// Plays what a change did. Whenever chunks come or go, and else for one change in four, the
  /// broker dies at each step and within some writes.
  private func replay(
    _ steps: [RecordingStorage.Step], _ chunks: inout [Int: [UInt8]],
    from before: [JournaledBlob], to after: [JournaledBlob],
    _ generator: inout SeededGenerator
  ) throws {
    let dies =
      steps.contains { if case .write = $0 { false } else { true } }
      || Int.random(in: 0..<4, using: &generator) == 0
    for step in steps {
      if dies, case .write(let bytes, let chunk, let offset) = step, bytes.count > 8,
        Bool.random(using: &generator)
      {
        let cut = Int.random(in: 1...(bytes.count - 1) / 8, using: &generator) * 8
        chunks.apply(.write(Array(bytes[..<cut]), chunk: chunk, offset: offset))
        let found = try Modelled.scan(chunks).blobs
        #expect(found == before || found == after)
      }
      chunks.apply(step)
      if case .write = step { continue }
      let found = try Modelled.scan(chunks).blobs
      #expect(found == before || found == after)
    }
    if dies { #expect(try Modelled.scan(chunks).blobs == after) }
  }

  /// Spoils a copy of a record: then an earlier state of its blob may be found, or nothing.
  private func spoil(
    _ model: Modelled, _ chunks: [Int: [UInt8]], _ generator: inout SeededGenerator
  ) throws {
    for number in chunks.keys.sorted() {
      for _ in 0..<4 {
        let slot = Int.random(in: 0..<Sample.roomyShape.recordCount, using: &generator)
        let copy = Int.random(in: 0...1, using: &generator)
        let at = Sample.roomyShape.recordAt(slot: slot, copy: copy)
        var spoiled = chunks
        spoiled[number]?[at + Int.random(in: 0..<256, using: &generator)] ^= 0x10
        for blob in try Modelled.scan(spoiled).blobs {
          let generation = blob.record.info.generation.rawValue
          #expect(model.blobs[generation] != nil, "generation \(generation) is back")
          #expect(model.history[generation]?.contains(blob) == true)
        }
      }
    }
  }

  @Test(arguments: [1, 2] as [UInt64])
  func `chunks that come and go lose nothing and bring nothing back, whenever the broker dies`(
    seed: UInt64
  ) throws {
    var generator = SeededGenerator(seed: seed)
    var model = try Modelled()
    var chunks = model.storage.chunks
    model.storage.forgetSteps()
    var givenBackCount = 0
    // Growing, shrinking, growing again and shrinking to nothing.
    for addsOutOfTen in [9, 0, 9, 0] {
      for _ in 0..<160 {
        let before = model.expected
        let size = Int.random(in: 0...400, using: &generator)
        // Young blobs go first, so that whole chunks become free.
        let standing = model.blobs.keys.sorted().suffix(16)
        if Int.random(in: 0..<10, using: &generator) < addsOutOfTen || standing.isEmpty {
          try model.add(byteCount: size)
        } else {
          let chosen = try #require(standing.randomElement(using: &generator))
          if Int.random(in: 0..<4, using: &generator) == 0 {
            try model.change(chosen, byteCount: size)
          } else {
            model.erase(chosen)
          }
        }
        model.settle()
        for case .remove in model.storage.steps { givenBackCount += 1 }
        try replay(
          model.storage.steps, &chunks, from: before, to: model.expected, &generator)
        model.storage.forgetSteps()
      }
      #expect(chunks == model.storage.chunks)
      try spoil(model, chunks, &generator)
    }
    #expect(givenBackCount >= 4, "seed \(seed)")
  }

  @Test(arguments: [1, 2, 3] as [UInt64])
  func `granules are given and taken as in a plain array`(seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    let count = 500
    var map = GranuleMap(count: count)
    var plain = [Bool](repeating: false, count: count)
    var standing: [Range<Int>] = []
    for round in 0..<5000 {
      let takes = round / 500 % 2 == 0 ? 7 : 4
      if Int.random(in: 0..<10, using: &generator) < takes || standing.isEmpty {
        let length = Int.random(in: 1...40, using: &generator)
        let lowest = (0...count - length).first { start in
          !plain[start..<start + length].contains(true)
        }
        let taken = map.take(length)
        #expect(taken == lowest.map { $0..<$0 + length })
        for index in taken ?? 0..<0 { plain[index] = true }
        if let taken { standing.append(taken) }
      } else {
        let freed = standing.remove(
          at: Int.random(in: 0..<standing.count, using: &generator))
        map.release(freed)
        for index in freed { plain[index] = false }
      }
      #expect(map.freeCount == plain.count { !$0 })
      #expect(map.tailCount == count - ((plain.lastIndex(of: true) ?? -1) + 1))
    }
  }
}
