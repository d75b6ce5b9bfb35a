// The hidden side of the tool: what a worker process does. It makes ready, says so, waits for the
// word, works, and says what came of it.

import ArgumentParser
import CFloor
import Glibc
import PatchbayTypes

/// `patchbay-load worker FIELD=VALUE...`: for the tool itself, not for people.
struct Worker: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "worker", abstract: "One process of a measurement.", shouldDisplay: false)

  @Argument var words: [String] = []

  func run() throws {
    let order = Fields(words: words)
    do {
      try Self.perform(order)
    } catch {
      Self.say("error \("\(error)".replacing("\n", with: " "))")
      throw ExitCode(70)
    }
  }

  private static func perform(_ order: Fields) throws {
    let role = try order.text("role")
    if !["broker", "soak-broker"].contains(role) { _ = pf_die_with_parent() }
    switch role {
    case "broker": try BrokerProcess.serve(order)
    case "publisher": try ThroughputWorker.publish(order)
    case "reader": try ThroughputWorker.read(order)
    case "floor-writer": try ThroughputFloor.write(order)
    case "floor-reader": try ThroughputFloor.read(order)
    case "ping": try LatencyWorker.ping(order)
    case "pong": try LatencyWorker.pong(order)
    case "sender": try LatencyWorker.send(order)
    case "receiver": try LatencyWorker.receive(order)
    case "task-ping": try LatencyTasks.ping(order)
    case "task-pong": try LatencyTasks.pong(order)
    case "task-receiver": try LatencyTasks.receive(order)
    case "floor-ping", "floor-pong", "floor-sender", "floor-receiver":
      try LatencyFloor.work(role, order)
    case "churn": try ChurnWorker.run(order)
    case "first-byte": try ChurnWorker.openRepeatedly(order)
    case "spill": try SpillWorker.run(order)
    case "start-fill": try StartWorker.fill(order)
    case "start-ask": try StartWorker.ask(order)
    case "recover-publish": try RecoveryWorker.publish(order)
    case "recover-stay": try RecoveryWorker.stay(order)
    case "recover-ask": try RecoveryWorker.ask(order)
    case "recover-check": try RecoveryWorker.check(order)
    case "outage-publisher": try OutageWorker.publish(order)
    case "outage-live": try OutageWorker.readLive(order)
    case "outage-resident": try OutageWorker.readResident(order)
    case "soak": try SoakRole.work(order)
    case "soak-broker": try SoakBrokers.serve(order)
    case "control": try ControlWorker.run(order)
    default: throw LoadError("There is no worker role \(role).")
    }
  }

  /// Tells the tool something.
  static func say(_ line: String) {
    let bytes = Array("\(line)\n".utf8)
    _ = unsafe write(1, bytes, bytes.count)
  }

  /// Says that everything is prepared and waits for the word to begin.
  static func waitForStart(_ fields: Fields = [:]) {
    say("ready \(fields.line)")
    guard readLine() == "go" else { _exit(0) }
  }

  /// Reports the result and stays, with all its handles, until the others are done too.
  static func finish(_ fields: Fields) {
    say("done \(fields.line)")
    _ = readLine()
  }
}
