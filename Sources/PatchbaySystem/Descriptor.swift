// Ownership of a file descriptor as a type: closed exactly once, by whoever holds it last.

import CPatchbaySystem
import Glibc
import PatchbayTypes

/// An owned file descriptor.
package struct Descriptor: ~Copyable, Sendable {
  package let rawValue: Int32

  /// Takes ownership.
  package init(owning rawValue: Int32) { self.rawValue = rawValue }

  deinit { _ = Glibc.close(rawValue) }

  /// A second descriptor of the same open object.
  package borrowing func duplicate() throws(PatchbayError) -> Descriptor {
    try Self.duplicate(of: rawValue)
  }

  /// The same of one that the caller keeps open.
  package static func duplicate(of rawValue: Int32) throws(PatchbayError) -> Descriptor {
    let copy = fcntl(rawValue, F_DUPFD_CLOEXEC, 0)
    guard copy >= 0 else { throw .system("Duplicating a descriptor", errno: errno) }
    return Descriptor(owning: copy)
  }

  /// Gives ownership away.
  package consuming func release() -> Int32 {
    let rawValue = self.rawValue
    discard self
    return rawValue
  }
}

/// Turns the shim's results, a value or -errno, into a value or an error that names the attempt.
package func checked(
  _ result: Int32, _ attempt: @autoclosure () -> String
) throws(PatchbayError) -> Int32 {
  guard result < 0 else { return result }
  throw .system(attempt(), errno: -result)
}

/// The same for 64-bit results.
package func checked(
  _ result: Int64, _ attempt: @autoclosure () -> String
) throws(PatchbayError) -> Int64 {
  guard result < 0 else { return result }
  throw .system(attempt(), errno: Int32(truncatingIfNeeded: -result))
}

extension PatchbayError {
  /// A refused system call: `noSpaceMemory`, `limitReached`, `notPermitted` where the number says
  /// so, else `inputOutput`.
  package static func system(_ attempt: String, errno number: Int32) -> PatchbayError {
    let reason = systemReason(number)
    switch number {
    case ENOSPC, ENOMEM:
      return PatchbayError(
        .noSpaceMemory,
        "\(attempt) failed: \(reason). Shared memory is full; remove blobs or enlarge /dev/shm.",
        systemErrno: number)
    case EMFILE, ENFILE:
      return PatchbayError(
        .limitReached,
        "\(attempt) failed: \(reason). Raise the limit of open files (ulimit -n).",
        systemErrno: number)
    case EACCES, EPERM:
      return PatchbayError(.notPermitted, "\(attempt) failed: \(reason).", systemErrno: number)
    default:
      return PatchbayError(.inputOutput, "\(attempt) failed: \(reason).", systemErrno: number)
    }
  }
}

extension PatchbayError {
  /// Whether it says no more than that the system was short of something at the moment.
  package var mayPass: Bool { [EMFILE, ENFILE, ENOMEM].contains(systemErrno) }
}

/// The system's words for an error number.
package func systemReason(_ number: Int32) -> String {
  var text = [CChar](repeating: 0, count: 128)
  guard unsafe strerror_r(number, &text, text.count) == 0 else { return "error \(number)" }
  return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
}
