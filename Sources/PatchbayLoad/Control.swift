// `patchbay-load control`: how many questions a broker answers one client in a second.

import ArgumentParser
import Patchbay
import PatchbayText

struct Control: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Questions to the broker per second, one at a time from one client.")

  @Option(help: "Seconds per repeat and cell.")
  var seconds = 1

  @OptionGroup var run_: RunOptions

  func validate() throws {
    guard (1...3600).contains(seconds) else {
      throw ValidationError("--seconds must be 1 to 3600.")
    }
  }

  func run() throws {
    let path = try run_.brokerPath(memoryByteCount: 256 << 20)
    var report = Report(run_)
    var keys = KeySource()
    for kind in ["ping", "exists"] {
      let order: Fields = [
        "role": "control", "socket": path, "kind": kind, "key": keys.next(),
        "seconds": String(seconds),
      ]
      report.add(
        try RateCell.measure(
          "control, \(kind)", order, repeats: run_.repeats ?? 3, size: nil))
    }
    report.finish()
  }
}

enum ControlWorker {
  static func run(_ order: Fields) throws {
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    let key = try BlobKey(try order.text("key"))
    let asksForKey = try order.text("kind") == "exists"
    if asksForKey { try client.publish([1], as: key) }
    Worker.waitForStart()
    let result = try RateCell.repeatedly(order) { _ in
      if asksForKey { _ = try client.exists(key) } else { try client.ping() }
    }
    if asksForKey { try client.remove(key) }
    Worker.finish(result)
  }
}
