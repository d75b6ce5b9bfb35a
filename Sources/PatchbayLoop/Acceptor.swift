// Taking new connections off the listener. When the process is out of descriptors one that was kept
// for this is given up for a moment, so that the client is told why and does not hang in the queue.

import CPatchbaySystem
import Glibc
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

final class Acceptor {
  enum Taken: ~Copyable {
    case connection(ControlSocket)
    /// Told that there is no room, and closed.
    case refused(errno: Int32)
    /// Nobody waits any more.
    case nobody
    /// Somebody waits, and not even the spare descriptor is left to tell why.
    case starved
  }

  private let listener: Int32
  private var spare: Int32

  /// The listener stays its owner's.
  init(listener: Int32) throws(PatchbayError) {
    self.listener = listener
    spare = Self.openSpare()
    guard spare >= 0 else { throw .system("Opening a spare descriptor", errno: errno) }
  }

  deinit { if spare >= 0 { _ = Glibc.close(spare) } }

  private static func openSpare() -> Int32 { unsafe Glibc.open("/dev/null", O_RDONLY | O_CLOEXEC) }

  func take() -> Taken {
    let result = pb_accept(listener)
    if result >= 0 { return .connection(ControlSocket(Descriptor(owning: result))) }
    switch -result {
    case EMFILE, ENFILE, ENOMEM, ENOBUFS: return refuse(errno: -result)
    // Errors of a connection that went away while it waited: there may be others behind it.
    case ECONNABORTED, EINTR, EPROTO: return .refused(errno: -result)
    default: return .nobody
    }
  }

  private func refuse(errno number: Int32) -> Taken {
    if spare < 0 { spare = Self.openSpare() }
    guard spare >= 0 else { return .starved }
    _ = Glibc.close(spare)
    let result = pb_accept(listener)
    if result >= 0 {
      let socket = ControlSocket(Descriptor(owning: result))
      let failure = PatchbayError.noDescriptorLeft(errno: number)
      // Nobody is worse off when even this cannot be sent.
      _ = try? socket.send(Frame.encode(.failure(failure), request: 0))
    }
    spare = Self.openSpare()
    if result >= 0 { return .refused(errno: number) }
    return result == -EAGAIN ? .nobody : .starved
  }
}

extension PatchbayError {
  /// What a client is told when the broker is out of descriptors, whichever it was about to open.
  static func noDescriptorLeft(errno number: Int32) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "The broker has no descriptor left. Close connections to it, or raise its limit of open files "
        + "(ulimit -n).",
      systemErrno: number)
  }

  /// The same error in the broker's words where it is about its descriptors.
  var inBrokerWords: PatchbayError {
    guard let systemErrno, systemErrno == EMFILE || systemErrno == ENFILE else { return self }
    return .noDescriptorLeft(errno: systemErrno)
  }
}
