// `patchbay top` on a terminal, and without one.

import Glibc
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct TopTests {
  /// Runs `top` on a terminal of its own, types keys once it has drawn, and gives what it drew.
  private func onTerminal(
    _ broker: BrokerProcess, typing keys: String
  ) throws -> (exitCode: Int32, output: String) {
    let command = "stty cols 100 rows 12; exec \(try program("patchbay")) top --interval 20ms"
    let child = try ChildProcess(
      "/usr/bin/script", ["-qec", command, "/dev/null"],
      environment: ["PATCHBAY_SOCKET": broker.socket, "TERM": "xterm"])
    var drawn = ""
    while drawn.ranges(of: "\u{1b}[J").count < 3 { drawn += try child.line() + "\n" }
    try child.send(keys)
    drawn += String(decoding: try child.rest(), as: UTF8.self)
    return (try child.waitForExit(), drawn)
  }

  @Test(arguments: [("q", 0), ("xyQ", 0), ("\u{3}", 130)])
  func `it draws again and again until q or an interrupt, and leaves the terminal as it was`(
    keys: String, exitCode: Int32
  ) throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    try publisher.ask("publish models/v7 1000 append")
    try publisher.ask("append models/v7 500")
    let (code, output) = try onTerminal(broker, typing: keys)
    #expect(code == exitCode)
    #expect(output.contains("models/v7") && output.contains("50 %"))
    #expect(output.hasPrefix("\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l\u{1b}[H"))
    #expect(output.contains("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l"))
    #expect(!output.contains("\u{1b}[2J"), "nothing is blank between two frames")
    try publisher.ask("drop models/v7")
    try broker.stop()
  }

  @Test func `without a terminal it is one table`() throws {
    let broker = try BrokerProcess()
    _ = try broker.run(["put", "models/v7"], input: "hello")
    _ = try broker.run(["put", "other"], input: "hello")
    let table = try broker.run(["top", "models/", "--interval", "10ms"])
    let lines = table.output.split(separator: "\n")
    #expect(table.exitCode == 0 && !table.output.contains("\u{1b}"))
    #expect(lines.count == 4 && lines[3].hasPrefix("sealed") && lines[3].hasSuffix("models/v7"))
    try broker.stop()
  }

  @Test func `for scripts it is an object each time`() throws {
    let broker = try BrokerProcess()
    _ = try broker.run(["put", "k"], input: "hello")
    let outcome = try broker.run(["top", "--json", "--count", "3", "--interval", "10ms"])
    let lines = outcome.output.split(separator: "\n")
    #expect(outcome.exitCode == 0 && lines.count == 3)
    for line in lines {
      #expect(line.hasPrefix(#"{"time":""#) && line.contains(#""blobs":[{"key":"k","#))
    }
    #expect(lines[1].contains(#""bytesPerSecond":0"#))
    try broker.stop()
  }

  @Test func `it ends with the broker`() throws {
    let broker = try BrokerProcess()
    let top = try broker.start(
      ["top", "--json", "--interval", "10ms"], errorPath: broker.directory.file("error"))
    _ = try top.line()
    try broker.stop()
    #expect(try top.waitForExit() == 69)
  }
}
