// A directory of one's own on disk.

import Glibc
import PatchbayTypes

extension DiskFile {
  /// A directory of this user that nobody else may write into, held open; made, for this user alone,
  /// if it is not there. Its own name is on the device then, if its parent can be read.
  /// - Throws: `notPermitted` when it is somebody else's, or others may write into it; `inputOutput`
  ///   when it is none, or its parent is not there.
  package static func ownDirectory(_ path: String) throws(PatchbayError) -> Descriptor {
    if unsafe mkdir(path, 0o700) != 0, errno != EEXIST {
      throw .system("Making the directory \(path)", errno: errno)
    }
    try synchronizeName(of: path)
    let directory = try openDirectory(path)
    var facts = stat()
    guard unsafe fstat(directory.rawValue, &facts) == 0 else {
      throw .system("Looking at the directory \(path)", errno: errno)
    }
    guard facts.st_uid == geteuid(), facts.st_mode & 0o022 == 0 else {
      throw PatchbayError(
        .notPermitted,
        "The directory \(path) belongs to user \(facts.st_uid) with mode "
          + "0\(String(facts.st_mode & 0o7777, radix: 8)). A spool has to be of user \(geteuid()), and "
          + "nobody else may write into it. Choose another directory.")
    }
    return directory
  }

  /// A parent that this user may not read is somebody else's to write through.
  private static func synchronizeName(of path: String) throws(PatchbayError) {
    do throws(PatchbayError) {
      try synchronizeDirectory(openDirectory(parent(of: path)))
    } catch {
      guard [EACCES, EPERM, EINVAL].contains(error.systemErrno) else { throw error }
    }
  }

  /// What a name in a directory stands for.
  package struct Entry: Sendable, Hashable {
    /// Bytes that are not UTF-8 are replaced in it; it opens nothing then.
    package let name: String
    /// False also for a symbolic link, and for a name that is not UTF-8.
    package let isRegular: Bool
    /// Whether it belongs to this user.
    package let isOwn: Bool
    /// Its length, holes included.
    package let byteCount: Int
  }

  /// What a directory has, in the order of the names, without `.` and `..`. Names that go while it is
  /// read may be missing.
  /// - Throws: `inputOutput`, `notPermitted`.
  package static func entries(
    of directory: borrowing Descriptor
  ) throws(PatchbayError) -> [Entry] {
    // A descriptor with a place of its own to read at.
    let own = unsafe openat(directory.rawValue, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard own >= 0 else { throw .system("Opening a directory for its names", errno: errno) }
    guard let listing = unsafe fdopendir(own) else {
      let number = errno
      _ = close(own)
      throw .system("Reading a directory", errno: number)
    }
    defer { _ = unsafe closedir(listing) }
    var entries: [Entry] = []
    while let name = try unsafe nextName(listing) {
      if name != [UInt8(ascii: ".")], name != Array("..".utf8),
        let entry = entry(name, in: directory)
      {
        entries.append(entry)
      }
    }
    return entries.sorted { $0.name < $1.name }
  }

  @unsafe private static func nextName(
    _ listing: OpaquePointer
  ) throws(PatchbayError) -> [UInt8]? {
    errno = 0
    guard let found = unsafe readdir(listing) else {
      guard errno == 0 else { throw .system("Reading a directory", errno: errno) }
      return nil
    }
    return unsafe withUnsafeBytes(of: &found.pointee.d_name) { unsafe Array($0.prefix { $0 != 0 }) }
  }

  /// Nil when the name is gone.
  private static func entry(_ name: [UInt8], in directory: borrowing Descriptor) -> Entry? {
    guard let text = String(validating: name, as: UTF8.self) else {
      return Entry(
        name: String(decoding: name, as: UTF8.self), isRegular: false, isOwn: false, byteCount: 0)
    }
    var facts = stat()
    guard unsafe fstatat(directory.rawValue, text, &facts, AT_SYMLINK_NOFOLLOW) == 0 else {
      return nil
    }
    return Entry(
      name: text, isRegular: facts.st_mode & S_IFMT == S_IFREG, isOwn: facts.st_uid == geteuid(),
      byteCount: Int(facts.st_size))
  }

  /// The room of a file system.
  package struct Space: Sendable, Hashable {
    package let wholeByteCount: Int
    /// What this user may still write.
    package let freeByteCount: Int
  }

  /// The room where a directory, or its parent if it is not there yet, stands.
  package static func space(at path: String) throws(PatchbayError) -> Space {
    var facts = statvfs()
    if unsafe statvfs(path, &facts) != 0 {
      guard unsafe statvfs(parent(of: path), &facts) == 0 else {
        throw .system("Looking for free space at \(path)", errno: errno)
      }
    }
    let unit = UInt64(facts.f_frsize)
    return Space(
      wholeByteCount: Int(clamping: UInt64(facts.f_blocks) &* unit),
      freeByteCount: Int(clamping: UInt64(facts.f_bavail) &* unit))
  }

  private static func parent(of path: String) -> String {
    let trimmed = path.hasSuffix("/") ? String(path.dropLast()) : path
    guard let slash = trimmed.lastIndex(of: "/") else { return "." }
    return slash == trimmed.startIndex ? "/" : String(trimmed[..<slash])
  }
}
