// The ground a broker stands on: a directory that can be trusted, the lock file, the socket, and no
// leftovers of an earlier instance.
//
// The lock file is never unlinked: two brokers could then hold locks on two files of one name. It
// holds the instance number of the broker that has it, or had it: who gets the lock next knows by
// it which objects a killed broker has left. Only those, of our own uid, are removed; anything else
// is left alone.

import CPatchbaySystem
import Glibc
import PatchbaySystem
import PatchbayTypes

final class SocketGround {
  let listener: Descriptor
  /// How many objects of a killed instance were removed.
  let sweptCount: Int
  let path: String
  private let lock: Descriptor
  /// The socket's name, if it is ours.
  private var socketFile: (device: UInt, inode: UInt)?
  private var hasLeft = false

  /// Takes the lock, clears up behind a dead broker and listens.
  /// - Parameter isShared: other users may connect.
  /// - Parameter given: a socket that listens on the path already, owned from now on: its name is
  ///   somebody else's and stays.
  /// - Throws: `limitReached` when another broker serves this path, `notPermitted` when a name is
  ///   in use for something that is not ours, `inputOutput`.
  init(
    _ socketPath: SocketPath, instance: UInt64, isShared: Bool = false, given: Int32? = nil
  ) throws(PatchbayError) {
    path = socketPath.path
    let given = given.map { Descriptor(owning: $0) }
    try socketPath.prepareDirectory(isShared: isShared)
    lock = try Self.takeLock(path)
    sweptCount = Self.previousInstance(lock).map(Self.sweep) ?? 0
    try Self.note(instance, in: lock)
    if let given {
      listener = given
    } else {
      try Self.removeStaleSocket(path)
      listener = Descriptor(
        owning: try checked(
          unsafe pb_listen(path, 1024, isShared ? 0o666 : 0o600), "Listening on \(path)"))
      var facts = stat()
      if unsafe lstat(path, &facts) == 0 { socketFile = (facts.st_dev, facts.st_ino) }
    }
  }

  /// The socket's name goes if it is ours; the lock file stays, empty: nothing is left to clear up.
  func leave() {
    guard !hasLeft else { return }
    hasLeft = true
    var facts = stat()
    if let ours = socketFile, unsafe lstat(path, &facts) == 0, facts.st_dev == ours.device,
      facts.st_ino == ours.inode
    {
      _ = unsafe Glibc.unlink(path)
    }
    _ = ftruncate(lock.rawValue, 0)
  }

  deinit { leave() }

  // MARK: The lock

  private static func takeLock(_ path: String) throws(PatchbayError) -> Descriptor {
    let lockPath = path + ".lock"
    let result = unsafe pb_lock_file(lockPath)
    if result == -EWOULDBLOCK {
      throw PatchbayError(
        .limitReached,
        "Another broker already serves \(path). Use another path with --socket, or stop it.",
        systemErrno: EWOULDBLOCK)
    }
    let lock = Descriptor(owning: try checked(result, "Locking \(lockPath)"))
    var facts = stat()
    guard unsafe fstat(lock.rawValue, &facts) == 0, facts.st_mode & S_IFMT == S_IFREG,
      facts.st_uid == geteuid()
    else {
      throw PatchbayError(
        .notPermitted,
        "The lock file \(lockPath) is not a file of user \(geteuid()). Choose another --socket.")
    }
    return lock
  }

  /// What the lock file says, if it says it in exactly the form that `note` writes.
  private static func previousInstance(_ lock: borrowing Descriptor) -> UInt64? {
    var bytes = [UInt8](repeating: 0, count: 18)
    let got = unsafe pread(lock.rawValue, &bytes, bytes.count, 0)
    guard got == 17, bytes[16] == UInt8(ascii: "\n"),
      bytes[..<16].allSatisfy({ Character(UnicodeScalar($0)).isHexDigit })
    else { return nil }
    return UInt64(String(decoding: bytes[..<16], as: UTF8.self), radix: 16)
  }

  /// Before the first object of the instance is made: so a kill at any time leaves a trace.
  private static func note(
    _ instance: UInt64, in lock: borrowing Descriptor
  ) throws(PatchbayError) {
    guard ftruncate(lock.rawValue, 0) == 0 else {
      throw .system("Writing the lock file", errno: errno)
    }
    try SharedObject.write(lock, at: 0, Array("\(ObjectName.hex(instance))\n".utf8))
  }

  // MARK: Leftovers

  private static let objectDirectory = "/dev/shm"

  /// Removes what an instance has left that can do nothing any more, since we hold its lock.
  private static func sweep(_ instance: UInt64) -> Int {
    guard let directory = unsafe opendir(objectDirectory) else { return 0 }
    defer { _ = unsafe closedir(directory) }
    let prefix = ObjectName.prefix(instance: instance)
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        unsafe String(cString: UnsafeRawPointer(pointer).assumingMemoryBound(to: CChar.self))
      }
      if name.hasPrefix(prefix) { names.append(name) }
    }
    return names.count { name in
      var facts = stat()
      guard unsafe lstat("\(objectDirectory)/\(name)", &facts) == 0,
        facts.st_mode & S_IFMT == S_IFREG, facts.st_uid == geteuid()
      else { return false }
      return (try? SharedObject.unlink(name: "/\(name)")) != nil
    }
  }

  /// A socket nobody listens on, since we hold the lock. What is no socket of ours stays.
  private static func removeStaleSocket(_ path: String) throws(PatchbayError) {
    var facts = stat()
    guard unsafe lstat(path, &facts) == 0 else {
      guard errno == ENOENT else { throw .system("Looking at \(path)", errno: errno) }
      return
    }
    guard facts.st_mode & S_IFMT == S_IFSOCK, facts.st_uid == geteuid() else {
      throw PatchbayError(
        .notPermitted,
        "\(path) exists and is not a socket of user \(geteuid()). Remove it or choose --socket.")
    }
    guard unsafe Glibc.unlink(path) == 0 || errno == ENOENT else {
      throw .system("Removing the stale socket \(path)", errno: errno)
    }
  }
}
