// `patchbay ping`: whether a broker answers.

import ArgumentParser
import Patchbay

struct PingVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "ping",
    abstract: "Asks the broker for a sign of life.",
    discussion: """
      With --wait it tries again until a broker answers: for scripts that have just started one.

      Example: patchbay ping --wait 5s

      Exits with 0 answered; 64 usage; 69 no broker; 75 it did not answer in time; 76 it speaks \
      another version.
      """)

  @OptionGroup var common: CommonOptions

  @Option(
    help: ArgumentHelp("Waits so long for a broker to start.", valueName: "duration"),
    transform: Typed.duration)
  var wait: Duration?

  func perform() throws {
    let end = wait.map { ContinuousClock.now + $0 }
    let client = try connect(until: end)
    let started = ContinuousClock.now
    let patience = end.map { max($0 - started, .seconds(1)) } ?? .seconds(5)
    try client.ping(deadline: .after(patience))
    try report(client, ContinuousClock.now - started)
  }

  private func connect(until end: ContinuousClock.Instant?) throws -> PatchbayClient {
    while true {
      do throws(PatchbayError) {
        return try common.connect(deadline: .after(.seconds(5)))
      } catch {
        guard error.code == .noBroker, let end, ContinuousClock.now < end else { throw error }
      }
      try Interruption.sleep(.milliseconds(20))
    }
  }

  private func report(_ client: PatchbayClient, _ duration: Duration) throws {
    if common.json {
      let fields = JSONFields([
        ("socket", .string(client.socketPath)), ("process", .integer(Int(client.brokerProcess))),
        ("seconds", .seconds(duration)),
      ])
      try StandardOutput.line(JSON.object(fields).text)
    } else if !common.quiet {
      let micros = duration.wholeNanoseconds / 1000
      try StandardOutput.line(
        "Broker \(client.brokerProcess) on \(client.socketPath) answered in \(micros) us.")
    }
  }
}
