// The fixed head of every message, and the two directions of a whole message.

import PatchbayTypes
import CPatchbayLayout

/// A message's head.
package struct Frame: Sendable, Hashable {
  package var version: UInt16
  package var type: UInt16
  package var request: UInt64

  package static let byteLimit = Int(PB_FRAME_LIMIT)
  package static let descriptorLimit = Int(PB_DESCRIPTOR_LIMIT)
  package static let headerByteCount = Int(PB_FRAME_HEADER_BYTES)
  package static let protocolVersion = UInt16(PB_PROTOCOL_VERSION)
  package static let inlineByteLimit = Int(PB_INLINE_LIMIT)

  /// The head of a packet, without a look at its body or version.
  /// - Throws: `protocolViolation` when it is no packet of this protocol.
  package init(parsing packet: [UInt8]) throws(PatchbayError) {
    guard packet.count >= Self.headerByteCount else {
      throw PatchbayError(
        .protocolViolation,
        "A packet has \(packet.count) bytes; its header alone has \(Self.headerByteCount).")
    }
    var reader = WireReader(packet[...])
    let magic = try reader.take(UInt32.self)
    version = try reader.take()
    type = try reader.take()
    let byteCount = try reader.take(UInt32.self)
    let flags = try reader.take(UInt32.self)
    request = try reader.take()
    guard magic == UInt32(PB_FRAME_MAGIC) else {
      throw PatchbayError(
        .protocolViolation,
        "A packet begins with 0x\(String(magic, radix: 16)), not with the magic number "
          + "0x\(String(UInt32(PB_FRAME_MAGIC), radix: 16)) of this protocol.")
    }
    guard Int(byteCount) == packet.count else {
      throw PatchbayError(
        .protocolViolation,
        "A packet of \(packet.count) bytes says that it has \(byteCount).")
    }
    guard flags == 0 else {
      throw PatchbayError(
        .protocolViolation, "A packet has the flags 0x\(String(flags, radix: 16)); none exist yet.")
    }
  }

  /// The type number in the first bytes of a packet, `headerByteCount` of them, believed as it is.
  package static func kind(ofHead head: [UInt8]) -> UInt16 {
    let at = Int(PB_FRAME_TYPE_AT)
    return UInt16(head[at]) | UInt16(head[at + 1]) << 8
  }

  private static func encode(
    type: UInt16, request: UInt64, version: UInt16, _ putBody: (inout WireWriter) -> Void
  ) -> [UInt8] {
    var writer = WireWriter()
    writer.put(UInt32(PB_FRAME_MAGIC))
    writer.put(version)
    writer.put(type)
    writer.put(0 as UInt32)
    writer.put(0 as UInt32)
    writer.put(request)
    putBody(&writer)
    writer.patch(UInt32(writer.bytes.count), at: Int(PB_FRAME_BYTE_COUNT_AT))
    return writer.bytes
  }

  /// The bytes of a request. They may exceed `byteLimit`; whoever sends checks.
  package static func encode(
    _ message: Request, request: UInt64, version: UInt16 = protocolVersion
  ) -> [UInt8] {
    encode(type: message.kind.rawValue, request: request, version: version, message.encodeBody)
  }

  /// The bytes of a reply.
  package static func encode(
    _ message: Reply, request: UInt64, version: UInt16 = protocolVersion
  ) -> [UInt8] {
    encode(type: message.kind.rawValue, request: request, version: version, message.encodeBody)
  }

  private func checkVersion() throws(PatchbayError) {
    guard version == Self.protocolVersion else {
      throw PatchbayError(
        .versionMismatch,
        "A message has protocol version \(version); this side speaks \(Self.protocolVersion). "
          + "Use the client and the broker of one release.")
    }
  }

  /// The request that follows this head.
  /// - Throws: `versionMismatch`, `protocolViolation`, `invalidKey`.
  package func decodeRequest(_ packet: [UInt8]) throws(PatchbayError) -> Request {
    try checkVersion()
    var reader = WireReader(packet[Self.headerByteCount...])
    let message = try Request(kind: type, from: &reader)
    try reader.finish()
    return message
  }

  /// The reply that follows this head.
  /// - Throws: `versionMismatch`, `protocolViolation`.
  package func decodeReply(_ packet: [UInt8]) throws(PatchbayError) -> Reply {
    // A refusal is readable whatever the version: its layout never changes.
    if type != Reply.Kind.failure.rawValue { try checkVersion() }
    var reader = WireReader(packet[Self.headerByteCount...])
    let message = try Reply(kind: type, from: &reader)
    try reader.finish()
    return message
  }
}

/// Bounds of text and list fields, both ways.
package enum WireLimit {
  package static let name = 64
  package static let type = 255
  package static let labelPart = 255
  package static let labelCount = 32
  package static let cause = 1024
  package static let message = 4096
  package static let missing = 64
  package static let pageEntries = 500
  package static let subscriptions = 1024
  package static let pageChanges = 64
  package static let parties = 64
  /// The longest, of SHA-512.
  package static let digest = 64
}
