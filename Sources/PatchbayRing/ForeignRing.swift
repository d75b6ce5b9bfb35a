// A ring of another user, read through its descriptor and never mapped: its owner may cut it short or
// punch holes into it at any time, which kills whoever has it mapped, and gives a `pread` a short
// count or zeros.
//
// The discipline is that of a mapped ring: tag, then frontier or map, then the bytes, then the tag
// again (and the base of a window); a copy that fails the last look is forgotten. Two things differ.
// A pread promises no more than whole bytes: a number that its owner changes meanwhile may come half
// old and half new. Bits of the map only appear, so any mixture of them is a map that is not yet as far;
// a tag is compared as a whole, so a mixture is no match; and numbers that only grow are read several
// times (`Growing`). And every value is input: bounded here, believed for this blob only.
//
// A covered byte was written, so its page is there; a hole under it was punched, and is an error. What
// the owner writes over covered bytes cannot be told from what it wrote before.

import CPatchbayLayout
import Glibc
import PatchbayLayout
import PatchbaySystem
import PatchbayTypes
import Synchronization

/// A number that only grows, as it was read while it grew: it was at least `low` when the reading
/// ended, and at most `high` when it began.
struct Growing: Sendable, Hashable {
  let low: UInt64
  let high: UInt64

  /// From one reading for each byte that can be other than zero, in the order in which they were made.
  ///
  /// `low` takes the highest byte from the first reading, the next from the second, and so on. Say the
  /// bytes taken so far are no more than the true ones, as the number stood then. The next byte is read
  /// later: either the true higher bytes have grown, then any byte will do, or they have not, then the
  /// byte is one that stood beside them. `high` is the same backwards.
  init(_ readings: [UInt64]) {
    var low: UInt64 = 0
    var high: UInt64 = 0
    for place in readings.indices {
      let mask = UInt64(0xff) << UInt64(8 * place)
      low |= readings[readings.count - 1 - place] & mask
      high |= readings[place] & mask
    }
    self.low = low
    self.high = high
  }

  /// How many readings a number up to this limit needs.
  static func readingCount(upTo limit: UInt64) -> Int {
    (UInt64.bitWidth - limit.leadingZeroBitCount + 7) / 8
  }
}

