// The processes of a latency run: over a broker, and in plain C.

import CFloor
import Glibc
import Patchbay
import PatchbaySystem

enum LatencyWorker {
  static let messageByteCount = Int(PF_MESSAGE_BYTES)

  static func ping(_ order: Fields) throws {
    let there = try outbox(order, "there")
    let back = try Inbox(order, "back")
    let content = content(try order.int("seed"))
    var samples = [Int64](repeating: 0, count: try order.int("count"))
    Worker.waitForStart()
    for index in samples.indices {
      let start = MonotonicTime.now
      try content.withBytes(at: index * messageByteCount, count: messageByteCount) {
        (bytes) throws(PatchbayError) in try there.append(bytes)
      }
      try back.take(index)
      samples[index] = MonotonicTime.now.nanoseconds - start.nanoseconds
    }
    try there.seal()
    Worker.finish(Percentiles(nanoseconds: samples).fields)
  }

  static func pong(_ order: Fields) throws {
    let back = try outbox(order, "back")
    let there = try Inbox(order, "there")
    let content = content(try order.int("seed"))
    let verifies = order.flag("verify")
    Worker.waitForStart()
    for index in 0..<(try order.int("count")) {
      let message = try there.take(index)
      if verifies, let wrong = content.mismatch(message.span, at: index * messageByteCount) {
        throw LoadError("A message has a wrong byte at position \(wrong).")
      }
      try back.append(message)
    }
    try back.seal()
    Worker.finish([:])
  }

  static func send(_ order: Fields) throws {
    let there = try outbox(order, "there")
    let gap = try order.int("gap")
    let count = try order.int("count")
    Worker.waitForStart()
    for _ in 0..<count {
      var pause = timespec(tv_sec: gap / 1_000_000_000, tv_nsec: gap % 1_000_000_000)
      _ = unsafe nanosleep(&pause, nil)
      try there.append(stampedMessage())
    }
    try there.seal()
    Worker.finish([:])
  }

  static func receive(_ order: Fields) throws {
    let there = try Inbox(order, "there")
    var samples = [Int64](repeating: 0, count: try order.int("count"))
    Worker.waitForStart()
    for index in samples.indices {
      let message = try there.take(index)
      samples[index] = MonotonicTime.now.nanoseconds - stamp(of: message)
    }
    Worker.finish(Percentiles(nanoseconds: samples).fields)
  }

  /// What messages are made of.
  private static func content(_ seed: Int) -> Content {
    Content(seed: UInt64(seed), longest: messageByteCount)
  }

  /// All messages of a run.
  static func messages(_ order: Fields) throws -> [[UInt8]] {
    let content = content(try order.int("seed"))
    return (0..<(try order.int("count"))).map { index in
      content.withBytes(at: index * messageByteCount, count: messageByteCount) { bytes in
        bytes.indices.map { bytes[$0] }
      }
    }
  }

  static func outbox(_ order: Fields, _ name: String) throws -> Publisher {
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    return try client.publisher(
      BlobKey("\(try order.text("key"))/\(name)"),
      BlobOptions(byteCount: try order.int("count") * messageByteCount, order: .appendOnly))
  }

  private static func stampedMessage() -> [UInt8] {
    var message = [UInt8](repeating: 1, count: messageByteCount)
    let now = UInt64(bitPattern: MonotonicTime.now.nanoseconds)
    for byte in 0..<8 { message[byte] = UInt8(truncatingIfNeeded: now >> UInt64(8 * byte)) }
    return message
  }

  static func stamp(of message: [UInt8]) -> Int64 {
    Int64(bitPattern: (0..<8).reduce(0) { $0 | UInt64(message[$1]) << UInt64(8 * $1) })
  }
}

/// The reading side of a stream of messages.
private final class Inbox {
  private let subscriber: Subscriber
  private let spins: Bool
  private var message = [UInt8](repeating: 0, count: Int(PF_MESSAGE_BYTES))

  init(_ order: Fields, _ name: String) throws {
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    subscriber = try client.open(
      BlobKey("\(try order.text("key"))/\(name)"), waitUntil: .after(.seconds(10)))
    spins = order.flag("spin")
  }

  /// Waits for the message with this number.
  @discardableResult
  func take(_ index: Int) throws(PatchbayError) -> [UInt8] {
    let start = index * message.count
    try unsafe message.withUnsafeMutableBufferPointer { (place) throws(PatchbayError) in
      var output = unsafe OutputSpan(buffer: place, initializedCount: 0)
      while output.freeCapacity > 0 { try step(&output, start + output.count) }
      _ = unsafe output.finalize(for: place)
    }
    return message
  }

  private func step(
    _ output: inout OutputSpan<UInt8>, _ position: Int
  ) throws(PatchbayError) {
    guard spins else {
      guard try subscriber.read(into: &output, at: position) != nil else { throw ended }
      return
    }
    switch try subscriber.tryRead(into: &output, at: position) {
    case .read: break
    case .wouldBlock: Futex.pause()
    case .endOfBlob: throw ended
    }
  }

  private var ended: PatchbayError {
    PatchbayError(.lengthMismatch, "The other side ended before its last message.")
  }
}

enum LatencyFloor {
  /// One side of a C exchange.
  static func work(_ role: String, _ order: Fields) throws {
    let region = try FloorRegion(inheritedWith: Int(pf_mail_region_bytes()))
    let count = try order.int("count")
    let gap = Int64(try order.int("gap"))
    let spins: Int32 = order.flag("spin") ? 1 : 0
    var samples = [Int64](repeating: 0, count: count)
    Worker.waitForStart()
    switch role {
    case "floor-ping": unsafe pf_mail_ping(region.base, &samples, UInt32(count), spins)
    case "floor-pong": unsafe pf_mail_pong(region.base, UInt32(count), spins)
    case "floor-sender": unsafe pf_mail_send(region.base, UInt32(count), gap)
    default: unsafe pf_mail_receive(region.base, &samples, UInt32(count), spins)
    }
    Worker.finish(Percentiles(nanoseconds: samples).fields)
  }
}
