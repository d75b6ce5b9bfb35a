// Any bytes as a control message, in both directions: never a trap, never more memory than the
// packet's own size explains; and what decodes, encodes to bytes that decode to the same message.

import PatchbayTypes
import PatchbayWire

/// Called by libFuzzer with each input.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzControlMessage(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  let packet = Array(UnsafeBufferPointer(start: start, count: count))
  if let frame = try? Frame(parsing: packet) {
    tryRequest(frame, packet)
    tryReply(frame, packet)
  }
  // A raw body under a good header reaches the decoders more often than chance would.
  guard let kind = packet.first else { return 0 }
  let requests = Request.Kind.allCases.map(\.rawValue) + [0]
  let request = wrapped(packet.dropFirst(), type: requests[Int(kind) % requests.count])
  if let frame = try? Frame(parsing: request) { tryRequest(frame, request) }
  let replies = Reply.Kind.allCases.map(\.rawValue) + [0]
  let reply = wrapped(packet.dropFirst(), type: replies[Int(kind) % replies.count])
  if let frame = try? Frame(parsing: reply) { tryReply(frame, reply) }
  return 0
}

private func wrapped(_ body: ArraySlice<UInt8>, type: UInt16) -> [UInt8] {
  var packet = Frame.encode(Request.ping, request: 1)
  packet[6] = UInt8(truncatingIfNeeded: type)
  packet[7] = UInt8(truncatingIfNeeded: type >> 8)
  packet += body
  for index in 0..<4 { packet[8 + index] = UInt8(truncatingIfNeeded: packet.count >> (8 * index)) }
  return packet
}

private func tryRequest(_ frame: Frame, _ packet: [UInt8]) {
  guard let message = try? frame.decodeRequest(packet) else { return }
  let again = Frame.encode(message, request: frame.request)
  guard let head = try? Frame(parsing: again), let second = try? head.decodeRequest(again),
    second == message
  else { fatalError("a request changed on its way through bytes: \(message)") }
}

private func tryReply(_ frame: Frame, _ packet: [UInt8]) {
  guard let message = try? frame.decodeReply(packet) else { return }
  let again = Frame.encode(message, request: frame.request)
  guard let head = try? Frame(parsing: again), let second = try? head.decodeReply(again),
    second == message
  else { fatalError("a reply changed on its way through bytes: \(message)") }
}
