// What an instance has left in shared memory, and nobody names any more, can do nothing any more for who
// holds its lock. Ours is what has exactly the name of a ring or of a chunk of the journal, is a plain file
// of this user; everything else stays, and is told.

import Glibc
import PatchbayTypes

struct InstanceSweep {
  private(set) var removedCount = 0
  /// Names that begin as those of the instance do, of things that are not its own.
  private(set) var foreign: [String] = []

  private static let place = "/dev/shm"
  /// So many are listed.
  private static let listLimit = 8

  init() {}

  /// Removes what an instance has left.
  /// - Parameter kept: but not these names.
  init(_ instance: UInt64, but kept: Set<String> = []) {
    let prefix = ObjectName.prefix(instance: instance)
    for name in Self.names(prefix) where !kept.contains(name) {
      if ObjectName.isOurs(name.dropFirst(prefix.count)), Self.isOurs(name) {
        removedCount += unsafe Glibc.unlink("\(Self.place)/\(name)") == 0 ? 1 : 0
      } else {
        foreign.append(name)
      }
    }
  }

  private static func names(_ prefix: String) -> [String] {
    guard let directory = unsafe opendir(place) else { return [] }
    defer { _ = unsafe closedir(directory) }
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        unsafe String(cString: UnsafeRawPointer(pointer).assumingMemoryBound(to: CChar.self))
      }
      if name.hasPrefix(prefix) { names.append(name) }
    }
    return names.sorted()
  }

  private static func isOurs(_ name: String) -> Bool {
    var facts = stat()
    return unsafe lstat("\(place)/\(name)", &facts) == 0 && facts.st_mode & S_IFMT == S_IFREG
      && facts.st_uid == geteuid()
  }

  /// What is said about what stays; nil for nothing.
  var warning: String? {
    guard !foreign.isEmpty else { return nil }
    let listed = foreign.prefix(Self.listLimit).joined(separator: ", ")
    let more = foreign.count > Self.listLimit ? ", ..." : ""
    return
      "In \(Self.place) \(foreign.count) things with names of this broker are not its own and are "
      + "left alone: \(listed)\(more)."
  }
}
