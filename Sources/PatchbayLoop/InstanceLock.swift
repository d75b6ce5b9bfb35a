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
  /// - Throws: `limitReached` then; `notPermitted` when the name is not a file of ours, or the file
  ///   not one that a broker has written; `inputOutput`.
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
    previous = try Self.instance(in: lock, path)
    self.lock = lock
  }

  /// What stands in the file; nil for nothing, or for the zeros of a number that the power has taken.
  private static func instance(
    in lock: borrowing Descriptor, _ path: String
  ) throws(PatchbayError) -> UInt64? {
    var bytes = [UInt8](repeating: 0, count: 18)
    let got = unsafe pread(lock.rawValue, &bytes, bytes.count, 0)
    guard got >= 0 else { throw .system("Reading the lock file \(path)", errno: errno) }
    if bytes.allSatisfy({ $0 == 0 }) { return nil }
    guard got == 17, bytes[16] == UInt8(ascii: "\n"),
      let instance = UInt64(String(decoding: bytes[..<16], as: UTF8.self), radix: 16),
      ObjectName.hex(instance).utf8.elementsEqual(bytes[..<16])
    else {
      throw PatchbayError(
        .notPermitted,
        "The lock file \(path) has something else in it than a broker writes there. Choose another "
          + "place, or remove it if nobody wants it.")
    }
    return instance
  }

  /// Before the first object of the instance is made, and when what another has left is cleared up: a
  /// kill at any time leaves the one number or the other, or zeros where there was none.
  func note(_ instance: UInt64) throws(PatchbayError) {
    guard instance != previous else { return }
    let line = Array("\(ObjectName.hex(instance))\n".utf8)
    guard ftruncate(lock.rawValue, off_t(line.count)) == 0 else {
      throw .system("Writing the lock file", errno: errno)
    }
    try SharedObject.write(lock, at: 0, line)
  }

  /// Nothing is left to clear up.
  func clear() { _ = ftruncate(lock.rawValue, 0) }
}
