// Reads segments of a container and believes nothing: what the file says is compared with what it
// must be, and the bytes with their checksum. One read costs one segment, never more than a stride,
// and allocates no more than a stride and a segment, whatever the file holds.

import CLZ4
import PatchbaySystem
import PatchbayTypes

/// A container that is being read. Any number of threads at once; calls block for the disk.
package final class ContainerReader: Sendable {
  package let shape: ContainerShape

  private let file: Descriptor
  private let frame: SegmentFrame
  /// How much to read before it is known how much there is.
  private let firstByteCount: Int

  /// The segments behind a descriptor.
  /// - Parameter compression: what was wanted of the writer. A guess about lengths only: without
  ///   compression a read is one call, with it a call for the first 64 KiB and one for the rest.
  package init(
    _ file: consuming Descriptor, shape: ContainerShape, compression: SpoolCompression = .none
  ) {
    self.file = file
    self.shape = shape
    frame = SegmentFrame(shape: shape)
    firstByteCount = compression == .lz4 ? 65_536 : shape.stride
  }

  /// The header that is in the file.
  /// - Throws: `corrupt`, `versionMismatch`, `inputOutput`.
  package static func headers(
    _ file: borrowing Descriptor
  ) throws(PatchbayError) -> ContainerHeaders { try ContainerArea.headers(file) }

  /// The bytes of a segment, verified.
  /// - Parameter count: how many bytes the segment has, as its blob's length says.
  /// - Throws: `corrupt` for a segment that is missing or damaged; `rangeOutOfBounds` for one that
  ///   cannot be; `inputOutput`.
  package func read(segment: Int, expecting count: Int) throws(PatchbayError) -> [UInt8] {
    guard (0..<shape.segmentLimit).contains(segment),
      (1...shape.segmentByteCount).contains(count)
    else {
      throw PatchbayError(
        .rangeOutOfBounds,
        "\(count) bytes of segment \(segment) were to be read from a spool file with at most "
          + "\(shape.segmentLimit) segments of up to \(shape.segmentByteCount).")
    }
    switch try look(segment: segment, expected: count) {
    case .written(let bytes, _): return bytes
    case .missing: throw unreadable(segment, "is not there: it was never written")
    case .damaged(let how): throw unreadable(segment, "is damaged: \(how)")
    }
  }

  private func unreadable(_ segment: Int, _ how: String) -> PatchbayError {
    PatchbayError(
      .corrupt,
      "Segment \(segment) at offset \(shape.offset(ofSegment: segment)) of a spool file \(how). The "
        + "other segments are as good as they were; create the blob again to have this one.")
  }

  /// Asks the system to read segments soon. A hint: nothing waits, and nothing fails.
  package func prefetch(segments: Range<Int>) {
    let segments = segments.clamped(to: 0..<shape.segmentLimit)
    guard !segments.isEmpty else { return }
    let start = shape.offset(ofSegment: segments.lowerBound)
    DiskFile.prefetch(file, start..<shape.offset(ofSegment: segments.upperBound))
  }

  // MARK: Looking

  /// What a segment is found to be.
  enum Sight: Sendable, Hashable {
    case missing
    /// Its verified bytes, and whether the skippable frame behind them is whole.
    case written([UInt8], isRestWhole: Bool)
    /// Why its bytes cannot be had.
    case damaged(String)
  }

  /// Reads and verifies a segment.
  /// - Parameter expected: bytes that there must be; nil: up to a full segment.
  func look(segment: Int, expected: Int?) throws(PatchbayError) -> Sight {
    let at = shape.offset(ofSegment: segment)
    let most = Self.byteCount(block: expected ?? shape.segmentByteCount)
    var bytes = try DiskFile.read(file, at: at, byteCount: min(most, firstByteCount))
    switch frame.beginning(bytes, expected: expected) {
    case .missing: return .missing
    case .damaged(let how): return .damaged(how)
    case .written(let block):
      let wanted = Self.byteCount(block: block.byteCount)
      if bytes.count < wanted {
        bytes = try DiskFile.read(
          file, at: at + bytes.count, byteCount: wanted - bytes.count, behind: bytes)
      }
      return content(of: block, consume bytes)
    }
  }

  /// From a segment's beginning to the head of the skippable frame behind its block.
  private static func byteCount(block byteCount: Int) -> Int {
    LeadField.byteCountOfAll + byteCount + TailField.byteCountOfAll
  }

  private func content(of block: SegmentFrame.Block, _ bytes: consuming [UInt8]) -> Sight {
    let tail = LeadField.byteCountOfAll + block.byteCount
    guard bytes.count >= tail + TailField.byteCountOfAll else {
      return .damaged("the file ends after \(bytes.count) bytes of it")
    }
    let endMark = TailField.endMark.load(bytes, at: tail)
    guard endMark == 0 else { return .damaged("its end mark is \(endMark) and should be 0") }
    let wanted = TailField.contentChecksum.load(bytes, at: tail)
    let isRestWhole = frame.isRestWhole(bytes, behind: block)
    guard let content = Self.plain(block, consume bytes) else {
      return .damaged("its block does not decompress to \(block.contentByteCount) bytes")
    }
    let found = UInt64(XXH32.of(content))
    guard found == wanted else {
      return .damaged("the checksum of its content is \(found) and should be \(wanted)")
    }
    return .written(content, isRestWhole: isRestWhole)
  }

  /// The content of a block with its lead and tail, nil when it is not what it says. A stored one
  /// stays in the memory into which it was read.
  private static func plain(
    _ block: SegmentFrame.Block, _ bytes: consuming [UInt8]
  ) -> [UInt8]? {
    bytes.removeLast(bytes.count - LeadField.byteCountOfAll - block.byteCount)
    guard block.isCompressed else {
      bytes.removeFirst(LeadField.byteCountOfAll)
      return bytes
    }
    let packed = bytes[LeadField.byteCountOfAll...]
    let limit = block.contentByteCount
    let content = unsafe [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
      let made = unsafe packed.withUnsafeBytes { from in
        unsafe LZ4_decompress_safe(
          from.assumingMemoryBound(to: CChar.self).baseAddress,
          UnsafeMutableRawBufferPointer(buffer).assumingMemoryBound(to: CChar.self).baseAddress,
          Int32(from.count), Int32(limit))
      }
      count = max(Int(made), 0)
    }
    return content.count == limit ? content : nil
  }
}
