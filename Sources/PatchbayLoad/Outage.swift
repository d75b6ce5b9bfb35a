// `patchbay-load outage`: how long readers wait when the broker is killed and another one takes its
// place, while a publisher streams at full speed.

import ArgumentParser
import Glibc
import Patchbay
import PatchbaySystem
import PatchbayText

struct Outage: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "The longest pause of readers while the broker dies and comes back.",
    discussion: """
      One process streams a blob at full speed, one reads it at its live end, and one reads random
      pieces of a sealed blob that is in memory and that it has open. Meanwhile the broker is killed,
      and another one is started at once. Each round gives the longest time between two reads of each
      reader; rounds without a kill alternate with the others and show what the machine itself does.
      Readers check every byte. "gone ms" is the time from the kill to the next broker's readiness,
      "stream ms" how long the stream took. Needs --total and 256 MiB of shared memory.
      """)

  @Option(help: "Kills of a broker, for each policy.")
  var kills = 10

  @Option(help: "Bytes of one stream.")
  var total = ByteSize(byteCount: 1 << 30)

  @Option(help: "Bytes of one append.")
  var writeSize = ByteSize(byteCount: 64 << 10)

  @Option(help: "What the content derives from (default: a random number, which is printed).")
  var seed: UInt32 = .random(in: 1...UInt32.max)

  @Flag(help: "Prints one JSON object per line.")
  var json = false

  func validate() throws {
    guard (1...100_000).contains(kills) else {
      throw ValidationError("--kills must be 1 to 100000.")
    }
    guard (1...1 << 20).contains(writeSize.byteCount) else {
      throw ValidationError("--write-size must be 1 to 1MiB here.")
    }
    guard (1 << 20...1 << 34).contains(total.byteCount) else {
      throw ValidationError("--total must be 1MiB to 16GiB.")
    }
  }

  private static let policies: [FlowPolicy] = [.keep, .backpressure]

  func run() throws {
    let directory = try Household.shared.makeDirectory()
    let path = try startBroker(in: directory)
    let client = try PatchbayClient(socketPath: path, name: "patchbay-load")
    try publishResident(client)
    var report = Report(seed: seed, asJSON: json)
    var keys = KeySource()
    var random = SplitMix(state: UInt64(seed))
    for policy in Self.policies {
      var (killed, undisturbed) = (Pauses(), Pauses())
      for _ in 0..<kills {
        let quiet = try round(client, policy, keys.next()) {}
        undisturbed.add(quiet)
        let delay = Double.random(in: 0.1..<0.5, using: &random) * quiet.stream
        var gone = 0.0
        var disturbed = try round(client, policy, keys.next()) {
          pause(milliseconds: delay)
          let kill = MonotonicTime.now
          Household.shared.killBroker()
          _ = try startBroker(in: directory)
          gone = Double(MonotonicTime.now.nanoseconds - kill.nanoseconds) / 1e6
        }
        disturbed.gone = gone
        killed.add(disturbed)
      }
      report.add(killed.cell("\(policy.defaultValueDescription), killed"))
      report.add(undisturbed.cell("\(policy.defaultValueDescription), not killed"))
    }
    report.finish()
  }

  private func startBroker(in directory: String) throws -> String {
    try BrokerProcess.start(
      in: directory, memoryByteCount: total.byteCount + (256 << 20), hasSpool: false)
  }

  private func pause(milliseconds: Double) { _ = usleep(UInt32(milliseconds * 1000)) }

  private func publishResident(_ client: PatchbayClient) throws {
    let content = Content(seed: UInt64(seed), longest: OutageWorker.residentByteCount)
    try content.withBytes(at: 0, count: OutageWorker.residentByteCount) { bytes in
      let options = BlobOptions(byteCount: bytes.count, order: .appendOnly)
      try client.withPublisher(OutageWorker.residentKey, options) { try $0.append(bytes) }
    }
  }

  // MARK: Rounds

  /// What one round gave, in milliseconds.
  private struct Round {
    var live: Double
    var resident: Double
    var stream: Double
    var gone = 0.0
  }

  private struct Pauses {
    private var live = Series()
    private var resident = Series()
    private var stream = Series()
    private var gone = Series()

    mutating func add(_ round: Round) {
      live.values.append(round.live)
      resident.values.append(round.resident)
      stream.values.append(round.stream)
      gone.values.append(round.gone)
    }

    func cell(_ name: String) -> Report.Cell {
      [
        ("mode", .text(name)), ("live end ms", .series(live)), ("resident ms", .series(resident)),
        ("gone ms", .series(gone)), ("stream ms", .series(stream)),
      ]
    }
  }

  private func round(
    _ client: PatchbayClient, _ policy: FlowPolicy, _ key: String, meanwhile: () throws -> Void
  ) throws -> Round {
    let order: Fields = [
      "socket": client.socketPath, "key": key, "seed": String(seed),
      "total": String(total.byteCount), "piece": String(writeSize.byteCount),
      "policy": String(policy.rawValue),
    ]
    let team = Team()
    try team.add(order.adding(["role": "outage-publisher"]))
    try team.add(order.adding(["role": "outage-live"]))
    try team.add(order.adding(["role": "outage-resident"]))
    let results = try team.run(meanwhile: meanwhile)
    try client.remove(BlobKey(key))
    func milliseconds(_ index: Int, _ name: String) throws(LoadError) -> Double {
      Double(try results[index].int(name)) / 1e6
    }
    return Round(
      live: try milliseconds(1, "longest"), resident: try milliseconds(2, "longest"),
      stream: try milliseconds(0, "elapsed"))
  }
}
