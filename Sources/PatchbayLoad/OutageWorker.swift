// The processes of an outage: they were there before the broker was killed, and go on with the next one.

import Glibc
import Patchbay
import PatchbaySystem

/// The longest time between two moments.
private struct LongestPause {
  private var last = MonotonicTime.now.nanoseconds
  private(set) var nanoseconds: Int64 = 0

  mutating func note() {
    let now = MonotonicTime.now.nanoseconds
    nanoseconds = max(nanoseconds, now - last)
    last = now
  }
}

enum OutageWorker {
  static let residentKey: BlobKey = "patchbay-load/resident"
  static let residentByteCount = 8 << 20
  private static let residentPiece = 64 << 10

  static func publish(_ order: Fields) throws {
    let (total, piece) = (try order.int("total"), try order.int("piece"))
    let content = Content(seed: UInt64(try order.int("seed")), longest: piece)
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    var options = BlobOptions(order: .appendOnly)
    options.policy = FlowPolicy(rawValue: UInt8(try order.int("policy"))) ?? .keep
    let publisher = try client.publisher(BlobKey(try order.text("key")), options)
    Worker.waitForStart()
    let start = MonotonicTime.now
    var position = 0
    while position < total {
      let count = min(piece, total - position)
      try content.withBytes(at: position, count: count) { (bytes) throws(PatchbayError) in
        try publisher.append(bytes)
      }
      position += count
    }
    try publisher.seal()
    Worker.finish(["elapsed": String(MonotonicTime.now.nanoseconds - start.nanoseconds)])
  }

  /// Reads a stream at its live end.
  static func readLive(_ order: Fields) throws {
    let (total, piece) = (try order.int("total"), try order.int("piece"))
    let content = Content(seed: UInt64(try order.int("seed")), longest: piece)
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    var cursor = try client.open(BlobKey(try order.text("key"))).cursor()
    try cursor.attach()
    let buffer = PrivateBuffer(byteCount: piece)
    Worker.waitForStart()
    var pause: LongestPause?
    while true {
      let at = cursor.position
      var output = unsafe OutputSpan(
        buffer: buffer.bytes.bindMemory(to: UInt8.self), initializedCount: 0)
      guard try cursor.read(into: &output) != nil else { break }
      if pause == nil { pause = LongestPause() } else { pause?.note() }
      try check(output.span, content, at: at)
    }
    guard cursor.position == total else {
      throw LoadError("The stream ended at \(cursor.position) of \(total) bytes.")
    }
    Worker.finish(["longest": String(pause?.nanoseconds ?? 0)])
  }

  /// Reads random pieces of a blob that is in memory, until the stream beside it has ended.
  static func readResident(_ order: Fields) throws {
    let seed = UInt64(try order.int("seed"))
    let content = Content(seed: seed, longest: residentPiece)
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    let resident = try client.open(residentKey)
    let stream = try client.open(BlobKey(try order.text("key")))
    var random = SplitMix(state: seed)
    try readPiece(resident, content, at: 0)
    Worker.waitForStart()
    var pause = LongestPause()
    while stream.state != .sealed {
      let at = Int.random(in: 0...residentByteCount - residentPiece, using: &random)
      try readPiece(resident, content, at: at)
      pause.note()
    }
    Worker.finish(["longest": String(pause.nanoseconds)])
  }

  private static func readPiece(
    _ subscriber: Subscriber, _ content: Content, at position: Int
  ) throws {
    let bytes = try subscriber.readFully(position..<position + residentPiece)
    try check(bytes.span, content, at: position)
  }

  private static func check(
    _ bytes: Span<UInt8>, _ content: Content, at position: Int
  ) throws(LoadError) {
    if let wrong = content.mismatch(bytes, at: position) {
      throw LoadError("The byte at \(wrong) is wrong.")
    }
  }
}
