// `patchbay-load latency`: messages of 64 bytes between two processes, there and back (ping-pong over
// two blobs), and one way with pauses in which the reader has gone to sleep.

import ArgumentParser
import CFloor
import Patchbay
import PatchbaySystem
import PatchbayText

struct Latency: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "How long a message of 64 bytes takes between two processes.",
    discussion: """
      Round trip: both sides append to a blob and wait for the other's, without a pause. One way:
      the sender pauses between messages, so the reader sleeps and has to be woken. Readers wait as
      the library does, which looks for a moment before it sleeps; --spin never sleeps. The floor
      sleeps at once, or spins. With --async the same readers wait as tasks, too: a thread that
      sleeps for them wakes, and hands over to one that runs tasks; their ratio is to the readers
      that are threads. Figures are microseconds; ratios are those of the medians.
      """)

  @Option(help: "Round trips per repeat.")
  var messages = 20_000

  @Option(help: "Pause between one-way messages; each repeat has a tenth as many as round trips.")
  var gap = TimeSpan(duration: .microseconds(500))

  @Flag(help: "Waits by looking again and again, without sleeping.")
  var spin = false

  @Flag(name: .customLong("async"), help: "Alternates with readers that are tasks.")
  var isAsync = false

  @Flag(help: "The answering side checks every byte of a round trip.")
  var verify = false

  @OptionGroup var floorOptions: FloorOptions
  @OptionGroup var run_: RunOptions

  func validate() throws {
    guard (10...10_000_000).contains(messages) else {
      throw ValidationError("--messages must be 10 to 10000000.")
    }
    guard gap.duration <= .seconds(1) else { throw ValidationError("--gap is at most 1s.") }
    guard !spin || !isAsync else { throw ValidationError("Tasks do not spin: leave --spin out.") }
    _ = try floorOptions.repeats(run_)
  }

  /// The two ways of one measurement.
  private enum Way: String, CaseIterable {
    case roundTrip = "round trip"
    case oneWay = "one way"

    var roles: (first: String, second: String) {
      self == .roundTrip ? ("ping", "pong") : ("sender", "receiver")
    }

    /// The same with readers that are tasks.
    var taskRoles: (first: String, second: String) {
      self == .roundTrip ? ("task-ping", "task-pong") : ("sender", "task-receiver")
    }

    /// Who has the samples.
    var measuringIndex: Int { self == .roundTrip ? 0 : 1 }
  }

  func run() throws {
    let repeats = try floorOptions.repeats(run_)
    let client = try PatchbayClient(
      socketPath: try run_.brokerPath(memoryByteCount: 1 << 30), name: "patchbay-load")
    var report = Report(run_)
    var keys = KeySource()
    for way in Way.allCases {
      var (ours, tasks, floor) = (Figures(), Figures(), Figures())
      for _ in 0..<repeats {
        ours.add(try runOurs(client, way, way.roles, keys.next()))
        if isAsync { tasks.add(try runOurs(client, way, way.taskRoles, keys.next())) }
        if floorOptions.floor { floor.add(try runFloor(way)) }
      }
      report.add(cell(way, ours, tasks, floor))
    }
    report.finish()
  }

  // MARK: Cells

  private struct Figures {
    var medians = Series()
    var ninetyNinths = Series()
    var highest = Series()

    mutating func add(_ percentiles: Percentiles) {
      medians.values.append(Double(percentiles.median) / 1000)
      ninetyNinths.values.append(Double(percentiles.ninetyNinth) / 1000)
      highest.values.append(Double(percentiles.highest) / 1000)
    }
  }

  private func cell(
    _ way: Way, _ ours: Figures, _ tasks: Figures, _ floor: Figures
  ) -> Report.Cell {
    var cell: Report.Cell = [
      ("mode", .text("\(way.rawValue), \(spin ? "spinning" : "blocking")")),
      ("p50 us", .number(ours.medians.median, decimals: 2)),
      ("p99 us", .number(ours.ninetyNinths.median, decimals: 2)),
      ("max us", .number(ours.highest.highest, decimals: 1)),
    ]
    if isAsync {
      cell += [
        ("async p50 us", .number(tasks.medians.median, decimals: 2)),
        ("async p99 us", .number(tasks.ninetyNinths.median, decimals: 2)),
        ("async max us", .number(tasks.highest.highest, decimals: 1)),
        ("async/blocking", .series(tasks.medians.ratios(to: ours.medians))),
      ]
    }
    guard floorOptions.floor else { return cell }
    cell += [
      ("floor p50 us", .number(floor.medians.median, decimals: 2)),
      ("floor p99 us", .number(floor.ninetyNinths.median, decimals: 2)),
      ("floor max us", .number(floor.highest.highest, decimals: 1)),
      ("ratio", .series(ours.medians.ratios(to: floor.medians))),
    ]
    return cell
  }

  // MARK: Runs

  private func count(_ way: Way) -> Int { way == .roundTrip ? messages : messages / 10 }

  private func order(_ way: Way) -> Fields {
    [
      "count": String(count(way)), "spin": String(spin), "verify": String(verify),
      "seed": String(run_.seed), "gap": String(gap.duration.wholeNanoseconds),
    ]
  }

  private func runOurs(
    _ client: PatchbayClient, _ way: Way, _ roles: (first: String, second: String),
    _ key: String
  ) throws -> Percentiles {
    let order = order(way).adding(["socket": client.socketPath, "key": key])
    let team = Team()
    try team.addTogether([
      order.adding(["role": roles.first]), order.adding(["role": roles.second]),
    ])
    let results = try team.run()
    try client.remove(BlobKey("\(key)/there"))
    if way == .roundTrip { try client.remove(BlobKey("\(key)/back")) }
    return try Percentiles(results[way.measuringIndex])
  }

  private func runFloor(_ way: Way) throws -> Percentiles {
    let region = try FloorRegion(byteCount: Int(pf_mail_region_bytes()))
    let team = Team()
    for role in [way.roles.first, way.roles.second] {
      try team.add(order(way).adding(["role": "floor-\(role)"]), region: region.descriptor)
    }
    return try Percentiles(team.run()[way.measuringIndex])
  }
}
