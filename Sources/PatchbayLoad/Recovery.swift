// `patchbay-load start --recover`: how soon a broker that takes the place of a killed one answers, with
// blobs in memory and clients that have some of them open and come back by themselves.

import Glibc
import Patchbay
import PatchbaySystem

/// What is measured of one start.
struct RecoveryFigures {
  /// Milliseconds until a new client has its first answer.
  var first = Series()
  /// Milliseconds until all clients of the broker before have one.
  var all = Series()
  /// Milliseconds until the process says that it is ready.
  var ready = Series()

  var cell: Report.Cell {
    [
      ("first answer ms", .series(first)), ("all back ms", .series(all)),
      ("ready ms", .series(ready)),
    ]
  }
}

/// A broker with blobs in memory, which is killed and followed by another one.
struct RecoveryRun {
  let directory: String
  let blobs: Int
  let clients: Int
  let seed: UInt32

  private var order: Fields {
    [
      "socket": BrokerProcess.socketPath(in: directory), "blobs": String(blobs),
      "seed": String(seed),
    ]
  }

  private func startBroker() throws {
    _ = try BrokerProcess.start(
      in: directory, memoryByteCount: (256 << 20) + blobs * 65_536, hasSpool: false)
  }

  func measure(repeats: Int) throws -> RecoveryFigures {
    try startBroker()
    try run("recover-publish")
    var figures = RecoveryFigures()
    for _ in 0..<repeats { try addStart(to: &figures) }
    try run("recover-check")
    return figures
  }

  private func run(_ role: String) throws {
    let team = Team()
    try team.add(order.adding(["role": role]))
    _ = try team.run()
  }

  private func addStart(to figures: inout RecoveryFigures) throws {
    let team = Team()
    // The start of the clients' processes is not the broker's.
    for number in 0..<clients {
      try team.add(order.adding(["role": "recover-stay", "number": String(number)]))
    }
    try team.add(order.adding(["role": "recover-ask"]))
    Household.shared.killBroker()
    var (start, ready) = (MonotonicTime.now, MonotonicTime.now)
    // Everybody asks already when the process starts.
    let results = try team.run {
      start = MonotonicTime.now
      try startBroker()
      ready = MonotonicTime.now
    }
    let answers = try results.map { (result) throws(LoadError) in
      Double(Int64(try result.int("answered")) - start.nanoseconds) / 1e6
    }
    figures.first.values.append(answers.last ?? 0)
    figures.all.values.append(answers.dropLast().max() ?? 0)
    figures.ready.values.append(Double(ready.nanoseconds - start.nanoseconds) / 1e6)
  }
}

enum RecoveryWorker {
  /// Every other blob is small enough to travel in a message; the others have memory of their own.
  private static let lengths = [1000, 20_000]

  private static func key(_ number: Int) throws(PatchbayError) -> BlobKey {
    try BlobKey("recover/\(number)")
  }

  private static func byteCount(_ number: Int) -> Int { lengths[number % lengths.count] }

  private static func content(_ order: Fields) throws(LoadError) -> Content {
    Content(seed: UInt64(try order.int("seed")), longest: lengths.max() ?? 0)
  }

  static func publish(_ order: Fields) throws {
    let content = try content(order)
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    Worker.waitForStart()
    for number in 0..<(try order.int("blobs")) {
      let bytes = content.withBytes(at: number, count: byteCount(number)) { span in
        [UInt8](capacity: span.count) { output in
          for index in span.indices { output.append(span[index]) }
        }
      }
      try client.publish(bytes, as: try key(number))
    }
    Worker.finish([:])
  }

  /// Has some blobs open while one broker follows another, then reads them.
  static func stay(_ order: Fields) throws {
    let (number, count) = (try order.int("number"), try order.int("blobs"))
    let content = try content(order)
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    let opened = try (0..<min(10, count)).map { index in
      let blob = (number * 10 + index) % count
      return (blob, try client.open(try key(blob)))
    }
    Worker.waitForStart()
    try client.ping()
    let answered = MonotonicTime.now
    for (blob, subscriber) in opened { try check(subscriber, content, blob) }
    Worker.finish(["answered": String(answered.nanoseconds)])
  }

  /// A client that comes as soon as it can.
  static func ask(_ order: Fields) throws {
    let path = try order.text("socket")
    Worker.waitForStart()
    while true {
      do throws(PatchbayError) {
        try PatchbayClient(socketPath: path).ping()
        break
      } catch {
        guard error.code == .noBroker else { throw error }
        _ = usleep(200)
      }
    }
    Worker.finish(["answered": String(MonotonicTime.now.nanoseconds)])
  }

  /// Reads all blobs.
  static func check(_ order: Fields) throws {
    let content = try content(order)
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    Worker.waitForStart()
    for number in 0..<(try order.int("blobs")) {
      try check(try client.open(try key(number)), content, number)
    }
    Worker.finish([:])
  }

  private static func check(
    _ subscriber: Subscriber, _ content: Content, _ number: Int
  ) throws {
    let bytes = try subscriber.readFully(0..<byteCount(number))
    guard subscriber.byteCount == bytes.count, content.mismatch(bytes.span, at: number) == nil
    else { throw LoadError("The blob \(subscriber.key) came back changed.") }
  }
}
