// What is free in the chunks of a journal. Records and bodies go to the lowest chunk that has room,
// so the higher ones drain; a chunk in which nothing stands is given up when the others have room
// to spare without it. The first chunk always stays: the broker's own record stands there.

import PatchbayTypes

struct JournalRoom {
  private struct Chunk {
    /// The last one that was freed goes first, it is warm.
    var freeSlots: [Int]
    var granules: GranuleMap
  }

  private let shape: JournalShape
  /// By number; nil: there is no such chunk.
  private var chunks: [Chunk?] = []
  private(set) var chunkCount = 0
  private var freeRecordCount = 0
  /// No chunk below has a free record.
  private var lowestWithRecord = 0
  /// Chunks in which nothing stands, but the first.
  private var vacant: Set<Int> = []

  init(_ shape: JournalShape) { self.shape = shape }

  // MARK: Chunks

  /// The number of the next chunk: the lowest that is free.
  var nextChunk: Int { chunks.firstIndex { $0 == nil } ?? chunks.count }

  /// Takes a chunk in: a fresh one, or one in which these records stand.
  mutating func add(_ chunk: Int, standing slots: Set<Int> = []) {
    while chunks.count <= chunk { chunks.append(nil) }
    let freeSlots = (0..<shape.recordCount).reversed().filter { !slots.contains($0) }
    chunks[chunk] = Chunk(
      freeSlots: freeSlots, granules: GranuleMap(count: shape.granuleCount))
    chunkCount += 1
    freeRecordCount += freeSlots.count
    lowestWithRecord = min(lowestWithRecord, chunk)
    noteVacancy(chunk)
  }

  /// Takes the granules of a body that stands, in a chunk that was taken in.
  mutating func occupy(_ body: JournalBody) {
    let isFree = chunks[body.chunk]?.granules.occupy(body.granules)
    precondition(isFree == true, "granules \(body.granules) of chunk \(body.chunk) are taken")
    noteVacancy(body.chunk)
  }

  /// Forgets a chunk in which nothing stands.
  mutating func remove(_ chunk: Int) {
    precondition(vacant.remove(chunk) != nil, "chunk \(chunk) of the journal is in use")
    chunks[chunk] = nil
    chunkCount -= 1
    freeRecordCount -= shape.recordCount
    while case .some(.none) = chunks.last { chunks.removeLast() }
  }

  private mutating func noteVacancy(_ chunk: Int) {
    guard chunk > 0, let state = chunks[chunk] else { return }
    if state.freeSlots.count == shape.recordCount, state.granules.freeCount == state.granules.count
    {
      vacant.insert(chunk)
    } else {
      vacant.remove(chunk)
    }
  }

  // MARK: Reserves

  /// Whether there are as many free records, and in a chunk other than this one so many free
  /// granules in a row.
  private func hasRoom(records: Int, granules: Int, without left: Int? = nil) -> Bool {
    freeRecordCount - (left == nil ? 0 : shape.recordCount) >= records
      && chunks.indices.reversed().contains { chunk in
        chunk != left && (chunks[chunk]?.granules.tailCount ?? 0) >= granules
      }
  }

  private var longestBody: Int {
    min(JournalShape.granules(for: JournalCoding.bodyLimit), shape.granuleCount)
  }

  /// Whether there is room for several changes of any size.
  var hasReserve: Bool { hasRoom(records: Journal.recordReserve, granules: longestBody) }

  /// A chunk in which nothing stands and whose going would leave half a chunk of free records, and
  /// of free granules, above the reserve: so much must be taken again before the next one is made.
  var superfluousChunk: Int? {
    guard let chunk = vacant.max() else { return nil }
    let hasEnough = hasRoom(
      records: Journal.recordReserve + shape.recordCount / 2,
      granules: max(longestBody, shape.granuleCount / 2), without: chunk)
    return hasEnough ? chunk : nil
  }

  // MARK: Records

  mutating func takeRecord() -> JournalPlace? {
    guard freeRecordCount > 0 else { return nil }
    while chunks[lowestWithRecord]?.freeSlots.isEmpty ?? true { lowestWithRecord += 1 }
    guard let slot = chunks[lowestWithRecord]?.freeSlots.popLast() else { return nil }
    freeRecordCount -= 1
    noteVacancy(lowestWithRecord)
    return JournalPlace(chunk: lowestWithRecord, slot: slot)
  }

  mutating func release(_ place: JournalPlace) {
    chunks[place.chunk]?.freeSlots.append(place.slot)
    freeRecordCount += 1
    lowestWithRecord = min(lowestWithRecord, place.chunk)
    noteVacancy(place.chunk)
  }

  // MARK: Bodies

  /// Each chunk knows how long its longest free run can be, so one that has no room is passed over
  /// without a look at its granules.
  mutating func takeGranules(_ length: Int) -> JournalBody? {
    for chunk in chunks.indices {
      if let range = chunks[chunk]?.granules.take(length) {
        noteVacancy(chunk)
        return JournalBody(chunk: chunk, granules: range)
      }
    }
    return nil
  }

  mutating func release(_ body: JournalBody) {
    chunks[body.chunk]?.granules.release(body.granules)
    noteVacancy(body.chunk)
  }
}
