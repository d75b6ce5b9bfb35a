// A look at a file behind a descriptor, to tell later whether it is still what it was.

import CPatchbaySystem
import Glibc
import PatchbayTypes

/// What the system says about a file and the descriptor by which it was looked at.
package struct FileLook: Sendable, Hashable {
  package let stamp: FileStamp
  package let isRegular: Bool
  /// Whether it has a name somewhere; one without goes with its last descriptor.
  package let hasName: Bool
  /// Whether the descriptor can read at any offset, and cannot write.
  package let readsOnly: Bool

  /// How far the answer may be behind.
  package enum Freshness: Sendable {
    /// As the file is now; on a file system of another machine, or of a process, it may take long.
    case now
    /// As this machine knows it: never waits.
    case known
  }

  package init(
    _ file: borrowing Descriptor, _ freshness: Freshness = .now
  ) throws(PatchbayError) {
    try self.init(at: file.rawValue, freshness)
  }

  package init(at file: Int32, _ freshness: Freshness = .now) throws(PatchbayError) {
    var facts = pb_file_facts()
    _ = try checked(
      unsafe pb_look_at_file(file, freshness == .now ? 1 : 0, &facts), "Looking at a file")
    stamp = FileStamp(
      device: facts.device, inode: facts.inode, byteCount: Int(clamping: facts.byte_count),
      modified: Int64(bitPattern: facts.modified_ns), changed: Int64(bitPattern: facts.changed_ns))
    isRegular = facts.is_regular != 0
    hasName = facts.name_count > 0
    readsOnly = facts.reads_only != 0
  }
}

extension FileLook {
  /// The path of the file behind a descriptor, as the system knows it now; nil when it does not tell.
  package static func path(of file: Int32) -> String? {
    var bytes = [UInt8](repeating: 0, count: Int(PATH_MAX))
    let count = unsafe bytes.withUnsafeMutableBytes { place in
      guard let start = place.baseAddress else { return -1 }
      return unsafe readlink("/proc/self/fd/\(file)", start, place.count)
    }
    guard count > 0, count < bytes.count else { return nil }
    return String(validating: bytes[..<count], as: UTF8.self)
  }
}

extension DiskFile {
  /// A file by its path, for reading; waits for nobody at the other end of a pipe.
  package static func openForReading(_ path: String) throws(PatchbayError) -> Descriptor {
    let result = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard result >= 0 else { throw .system("Opening \(path)", errno: errno) }
    return Descriptor(owning: result)
  }

  /// The file behind a descriptor, opened anew for reading, or for writing: with an offset and
  /// flags of its own.
  /// - Throws: `notPermitted` where its mode does not let this user open it.
  package static func reopened(
    _ file: Int32, isWritable: Bool = false
  ) throws(PatchbayError) -> Descriptor {
    let flags = (isWritable ? O_WRONLY : O_RDONLY) | O_CLOEXEC
    let result = unsafe Glibc.open("/proc/self/fd/\(file)", flags)
    guard result >= 0 else { throw .system("Opening a file anew", errno: errno) }
    return Descriptor(owning: result)
  }

  /// Sets where the next read or write by this descriptor begins.
  package static func seek(
    _ file: borrowing Descriptor, to offset: Int
  ) throws(PatchbayError) {
    guard lseek(file.rawValue, off_t(offset), SEEK_SET) == off_t(offset) else {
      throw .system("Going to offset \(offset) of a file", errno: errno)
    }
  }
}
