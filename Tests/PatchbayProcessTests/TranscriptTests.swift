// What the guides show of a terminal is what a terminal shows: their commands are run, and what they
// print is compared.

import Glibc
import PatchbayTestSupport
import Testing

/// Commands of a page's block, and what the page says that each prints.
private struct Transcript {
  var steps: [(command: String, output: String)] = []

  /// The console blocks of a page.
  static func all(in page: String) throws -> [Transcript] {
    let root = #filePath.split(separator: "/").dropLast(3).reduce("") { "\($0)/\($1)" }
    let text = try readFile("\(root)/Sources/Patchbay/Patchbay.docc/\(page).md")
    var transcripts: [Transcript] = []
    var open: Transcript?
    for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
      switch (line, open) {
      case ("```console", nil): open = Transcript()
      case ("```", let transcript?):
        transcripts.append(transcript)
        open = nil
      case (_, _?) where line.hasPrefix("$ "):
        open?.steps.append((command: String(line.dropFirst(2)), output: ""))
      case (_, let transcript?): open?.steps[transcript.steps.count - 1].output += line + "\n"
      default: break
      }
    }
    return transcripts
  }
}

@Suite(.serialized) struct TranscriptTests {
  /// Starts a command line; what it says on either stream comes to the same place.
  private func start(_ command: String, _ socket: String) throws -> ChildProcess {
    try ChildProcess(
      "/bin/bash", ["-c", "exec 2>&1\n\(command)"],
      environment: [
        "PATCHBAY_SOCKET": socket, "PATH": try buildDirectory() + ":/usr/bin:/bin",
        "NO_COLOR": "1",
      ])
  }

  private func run(_ transcript: Transcript, _ socket: String) throws {
    for step in transcript.steps {
      let shell = try start(step.command, socket)
      shell.closeInput()
      let seen = String(decoding: try shell.rest(), as: UTF8.self)
      #expect(seen == step.output, "$ \(step.command)")
    }
  }

  @Test func `a first blob, in three terminals`() throws {
    let blocks = try Transcript.all(in: "GettingStarted")
    try #require(blocks.count == 4)
    let directory = try TemporaryDirectory()
    let socket = directory.file("control.sock")
    let terminals = try blocks[..<3].map { try #require($0.steps.first?.command) }
    let broker = try start("exec \(terminals[0])", socket)
    #expect(try broker.line().hasPrefix("patchbay: ready on \(socket), process \(broker.pid), "))
    #expect(blocks[0].steps[0].output.hasPrefix("patchbay: ready on /"))
    let reader = try start(terminals[1], socket)
    try eventually("the reader waits") {
      try runProgram("patchbay", ["why", "hello", "--socket", socket]).exitCode == 0
    }
    let publisher = try start(terminals[2], socket)
    #expect(try reader.line() == "one")
    #expect(String(decoding: try reader.rest(), as: UTF8.self) == "two\n")
    #expect(try publisher.waitForExit() == 0)
    try run(blocks[3], socket)
    broker.kill(SIGINT)
    #expect(try broker.waitForExit() == 0)
  }

  @Test func `a production in three terminals, of which one runs the command`() throws {
    let broker = try BrokerProcess()
    let blocks = try Transcript.all(in: "Producing")
    let steps = try blocks.map { try #require($0.steps.first) }
    try #require(steps.count == 3)
    let first = try start(steps[0].command, broker.socket)
    #expect(try first.line() == "started")
    #expect(try first.line() == "line 1")
    let others = try steps[1...].map { try start($0.command, broker.socket) }
    let lines = "started\nline 1\n" + String(decoding: try first.rest(), as: UTF8.self)
    #expect(lines == steps[0].output)
    for (other, step) in zip(others, steps[1...]) {
      #expect(String(decoding: try other.rest(), as: UTF8.self) == step.output)
    }
    try broker.stop()
  }

  @Test func `an expected digest from a shell`() throws {
    let broker = try BrokerProcess()
    let blocks = try Transcript.all(in: "Verification")
    #expect(blocks.count == 1)
    for block in blocks { try run(block, broker.socket) }
    try broker.stop()
  }

  @Test func `a blob patched together from a shell`() throws {
    let broker = try BrokerProcess()
    let blocks = try Transcript.all(in: "Patchwork")
    #expect(blocks.count == 2)
    for block in blocks { try run(block, broker.socket) }
    try broker.stop()
  }
}
