// `patchbay-load churn`: the whole life of small blobs, over and over, and how soon the first byte of
// an existing one can be read.

import ArgumentParser
import Glibc
import Patchbay
import PatchbaySystem
import PatchbayText

struct Churn: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Lives of small blobs per second: create, write, seal, read, remove.",
    discussion: """
      Once with bytes in shared memory and once with bytes that travel in the messages (at most
      16KiB). Then: from open to the first byte of a blob that exists already.
      """)

  @Option(help: "Bytes per blob, at most 16KiB.")
  var writeSize = ByteSize(byteCount: 4096)

  @Option(help: "Seconds per repeat and cell.")
  var seconds = 1

  @Flag(help: "The reader checks every byte.")
  var verify = false

  @OptionGroup var run_: RunOptions

  func validate() throws {
    guard (1...16_384).contains(writeSize.byteCount) else {
      throw ValidationError("--write-size must be 1 to 16KiB here.")
    }
    guard (1...3600).contains(seconds) else {
      throw ValidationError("--seconds must be 1 to 3600.")
    }
  }

  func run() throws {
    let path = try run_.brokerPath(memoryByteCount: 1 << 30)
    var report = Report(run_)
    var keys = KeySource()
    for kind in ["ring", "inline"] {
      report.add(
        try RateCell.measure(
          "churn, \(kind)", order(path, "churn", kind, &keys), repeats: run_.repeats ?? 3,
          size: writeSize))
    }
    for kind in ["ring", "inline"] {
      report.add(
        try RateCell.measure(
          "open to first byte, \(kind)", order(path, "first-byte", kind, &keys),
          repeats: run_.repeats ?? 3, size: writeSize))
    }
    report.finish()
  }

  private func order(
    _ path: String, _ role: String, _ kind: String, _ keys: inout KeySource
  ) -> Fields {
    [
      "role": role, "socket": path, "kind": kind, "key": keys.next(), "seed": String(run_.seed),
      "size": String(writeSize.byteCount), "seconds": String(seconds), "verify": String(verify),
    ]
  }
}

/// A cell of operations per second with their percentiles, measured by one worker.
enum RateCell {
  static func measure(
    _ name: String, _ order: Fields, repeats: Int, size: ByteSize?
  ) throws(LoadError) -> Report.Cell {
    var (rates, medians, ninetyNinths) = (Series(), Series(), Series())
    for _ in 0..<repeats {
      let team = Team()
      try team.add(order)
      let result = try team.run()[0]
      let percentiles = try Percentiles(result)
      rates.values.append(
        Double(try result.int("count")) / Double(max(try result.int("elapsed"), 1)) * 1e9)
      medians.values.append(Double(percentiles.median) / 1000)
      ninetyNinths.values.append(Double(percentiles.ninetyNinth) / 1000)
    }
    return [
      ("mode", .text(name)), ("size", .text(size?.description ?? "-")),
      ("per second", .number(rates.median, decimals: 0)),
      ("lowest", .number(rates.lowest, decimals: 0)),
      ("highest", .number(rates.highest, decimals: 0)),
      ("p50 us", .number(medians.median, decimals: 2)),
      ("p99 us", .number(ninetyNinths.median, decimals: 2)),
    ]
  }

  /// Does something for so many seconds and notes each time how long it took.
  static func repeatedly(_ order: Fields, _ body: (Int) throws -> Void) throws -> Fields {
    let start = MonotonicTime.now
    let end = start.advanced(by: .seconds(try order.int("seconds")))
    var samples: [Int64] = []
    var now = start
    while now < end {
      try body(samples.count)
      let next = MonotonicTime.now
      samples.append(next.nanoseconds - now.nanoseconds)
      now = next
    }
    return Percentiles(nanoseconds: samples).fields.adding([
      "count": String(samples.count), "elapsed": String(now.nanoseconds - start.nanoseconds),
    ])
  }
}

enum ChurnWorker {
  /// Whole lives of blobs.
  static func run(_ order: Fields) throws {
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    let blobs = try SmallBlobs(client, order)
    Worker.waitForStart()
    let result = try RateCell.repeatedly(order) { number in
      let key = try blobs.create(number)
      try blobs.read(key)
      try client.remove(key)
    }
    Worker.finish(result)
  }

  /// From open to the first byte.
  static func openRepeatedly(_ order: Fields) throws {
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    let blobs = try SmallBlobs(client, order)
    let key = try blobs.create(0)
    Worker.waitForStart()
    let result = try RateCell.repeatedly(order) { _ in
      let subscriber = try client.open(key)
      guard try subscriber.read(upTo: 1, at: 0)?.count == 1 else {
        throw LoadError("A sealed blob had no first byte.")
      }
    }
    try client.remove(key)
    Worker.finish(result)
  }
}

/// Makes and reads blobs of one size, in shared memory or in messages.
private struct SmallBlobs {
  private let client: PatchbayClient
  private let prefix: String
  private let isInline: Bool
  private let bytes: [UInt8]
  private let verifies: Bool

  init(_ client: PatchbayClient, _ order: Fields) throws {
    self.client = client
    prefix = try order.text("key")
    isInline = try order.text("kind") == "inline"
    verifies = order.flag("verify")
    let size = try order.int("size")
    let content = Content(seed: UInt64(try order.int("seed")), longest: size)
    bytes = content.withBytes(at: 0, count: size) { span in
      [UInt8](capacity: size) { output in
        for index in span.indices { output.append(span[index]) }
      }
    }
  }

  func create(_ number: Int) throws(PatchbayError) -> BlobKey {
    let key = try BlobKey("\(prefix)/\(number)")
    if isInline {
      try client.publish(bytes, as: key)
    } else {
      let publisher = try client.publisher(
        key, BlobOptions(byteCount: bytes.count, order: .appendOnly))
      try publisher.append(bytes)
      try publisher.seal()
    }
    return key
  }

  func read(_ key: BlobKey) throws {
    let read = try client.open(key).readFully(0..<bytes.count)
    if verifies && read != bytes { throw LoadError("The blob \(key) came back changed.") }
  }
}
