// Bytes that have left memory. A subscriber gets the container's descriptor once, reads a segment of it
// at a time and looks for itself that it is whole; a few segments are kept, since who reads some bytes
// of one mostly reads the next ones, too. Nobody else is held up by that, however slow the disk is.

import PatchbaySpool
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

/// One segment of a blob, read and verified.
final class SpooledSegment: Sendable {
  /// The position of its first byte.
  let start: Int
  let bytes: [UInt8]

  init(start: Int, bytes: [UInt8]) {
    self.start = start
    self.bytes = bytes
  }

  var range: Range<Int> { start..<start + bytes.count }
}

/// What a handle knows of its blob's container.
final class SpooledBytes: Sendable {
  private struct State {
    var container: ContainerReader?
    var extents: Set<Int> = []
    /// The one that was read last at the end.
    var kept: [SpooledSegment] = []
    var lastSegment = -1
  }

  /// A segment that has to be read first.
  struct Place: Sendable {
    let container: ContainerReader
    let segment: Int
    let range: Range<Int>
    let isNext: Bool
  }

  private let state = Mutex(State())
  private static let keptLimit = 4
  /// Segments that are asked of the disk ahead of a reader in sequence.
  private static let ahead = 8

  /// Takes over that an extent stands in the container.
  func take(
    _ grant: SpoolGrant, _ descriptor: consuming Descriptor
  ) throws(PatchbayError) {
    let shape = try ContainerShape(segmentByteCount: grant.segmentByteCount)
    let reader = ContainerReader(descriptor, shape: shape)
    state.withLock { state in
      state.container = state.container ?? reader
      state.extents.insert(grant.index)
    }
  }

  func holds(_ extent: Int) -> Bool { state.withLock { $0.extents.contains(extent) } }

  /// The segment of a position, or where it is to be read.
  /// - Parameter byteCount: the blob's length, if it is known.
  func look(at position: Int, byteCount: Int?) -> (kept: SpooledSegment?, place: Place?) {
    state.withLock { state in
      if let kept = state.kept.last(where: { $0.range.contains(position) }) { return (kept, nil) }
      guard let container = state.container else { return (nil, nil) }
      let segment = container.shape.segment(of: position)
      return (
        nil,
        Place(
          container: container, segment: segment,
          range: container.shape.range(ofSegment: segment, byteCount: byteCount),
          isNext: segment == state.lastSegment + 1)
      )
    }
  }

  /// Reads a segment from the disk. Blocks for that long.
  /// - Throws: `corrupt` when it is not what was written; `inputOutput`.
  func load(_ place: Place) throws(PatchbayError) -> SpooledSegment {
    if place.isNext {
      place.container.prefetch(segments: place.segment + 1..<place.segment + 1 + Self.ahead)
    }
    let loaded = SpooledSegment(
      start: place.range.lowerBound,
      bytes: try place.container.read(segment: place.segment, expecting: place.range.count))
    state.withLock { state in
      state.lastSegment = place.segment
      state.kept.append(loaded)
      if state.kept.count > Self.keptLimit { state.kept.removeFirst() }
    }
    return loaded
  }
}
