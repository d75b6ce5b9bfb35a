// The lock file of a place that one broker at a time may have: a socket, a spool. It is never unlinked:
// two brokers could then hold locks on two files of one name. It holds the instance number of the
// broker that has it, or had it: who gets the lock next knows by it what a killed broker has left.

import CPatchbaySystem
import Glibc
import PatchbaySystem
import PatchbayTypes

final class InstanceLock {
  private let lock: Descriptor
  /// The broker that had the lock before and did not clear up, if it said so in exactly our form.
  let previous: UInt64?

  /// Takes the lock, or makes the file.
  /// - Parameter taken: what is said when another broker has it.
  /// - Throws: `limitReached` then; `notPermitted` when the name is not a file of ours;
  ///   `inputOutput`.
  init(_ path: String, taken: String) throws(PatchbayError) {
    let result = unsafe pb_lock_file(path)
    if result == -EWOULDBLOCK {
      throw PatchbayError(.limitReached, taken, systemErrno: EWOULDBLOCK)
    }
    let lock = Descriptor(owning: try checked(result, "Locking \(path)"))
    var facts = stat()
    guard unsafe fstat(lock.rawValue, &facts) == 0, facts.st_mode & S_IFMT == S_IFREG,
      facts.st_uid == geteuid()
    else {
      throw PatchbayError(
        .notPermitted,
        "The lock file \(path) is not a file of user \(geteuid()). Choose another place.")
    }
    previous = Self.instance(in: lock)
    self.lock = lock
  }

  private static func instance(in lock: borrowing Descriptor) -> UInt64? {
    var bytes = [UInt8](repeating: 0, count: 18)
    let got = unsafe pread(lock.rawValue, &bytes, bytes.count, 0)
    guard got == 17, bytes[16] == UInt8(ascii: "\n"),
      bytes[..<16].allSatisfy({ Character(UnicodeScalar($0)).isHexDigit })
    else { return nil }
    return UInt64(String(decoding: bytes[..<16], as: UTF8.self), radix: 16)
  }

  /// Before the first object of the instance is made: so a kill at any time leaves a trace.
  func note(_ instance: UInt64) throws(PatchbayError) {
    guard ftruncate(lock.rawValue, 0) == 0 else {
      throw .system("Writing the lock file", errno: errno)
    }
    try SharedObject.write(lock, at: 0, Array("\(ObjectName.hex(instance))\n".utf8))
  }

  /// Nothing is left to clear up.
  func clear() { _ = ftruncate(lock.rawValue, 0) }

  /// Removes regular files of our own uid whose names begin so. What an instance has left can do
  /// nothing any more, since we hold its lock.
  /// - Parameter kept: but not these.
  /// - Returns: how many.
  static func sweep(_ place: String, _ prefix: String, but kept: Set<String> = []) -> Int {
    guard let directory = unsafe opendir(place) else { return 0 }
    defer { _ = unsafe closedir(directory) }
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        unsafe String(cString: UnsafeRawPointer(pointer).assumingMemoryBound(to: CChar.self))
      }
      if name.hasPrefix(prefix), !kept.contains(name) { names.append(name) }
    }
    return names.count { name in
      let path = "\(place)/\(name)"
      var facts = stat()
      guard unsafe lstat(path, &facts) == 0, facts.st_mode & S_IFMT == S_IFREG,
        facts.st_uid == geteuid()
      else { return false }
      return unsafe Glibc.unlink(path) == 0
    }
  }
}
