// Bytes that are not in memory: they have left it for the spool, or were imported and never were in
// it. A subscriber gets the file's descriptor once, reads a segment of it at a time and looks for
// itself that it is what it must be; a few segments are kept, since who reads some bytes of one
// mostly reads the next ones, too. Nobody else is held up by that, however slow the disk is.

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

/// A file from which segments of a blob can be read.
protocol SegmentSource: Sendable {
  /// The segment that holds a position.
  func segment(of position: Int) -> Int
  /// The positions of a segment, in a blob of this length, if it is known.
  func range(ofSegment segment: Int, byteCount: Int?) -> Range<Int>
  /// The bytes of a segment, verified. Blocks for the disk.
  func read(segment: Int, expecting count: Int) throws(PatchbayError) -> [UInt8]
  /// Asks the system to read segments soon.
  func prefetch(segments: Range<Int>)
}

extension ContainerReader: SegmentSource {
  func segment(of position: Int) -> Int { shape.segment(of: position) }

  func range(ofSegment segment: Int, byteCount: Int?) -> Range<Int> {
    shape.range(ofSegment: segment, byteCount: byteCount)
  }
}

/// What a handle knows of its blob's file.
final class SpooledBytes: Sendable {
  private struct State {
    var source: (any SegmentSource)?
    var extents: Set<Int> = []
    /// The one that was read last at the end.
    var kept: [SpooledSegment] = []
    var lastSegment = -1
  }

  /// A segment that has to be read first.
  struct Place: Sendable {
    let source: any SegmentSource
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
    take(ContainerReader(descriptor, shape: shape), extent: grant.index)
  }

  /// Takes over that an extent is to be read from a file.
  func take(_ source: any SegmentSource, extent: Int) {
    state.withLock { state in
      state.source = state.source ?? source
      state.extents.insert(extent)
    }
  }

  /// The file, if one was granted.
  var source: (any SegmentSource)? { state.withLock { $0.source } }

  func holds(_ extent: Int) -> Bool { state.withLock { $0.extents.contains(extent) } }

  /// The segment of a position, or where it is to be read.
  /// - Parameter byteCount: the blob's length, if it is known.
  func look(at position: Int, byteCount: Int?) -> (kept: SpooledSegment?, place: Place?) {
    state.withLock { state in
      if let kept = state.kept.last(where: { $0.range.contains(position) }) { return (kept, nil) }
      guard let source = state.source else { return (nil, nil) }
      let segment = source.segment(of: position)
      return (
        nil,
        Place(
          source: source, segment: segment,
          range: source.range(ofSegment: segment, byteCount: byteCount),
          isNext: segment == state.lastSegment + 1)
      )
    }
  }

  /// Reads a segment from the disk. Blocks for that long.
  /// - Throws: `corrupt` when it is not what was written; `inputOutput`.
  func load(_ place: Place) throws(PatchbayError) -> SpooledSegment {
    if place.isNext {
      place.source.prefetch(segments: place.segment + 1..<place.segment + 1 + Self.ahead)
    }
    let loaded = SpooledSegment(
      start: place.range.lowerBound,
      bytes: try place.source.read(segment: place.segment, expecting: place.range.count))
    state.withLock { state in
      state.lastSegment = place.segment
      state.kept.append(loaded)
      if state.kept.count > Self.keptLimit { state.kept.removeFirst() }
    }
    return loaded
  }
}
