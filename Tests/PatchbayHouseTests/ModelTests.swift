// The models of the lock-free protocols, checked by spin: what holds, and that each wrong variant
// fails.

import PatchbayTestSupport
import Testing

@Suite struct ModelTests {
  @Test func `the models hold and every wrong variant fails`() throws {
    let outcome = try runProgram("/bin/bash", ["\(packageRoot)/Tests/Models/run"])
    let rows = outcome.output.split(separator: "\n")
    print(outcome.output)
    #expect(outcome.exitCode == 0, "\(outcome.error)")
    #expect(rows.count > 30)
  }
}
