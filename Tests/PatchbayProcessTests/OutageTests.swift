// The load tool's look at brokers that die: its figures, and that it leaves nothing behind.

import Glibc
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct OutageTests {
  /// Runs the tool with a /dev/shm that nobody else has, which is listed at the end, and a directory
  /// in which nothing may be left.
  private func load(_ arguments: String) throws -> Outcome {
    let place = try TemporaryDirectory()
    let script = "mount -t tmpfs none /dev/shm && \"$0\" \(arguments) --json && ls -A /dev/shm"
    let outcome = try runProgram(
      "/usr/bin/unshare", ["-m", "/bin/sh", "-c", script, try program("patchbay-load")],
      environment: ["TMPDIR": place.path])
    #expect(outcome.exitCode == 0, "\(outcome.error)")
    #expect(names(in: place.path) == [])
    return outcome
  }

  private func cells(_ outcome: Outcome) -> [Substring] {
    Array(outcome.output.split(separator: "\n").dropFirst())
  }

  @Test func `the load tool tells how long readers wait for a broker that was killed`() throws {
    let outcome = try load("outage --kills 2 --total 64MiB")
    let cells = cells(outcome)
    #expect(cells.count == 4, "\(outcome.output)")
    for cell in cells {
      for name in ["live end ms", "resident ms", "gone ms", "stream ms"] {
        #expect(cell.contains("\"\(name)\":{\"median\":"), "\(cell)")
      }
    }
    for mode in ["keep, killed", "keep, not killed", "backpressure, killed"] {
      #expect(cells.contains { $0.contains("\"mode\":\"\(mode)\"") }, "\(outcome.output)")
    }
    let refused = try runProgram("patchbay-load", ["outage", "--kills", "0"])
    #expect(refused.exitCode == 64 && refused.error.contains("--kills"), "\(refused.error)")
  }

  @Test func `the load tool tells how soon a broker that takes another's place answers`() throws {
    let outcome = try load("start --recover --blobs 60 --clients 5 --repeats 2")
    let cells = cells(outcome)
    #expect(cells.count == 1, "\(outcome.output)")
    for name in ["first answer ms", "all back ms", "ready ms"] {
      #expect(cells.first?.contains("\"\(name)\":{\"median\":") == true, "\(outcome.output)")
    }
    let refused = try runProgram("patchbay-load", ["start", "--clients", "3"])
    #expect(refused.exitCode == 64 && refused.error.contains("--recover"), "\(refused.error)")
  }
}