/// A ring of a blob that belongs to another user.
package final class ForeignRing: Sendable {
  package let index: Int
  package let ringID: UInt64
  package let useNumber: UInt32
  /// Nil for the policy `keep`.
  package let window: WindowShape?
  private let start: Int
  private let geometry: RingGeometry
  private let descriptor: Descriptor
  private let tag: UInt64
  /// Whether a hole under covered bytes is an error; otherwise it reads as zeros. Each look takes as
  /// long as the ring behind it is.
  private let looksForHoles: Bool
  /// Copies in a row that were forgotten.
  private let lostCount = Atomic<Int>(0)

  /// As many bytes are looked at in one go: what the map of so many says is read in bounded time.
  private static let step = 1 << 20
  /// An honest publisher gives up the same bytes once.
  private static let lostLimit = 1000

  /// Takes the descriptor over.
  package init(
    _ descriptor: consuming Descriptor, index: Int, start: Int, ringID: UInt64 = 0,
    useNumber: UInt32, geometry: RingGeometry, window: WindowShape?, looksForHoles: Bool = true
  ) {
    self.ringID = ringID
    self.looksForHoles = looksForHoles
    self.useNumber = useNumber
    self.descriptor = descriptor
    self.index = index
    self.start = start
    self.geometry = geometry
    self.window = window
    tag = RingTag.value(useNumber: useNumber, index: index)
  }

  /// The positions that this ring can hold.
  package var range: Range<Int> {
    window == nil ? start..<start + geometry.dataByteCount : 0..<ExtentPlan.positionLimit
  }

  // MARK: Reading through the descriptor

  private func cutOff(_ error: PatchbayError) -> PatchbayError {
    guard error.code == .corrupt else { return error }
    return PatchbayError(
      .corrupt,
      "Ring \(index) of a blob of another user is shorter than its \(geometry.objectByteCount) bytes: "
        + "a process of that user has cut it off. Ask its publisher to create the blob again.")
  }

  /// A word that others write.
  private func word(_ offset: Int) throws(PatchbayError) -> UInt64 {
    var bytes = [UInt8](repeating: 0, count: 8)
    do throws(PatchbayError) {
      try SharedObject.read(descriptor, at: offset, into: &bytes)
    } catch {
      throw cutOff(error)
    }
    // acquiring (fence): what is read after this word is no older than it. Pairs with TAG-BEGIN,
    // DATA-FRONTIER, BASE and MARK.
    atomicMemoryFence(ordering: .acquiring)
    return bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
  }

  /// A number that its owner raises. Read anew, a few times at most, while it grows under the reading:
  /// what is waited for may be there and not be rung for again.
  private func growing(_ offset: Int, upTo limit: Int) throws(PatchbayError) -> Growing {
    var found = Growing([])
    for _ in 0..<Self.attemptLimit {
      var readings: [UInt64] = []
      for _ in 0..<Growing.readingCount(upTo: UInt64(limit)) { readings.append(try word(offset)) }
      found = Growing(readings)
      if found.low == found.high { break }
    }
    return found
  }

  private static let attemptLimit = 8

  /// The highest number that frontier and base can have.
  private var highest: Int {
    window == nil ? geometry.dataByteCount : ExtentPlan.positionLimit
  }

  /// Whether the ring serves this use now.
  package func isCurrent() throws(PatchbayError) -> Bool { try word(Int(PB_RING_TAG_AT)) == tag }

  /// The end of the contiguous prefix, a position; it may be farther by now.
  package func frontier() throws(PatchbayError) -> Int {
    let word = try growing(Int(PB_RING_FRONTIER_AT), upTo: highest).low
    return start + Int(min(word, UInt64(highest)))
  }

  /// The lowest position that is still there, or one behind it.
  package func base() throws(PatchbayError) -> Int {
    let word = try growing(Int(PB_RING_BASE_AT), upTo: highest).high
    return Int(min(word, UInt64(highest)))
  }

  /// What the publisher is about to give up, or more: who joins below it is too late.
  package func intent() throws(PatchbayError) -> Int {
    // sequentially consistent (fence): the position of who joins is visible before it looks.
    // JOIN, pairs with JOIN.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    let word = try growing(Int(PB_RING_INTENT_AT), upTo: highest).high
    return Int(min(word, UInt64(highest)))
  }

  /// The marks that were not overwritten while they were read, the lowest first.
  package func marks() throws(PatchbayError) -> [Int] {
    let kept = UInt64(PB_RING_MARK_COUNT)
    let before = try growing(Int(PB_RING_MARK_COUNT_AT), upTo: .max).low
    let first = before - min(before, kept)
    var found: [(number: UInt64, position: UInt64)] = []
    for number in first..<before {
      let slot = Int(PB_RING_MARKS_AT) + Int(number % kept) * 8
      found.append((number, try word(slot)))
    }
    // A byte of a later mark in a slot comes after the count that precedes that mark.
    let after = try growing(Int(PB_RING_MARK_COUNT_AT), upTo: .max).high
    return found.filter { $0.number &+ kept > after }
      .map { Int(min($0.position, UInt64(ExtentPlan.positionLimit))) }
  }

  // MARK: Looking

  /// What stands at a position.
  package enum Look: Sendable, Hashable {
    case nothing
    /// Covered bytes, up to a position; there may be more.
    case covered(end: Int)
    /// A window has given it up.
    case gone
  }

  /// What stands at a position. Never waits, and looks at a mebibyte at most.
  /// - Throws: `corrupt` when the ring has been cut off, `inputOutput`.
  package func look(at position: Int, limit: Int) throws(PatchbayError) -> Look {
    guard range.contains(position), try isCurrent() else { return .nothing }
    let limit = min(limit, range.upperBound, position + Self.step)
    let end: Int
    if window != nil {
      // No window holds more than its ring, whatever its frontier says.
      end = min(limit, try frontier(), position + geometry.dataByteCount)
      if end > position, try base() > position { return .gone }
    } else {
      end = try coveredEnd(position, limit)
    }
    return end > position ? .covered(end: end) : .nothing
  }

  private func coveredEnd(_ position: Int, _ limit: Int) throws(PatchbayError) -> Int {
    guard geometry.hasMap else { return min(limit, try frontier()) }
    let offsets = position - start..<limit - start
    return start
      + (try map(offsets).coveredEnd(from: offsets.lowerBound, limit: offsets.upperBound))
  }

  private func map(_ offsets: Range<Int>) throws(PatchbayError) -> MapCopy {
    let copy: MapCopy
    do throws(PatchbayError) {
      copy = try MapCopy(descriptor, geometry, offsets)
    } catch {
      throw cutOff(error)
    }
    // acquiring (fence): the bytes are read after the marks. Pairs with DATA-MARK.
    atomicMemoryFence(ordering: .acquiring)
    return copy
  }

  /// The written ranges among some positions of this ring, in order, at most so many.
  /// - Throws: as `look`.
  package func writtenRanges(
    in positions: Range<Int>, limit: Int
  ) throws(PatchbayError) -> [Range<Int>] {
    guard try isCurrent() else { return [] }
    let first = window == nil ? positions.lowerBound : max(positions.lowerBound, try base())
    guard geometry.hasMap else {
      let end = min(positions.upperBound, try frontier())
      return first < end ? [first..<end] : []
    }
    var ranges: [Range<Int>] = []
    var at = positions.lowerBound
    while at < positions.upperBound, ranges.count < limit {
      let offsets = at - start..<min(positions.upperBound, at + Self.step) - start
      collect(offsets, try map(offsets), &ranges, limit)
      at = offsets.upperBound + start
    }
    return ranges
  }

  private func collect(
    _ offsets: Range<Int>, _ map: MapCopy, _ ranges: inout [Range<Int>], _ limit: Int
  ) {
    var at = offsets.lowerBound
    while at < offsets.upperBound, ranges.count < limit {
      let first = map.uncoveredEnd(from: at, limit: offsets.upperBound)
      at = map.coveredEnd(from: first, limit: offsets.upperBound)
      guard first < at else { return }
      if let last = ranges.last, last.upperBound == first + start {
        ranges[ranges.count - 1] = last.lowerBound..<at + start
      } else {
        ranges.append(first + start..<at + start)
      }
    }
  }

  // MARK: Copying

  /// Copies bytes that a look has found, as many as stand in a row.
  /// - Returns: how many; 0 when they went, or may have gone, meanwhile.
  /// - Throws: `corrupt` when the ring has been cut off, or its owner changes it for ever.
  @unsafe package func copy(
    _ positions: Range<Int>, into target: UnsafeMutableRawBufferPointer
  ) throws(PatchbayError) -> Int {
    let offset = window?.offset(of: positions.lowerBound) ?? positions.lowerBound - start
    let count = min(positions.count, target.count, geometry.dataByteCount - offset)
    do throws(PatchbayError) {
      try unsafe SharedObject.read(
        descriptor, at: geometry.dataOffset + offset,
        into: UnsafeMutableRawBufferPointer(rebasing: target[..<count]))
    } catch {
      throw cutOff(error)
    }
    let start = geometry.dataOffset + offset
    let hasHole =
      looksForHoles ? try SharedObject.hasHole(descriptor, in: start..<start + count) : false
    // acquiring (fence): the copy is made before tag and base are read again. Pairs with TAG-END and
    // BASE.
    atomicMemoryFence(ordering: .acquiring)
    guard try wasThere(positions.lowerBound) else { return 0 }
    // The broker gives back the memory of rings, too: of those that have no tag any more.
    guard !hasHole else { throw punched }
    return count
  }

  private var punched: PatchbayError {
    PatchbayError(
      .corrupt,
      "Ring \(index) of a blob of another user has a hole among its covered bytes: a process of that "
        + "user has punched it, or says that they are covered and has not written them. Ask its "
        + "publisher to create the blob again.")
  }

  private func wasThere(_ position: Int) throws(PatchbayError) -> Bool {
    if try isCurrent() {
      let isThere = window == nil ? true : try base() <= position
      if isThere {
        // relaxed: a count for this process alone.
        lostCount.store(0, ordering: .relaxed)
        return true
      }
    }
    // relaxed: as above.
    let lost = lostCount.wrappingAdd(1, ordering: .relaxed).newValue
    guard lost < Self.lostLimit else {
      throw PatchbayError(
        .corrupt,
        "Ring \(index) of a blob of another user was changed \(lost) times in a row while it was "
          + "read. Ask its publisher to create the blob again.")
    }
    return false
  }

  /// A copy of a range that looks have found; nil when some of it went meanwhile.
  /// - Throws: as `copy`.
  package func copyOut(_ positions: Range<Int>) throws(PatchbayError) -> [UInt8]? {
    guard positions.count <= geometry.dataByteCount else { return nil }
    var bytes = [UInt8](repeating: 0, count: positions.count)
    var done = 0
    while done < bytes.count {
      let from = positions.lowerBound + done..<positions.upperBound
      var span = bytes.mutableSpan
      let count = try unsafe span.withUnsafeMutableBytes { (raw) throws(PatchbayError) -> Int in
        try unsafe copy(from, into: UnsafeMutableRawBufferPointer(rebasing: raw[done...]))
      }
      guard count > 0 else { return nil }
      done += count
    }
    // A piece that was there when it was copied may follow one that has gone since.
    if bytes.isEmpty { return bytes }
    return try wasThere(positions.lowerBound) ? bytes : nil
  }
}
