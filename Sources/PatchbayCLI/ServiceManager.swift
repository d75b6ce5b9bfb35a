// What a service manager and its service say to each other: the listening socket that was opened
// before the service was started, and the words about its state. The protocols are systemd's
// (sd_listen_fds(3), sd_notify(3)); other supervisors speak them, too.

import CPatchbaySystem
import Glibc
import Patchbay
import PatchbaySystem

enum ServiceManager {
  /// Descriptors that are handed over begin with this number.
  private static let firstDescriptor: Int32 = 3

  /// The listening socket that was handed to this very process, nil if none was. The variables go:
  /// they are not for children.
  /// - Throws: `inputOutput` when more than one was.
  static func takeListener() throws(PatchbayError) -> Int32? {
    defer {
      for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { _ = unsafe unsetenv(name) }
    }
    // Variables of another process, a parent for one, speak of another process's descriptors.
    guard variable("LISTEN_PID").flatMap({ Int32($0) }) == getpid(),
      let count = variable("LISTEN_FDS").flatMap({ Int32($0) }), count > 0
    else { return nil }
    guard count == 1 else {
      throw PatchbayError(
        .inputOutput, "\(count) sockets were handed over (LISTEN_FDS); a broker listens on one.")
    }
    return firstDescriptor
  }

  /// Tells the service manager, if there is one that listens. That it cannot be told is said, and
  /// is no reason to stop.
  static func tell(_ state: String) {
    guard let path = variable("NOTIFY_SOCKET") else { return }
    let result = unsafe pb_send_datagram(path, state)
    guard result < 0 else { return }
    StandardError.write(
      "patchbay: telling \(state) to \(path) (NOTIFY_SOCKET) failed: \(systemReason(-result))\n")
  }

  private static func variable(_ name: String) -> String? {
    guard let value = unsafe getenv(name), unsafe value.pointee != 0 else { return nil }
    return unsafe String(cString: value)
  }
}
