// Where the control socket is, and whether its directory can be trusted.

import CPatchbaySystem
import Glibc
import PatchbayTypes

/// A checked path of a control socket.
package struct SocketPath: Sendable, Hashable {
  package let path: String

  /// By the rules of the command: what was asked for, else `$PATCHBAY_SOCKET`, else
  /// `$XDG_RUNTIME_DIR/patchbay/control.sock`, else `/tmp/patchbay-<uid>/control.sock`.
  /// - Throws: `inputOutput` for a path that the system cannot take.
  package init(_ asked: String?) throws(PatchbayError) {
    if let asked {
      path = asked
    } else if let named = Self.environment("PATCHBAY_SOCKET") {
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
  }

  package var directory: String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  private static func environment(_ name: String) -> String? {
    guard let value = unsafe getenv(name), unsafe value.pointee != 0 else { return nil }
    return unsafe String(cString: value)
  }

  /// Makes the directory if it is not there (0700), and refuses one that others could play tricks
  /// in: not a directory, another owner, or writable for others without the sticky bit.
  /// - Throws: `notPermitted`, `inputOutput`.
  package func prepareDirectory() throws(PatchbayError) {
    if unsafe mkdir(directory, 0o700) != 0 && errno != EEXIST {
      throw .system("Making the socket directory \(directory)", errno: errno)
    }
    try checkDirectory()
  }

  /// The check alone: for clients, who must not be lured to a stranger's broker.
  package func checkDirectory() throws(PatchbayError) {
    var facts = stat()
    guard unsafe lstat(directory, &facts) == 0 else {
      // A missing directory means that there is no broker; connecting says so better.
      if errno == ENOENT { return }
      throw .system("Looking at the socket directory \(directory)", errno: errno)
    }
    guard facts.st_mode & S_IFMT == S_IFDIR else {
      throw PatchbayError(
        .notPermitted,
        "The socket directory \(directory) is not a directory. Remove it or choose --socket.")
    }
    guard facts.st_uid == getuid() || facts.st_uid == 0 else {
      throw PatchbayError(
        .notPermitted,
        "The socket directory \(directory) belongs to user \(facts.st_uid), not to \(getuid()). "
          + "Choose a directory of your own with --socket.")
    }
    guard facts.st_mode & 0o022 == 0 || facts.st_mode & S_ISVTX != 0 else {
      throw PatchbayError(
        .notPermitted,
        "Others may write to the socket directory \(directory) (mode "
          + "\(String(facts.st_mode & 0o7777, radix: 8))). Use one of mode 0700.")
    }
  }
}
