// The command `produce` where what runs it, or what it runs, does not behave.

import Glibc
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct ProduceCommandTests {
  private func produce(_ key: String, _ script: String, _ options: [String] = []) -> [String] {
    ["produce", key] + options + ["--", "/bin/sh", "-c", script]
  }

  /// Standard output that is no place to write to.
  @Test(arguments: ["> /dev/full", ">&-"])
  func `who cannot print what its command makes still sees it made`(output: String) throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let gate = broker.directory.file("gate")
    let script = "echo one; while ! [ -e '\(gate)' ]; do :; done; echo two"
    let errors = broker.directory.file("errors")
    let caller = try ChildProcess(
      "/bin/sh",
      ["-c", "exec \"$0\" \"$@\" \(output)", try program("patchbay")] + produce("k", script),
      environment: ["PATCHBAY_SOCKET": broker.socket], errorPath: errors)
    let reader = try broker.start(["cat", "k", "--wait-for", "20s"])
    #expect(try reader.line() == "one")
    try writeFile(gate, [])
    #expect(try reader.rest() == Array("two\n".utf8))
    #expect(try reader.waitForExit() == 0)
    #expect(try caller.waitForExit() == 74)
    #expect(try readFile(errors).contains("failed"))
    try broker.stop()
  }

  @Test func `a fenced command that prints nothing more is ended`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    // It has closed its output, so that only its end is waited for.
    let silent = try broker.start(
      produce("k", "echo one; exec >&- 2>&-; sleep 1000", ["--stall", "50ms"]))
    #expect(try silent.line() == "one")
    #expect(try broker.run(produce("k", "echo one")).output == "one\n")
    #expect(try silent.waitForExit() == 0)
    try broker.stop()
  }

  @Test func `a command that is silent for longer than its time comes to its end`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let script = "echo one; sleep 1; echo two"
    let callers = try (0..<3).map { _ in
      try broker.start(produce("k", script, ["--stall", "50ms"]))
    }
    for caller in callers {
      #expect(try caller.rest() == Array("one\ntwo\n".utf8))
      #expect(try caller.waitForExit() == 0)
    }
    try broker.stop()
  }

  @Test func `of commands with differing outputs no reader gets a mix`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let gate = broker.directory.file("gate")
    // Each prints a line of its own, and a second one when it may.
    let script = "n=$$; echo $n; while ! [ -e '\(gate)' ]; do sleep 0.01; done; echo $n"
    let first = try broker.start(produce("k", script))
    let line = try first.line()
    let others = try (0..<2).map { _ in try broker.start(produce("k", script)) }
    for other in others { #expect(try other.line() == line) }
    first.kill(SIGKILL)
    try writeFile(gate, [])
    for other in others {
      #expect(try other.rest() == [], "not a byte of another content")
      #expect(try other.waitForExit() == 79)
    }
    let again = try broker.run(produce("k", "echo whole"))
    #expect(again.output == "whole\n" && again.exitCode == 0, "the next begins anew")
    try broker.stop()
  }

  @Test func `a production that is paused is shown as such`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    let gate = broker.directory.file("gate")
    let script = "echo one; while ! [ -e '\(gate)' ]; do sleep 0.01; done; echo two"
    // It reads no more when it cannot print.
    let caller = try ChildProcess(
      "/bin/sh",
      ["-c", "exec \"$0\" \"$@\" > /dev/full", try program("patchbay")]
        + produce("k", script, ["--unread", "pause"]),
      environment: ["PATCHBAY_SOCKET": broker.socket],
      errorPath: broker.directory.file("errors"))
    try eventually("it is paused") {
      try broker.run(["info", "k", "--json"]).output.contains(#""paused":true"#)
    }
    #expect(try broker.run(["info", "k"]).output.contains("goes on when somebody reads it"))
    #expect(try broker.run(["ls", "-l"]).output.contains("paused"))
    #expect(try broker.run(["why", "k"]).output.contains("patchbay cat k"))
    let reader = try broker.start(["cat", "k"])
    #expect(try reader.line() == "one")
    try writeFile(gate, [])
    #expect(try reader.rest() == Array("two\n".utf8))
    #expect(try caller.waitForExit() == 74)
    #expect(try broker.run(["info", "k", "--json"]).output.contains(#""paused":false"#))
    try broker.stop()
  }

  @Test func `a command whose output has no room is told so as no space`() throws {
    let broker = try BrokerProcess(memory: "16MiB")
    let outcome = try broker.run(produce("k", "exec head -c 64M /dev/zero", ["--no-output"]))
    #expect(outcome.exitCode == 81)
    #expect(outcome.error.contains("raise the broker's memory limit."), "\(outcome.error)")
    try broker.stop()
  }

  @Test func `a command whose output has another length is told so with the numbers`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    for (length, words) in [
      ("10", "ended after 3 of the announced 10 bytes"),
      ("2", "has more than the announced 2 bytes"),
    ] {
      let outcome = try broker.run(produce("k", "echo hi", ["--length", length]))
      #expect(outcome.exitCode == 79)
      #expect(outcome.error.contains("the output of /bin/sh \(words)"), "\(outcome.error)")
    }
    #expect(try broker.run(produce("k", "echo hi", ["--stall", "0s"])).exitCode == 64)
    let failing = try broker.run(produce("k", "echo hi; exit 3", ["--length", "10"]))
    #expect(failing.error.contains("exited with status 3"), "\(failing.error)")
    try broker.stop()
  }
}
