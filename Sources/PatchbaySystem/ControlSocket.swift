// Packets with descriptors over AF_UNIX, SOCK_SEQPACKET. Nothing here blocks except `waitReadable`
// and `waitWritable`, which take a time.

import CPatchbaySystem
import Glibc
import PatchbayTypes

/// One end of a control connection.
package struct ControlSocket: ~Copyable, Sendable {
  package let descriptor: Descriptor

  package init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }

  /// The longest socket path the system takes.
  package static let pathByteLimit = 107

  /// Connects to a broker. Blocks while its queue of new connections is full.
  /// - Throws: `noBroker` when nobody listens, `timedOut`, `inputOutput` otherwise.
  package static func connect(
    to path: String, until: MonotonicTime
  ) throws(PatchbayError) -> ControlSocket {
    let result = unsafe pb_connect(path, until.nanoseconds)
    guard result != -EAGAIN else { throw queueIsFull(path) }
    return try connected(result, path)
  }

  /// Connects without waiting; nil while the broker's queue of new connections is full.
  /// - Throws: `noBroker` when nobody listens, `inputOutput` otherwise.
  package static func connectNow(to path: String) throws(PatchbayError) -> ControlSocket? {
    let result = unsafe pb_connect_now(path)
    return result == -EAGAIN ? nil : try connected(result, path)
  }

  /// The queue of new connections has had no room until the deadline.
  package static func queueIsFull(_ path: String) -> PatchbayError {
    PatchbayError(
      .timedOut,
      "The broker on \(path) accepted no connection before the deadline: its queue of new ones "
        + "is full. It may be stopped or overloaded.",
      systemErrno: EAGAIN)
  }

  private static func connected(
    _ result: Int32, _ path: String
  ) throws(PatchbayError) -> ControlSocket {
    switch -result {
    case ...0: return ControlSocket(Descriptor(owning: result))
    case ENOENT, ECONNREFUSED:
      throw PatchbayError(
        .noBroker,
        "No broker listens on \(path) (\(systemReason(-result))). "
          + "Start one with: patchbay serve --socket \(path)",
        systemErrno: -result)
    case EACCES:
      throw PatchbayError(
        .notPermitted,
        "User \(geteuid()) may not connect to the broker on \(path) (\(systemReason(EACCES))). It "
          + "serves other users only when it was started with: patchbay serve --shared",
        systemErrno: EACCES)
    default: throw .system("Connecting to \(path)", errno: -result)
    }
  }

  /// A connected pair, for tests and for embedding.
  package static func pair() throws(PatchbayError) -> (Int32, Int32) {
    var first: Int32 = -1
    var second: Int32 = -1
    _ = try checked(unsafe pb_socket_pair(&first, &second), "Making a socket pair")
    return (first, second)
  }

  package enum SendOutcome: Sendable { case sent, wouldBlock, hungUp }

  /// Sends one packet, whole or not at all.
  package borrowing func send(
    _ packet: [UInt8], descriptors: [Int32] = []
  ) throws(PatchbayError) -> SendOutcome {
    let result = unsafe packet.withUnsafeBytes { bytes in
      unsafe descriptors.withUnsafeBufferPointer { list in
        unsafe pb_send(
          descriptor.rawValue, bytes.baseAddress, bytes.count, list.baseAddress,
          Int32(list.count))
      }
    }
    if result >= 0 { return .sent }
    switch Int32(truncatingIfNeeded: -result) {
    case EAGAIN: return .wouldBlock
    case EPIPE, ECONNRESET, ENOTCONN: return .hungUp
    case let number: throw .system("Sending a control message", errno: number)
    }
  }

  /// Ends the connection for both sides; the descriptor stays until its owner goes.
  package borrowing func hangUp() { _ = Glibc.shutdown(descriptor.rawValue, Int32(SHUT_RDWR)) }

  package enum Received: Sendable {
    case packet([UInt8], descriptors: [Int32])
    case wouldBlock
    case hungUp
  }

  /// Takes one packet if there is one. The caller owns the descriptors: none when this process can
  /// not take all that came.
  /// - Parameter descriptorLimit: 0: none is accepted into this process, whatever was sent.
  /// - Throws: `protocolViolation` for a packet over `byteLimit`.
  package borrowing func receive(
    byteLimit: Int, descriptorLimit: Int
  ) throws(PatchbayError) -> Received {
    var descriptors = [Int32](repeating: -1, count: descriptorLimit)
    var count = Int32(descriptorLimit)
    var result: Int64 = 0
    let packet = unsafe [UInt8](unsafeUninitializedCapacity: byteLimit) { buffer, filled in
      result = unsafe descriptors.withUnsafeMutableBufferPointer { list in
        unsafe pb_receive(
          descriptor.rawValue, buffer.baseAddress, byteLimit, list.baseAddress, &count)
      }
      filled = max(0, min(Int(result), byteLimit))
    }
    let received = Array(descriptors.prefix(Int(max(0, count))))
    if result > Int64(byteLimit) {
      for descriptor in received { _ = Glibc.close(descriptor) }
      throw PatchbayError(
        .protocolViolation,
        "A control message has \(result) bytes; at most \(byteLimit) are allowed.")
    }
    if result > 0 { return .packet(packet, descriptors: received) }
    if result == 0 { return .hungUp }
    switch Int32(truncatingIfNeeded: -result) {
    case EAGAIN: return .wouldBlock
    case ECONNRESET, EPIPE, ENOTCONN: return .hungUp
    case let number: throw .system("Receiving a control message", errno: number)
    }
  }

  /// Waits until a packet or a hang-up is there. False: the time came first.
  package borrowing func waitReadable(until: MonotonicTime) throws(PatchbayError) -> Bool {
    try checked(
      pb_poll_readable(descriptor.rawValue, until.nanoseconds), "Waiting for a control message")
      > 0
  }

  /// Waits until a packet can be sent. False: the time came first.
  package borrowing func waitWritable(until: MonotonicTime) throws(PatchbayError) -> Bool {
    try checked(
      pb_poll_writable(descriptor.rawValue, until.nanoseconds), "Waiting to send") > 0
  }
}

/// Waits until a descriptor that does not block takes bytes again.
package func waitWritable(_ descriptor: Int32) throws(PatchbayError) {
  _ = try checked(
    pb_poll_writable(descriptor, MonotonicTime.distantFuture.nanoseconds), "Waiting to write")
}

/// Whether a descriptor takes bytes at this moment, or has failed.
package func isWritable(_ descriptor: Int32) -> Bool {
  pb_poll_writable(descriptor, 0) > 0
}
