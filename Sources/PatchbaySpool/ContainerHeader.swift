// The header of a container and its bytes. There are two copies, written in turn: whatever happens to
// the one that is being written, the other is whole. What is read is input: every length is checked,
// nothing traps.

import PatchbayTypes

/// What a container says about itself.
package struct ContainerHeader: Sendable, Hashable {
  package let key: BlobKey
  package let generation: Generation
  package let shape: ContainerShape
  package let compression: SpoolCompression
  /// Bytes of the blob, nil while nobody knows.
  package var byteCount: Int?
  /// Whether the blob is complete; then all its segments were written before.
  package var isSealed: Bool
  /// The digest in its own words, at most 256 bytes of UTF-8; may be empty.
  package var digest: String
  /// At most 20 KiB for whoever writes the container; nothing here looks at them.
  package var note: [UInt8]

  package init(
    key: BlobKey, generation: Generation, shape: ContainerShape, compression: SpoolCompression,
    byteCount: Int? = nil, isSealed: Bool = false, digest: String = "", note: [UInt8] = []
  ) {
    self.key = key
    self.generation = generation
    self.shape = shape
    self.compression = compression
    self.byteCount = byteCount
    self.isSealed = isSealed
    self.digest = digest
    self.note = note
  }

  /// Where the copy with a sequence number stands: the first in copy 0, the next in copy 1, ...
  static func offset(ofSequence sequence: UInt64) -> Int {
    ContainerLayout.copyOffsets[Int((sequence &- 1) % 2)]
  }
}

// MARK: Bytes

extension ContainerHeader {
  /// The bytes of a copy.
  /// - Throws: `limitReached` when the digest or the note is too long, or the length is none.
  package func encoded(sequence: UInt64) throws(PatchbayError) -> [UInt8] {
    try checkLimits()
    let digestBytes = Array(digest.utf8)
    var bytes = [UInt8](repeating: 0, count: HeaderField.byteCountOfAll)
    bytes += key.bytes + digestBytes + note
    HeaderField.magic.store(ContainerLayout.magic, in: &bytes)
    HeaderField.formatVersion.store(UInt64(ContainerLayout.formatVersion), in: &bytes)
    HeaderField.copyByteCount.store(UInt64(bytes.count), in: &bytes)
    HeaderField.sequence.store(sequence, in: &bytes)
    HeaderField.generation.store(generation.rawValue, in: &bytes)
    HeaderField.byteCount.store(byteCount.map(UInt64.init) ?? .max, in: &bytes)
    HeaderField.segmentByteCount.store(UInt64(shape.segmentByteCount), in: &bytes)
    HeaderField.noteByteCount.store(UInt64(note.count), in: &bytes)
    HeaderField.keyByteCount.store(UInt64(key.bytes.count), in: &bytes)
    HeaderField.digestByteCount.store(UInt64(digestBytes.count), in: &bytes)
    HeaderField.state.store(UInt64(state.rawValue), in: &bytes)
    HeaderField.compression.store(UInt64(compression.rawValue), in: &bytes)
    HeaderField.checksum.store(RecordChecksum.of(bytes), in: &bytes)
    return bytes
  }

  private var state: BlobState { isSealed ? .sealed : .open }

  private func checkLimits() throws(PatchbayError) {
    guard digest.utf8.count <= ContainerLayout.digestByteLimit,
      note.count <= ContainerLayout.noteByteLimit,
      (0...ExtentPlan.positionLimit).contains(byteCount ?? 0)
    else {
      throw PatchbayError(
        .limitReached,
        "A spool file holds a digest of up to \(ContainerLayout.digestByteLimit) bytes, a note of "
          + "up to \(ContainerLayout.noteByteLimit) and a blob of up to \(ExtentPlan.positionLimit); "
          + "\(digest.utf8.count), \(note.count) and \(byteCount ?? 0) bytes were to be written.")
    }
  }

