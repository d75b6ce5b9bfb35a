// Requests that come with a descriptor. One request does, an import; any other message with a
// descriptor is against the protocol, and so is an import with several. One without any is refused,
// and the connection goes on: the client's system may have kept it from sending one.

import PatchbayLedger
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

extension EventLoop {
  /// Takes what has arrived on a connection. A descriptor comes in only from who may import, with a
  /// packet that begins as an import does, and as long as there is room for it. Any other the kernel
  /// lets go by itself, without the flush that a close would be, which may wait for another process.
  /// Even that may wait, for a socket that lingers; so where the kernel can, it does not let others
  /// send any.
  func receive(_ connection: Connection) throws(PatchbayError) -> ControlSocket.Arrival {
    let mayCome = ledger.mayImport(connection.peer) && imports.hasRoom
    return try connection.receive { mayCome && Frame.beginsImport($0) }
  }

  /// - Throws: `protocolViolation` for descriptors that must not be there.
  func checkOffered(
    _ offered: ControlSocket.Offered, _ frame: Frame
  ) throws(PatchbayError) {
    guard frame.type == Request.Kind.import.rawValue else {
      guard offered == .nothing else {
        throw PatchbayError(
          .protocolViolation,
          "A message of type \(frame.type) came with descriptors; only an import may.")
      }
      return
    }
    switch offered {
    // None was taken for want of room, of a number or of permission, however many came.
    case .nothing, .one, .starved, .tooMany(nil): return
    case .tooMany:
      throw PatchbayError(
        .protocolViolation, "An import came with more than one descriptor.")
    }
  }

  func take(
    _ request: ImportRequest, _ offered: ControlSocket.Offered, number: UInt64,
    _ connection: Connection
  ) {
    let (offer, found) = imports.offer(offered, of: request.key)
    submit(.offered(connection.session, number: number, request, offer, found))
  }

  func lookAtFile(
    of generation: Generation, _ session: SessionID, number: UInt64, _ request: Request
  ) {
    submit(
      .fileLooked(generation, imports.look(at: generation), session, number: number, request))
  }
}

extension Frame {
  /// Whether the first bytes of a packet are those of an import.
  static func beginsImport(_ head: [UInt8]) -> Bool {
    guard head.count == headerByteCount else { return false }
    return kind(ofHead: head) == Request.Kind.import.rawValue
  }
}
