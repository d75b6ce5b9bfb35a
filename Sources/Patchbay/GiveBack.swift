// A blob that is written in any order and may be longer than memory: its publisher may have a bounded
// number of extents for writing. When it needs another one it first gives back the one that it wrote to
// the longest time ago.
//
// An extent is given back like this: its whole range enters the list of writes in flight, which it can
// only while no write, loan or batch is in flight there; then it is unmapped and the broker is told; then
// the range leaves. A write looks once more, when its own range has entered, whether its extents are
// mapped. So no write of this process touches a ring that was given back. One caller at a time gives back
// and asks, or two could take from each other for ever what both need.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

extension Publisher {
  /// Has all extents of a range mapped, but for full ones; the broker makes those that are not there, or
  /// brings them back. Blocks for its answers, and while all that this publisher has is being written.
  /// - Parameter range: a stretch of the handle.
  /// - Throws: `timedOut`, `noSpaceMemory`, `noSpaceSpool`, `corrupt`, `closed`, `fenced`, `noBroker`.
  func obtain(_ range: Range<Int>) throws(PatchbayError) {
    guard handle.isLimited else { return try handle.grow(range) }
    coverBatchSoFar()
    let until = MonotonicTime(Deadline.standard)
    try fetching.enter(Self.turn, until: until) {}
    defer { fetching.leave(Self.turn, coveredTo: 0) }
    while let part = unmappedPart(of: range) {
      try makeRoom(for: range, until)
      do throws(PatchbayError) {
        try handle.grow(part)
      } catch {
        guard let next = try afterRefusal(error, part, range) else { continue }
        try giveBack(next)
      }
    }
  }

  private func makeRoom(
    for range: Range<Int>, _ until: MonotonicTime
  ) throws(PatchbayError) {
    while true {
      let surplus = handle.surplus(besides: range)
      guard !surplus.isEmpty else { return }
      let before = inFlight.now
      if let extent = try takeOut(surplus, { $0.addThread() }) {
        try giveBack(extent)
      } else {
        try inFlight.sleep(since: before, until: until)
      }
    }
  }

  private func giveBack(_ extent: Extent) throws(PatchbayError) {
    defer { endGiveBack(extent) }
    try handle.session.perform(beginGiveBack(extent), deadline: .standard)
  }

  // MARK: For tasks

  /// As the blocking `obtain`.
  func obtain(_ range: Range<Int>) async throws(PatchbayError) {
    guard handle.isLimited else { return try await handle.grow(range) }
    coverBatchSoFar()
    try await fetching.enter(Self.turn, deadline: .standard) {}
    defer { fetching.leave(Self.turn, coveredTo: 0) }
    while let part = unmappedPart(of: range) {
      try await makeRoom(for: range)
      do throws(PatchbayError) {
        try await handle.grow(part)
      } catch {
        guard let next = try afterRefusal(error, part, range) else { continue }
        try await giveBack(next)
      }
    }
  }

  private func makeRoom(for range: Range<Int>) async throws(PatchbayError) {
    while true {
      let surplus = handle.surplus(besides: range)
      guard !surplus.isEmpty else { return }
      var wait: Awaited<Void>?
      if let extent = try takeOut(surplus, { $0.add(&wait) }) {
        try await giveBack(extent)
      } else if let wait {
        try await inFlight.wait(wait, deadline: .standard)
      }
    }
  }

  private func giveBack(_ extent: Extent) async throws(PatchbayError) {
    defer { endGiveBack(extent) }
    try await handle.session.perform(beginGiveBack(extent), deadline: .standard)
  }

  // MARK: Steps that do not wait

  /// Whoever has it entered gives back and asks.
  private static let turn = 0..<1

  /// The part of a range in the first extent that has to be asked for.
  private func unmappedPart(of range: Range<Int>) -> Range<Int>? {
    handle.firstUnmapped(in: range).map { handle.plan.range(of: $0).clamped(to: range) }
  }

  /// Enters the range of the first of some extents in which nothing is in flight.
  /// - Parameter stand: puts the caller in line when there is none.
  private func takeOut(
    _ extents: [Extent], _ stand: (inout WaitingLine) -> Void
  ) throws(PatchbayError) -> Extent? {
    let place = try inFlight.tryEnterFirst(of: extents.map(\.range), stand)
    return place.map { extents[$0] }
  }

  /// What to do when the broker has refused an extent: an extent that is to be given back so that there
  /// is memory for it; nil: go on, it is full.
  private func afterRefusal(
    _ error: PatchbayError, _ part: Range<Int>, _ range: Range<Int>
  ) throws(PatchbayError) -> Extent? {
    switch error.code {
    case .rangeOverlap:
      handle.noteFull(handle.plan.index(of: part.lowerBound))
      return nil
    case .noSpaceMemory, .noSpaceSpool:
      let others = handle.surplus(besides: range, all: true)
      guard let extent = try takeOut(others, { _ in }) else { throw error }
      return extent
    default: throw error
    }
  }

  /// An extent whose range has entered is mapped no more; the message that tells the broker. That is not
  /// repeated when it is not answered: said late, it would be about the next grant.
  private func beginGiveBack(_ extent: Extent) -> Request {
    let end = min(extent.range.upperBound, byteCount ?? .max)
    let isFull = extent.frontier >= end
    handle.dropExtent(extent.index)
    return .giveBack(
      GiveBackRequest(blob: handle.grant.blob, index: extent.index, isFull: isFull))
  }

  private func endGiveBack(_ extent: Extent) {
    inFlight.leave(extent.range, coveredTo: extent.range.lowerBound)
    tellIfQuiescent()
  }
}
