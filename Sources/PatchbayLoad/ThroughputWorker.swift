// The processes of a throughput run over a broker.

import CFloor
import Glibc
import Patchbay
import PatchbaySystem

enum ThroughputWorker {
  static func publish(_ order: Fields) throws {
    let (total, piece) = (try order.int("total"), try order.int("piece"))
    let content = Content(seed: UInt64(try order.int("seed")), longest: piece)
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    var options = BlobOptions(byteCount: total, order: .appendOnly)
    options.policy = FlowPolicy(rawValue: UInt8(try order.int("policy"))) ?? .keep
    let (ring, segment) = (try order.int("ring"), try order.int("segment"))
    if ring > 0 { options.firstExtentByteCount = ring }
    if ring > 0 { options.ringByteCount = ring }
    if segment > 0 { options.segmentByteCount = segment }
    let batch = try order.int("batch")
    let start = MonotonicTime.now
    let publisher = try client.publisher(BlobKey(try order.text("key")), options)
    let preparation = MonotonicTime.now.nanoseconds - start.nanoseconds
    Worker.waitForStart(["preparation": String(preparation)])
    let first = MonotonicTime.now
    var position = 0
    while position < total {
      guard batch > 1 else {
        let count = min(piece, total - position)
        try content.withBytes(at: position, count: count) { (bytes) throws(PatchbayError) in
          try publisher.append(bytes)
        }
        position += count
        continue
      }
      let end = min(position + batch * piece, total)
      try publisher.withBatch { (appended: inout Batch) in
        while position < end {
          let count = min(piece, end - position)
          try content.withBytes(at: position, count: count) { (bytes) throws(PatchbayError) in
            try appended.append(bytes)
          }
          position += count
        }
      }
    }
    try publisher.seal()
    Worker.finish(["first": String(first.nanoseconds)])
  }

  static func read(_ order: Fields) throws {
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    let subscriber = try client.open(
      BlobKey(try order.text("key")), waitUntil: .after(.seconds(10)))
    var reader = try StreamReader(subscriber, order)
    Worker.waitForStart()
    try reader.readAll()
    Worker.finish([
      "last": String(MonotonicTime.now.nanoseconds), "mismatch": String(reader.mismatch),
      "sum": String(reader.sum),
    ])
  }
}

/// Takes a whole stream in one of the ways of `Consume`.
private struct StreamReader: ~Copyable {
  private let subscriber: Subscriber
  private var cursor: SubscriberCursor
  private let consume: Consume
  private let total: Int
  private let piece: Int
  private let buffer: PrivateBuffer
  /// Nil: bytes are not checked.
  private let content: Content?
  private var position = 0
  private(set) var sum: UInt64 = 0
  private(set) var mismatch = -1

  init(_ subscriber: Subscriber, _ order: Fields) throws {
    let cursor = subscriber.cursor()
    try cursor.attach()
    let (piece, total) = (try order.int("piece"), try order.int("total"))
    let seed = UInt64(try order.int("seed"))
    consume = Consume(rawValue: try order.text("consume")) ?? .copy
    self.subscriber = subscriber
    self.cursor = cursor
    self.total = total
    self.piece = piece
    buffer = PrivateBuffer(byteCount: piece)
    content = order.flag("verify") ? Content(seed: seed, longest: piece) : nil
  }

  mutating func readAll() throws {
    while position < total {
      if consume == .view { try lease() } else { try copy() }
    }
  }

  private mutating func copy() throws {
    let target = unsafe buffer.bytes.bindMemory(to: UInt8.self)
    var output = unsafe OutputSpan(buffer: target, initializedCount: 0)
    guard let count = try cursor.read(into: &output) else {
      throw LoadError("The blob ended at \(position) of \(total) bytes.")
    }
    take(output.span)
    position += count
  }

  private mutating func lease() throws(PatchbayError) {
    var end = min(position + piece, total)
    do throws(PatchbayError) {
      try takeLease(position..<end)
    } catch  where error.code == .rangeOutOfBounds {
      // An extent ends inside the range: this side of its edge first.
      end = error.resumePosition ?? end
      try takeLease(position..<end)
    }
    position = end
  }

  private mutating func takeLease(_ range: Range<Int>) throws(PatchbayError) {
    let lease = try subscriber.lease(range)
    lease.withBytes { take($0) }
  }

  private mutating func take(_ bytes: Span<UInt8>) {
    if consume != .copy {
      sum &+= unsafe bytes.withUnsafeBytes { unsafe pf_sum($0.baseAddress, $0.count) }
    }
    guard let content, mismatch < 0 else { return }
    mismatch = content.mismatch(bytes, at: position) ?? -1
  }
}