  /// The header in a copy that begins at an index of some bytes, with its sequence number.
  /// - Throws: `versionMismatch` when it is one of another version, else `corrupt`.
  static func decode(
    _ bytes: [UInt8], at start: Int
  ) throws(PatchbayError) -> (header: ContainerHeader, sequence: UInt64) {
    let copy = try wholeCopy(bytes, at: start)
    let keyEnd = HeaderField.byteCountOfAll + Int(HeaderField.keyByteCount.load(copy))
    let digestEnd = keyEnd + Int(HeaderField.digestByteCount.load(copy))
    let noteByteCount = Int(HeaderField.noteByteCount.load(copy))
    let rawByteCount = HeaderField.byteCount.load(copy)
    let byteCount = rawByteCount == .max ? nil : Int(exactly: rawByteCount) ?? -1
    guard digestEnd + noteByteCount == copy.count,
      let key = try? BlobKey(Array(copy[HeaderField.byteCountOfAll..<keyEnd])),
      let shape = try? ContainerShape(
        segmentByteCount: Int(HeaderField.segmentByteCount.load(copy))),
      let compression = SpoolCompression(rawValue: copy[HeaderField.compression.offset]),
      let state = BlobState(rawValue: copy[HeaderField.state.offset]),
      state == .open || state == .sealed,
      let digest = String(validating: copy[keyEnd..<digestEnd], as: UTF8.self)
    else { throw damaged(start, "its fields contradict each other") }
    let header = ContainerHeader(
      key: key, generation: Generation(rawValue: HeaderField.generation.load(copy)), shape: shape,
      compression: compression, byteCount: byteCount, isSealed: state == .sealed, digest: digest,
      note: Array(copy[digestEnd...]))
    do { try header.checkLimits() } catch { throw damaged(start, error.message) }
    return (header, HeaderField.sequence.load(copy))
  }

  /// The bytes of a copy whose magic, version, length, place and checksum are right, cut out, with
  /// the checksum taken as zero.
  private static func wholeCopy(_ bytes: [UInt8], at start: Int) throws(PatchbayError) -> [UInt8] {
    guard start + HeaderField.byteCountOfAll <= bytes.count else {
      throw damaged(start, "the file has \(bytes.count) bytes only")
    }
    guard HeaderField.magic.load(bytes, at: start) == ContainerLayout.magic else {
      throw damaged(start, "it does not begin with PBAYSPOL")
    }
    let version = HeaderField.formatVersion.load(bytes, at: start)
    guard version == UInt64(ContainerLayout.formatVersion) else {
      throw PatchbayError(
        .versionMismatch,
        "A spool file has format \(version); this Patchbay reads format "
          + "\(ContainerLayout.formatVersion). Use the version that wrote it.")
    }
    let byteCount = Int(HeaderField.copyByteCount.load(bytes, at: start))
    guard (HeaderField.byteCountOfAll...ContainerLayout.copyByteLimit).contains(byteCount),
      start + byteCount <= bytes.count
    else { throw damaged(start, "it is said to have \(byteCount) bytes") }
    var copy = Array(bytes[start..<start + byteCount])
    let checksum = HeaderField.checksum.load(copy)
    HeaderField.checksum.store(0, in: &copy)
    let found = RecordChecksum.of(copy)
    guard checksum == found else {
      throw damaged(start, "its checksum is \(found) and should be \(checksum)")
    }
    guard start == offset(ofSequence: HeaderField.sequence.load(copy)),
      HeaderField.reserved.load(copy) == 0
    else { throw damaged(start, "it belongs elsewhere") }
    return copy
  }

  private static func damaged(_ start: Int, _ how: String) -> PatchbayError {
    PatchbayError(
      .corrupt,
      "The header of a spool file at offset \(start) is damaged: \(how). Without another whole copy "
        + "nothing in this file can be used; write the blob again.")
  }
}

// MARK: Both copies

/// What the beginning of a file says.
package struct ContainerHeaders: Sendable, Hashable {
  /// The newest that is whole.
  package let header: ContainerHeader
  package let sequence: UInt64
  /// Copies that are neither whole nor unwritten: 1 after a write that was cut short, or by damage.
  /// The header may then be the one before the last.
  package let damagedCopyCount: Int

  /// Reads both copies from the first bytes of a file, up to 64 KiB.
  /// - Throws: `corrupt`, `versionMismatch` when no copy is whole.
  package init(_ area: [UInt8]) throws(PatchbayError) {
    var best: (header: ContainerHeader, sequence: UInt64)?
    var refusal: PatchbayError?
    var damagedCopyCount = 0
    for start in ContainerLayout.copyOffsets {
      do throws(PatchbayError) {
        let found = try ContainerHeader.decode(area, at: start)
        if found.sequence > best?.sequence ?? 0 { best = found }
      } catch {
        if refusal?.code != .versionMismatch { refusal = error }
        if !Self.isUnwritten(area, at: start) { damagedCopyCount += 1 }
      }
    }
    guard let best else {
      throw refusal ?? PatchbayError(.corrupt, "The header of a spool file has no number.")
    }
    header = best.header
    sequence = best.sequence
    self.damagedCopyCount = damagedCopyCount
  }

  private static func isUnwritten(_ area: [UInt8], at start: Int) -> Bool {
    let end = min(start + HeaderField.byteCountOfAll, area.count)
    return area.count >= start && area[start..<max(start, end)].allSatisfy { $0 == 0 }
  }
}
