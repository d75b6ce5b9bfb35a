// A written map as it was at one moment, in memory of the broker's own: what a peer writes later
// does not reach it.

import CPatchbayLayout
import PatchbayLayout
import PatchbaySystem
import PatchbayTypes

/// A private copy of a written map, as far as it tells of some offsets: of the upper levels all words
/// about them, of level 0 the touched pages.
struct MapCopy: WrittenMapWords {
  let geometry: RingGeometry
  /// The words of each level from `firstWords` on.
  private(set) var levels: [[UInt64]]
  private var firstWords: [Int]
  private(set) var touched: [UInt64]
  private let firstTouched: Int
  /// Words of level 0 by page of data.
  private(set) var pages: [Int: [UInt64]] = [:]

  /// - Parameter offsets: not empty, within the ring's data.
  init(
    _ descriptor: borrowing Descriptor, _ geometry: RingGeometry, _ offsets: Range<Int>
  ) throws(PatchbayError) {
    self.geometry = geometry
    let last = offsets.upperBound - 1
    levels = [[]]
    firstWords = [0]
    for level in geometry.levelOffsets.indices.dropFirst() {
      let shift = RingGeometry.levelShift * (level + 1)
      let words = offsets.lowerBound >> shift...last >> shift
      firstWords.append(words.lowerBound)
      levels.append(
        try Self.words(
          descriptor,
          at: geometry.levelOffsets[level] + words.lowerBound * RingGeometry.bytesPerWord,
          count: words.count))
    }
    let pageRange = offsets.lowerBound / RingGeometry.page...last / RingGeometry.page
    firstTouched = pageRange.lowerBound >> 6
    touched = try Self.words(
      descriptor, at: geometry.touchedOffset + firstTouched * RingGeometry.bytesPerWord,
      count: pageRange.upperBound >> 6 - firstTouched + 1)
    let wordsPerPage = RingGeometry.page / RingGeometry.bitsPerWord
    for page in pageRange where touchedWord(page >> 6) >> UInt64(page & 63) & 1 == 1 {
      guard word(level: 1, page) != .max else { continue }
      pages[page] = try Self.words(
        descriptor, at: geometry.levelOffsets[0] + page * wordsPerPage * RingGeometry.bytesPerWord,
        count: wordsPerPage)
    }
  }

  /// A copy about all of a ring, from the words of another.
  /// - Parameter words: as `allWords` gives them.
  /// - Throws: `corrupt` when they are no words of such a map.
  init(_ geometry: RingGeometry, allWords words: [UInt64]) throws(PatchbayError) {
    self.geometry = geometry
    var rest = words[...]
    var levels: [[UInt64]] = [[]]
    for level in geometry.levelOffsets.indices.dropFirst() {
      levels.append(try Self.take(geometry.wordCount(level: level), from: &rest))
    }
    self.levels = levels
    firstWords = geometry.levelOffsets.map { _ in 0 }
    let pageCount = geometry.dataByteCount / RingGeometry.page
    touched = try Self.take((pageCount + 63) / 64, from: &rest)
    firstTouched = 0
    while let page = rest.popFirst() {
      guard page < UInt64(pageCount), pages[Int(page)] == nil else { throw Self.noMap }
      pages[Int(page)] = try Self.take(RingGeometry.page / RingGeometry.bitsPerWord, from: &rest)
    }
  }

  private static func take(
    _ count: Int, from rest: inout ArraySlice<UInt64>
  ) throws(PatchbayError) -> [UInt64] {
    guard rest.count >= count else { throw noMap }
    defer { rest.removeFirst(count) }
    return Array(rest.prefix(count))
  }

  private static let noMap = PatchbayError(
    .corrupt, "The words that were kept of a written map are none of a ring of its size.")

  /// All words of a copy about all of a ring: the upper levels from the lowest on, the touched plane,
  /// then of level 0 each page that was copied, behind its number.
  var allWords: [UInt64] {
    var words = levels.dropFirst().flatMap(\.self) + touched
    for (page, bits) in pages.sorted(by: { $0.key < $1.key }) {
      words.append(UInt64(page))
      words += bits
    }
    return words
  }

  private static func words(
    _ descriptor: borrowing Descriptor, at offset: Int, count: Int
  ) throws(PatchbayError) -> [UInt64] {
    var bytes = [UInt8](repeating: 0, count: count * RingGeometry.bytesPerWord)
    try SharedObject.read(descriptor, at: offset, into: &bytes)
    return unsafe bytes.withUnsafeBytes { unsafe Array($0.bindMemory(to: UInt64.self)) }
  }

  /// Nothing is covered that the copy does not tell of.
  func word(level: Int, _ index: Int) -> UInt64 {
    guard level == 0 else {
      let place = index - firstWords[level]
      return levels[level].indices.contains(place) ? levels[level][place] : 0
    }
    let wordsPerPage = RingGeometry.page / RingGeometry.bitsPerWord
    return pages[index / wordsPerPage]?[index % wordsPerPage] ?? 0
  }

  func touchedWord(_ index: Int) -> UInt64 {
    let place = index - firstTouched
    return touched.indices.contains(place) ? touched[place] : 0
  }
}
