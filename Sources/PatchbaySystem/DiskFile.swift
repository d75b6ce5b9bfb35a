// Files on disk, each system call once. Names are looked up in a directory that is held open, never
// through a symbolic link. Interrupted calls are repeated and short writes continued; a full disk is
// `noSpaceSpool`, everything else that the system refuses is `inputOutput`.

import CPatchbaySystem
import Glibc
import PatchbayTypes

package enum DiskFile {
  // MARK: By name

  /// A directory, held open.
  package static func openDirectory(_ path: String) throws(PatchbayError) -> Descriptor {
    let result = unsafe Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard result >= 0 else { throw .disk("Opening the directory \(path)", errno: errno) }
    return Descriptor(owning: result)
  }

  /// A new empty file with mode 0600, for reading and writing.
  /// - Throws: `inputOutput` when the name is taken, be it by a symbolic link; `noSpaceSpool`.
  package static func create(
    in directory: borrowing Descriptor, name: String
  ) throws(PatchbayError) -> Descriptor {
    let flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC
    let result = unsafe openat(directory.rawValue, name, flags, 0o600)
    guard result >= 0 else { throw .disk("Creating the file \(name)", errno: errno) }
    return Descriptor(owning: result)
  }

  /// A file that is there.
  /// - Throws: `inputOutput` when there is none, or it is no regular file; `notPermitted`.
  package static func open(
    in directory: borrowing Descriptor, name: String, isWritable: Bool
  ) throws(PatchbayError) -> Descriptor {
    // Without waiting: a pipe of that name would have no other end.
    let flags = (isWritable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK
    let result = unsafe openat(directory.rawValue, name, flags)
    guard result >= 0 else { throw .disk("Opening the file \(name)", errno: errno) }
    let descriptor = Descriptor(owning: result)
    guard try facts(of: descriptor).isRegular else {
      throw PatchbayError(
        .inputOutput, "\(name) is not a regular file; nothing was done with it. Move it elsewhere.")
    }
    return descriptor
  }

  /// Takes a name away; one that is gone already is no error.
  package static func remove(
    in directory: borrowing Descriptor, name: String
  ) throws(PatchbayError) {
    guard unsafe unlinkat(directory.rawValue, name, 0) == 0 || errno == ENOENT else {
      throw .disk("Removing the file \(name)", errno: errno)
    }
  }

  /// Gives a file another name in its directory; a file of that name is replaced. At any moment it has
  /// one of both.
  package static func rename(
    in directory: borrowing Descriptor, from name: String, to other: String
  ) throws(PatchbayError) {
    guard unsafe renameat(directory.rawValue, name, directory.rawValue, other) == 0 else {
      throw .disk("Renaming the file \(name) to \(other)", errno: errno)
    }
  }

  /// Returns once the names of a directory are on the device. After a failure nobody knows which are.
  package static func synchronizeDirectory(
    _ directory: borrowing Descriptor
  ) throws(PatchbayError) {
    while fsync(directory.rawValue) != 0 {
      guard errno == EINTR else { throw .disk("Writing a directory through to disk", errno: errno) }
    }
  }

  // MARK: Sizes

  /// What the system says about a file.
  package struct Facts: Sendable, Hashable {
    package let isRegular: Bool
    /// Its length, holes included.
    package let byteCount: Int
    /// What it takes on disk.
    package let allocatedByteCount: Int
  }

  package static func facts(of file: borrowing Descriptor) throws(PatchbayError) -> Facts {
    var facts = stat()
    guard unsafe fstat(file.rawValue, &facts) == 0 else {
      throw .disk("Looking at a file", errno: errno)
    }
    return Facts(
      isRegular: facts.st_mode & S_IFMT == S_IFREG, byteCount: Int(facts.st_size),
      allocatedByteCount: Int(facts.st_blocks) * 512)
  }

  /// Cuts a file off or makes it longer by a hole.
  package static func setByteCount(
    _ file: borrowing Descriptor, _ byteCount: Int
  ) throws(PatchbayError) {
    while ftruncate(file.rawValue, off_t(byteCount)) != 0 {
      guard errno == EINTR else {
        throw .disk("Setting the size of a file to \(byteCount) bytes", errno: errno)
      }
    }
  }

  /// Gives the disk space of a range back; its bytes are zeros then.
  /// - Throws: `inputOutput`, also where the file system cannot do it.
  package static func punchHole(
    _ file: borrowing Descriptor, _ range: Range<Int>
  ) throws(PatchbayError) {
    let result = pb_punch_hole(file.rawValue, Int64(range.lowerBound), Int64(range.count))
    guard result == 0 else {
      throw .disk("Giving bytes \(range) of a file back", errno: -result)
    }
  }

  /// Where at or behind an offset the first byte stands that is in no hole, nil when there is none.
  package static func firstData(
    _ file: borrowing Descriptor, from offset: Int
  ) throws(PatchbayError) -> Int? {
    let found = pb_first_data(file.rawValue, Int64(offset))
    if found == -Int64(ENXIO) { return nil }
    guard found >= 0 else {
      throw .disk("Looking for data behind \(offset) of a file", errno: Int32(-found))
    }
    return Int(found)
  }

  // MARK: Bytes

  /// The bytes from an offset on behind some that were read in front of it: `prefix`, then up to
  /// `byteCount`, fewer only where the file ends. Allocates the sum of both.
  package static func read(
    _ file: borrowing Descriptor, at offset: Int, byteCount: Int, behind prefix: [UInt8] = []
  ) throws(PatchbayError) -> [UInt8] {
    var failure: Int32 = 0
    let rawValue = file.rawValue
    let total = prefix.count + byteCount
    let bytes = unsafe [UInt8](unsafeUninitializedCapacity: total) { buffer, count in
      unsafe prefix.withUnsafeBytes {
        unsafe UnsafeMutableRawBufferPointer(buffer).copyMemory(from: $0)
      }
      count = prefix.count
      while count < total {
        let got = unsafe pread(
          rawValue, buffer.baseAddress.map { unsafe $0 + count }, total - count,
          off_t(offset + count - prefix.count))
        if got < 0 && errno == EINTR { continue }
        if got < 0 { failure = errno }
        guard got > 0 else { return }
        count += got
      }
    }
    guard failure == 0 else {
      throw .disk("Reading \(byteCount) bytes at \(offset) of a file", errno: failure)
    }
    return bytes
  }

  /// Writes all bytes at an offset.
  /// - Throws: `noSpaceSpool`, `inputOutput`; then a part may be written.
  @unsafe package static func write(
    _ file: borrowing Descriptor, at offset: Int, _ bytes: UnsafeRawBufferPointer
  ) throws(PatchbayError) {
    var done = 0
    while done < bytes.count {
      let put = unsafe pwrite(
        file.rawValue, bytes.baseAddress.map { unsafe $0 + done }, bytes.count - done,
        off_t(offset + done))
      if put < 0 && errno == EINTR { continue }
      // Nothing written and nothing said about it: the device takes no more.
      guard put > 0 else {
        throw .disk(
          "Writing \(bytes.count) bytes at \(offset) of a file", errno: put == 0 ? ENOSPC : errno)
      }
      done += put
    }
  }

  /// The same for an array.
  package static func write(
    _ file: borrowing Descriptor, at offset: Int, _ bytes: [UInt8]
  ) throws(PatchbayError) {
    try unsafe bytes.span.withUnsafeBytes { (all) throws(PatchbayError) in
      try unsafe write(file, at: offset, all)
    }
  }

  /// Returns once the bytes, and what is needed to find them, are on the device. After a failure
  /// nobody knows which bytes are, and a second call proves nothing.
  package static func synchronize(_ file: borrowing Descriptor) throws(PatchbayError) {
    while fdatasync(file.rawValue) != 0 {
      guard errno == EINTR else { throw .disk("Writing a file through to disk", errno: errno) }
    }
  }

  /// Asks the system to read a range soon. A hint: nothing waits, and nothing fails.
  package static func prefetch(_ file: borrowing Descriptor, _ range: Range<Int>) {
    _ = posix_fadvise(
      file.rawValue, off_t(range.lowerBound), off_t(range.count), POSIX_FADV_WILLNEED)
  }
}

extension PatchbayError {
  /// A refused system call on a file: `noSpaceSpool` for a full disk, quota or file, else as `system`.
  fileprivate static func disk(_ attempt: String, errno number: Int32) -> PatchbayError {
    switch number {
    case ENOSPC, EDQUOT, EFBIG:
      return PatchbayError(
        .noSpaceSpool,
        "\(attempt) failed: \(systemReason(number)). Remove blobs, or give the spool's directory "
          + "more room (its disk, its user's quota, the largest size of a file).",
        systemErrno: number)
    case ENOMEM:
      return PatchbayError(
        .inputOutput, "\(attempt) failed: \(systemReason(number)).", systemErrno: number)
    default: return .system(attempt, errno: number)
    }
  }
}
