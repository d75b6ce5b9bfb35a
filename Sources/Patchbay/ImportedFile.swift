// A file that was imported, as its readers see it. It belongs to somebody who may write to it, cut
// it off or put another one in its place at any moment, so it is never mapped, and what was read is
// believed only if the file had the stamp of the import after the read. A file's clock is moved
// before its bytes are changed, so whoever got a new byte finds a new stamp; unless the clock goes
// in ticks and both fell into one, or the bytes were changed by stores into a mapping that was
// writable before. A tmpfs moves its clock after a hole was punched, and not for stores into a mapping.

import PatchbaySystem
import PatchbayTypes
import Synchronization

/// An imported file that is being read. Any number of threads at once; calls block for the disk.
package final class ImportedFile: SegmentSource {
  /// Bytes that are read at once.
  static let segmentByteCount = 256 * 1024

  let stamp: FileStamp
  private let key: BlobKey
  private let granted: Descriptor
  private let own = Mutex<OwnFile?>(nil)

  /// The file, opened by this process.
  private final class OwnFile: Sendable {
    let file: Descriptor
    init(_ file: consuming Descriptor) { self.file = file }
  }

  init(_ granted: consuming Descriptor, stamp: FileStamp, key: BlobKey) {
    self.granted = granted
    self.stamp = stamp
    self.key = key
  }

  func segment(of position: Int) -> Int { position / Self.segmentByteCount }

  func range(ofSegment segment: Int, byteCount: Int?) -> Range<Int> {
    let start = min(segment * Self.segmentByteCount, stamp.byteCount)
    return start..<min(start + Self.segmentByteCount, stamp.byteCount)
  }

  /// - Throws: `corrupt` when the file is not what it was when it was imported; `inputOutput`.
  func read(segment: Int, expecting count: Int) throws(PatchbayError) -> [UInt8] {
    let offset = segment * Self.segmentByteCount
    let bytes: [UInt8]
    if let own = openedHere() {
      bytes = try DiskFile.read(own.file, at: offset, byteCount: count)
    } else {
      bytes = try DiskFile.read(granted, at: offset, byteCount: count)
    }
    try checkUnchanged()
    guard bytes.count == count else {
      throw changed("ends at byte \(offset + bytes.count)")
    }
    return bytes
  }

  func prefetch(segments: Range<Int>) {
    let start = min(segments.lowerBound * Self.segmentByteCount, stamp.byteCount)
    let end = min(segments.upperBound * Self.segmentByteCount, stamp.byteCount)
    if start < end { DiskFile.prefetch(granted, start..<end) }
  }

  /// Looks at the file, without the broker. Blocks for the file's system.
  /// - Throws: `corrupt` when the file is not what it was when it was imported; `inputOutput` when
  ///   nobody can say.
  package func checkUnchanged() throws(PatchbayError) {
    if let difference = try FileLook(granted).stamp.difference(from: stamp) {
      throw changed(difference)
    }
  }

  /// A descriptor of the file with an offset and flags of its own, for reading only.
  /// - Throws: `notPermitted` where its mode does not let this user open it.
  package func reopened() throws(PatchbayError) -> Descriptor {
    try DiskFile.reopened(granted.rawValue)
  }

  /// Whoever has the granted descriptor shares its flags with all others who have it; so it is used
  /// only where there is no other way.
  private func openedHere() -> OwnFile? {
    own.withLock { own in
      if own == nil { own = try? OwnFile(reopened()) }
      return own
    }
  }

  private func changed(_ how: String) -> PatchbayError {
    PatchbayError(
      .corrupt,
      "The file of the imported blob \(key) \(how) since it was imported; nothing of it is given out. "
        + "Import it again, or publish it with a copy.")
  }
}

extension Subscriber {
  /// The file of an imported blob; nil for any other blob. Blocks for the broker's answer.
  /// - Throws: `corrupt` when the blob has failed of a change; `closed`, `noBroker`, `timedOut`.
  package func importedFile(deadline: Deadline) throws(PatchbayError) -> ImportedFile? {
    guard handle.entry != nil, handle.windowShape == nil, handle.byteCount ?? 0 > 0 else {
      return nil
    }
    try handle.attach(0, deadline: deadline, onBound: checkNotClosed)
    return handle.spooled.source as? ImportedFile
  }
}
