// Takes bytes of a blob into its digest, on a thread of its own: what is covered, in order, from the
// ring that has it or from the container on disk. Rings are read through their descriptor with the
// look before and after that readers of another user take, so bytes of another use of a ring never
// count: an extent that leaves meanwhile ends the piece, and the ledger says where it is then. A hole
// that a publisher has punched counts as the zeros that its readers see.

import PatchbayDigest
import PatchbayLayout
import PatchbayLedger
import PatchbayRing
import PatchbaySpool
import PatchbaySystem
import PatchbayTypes

/// One order, and where the bytes are.
struct DigestWork: Sendable {
  let order: DigestOrder
  let extents: [PlacedExtent]
  let spool: Spool?

  /// Bytes of one piece of work: others get their turn, and a broker that ends waits for no more.
  private static let pieceByteCount = 64 * 1024 * 1024
  /// Bytes that are copied at once: they stay in a core's cache.
  private static let chunkByteCount = 256 * 1024

  /// Takes what follows a state; the state with it, and what came of it. A state that failed has taken
  /// what came before the failure.
  func run(from state: DigestState) -> (state: DigestState, result: DigestResult) {
    var state = state
    do throws(PatchbayError) {
      // Before the state is given back, not while it is.
      let result = try advance(&state)
      return (state, result)
    } catch {
      return (state, .failed(error))
    }
  }

  private func advance(_ state: inout DigestState) throws(PatchbayError) -> DigestResult {
    let start = state.byteCount
    let goal = min(order.end ?? .max, start + Self.pieceByteCount)
    var isListed = true
    var before = -1
    while isListed, before < state.byteCount, state.byteCount < goal {
      before = state.byteCount
      isListed = try takeExtent(&state, upTo: goal)
    }
    if state.byteCount == order.end { return .found(state.digest, byteCount: state.byteCount) }
    if state.byteCount == goal || !isListed && state.byteCount > start {
      return .reached(state.byteCount, hasMore: true)
    }
    guard order.end == nil else { throw unreadable(state.byteCount) }
    return .reached(state.byteCount, hasMore: false)
  }

  /// Takes what there is of the extent that comes next; false if it was not among those named.
  private func takeExtent(
    _ state: inout DigestState, upTo goal: Int
  ) throws(PatchbayError) -> Bool {
    let index = order.plan.index(of: state.byteCount)
    if let placed = extents.first(where: { $0.extent.index == index }) {
      do throws(PatchbayError) {
        try take(placed, &state, upTo: goal)
      } catch  where error.code == .corrupt {
        throw unreadable(state.byteCount)
      }
      return true
    }
    if let record = order.scratch.first(where: { $0.index == index }) {
      try take(record, &state, upTo: goal)
      return true
    }
    guard order.spooled.contains(index) else { return false }
    try readBack(&state, upTo: min(goal, order.plan.range(of: index).upperBound))
    return true
  }

  // MARK: In memory

  private func take(
    _ placed: PlacedExtent, _ state: inout DigestState, upTo goal: Int
  ) throws(PatchbayError) {
    guard let place = placed.place else { return }
    let index = placed.extent.index
    let ring = ForeignRing(
      try place.open(isWritable: false), index: index,
      start: order.plan.range(of: index).lowerBound, useNumber: placed.extent.useNumber,
      geometry: place.geometry, window: nil,
      looksForHoles: false)
    var buffer = [UInt8](repeating: 0, count: Self.chunkByteCount)
    let limit = min(goal, ring.range.upperBound)
    while state.byteCount < limit,
      case .covered(let end) = try ring.look(at: state.byteCount, limit: limit)
    {
      guard try take(ring, upTo: end, &state, &buffer) else { return }
    }
  }

  /// Takes bytes that a look has found; false if they went meanwhile.
  private func take(
    _ ring: ForeignRing, upTo end: Int, _ state: inout DigestState, _ buffer: inout [UInt8]
  ) throws(PatchbayError) -> Bool {
    while state.byteCount < end {
      let positions = state.byteCount..<end
      var span = buffer.mutableSpan
      let count = try unsafe span.withUnsafeMutableBytes { (raw) throws(PatchbayError) -> Int in
        try unsafe ring.copy(positions, into: raw)
      }
      guard count > 0 else { return false }
      state.update(buffer[..<count])
    }
    return true
  }

  // MARK: On disk

  /// Takes what follows without a gap in the scratch file of an extent.
  private func take(
    _ record: ScratchRecord, _ state: inout DigestState, upTo goal: Int
  ) throws(PatchbayError) {
    guard let spool else { return }
    let shape = ScratchShape(
      generation: record.writer, index: record.index, dataByteCount: record.dataByteCount)
    let file = try OpenScratch(spool.openScratch(order.generation, record.index), shape)
    let start = order.plan.range(of: record.index).lowerBound
    let limit = min(goal - start, record.dataByteCount)
    for block in 0..<shape.blockCount {
      for (offset, bytes) in try file.runs(of: block)
      where offset + bytes.count > state.byteCount - start {
        let at = state.byteCount - start
        guard offset <= at, at < limit else { return }
        let first = bytes.startIndex + at - offset
        state.update(bytes[first..<min(bytes.endIndex, first + limit - at)])
      }
    }
  }

  private func readBack(
    _ state: inout DigestState, upTo end: Int
  ) throws(PatchbayError) {
    guard let spool else { return }
    let shape = try ContainerShape(segmentByteCount: order.segmentByteCount)
    let reader = ContainerReader(try spool.open(order.generation), shape: shape)
    while state.byteCount < end {
      let segment = shape.segment(of: state.byteCount)
      let range = shape.range(ofSegment: segment, byteCount: order.byteCount)
      let bytes = try reader.read(segment: segment, expecting: range.count)
      let first = state.byteCount - range.lowerBound
      state.update(bytes[first..<min(bytes.count, end - range.lowerBound)])
    }
  }

  private func unreadable(_ position: Int) -> PatchbayError {
    PatchbayError(
      .corrupt,
      "The \(order.algorithm) of generation \(order.generation) cannot be computed: the byte at "
        + "\(position) was covered and cannot be read. A process that may write its memory has cut it "
        + "off, punched it or given it another use. Create the blob again.")
  }
}
