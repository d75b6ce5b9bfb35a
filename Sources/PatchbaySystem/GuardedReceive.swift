// Receiving from somebody who is not trusted. A descriptor that was sent is installed in this
// process only with a packet of which that is expected, one at most, so nobody can flood it with
// them; and it is not closed here, for the close of a file may wait for whoever serves it.

import CPatchbaySystem
import Glibc
import PatchbayTypes

extension ControlSocket {
  /// The descriptors that came along with a packet.
  package enum Offered: Sendable, Hashable {
    case nothing
    /// The caller owns it.
    case one(Int32)
    /// More than were to be taken; the one that was is the caller's.
    case tooMany(Int32?)
    /// One was to be taken, and this process has no number left for it.
    case starved
  }

  package enum Arrival: Sendable {
    case packet([UInt8], Offered)
    case wouldBlock
    case hungUp
  }

  /// Takes one packet if there is one.
  /// - Parameters:
  ///   - headByteCount: how much of the packet `takesOne` is shown; shorter packets have less.
  ///   - takesOne: whether one descriptor may come with a packet that begins so.
  /// - Throws: `protocolViolation` for a packet over `byteLimit`.
  package borrowing func receive(
    byteLimit: Int, headByteCount: Int, takesOne: ([UInt8]) -> Bool
  ) throws(PatchbayError) -> Arrival {
    var head = [UInt8](repeating: 0, count: headByteCount)
    let length = unsafe head.withUnsafeMutableBytes { bytes in
      unsafe pb_peek(descriptor.rawValue, bytes.baseAddress, bytes.count)
    }
    if let ending = try Self.ending(length) { return ending }
    let isWhole = length <= Int64(byteLimit)
    return try take(
      byteLimit: byteLimit, takesOne: isWhole && takesOne(Array(head.prefix(Int(length)))))
  }

  private borrowing func take(
    byteLimit: Int, takesOne: Bool
  ) throws(PatchbayError) -> Arrival {
    var offered: Int32 = -1
    var isShort: Int32 = 0
    var length: Int64 = 0
    let packet = unsafe [UInt8](unsafeUninitializedCapacity: byteLimit) { buffer, filled in
      length = unsafe pb_receive_guarded(
        descriptor.rawValue, buffer.baseAddress, byteLimit, takesOne ? 1 : 0, &offered, &isShort)
      filled = max(0, min(Int(length), byteLimit))
    }
    if let ending = try Self.ending(length) { return ending }
    guard length <= Int64(byteLimit) else {
      throw PatchbayError(
        .protocolViolation,
        "A control message has \(length) bytes; at most \(byteLimit) are allowed.")
    }
    return .packet(packet, Self.offered(offered, isShort: isShort != 0, takesOne: takesOne))
  }

  private static func offered(_ descriptor: Int32, isShort: Bool, takesOne: Bool) -> Offered {
    switch (descriptor >= 0, isShort) {
    case (true, false): .one(descriptor)
    case (true, true): .tooMany(descriptor)
    case (false, true): takesOne ? .starved : .tooMany(nil)
    case (false, false): .nothing
    }
  }

  /// What a result that is no length means; nil for a length.
  private static func ending(_ result: Int64) throws(PatchbayError) -> Arrival? {
    guard result <= 0 else { return nil }
    switch Int32(truncatingIfNeeded: -result) {
    case 0, ECONNRESET, EPIPE, ENOTCONN: return .hungUp
    case EAGAIN: return .wouldBlock
    case let number: throw .system("Receiving a control message", errno: number)
    }
  }
}
