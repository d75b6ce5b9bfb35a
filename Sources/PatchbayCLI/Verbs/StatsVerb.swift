// `patchbay stats`: the broker's counters.

import ArgumentParser
import Patchbay

struct StatsVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "stats",
    abstract: "Shows the broker's counters.",
    discussion: """
      Example: patchbay stats --json

      Exits with 0; 64 usage; 69 no broker.
      """)

  @OptionGroup var common: CommonOptions

  func perform() throws {
    let statistics = try common.connect().statistics()
    if common.json {
      try StandardOutput.line(JSON.object(statistics.json).text)
    } else {
      try StandardOutput.write(statistics.lines.map { $0 + "\n" }.joined())
    }
  }
}

extension BrokerStatistics {
  /// The names are a contract.
  var json: JSONFields {
    JSONFields([
      ("blobs", .unsigned(blobCount)), ("memoryBytes", .unsigned(memoryByteCount)),
      ("memoryLimit", .unsigned(memoryLimit)), ("poolBytes", .unsigned(poolByteCount)),
      ("spoolBytes", .unsigned(spoolByteCount)), ("spoolLimit", .unsigned(spoolLimit)),
      ("clients", .unsigned(clientCount)), ("rings", .unsigned(ringCount)),
      ("reuses", .unsigned(reuseCount)), ("spills", .unsigned(spillCount)),
      ("restores", .unsigned(restoreCount)), ("evictions", .unsigned(evictionCount)),
      ("wakes", .unsigned(wakeCount)), ("needlessWakes", .unsigned(needlessWakeCount)),
      ("rescuedWaits", .unsigned(rescuedWaitCount)), ("users", .unsigned(userCount)),
      ("userMemoryBytes", .unsigned(userMemoryByteCount)),
      ("userMemoryLimit", .unsigned(userMemoryLimit)),
      ("clientMemoryLimit", .unsigned(clientMemoryLimit)), ("uptimeSeconds", .seconds(uptime)),
    ])
  }

  var lines: [String] {
    aligned(memoryLines + spoolLines + activityLines)
  }

  private var memoryLines: [(name: String, value: String)] {
    [
      ("blobs", "\(blobCount)"),
      ("memory", "\(Shown.bytes(memoryByteCount)) of \(Shown.bytes(memoryLimit))"),
      ("of it, pool", Shown.bytes(poolByteCount)),
      (
        "this user's",
        "\(Shown.bytes(userMemoryByteCount)) of \(Shown.bytes(userMemoryLimit))"
      ),
      ("each client's", "at most \(Shown.bytes(clientMemoryLimit)) in blobs that it writes"),
    ]
  }

  /// Nothing without a spool.
  private var spoolLines: [(name: String, value: String)] {
    guard spoolLimit > 0 else { return [] }
    return [
      (
        "on disk",
        "\(Shown.bytes(spoolByteCount)) of \(Shown.bytes(spoolLimit)), "
          + "\(spillCount) extents copied so far"
      )
    ]
  }

  private var activityLines: [(name: String, value: String)] {
    [
      ("users", "\(userCount)"),
      ("rings", "\(ringCount), used again \(reuseCount) times"),
      ("clients", "\(clientCount)"), ("evictions", "\(evictionCount)"),
      ("wakes", "\(wakeCount), \(needlessWakeCount) of them needless"),
      ("rescued waits", "\(rescuedWaitCount)"),
      ("uptime", "\(uptime.components.seconds) s"),
    ]
  }
}
