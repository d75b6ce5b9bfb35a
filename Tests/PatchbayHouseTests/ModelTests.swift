// The models of the lock-free protocols, checked by spin: what holds, and that each wrong variant
// fails.

import PatchbayTestSupport
import Testing

@Suite struct ModelTests {
  @Test func `the models hold and every wrong variant fails`() throws {
    let outcome = try runProgram("/bin/bash", ["\(packageRoot)/Tests/Models/run"], within: 900)
    let rows = outcome.output.split(separator: "\n")
    print(outcome.output)
    #expect(outcome.exitCode == 0, "\(outcome.error)")
    let last = try #require(rows.last)
    #expect(rows.count > 60 && last.hasSuffix("of \(rows.count - 1) rows checked, 0 surprises"))
  }
}
