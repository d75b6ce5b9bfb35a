// Writes a container. At any time, whenever the writer dies, the file is a row of whole frames:
//
//   1 all segments below the one that is written, and this one, get the head of a missing segment
//     (each once), and the file its length
//   2 the block and what stands behind it, into the hole of the missing segment
//   3 the lead, one page, which says that the segment is there
//
// So a segment is missing until its last step. Loss of power may reorder the three; then the checksum
// of the content does not match, which a reader finds. A failed write puts the missing head back and
// gives the space back.

import CLZ4
import PatchbaySystem
import PatchbayTypes

/// What became of a segment that was written.
package struct SegmentOutcome: Sendable, Hashable {
  /// Bytes of disk that it takes: whole pages.
  package let diskByteCount: Int
  package let isCompressed: Bool
  /// XXH32 of its content, as it stands in the file.
  package let checksum: UInt32
}

/// A container that is being written. One thread at a time; calls block for the disk.
package final class ContainerWriter {
  /// As it was written last.
  package private(set) var header: ContainerHeader
  package var shape: ContainerShape { header.shape }

  private let file: Descriptor
  private let frame: SegmentFrame
  private var sequence: UInt64
  /// Segments below it have a head.
  private var laidOutCount: Int
  private var fileByteCount: Int
  /// Compressed blocks with their tails.
  private var scratch: [UInt8] = []

  private init(
    _ file: consuming Descriptor, _ header: ContainerHeader, sequence: UInt64, fileByteCount: Int
  ) {
    self.file = file
    self.header = header
    self.sequence = sequence
    self.fileByteCount = fileByteCount
    frame = SegmentFrame(shape: header.shape)
    let strides = max(fileByteCount - ContainerLayout.areaByteCount, 0) / header.shape.stride
    laidOutCount = min(strides, header.shape.segmentLimit)
  }

  // MARK: Beginning

  /// A new file with this header and no segments, mode 0600. Nothing is left of it on failure.
  /// - Throws: `noSpaceSpool`; `inputOutput`, also when the name is taken; `limitReached` for a
  ///   header that is too long.
  package static func create(
    in directory: borrowing Descriptor, name: String, _ header: ContainerHeader
  ) throws(PatchbayError) -> ContainerWriter {
    let file = try DiskFile.create(in: directory, name: name)
    let writer = ContainerWriter(file, header, sequence: 0, fileByteCount: 0)
    do throws(PatchbayError) {
      try writer.begin()
      return writer
    } catch {
      try? DiskFile.remove(in: directory, name: name)
      throw error
    }
  }

  private func begin() throws(PatchbayError) {
    try DiskFile.write(file, at: 0, ContainerArea.head)
    try grow(to: ContainerLayout.areaByteCount)
    // Both copies, so that a later header finds its pages on a disk that is full by then.
    try write(header: header)
    try write(header: header)
  }

  /// Goes on with a file that is there.
  /// - Throws: `corrupt`, `versionMismatch` for its header; `inputOutput`, `notPermitted`.
  package static func open(
    in directory: borrowing Descriptor, name: String
  ) throws(PatchbayError) -> ContainerWriter {
    let file = try DiskFile.open(in: directory, name: name, isWritable: true)
    let headers = try ContainerArea.headers(file)
    let fileByteCount = try DiskFile.facts(of: file).byteCount
    return ContainerWriter(
      file, headers.header, sequence: headers.sequence, fileByteCount: fileByteCount)
  }

  // MARK: The header

  /// Writes the older copy of the header anew; the file then has this one. On failure it has the one
  /// before. Who writes a header twice has it in both copies, safe from damage to one.
  /// - Throws: `noSpaceSpool`, `inputOutput`, `limitReached` for one that is too long.
  package func write(header: ContainerHeader) throws(PatchbayError) {
    precondition(header.shape == shape, "segments do not move")
    let bytes = try header.encoded(sequence: sequence + 1)
    try DiskFile.write(file, at: ContainerHeader.offset(ofSequence: sequence + 1), bytes)
    sequence += 1
    self.header = header
  }

  // MARK: Segments

  /// Writes a segment whole, over what it held before. On failure it is missing.
  /// - Throws: `rangeOutOfBounds` for a segment outside of the blob or a wrong count of bytes;
  ///   `noSpaceSpool`; `inputOutput`.
  @unsafe @discardableResult package func write(
    segment: Int, _ bytes: UnsafeRawBufferPointer
  ) throws(PatchbayError) -> SegmentOutcome {
    try check(segment, byteCount: bytes.count)
    try layOut(through: segment)
    let checksum = unsafe XXH32.of(bytes)
    let compressed = unsafe compress(bytes)
    let blockByteCount = compressed ?? bytes.count
    let tail = frame.tail(blockByteCount: blockByteCount, contentChecksum: checksum)
    let word = UInt64(blockByteCount) | (compressed == nil ? SegmentFrame.storedBit : 0)
    let lead = frame.lead(contentByteCount: bytes.count, blockWord: word)
    let at = shape.offset(ofSegment: segment)
    do throws(PatchbayError) {
      if compressed != nil {
        try write(compressedBlock: blockByteCount, tail, at: at + ContainerLayout.page)
      } else {
        try unsafe DiskFile.write(file, at: at + ContainerLayout.page, bytes)
        try DiskFile.write(file, at: at + ContainerLayout.page + bytes.count, tail)
      }
      try DiskFile.write(file, at: at, lead)
    } catch {
      try? clear(segment)
      throw error
    }
    return SegmentOutcome(
      diskByteCount: SegmentFrame.diskByteCount(block: blockByteCount),
      isCompressed: compressed != nil, checksum: checksum)
  }

  /// The same for an array.
  @discardableResult package func write(
    segment: Int, _ bytes: [UInt8]
  ) throws(PatchbayError) -> SegmentOutcome {
    try unsafe bytes.span.withUnsafeBytes { (all) throws(PatchbayError) in
      try unsafe write(segment: segment, all)
    }
  }

  private func check(_ segment: Int, byteCount: Int) throws(PatchbayError) {
    guard (0..<shape.segmentLimit).contains(segment) else {
      throw PatchbayError(
        .rangeOutOfBounds,
        "Segment \(segment) was to be written to a spool file of at most \(shape.segmentLimit).")
    }
    let range = shape.range(ofSegment: segment, byteCount: header.byteCount)
    let isRight = header.byteCount == nil ? byteCount <= range.count : byteCount == range.count
    guard isRight, byteCount > 0 else {
      throw PatchbayError(
        .rangeOutOfBounds,
        "Segment \(segment) holds bytes \(range) of the blob; \(byteCount) were to be written.")
    }
  }

  /// Compresses into the scratch memory. Nil when off, or when it saves no page.
  @unsafe private func compress(_ bytes: UnsafeRawBufferPointer) -> Int? {
    guard header.compression == .lz4,
      let limit = SegmentFrame.compressedLimit(contentByteCount: bytes.count)
    else { return nil }
    if scratch.isEmpty {
      scratch = [UInt8](
        repeating: 0, count: shape.segmentByteCount + TailField.byteCountOfAll)
    }
    let byteCount = unsafe scratch.withUnsafeMutableBytes { into in
      unsafe LZ4_compress_default(
        bytes.assumingMemoryBound(to: CChar.self).baseAddress,
        into.assumingMemoryBound(to: CChar.self).baseAddress, Int32(bytes.count), Int32(limit))
    }
    return byteCount > 0 ? Int(byteCount) : nil
  }

  private func write(
    compressedBlock byteCount: Int, _ tail: [UInt8], at offset: Int
  ) throws(PatchbayError) {
    scratch.replaceSubrange(byteCount..<byteCount + tail.count, with: tail)
    let block = scratch
    try unsafe block.span.withUnsafeBytes { (all) throws(PatchbayError) in
      try unsafe DiskFile.write(
        file, at: offset, UnsafeRawBufferPointer(rebasing: all[..<(byteCount + tail.count)]))
    }
  }

  /// Gives every segment up to this one a head; this one is missing then.
  private func layOut(through segment: Int) throws(PatchbayError) {
    if segment < laidOutCount { try clear(segment) }
    while laidOutCount <= segment {
      try DiskFile.write(file, at: shape.offset(ofSegment: laidOutCount), frame.missingHead)
      laidOutCount += 1
    }
    try grow(to: shape.offset(ofSegment: laidOutCount))
  }

  private func grow(to byteCount: Int) throws(PatchbayError) {
    guard byteCount > fileByteCount else { return }
    try DiskFile.setByteCount(file, byteCount)
    fileByteCount = byteCount
  }

  /// Makes a segment missing, and gives the space behind its first page back where that can be done.
  private func clear(_ segment: Int) throws(PatchbayError) {
    let at = shape.offset(ofSegment: segment)
    let head = frame.missingHead
    let found = try? DiskFile.read(file, at: at, byteCount: head.count)
    if found != head { try DiskFile.write(file, at: at, head) }
    let rest = at + ContainerLayout.page..<at + shape.stride
    if try DiskFile.firstData(file, from: rest.lowerBound).map(rest.contains) == true {
      try? DiskFile.punchHole(file, rest)
    }
  }

  // MARK: The file

  /// Bytes of disk that the file takes now.
  package func allocatedByteCount() throws(PatchbayError) -> Int {
    try DiskFile.facts(of: file).allocatedByteCount
  }

  /// Returns once everything that was written is on the device.
  /// - Throws: `inputOutput`, `noSpaceSpool`: then the file is lost, whatever a second call says.
  package func synchronize() throws(PatchbayError) { try DiskFile.synchronize(file) }

  /// The file, to be written through by another thread. Errors of the device are told to either once.
  package func descriptor() throws(PatchbayError) -> Descriptor { try file.duplicate() }

  /// The file, opened anew for reading only, whatever its name is by now.
  package func readOnlyDescriptor() throws(PatchbayError) -> Descriptor {
    try SharedObject.readOnlyCopy(of: file)
  }
}
