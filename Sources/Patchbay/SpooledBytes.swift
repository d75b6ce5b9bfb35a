// Bytes that are not in memory: they have left it for the spool, or were imported and never were in
// it. A subscriber gets the file's descriptor once, reads a segment of it at a time and looks for
// itself that it is what it must be; a few segments are kept, since who reads some bytes of one
// mostly reads the next ones, too; and the descriptors of some scratch files, where extents stand that
// are not covered throughout. Nobody else is held up by that, however slow the disk is.

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
    /// Extents in scratch files, the one that was asked for last at the end.
    var parts: [Known] = []
    /// The one that was read last at the end.
    var kept: [SpooledSegment] = []
    var lastSegment = -1
  }

  /// A scratch file, and the board's extent version before the broker was asked for it: with another
  /// one the extent may be in memory again, with more covered.
  private struct Known {
    let part: ScratchPart
    let version: UInt32
  }

  /// What has to be read first.
  enum Place: Sendable {
    case segment(Segment)
    /// The covered bytes at a position.
    case scratch(ScratchPart, position: Int)
  }

  /// A segment of a container.
  struct Segment: Sendable {
    let source: any SegmentSource
    let number: Int
    let range: Range<Int>
    let isNext: Bool
  }

  private let state = Mutex(State())
  private static let keptLimit = 4
  /// Each costs a descriptor.
  private static let partLimit = 8
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

  /// Takes over that an extent stands in a scratch file.
  func take(_ part: ScratchPart, version: UInt32) {
    state.withLock { state in
      state.parts.removeAll { $0.part.index == part.index }
      state.parts.append(Known(part: part, version: version))
      if state.parts.count > Self.partLimit { state.parts.removeFirst() }
    }
  }

  /// The scratch file of an extent, if it is known to stand there in this version of the board.
  func part(_ extent: Int, version: UInt32) -> ScratchPart? {
    state.withLock { state in
      state.parts.first { $0.part.index == extent && $0.version == version }?.part
    }
  }

  /// The file, if one was granted.
  var source: (any SegmentSource)? { state.withLock { $0.source } }

  func holds(_ extent: Int) -> Bool { state.withLock { $0.extents.contains(extent) } }

  /// The bytes at a position, or where they are to be read; neither when they are not known to stand
  /// on disk. What was covered once is there for good, whatever has become of the extent since.
  /// - Parameters:
  ///   - extent: the position's.
  ///   - byteCount: the blob's length, if it is known.
  func look(
    at position: Int, in extent: Int, byteCount: Int?
  ) -> (kept: SpooledSegment?, place: Place?) {
    state.withLock { state in
      if let kept = state.kept.last(where: { $0.range.contains(position) }) { return (kept, nil) }
      if let known = state.parts.first(where: { $0.part.index == extent }),
        known.part.coveredEnd(from: position) > position
      {
        return (nil, .scratch(known.part, position: position))
      }
      guard let source = state.source, state.extents.contains(extent) else {
        return (nil, nil)
      }
      let number = source.segment(of: position)
      return (
        nil,
        .segment(
          Segment(
            source: source, number: number,
            range: source.range(ofSegment: number, byteCount: byteCount),
            isNext: number == state.lastSegment + 1))
      )
    }
  }

  /// Reads from the disk. Blocks for that long.
  /// - Throws: `corrupt` when it is not what was written; `inputOutput`.
  func load(_ place: Place) throws(PatchbayError) -> SpooledSegment {
    switch place {
    case .segment(let segment): return keep(try load(segment), segment.number)
    case .scratch(let part, let position): return keep(try part.load(at: position), nil)
    }
  }

  private func load(_ place: Segment) throws(PatchbayError) -> SpooledSegment {
    if place.isNext {
      place.source.prefetch(segments: place.number + 1..<place.number + 1 + Self.ahead)
    }
    return SpooledSegment(
      start: place.range.lowerBound,
      bytes: try place.source.read(segment: place.number, expecting: place.range.count))
  }

  private func keep(_ loaded: SpooledSegment, _ number: Int?) -> SpooledSegment {
    state.withLock { state in
      if let number { state.lastSegment = number }
      state.kept.append(loaded)
      if state.kept.count > Self.keptLimit { state.kept.removeFirst() }
    }
    return loaded
  }
}
