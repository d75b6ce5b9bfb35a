// The load tool: real processes, predictable bytes, and a plain C ring to compare with. This file has
// the command and what its modes have in common.

import ArgumentParser
import Glibc
import Patchbay
import PatchbaySystem
import PatchbayText

@main
struct LoadCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "patchbay-load",
    abstract: "Measures a broker and its clients with real processes.",
    discussion: """
      Every figure comes from processes of their own. Without --socket the tool starts a broker for
      itself and removes it afterwards. Absolute figures depend on the machine and its mood: only
      ratios of runs that alternate (--floor) can be compared.
      """,
    subcommands: [
      Throughput.self, Latency.self, Churn.self, Control.self, Spill.self, Start.self, Outage.self,
      Soak.self, Worker.self,
    ])

  static func main() {
    Household.watchForInterrupts()
    var status: Int32 = 0
    do {
      var command = try parseAsRoot()
      try command.run()
    } catch {
      Household.shared.yieldToInterrupt()
      status = explain(error)
    }
    Household.shared.close()
    Glibc.exit(status)
  }

  /// Prints what went wrong, or the help that was asked for; the exit status.
  private static func explain(_ error: any Error) -> Int32 {
    let code = exitCode(for: error).rawValue
    let text = fullMessage(for: error)
    if !text.isEmpty { write(text, to: code == 0 ? 1 : 2) }
    return error is LoadError || error is PatchbayError ? 70 : code
  }

  private static func write(_ text: String, to descriptor: Int32) {
    let bytes = Array("\(text)\n".utf8)
    _ = unsafe Glibc.write(descriptor, bytes, bytes.count)
  }
}
