// Where the control socket is, and whether its directory can be trusted.

import CPatchbaySystem
import Glibc
import PatchbayTypes

/// A checked path of a control socket.
package struct SocketPath: Sendable, Hashable {
  package let path: String
  /// Whether somebody named it: who did must know whose broker is there.
  private let isNamed: Bool

  /// By the rules of the command: what was asked for, else `$PATCHBAY_SOCKET`, else
  /// `$XDG_RUNTIME_DIR/patchbay/control.sock`, else `/tmp/patchbay-<uid>/control.sock`.
  /// - Throws: `inputOutput` for a path that the system cannot take.
  package init(_ asked: String?) throws(PatchbayError) {
    let named = asked ?? Self.environment("PATCHBAY_SOCKET")
    isNamed = named != nil
    if let named {
      path = named
    } else if let runtime = Self.environment("XDG_RUNTIME_DIR") {
      path = "\(runtime)/patchbay/control.sock"
    } else {
      path = "/tmp/patchbay-\(getuid())/control.sock"
    }
    guard (1...ControlSocket.pathByteLimit).contains(path.utf8.count) else {
      throw PatchbayError(
        .inputOutput,
        "The socket path has \(path.utf8.count) bytes; the system takes 1 to "
          + "\(ControlSocket.pathByteLimit). Choose a shorter one with --socket.")
    }
  }

  /// The path of a listening socket that this process was born with, which is made ready to serve:
  /// it does not block, and children do not inherit it.
  /// - Throws: `inputOutput` when it is no socket that a broker can listen on.
  package init(ofListener descriptor: Int32) throws(PatchbayError) {
    var text = [CChar](repeating: 0, count: ControlSocket.pathByteLimit + 1)
    let result = unsafe pb_adopt_listener(descriptor, &text, text.count)
    guard result >= 0 else {
      throw PatchbayError(
        .inputOutput,
        "Descriptor \(descriptor) is not a listening socket of the kind AF_UNIX, SOCK_SEQPACKET "
          + "with a path (ListenSequentialPacket in a systemd unit): \(systemReason(-result)).",
        systemErrno: -result)
    }
    path = String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    isNamed = true
  }

  package var directory: String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  private static func environment(_ name: String) -> String? {
    guard let value = unsafe getenv(name), unsafe value.pointee != 0 else { return nil }
    return unsafe String(cString: value)
  }

  /// Makes the directory if it is not there (0700; 0755 when others are to connect), and refuses one
  /// that others could play tricks in: not a directory, another owner, or writable for others
  /// without the sticky bit; also one that neither its group nor others can pass when they are to
  /// connect, or that stands below such a one.
  /// - Throws: `notPermitted`, `inputOutput`.
  package func prepareDirectory(isShared: Bool) throws(PatchbayError) {
    if unsafe mkdir(directory, isShared ? 0o755 : 0o700) != 0 && errno != EEXIST {
      throw .system("Making the socket directory \(directory)", errno: errno)
    }
    guard let facts = try directoryFacts() else { return }
    guard facts.owner == getuid() || facts.owner == 0 else {
      throw PatchbayError(
        .notPermitted,
        "The socket directory \(directory) belongs to user \(facts.owner), not to \(getuid()). "
          + "Choose a directory of your own with --socket.")
    }
    try facts.checkSafe(directory)
    if isShared { try checkPassable() }
  }

  private func checkPassable() throws(PatchbayError) {
    var passed = directory
    while true {
      guard let facts = try Self.facts(of: passed, isLink: false) else { return }
      guard facts.mode & 0o011 != 0 else {
        throw PatchbayError(
          .notPermitted,
          "Others are to connect, but cannot pass the directory \(passed) (mode "
            + "\(facts.shownMode)). Give it mode 0755, or choose another with --socket.")
      }
      guard let slash = passed.lastIndex(of: "/"), slash > passed.startIndex else { return }
      passed = String(passed[..<slash])
    }
  }

  /// The check of a client, which must not be lured to a stranger's broker: looks at the directory
  /// before it connects. One that is not there means that there is no broker; connecting says so.
  /// - Returns: whom to believe that is found there.
  /// - Throws: `notPermitted`, `inputOutput`.
  package func checkDirectory() throws(PatchbayError) -> TrustedBrokers {
    guard let facts = try directoryFacts() else {
      return TrustedBrokers(uid: getuid(), isAny: false)
    }
    try facts.checkSafe(directory)
    let isOurs = facts.owner == getuid() || facts.owner == 0
    // Anybody can make the directories of the default rules in /tmp, under anybody's number.
    guard isOurs || isNamed else {
      throw PatchbayError(
        .notPermitted,
        "The socket directory \(directory) belongs to user \(facts.owner), not to \(getuid()). "
          + "Name the socket with --socket if you trust that user's broker.")
    }
    guard isOurs || facts.mode & 0o022 == 0 else {
      throw PatchbayError(
        .notPermitted,
        "The socket directory \(directory) belongs to user \(facts.owner), and others may write to "
          + "it (mode \(facts.shownMode)). Choose another with --socket.")
    }
    // Where only root or this user can put a socket, whoever listens there does so by their leave.
    return TrustedBrokers(uid: facts.owner, isAny: isOurs && facts.mode & 0o022 == 0)
  }

  /// What is known of the directory.
  private struct DirectoryFacts {
    let owner: UInt32
    let mode: UInt32

    var shownMode: String { String(mode & 0o7777, radix: 8) }

    func checkSafe(_ directory: String) throws(PatchbayError) {
      guard mode & S_IFMT == S_IFDIR else {
        throw PatchbayError(
          .notPermitted,
          "The socket directory \(directory) is not a directory. Remove it or choose --socket.")
      }
      guard mode & 0o022 == 0 || mode & S_ISVTX != 0 else {
        throw PatchbayError(
          .notPermitted,
          "Others may write to the socket directory \(directory) (mode \(shownMode)). Use one of "
            + "mode 0700.")
      }
    }
  }

  /// Nil: it is not there.
  private func directoryFacts() throws(PatchbayError) -> DirectoryFacts? {
    try Self.facts(of: directory, isLink: true)
  }

  /// Nil: it is not there.
  /// - Parameter isLink: looks at a symbolic link itself.
  private static func facts(
    of directory: String, isLink: Bool
  ) throws(PatchbayError) -> DirectoryFacts? {
    var facts = stat()
    let result = unsafe isLink ? lstat(directory, &facts) : stat(directory, &facts)
    guard result == 0 else {
      if errno == ENOENT { return nil }
      throw .system("Looking at the socket directory \(directory)", errno: errno)
    }
    return DirectoryFacts(owner: facts.st_uid, mode: facts.st_mode)
  }
}

/// Whose brokers a client believes, by the directory in which it has found the socket: its own, root's
/// and those of the directory's owner.
package struct TrustedBrokers: Sendable {
  fileprivate let uid: UInt32
  fileprivate let isAny: Bool

  /// Looks at who listens at the other end of a connection.
  /// - Throws: `notPermitted` when it is none of them, `inputOutput`.
  package func check(
    _ socket: borrowing ControlSocket, _ path: String
  ) throws(PatchbayError) {
    guard !isAny else { return }
    var process: Int32 = 0
    var broker: UInt32 = 0
    var group: UInt32 = 0
    _ = try checked(
      unsafe pb_peer(socket.descriptor.rawValue, &process, &broker, &group),
      "Asking whose the broker on \(path) is")
    guard broker == uid || broker == getuid() || broker == 0 else {
      throw PatchbayError(
        .notPermitted,
        "The broker on \(path) runs as user \(broker), but that user does not own the socket's "
          + "directory. Choose a socket in a directory of the broker's user with --socket.")
    }
  }
}
