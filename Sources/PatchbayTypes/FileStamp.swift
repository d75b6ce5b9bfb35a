// What tells one content of a file from another: compared as a whole, never taken apart.

/// A file as it was at one moment. Equal stamps mean that nothing was written in between, as far as
/// the file system's clock can tell.
package struct FileStamp: Sendable, Hashable {
  package var device: UInt64
  package var inode: UInt64
  package var byteCount: Int
  /// When its bytes were last written, and when anything of it was last changed: nanoseconds since
  /// 1970.
  package var modified: Int64
  package var changed: Int64

  package init(device: UInt64, inode: UInt64, byteCount: Int, modified: Int64, changed: Int64) {
    self.device = device
    self.inode = inode
    self.byteCount = byteCount
    self.modified = modified
    self.changed = changed
  }

  /// How it differs from what it was before, in words behind "the file"; nil: it does not.
  package func difference(from before: FileStamp) -> String? {
    guard self != before else { return nil }
    guard device == before.device, inode == before.inode else { return "is another one" }
    guard byteCount == before.byteCount else {
      return "has \(byteCount) bytes instead of \(before.byteCount)"
    }
    guard modified == before.modified else { return "was written to" }
    return "was changed, renamed, linked or removed"
  }
}
