// The ground a broker stands on: a directory that can be trusted, the lock file, and the socket. What an
// earlier broker has left there is for the caller, who has the lock, to take over or to remove, before
// anybody can connect.

import CPatchbaySystem
import Glibc
import PatchbaySystem
import PatchbayTypes

final class SocketGround {
  let listener: Descriptor
  let path: String
  /// Whether what this broker leaves is for the next one: the lock file goes on saying whose it is.
  var keepsTrace: Bool
  private let lock: InstanceLock
  /// The socket's name, if it is ours.
  private var socketFile: (device: UInt, inode: UInt)?
  private var hasLeft = false

  /// The lock of a socket's path, in a directory that is ours.
  /// - Parameter isShared: other users may connect.
  /// - Throws: `limitReached` when another broker serves this path, `notPermitted` when a name is
  ///   in use for something that is not ours, `inputOutput`.
  static func lock(
    _ socketPath: SocketPath, isShared: Bool
  ) throws(PatchbayError) -> InstanceLock {
    let path = socketPath.path
    try socketPath.prepareDirectory(isShared: isShared)
    return try InstanceLock(
      path + ".lock",
      taken: "Another broker already serves \(path). Use another path with --socket, or stop it.")
  }

  /// Listens.
  /// - Parameters:
  ///   - lock: the path's, in which this broker's instance stands already.
  ///   - keepsTrace: whether there is something to be found by the next broker from now on.
  ///   - isShared: other users may connect.
  ///   - given: a socket that listens on the path already, owned from now on: its name is somebody
  ///     else's and stays.
  /// - Throws: `notPermitted` when the name is in use for something that is not ours, `inputOutput`.
  init(
    _ socketPath: SocketPath, _ lock: InstanceLock, keepsTrace: Bool, isShared: Bool = false,
    given: consuming Descriptor? = nil
  ) throws(PatchbayError) {
    path = socketPath.path
    self.lock = lock
    self.keepsTrace = keepsTrace
    if let given {
      listener = given
      // For connections made from now on, unless who made the socket has seen to it. Whoever has
      // connected before may have sent some: nobody installs them.
      _ = pb_take_descriptors(listener.rawValue, 0)
    } else {
      try Self.removeStaleSocket(path)
      listener = Descriptor(
        owning: try checked(
          unsafe pb_listen(path, 1024, isShared ? 0o666 : 0o600), "Listening on \(path)"))
      var facts = stat()
      if unsafe lstat(path, &facts) == 0 { socketFile = (facts.st_dev, facts.st_ino) }
    }
  }

  /// The socket's name goes if it is ours. The lock file stays, empty unless there is something left.
  func leave() {
    guard !hasLeft else { return }
    hasLeft = true
    var facts = stat()
    if let ours = socketFile, unsafe lstat(path, &facts) == 0, facts.st_dev == ours.device,
      facts.st_ino == ours.inode
    {
      _ = unsafe Glibc.unlink(path)
    }
    if !keepsTrace { lock.clear() }
  }

  deinit { leave() }

  // MARK: Leftovers

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
