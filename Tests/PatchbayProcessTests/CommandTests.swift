// Verbs that run a command, pass bytes on, or help a shell: what becomes of the blob in each end.

import Glibc
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct CommandTests {
  private func field(_ name: String, of key: String, _ broker: BrokerProcess) throws -> String {
    let text = try broker.run(["info", key, "--json"]).output
    guard let match = text.firstMatch(of: try Regex(#""\#(name)":("[^"]*"|[^,}]*)"#)),
      let value = match.output[1].substring
    else { throw HarnessError("no \(name) in \(text)") }
    return String(value)
  }

  @Test func `a command's output is the blob, sealed when it exits with 0`() throws {
    let broker = try BrokerProcess()
    let put = try broker.run(
      ["put", "k", "--json", "--", "sh", "-c", "cat; echo end"], input: "in\n")
    #expect(put.exitCode == 0 && put.output.contains(#""byteCount":7"#), "\(put)")
    #expect(try broker.run(["cat", "k"]).output == "in\nend\n")
    try broker.stop()
  }

  @Test(arguments: [
    ("echo part; exit 3", "sh exited with status 3"),
    ("echo part; kill -9 $$", "sh was ended by signal 9 (Killed)"),
  ])
  func `a command that does not succeed fails the blob with how it ended`(
    script: String, cause: String
  ) throws {
    let broker = try BrokerProcess()
    let put = try broker.run(["put", "k", "--length", "100", "--", "sh", "-c", script])
    #expect(put.exitCode == 79 && put.error.contains("cause: \(cause)"), "\(put.error)")
    #expect(try field("cause", of: "k", broker) == "\"\(cause)\"")
    let cat = try broker.run(["cat", "k"])
    #expect(cat.exitCode == 79 && cat.error.contains(cause))
    try broker.stop()
  }

  @Test func `a command is not started for a key that is taken, and one that is not there fails`()
    throws
  {
    let broker = try BrokerProcess()
    let trace = broker.directory.file("ran")
    _ = try broker.run(["put", "k"], input: "x")
    #expect(try broker.run(["put", "k", "--", "touch", trace]).exitCode == 73)
    #expect(!names(in: broker.directory.path).contains("ran"))
    let none = try broker.run(["put", "none", "--", "/nowhere/command"])
    #expect(none.exitCode == 74 && none.error.contains("Starting /nowhere/command failed"))
    #expect(try field("state", of: "none", broker) == "\"failed\"")
    try broker.stop()
  }

  @Test(arguments: [(SIGTERM, "terminated", 143), (SIGINT, "interrupted", 130)])
  func `a signal goes to the command, and fails the blob`(
    signal: Int32, cause: String, exitCode: Int32
  ) throws {
    let broker = try BrokerProcess()
    let trace = broker.directory.file("trace")
    let script = """
      trap 'echo told > \(trace); exit 0' TERM INT
      echo ready
      while :; do sleep 0.05; done
      """
    let put = try broker.start(
      ["put", "k", "--tee", "--", "bash", "-c", script], errorPath: "/dev/null")
    #expect(try put.line() == "ready")
    put.kill(signal)
    #expect(try put.waitForExit() == exitCode)
    #expect(try readFile(trace) == "told\n", "it is waited for")
    #expect(try field("cause", of: "k", broker) == "\"\(cause)\"")
    try broker.stop()
  }

  @Test func `a command that is wanted no more is asked to end`() throws {
    let broker = try BrokerProcess()
    let trace = broker.directory.file("trace")
    let script = """
      trap 'echo told > \(trace); exit 0' TERM
      echo too much
      while :; do sleep 0.05; done
      """
    let put = try broker.run(["put", "k", "--length", "3", "--", "bash", "-c", script])
    #expect(put.exitCode == 65, "\(put.error)")
    #expect(try readFile(trace) == "told\n")
    #expect(try field("state", of: "k", broker) == "\"failed\"")
    try broker.stop()
  }

  @Test func `a command starts with the signals that patchbay was started with`() throws {
    let broker = try BrokerProcess()
    let script = "grep -E 'SigBlk|SigIgn' /proc/self/status"
    let plain = try runProgram("/bin/sh", ["-c", script]).output
    let put = try broker.run(["put", "k", "--tee", "--", "/bin/sh", "-c", script])
    #expect(put.output == plain && !plain.isEmpty)
    try broker.stop()
  }

  @Test(arguments: [10, 3_000_000])
  func `tee passes on the bytes that it publishes`(byteCount: Int) throws {
    let broker = try BrokerProcess()
    let file = broker.directory.file("file")
    let bytes = oracleBytes(1, 0..<byteCount)
    try writeFile(file, bytes)
    let put = try broker.run(["put", "file", file, "--tee", "--json"])
    #expect(put.bytes == bytes && put.error.contains(#""byteCount":\#(byteCount)"#))
    #expect(try broker.run(["cat", "file"]).bytes == bytes)
    try broker.stop()
  }

  @Test func `publishing goes on when nobody reads what tee passes on`() throws {
    let broker = try BrokerProcess()
    let patchbay = try program("patchbay")
    let script = "seq 500000 | \(patchbay) put k --tee | head -1; echo ${PIPESTATUS[1]}"
    let outcome = try runProgram(
      "/bin/bash", ["-c", script], environment: ["PATCHBAY_SOCKET": broker.socket])
    #expect(outcome.output == "1\n0\n", "\(outcome.error)")
    #expect(try field("length", of: "k", broker) == "3388895")
    try broker.stop()
  }

  @Test func `a signal ends it although nobody reads what tee passes on`()
    throws
  {
    let broker = try BrokerProcess()
    let put = try broker.start(["put", "k", "--tee", "--", "yes"], errorPath: "/dev/null")
    try eventually("the pipe is full, and the writer waits") {
      // It polls for the broker, too, before there is a blob.
      try readFile("/proc/\(put.pid)/wchan").contains("poll")
        && jsonNumber(try broker.run(["info", "k", "--json"]).output, "frontier") ?? 0 > 65536
    }
    put.kill(SIGTERM)
    #expect(try put.waitForExit() == 143)
    #expect(try field("cause", of: "k", broker) == "\"terminated\"")
    try broker.stop()
  }

  @Test func `bash completes verbs, options and keys`() throws {
    let broker = try BrokerProcess()
    _ = try broker.run(["put", "models/v7"], input: "x")
    let script = """
      source <(patchbay completion bash)
      complete_last() {
        COMP_WORDS=(patchbay "$@"); COMP_CWORD=$#; COMP_LINE="${COMP_WORDS[*]}"
        COMP_POINT=${#COMP_LINE}; COMPREPLY=()
        _patchbay patchbay "${!#}" "${@: -2:1}"
        echo "${COMPREPLY[@]}"
      }
      complete_last ser
      complete_last serve --mem
      complete_last cat mod
      """
    let path = try buildDirectory() + ":/usr/bin:/bin"
    let outcome = try runProgram(
      "/bin/bash", ["-c", script],
      environment: ["PATCHBAY_SOCKET": broker.socket, "PATH": path])
    #expect(
      outcome.output.split(separator: "\n") == ["serve", "--memory", "models/v7"],
      "\(outcome.output)\(outcome.error)")
    try broker.stop()
  }

  @Test(arguments: ["zsh", "fish"])
  func `there is a completion script for every verb`(shell: String) throws {
    let outcome = try runProgram("patchbay", ["completion", shell])
    #expect(outcome.exitCode == 0)
    for verb in ["serve", "put", "cat", "wait", "completion"] {
      #expect(outcome.output.contains(verb))
    }
  }
}
