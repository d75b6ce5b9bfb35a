// What users and strangers get wrong, what they are told, and that the broker does not mind. The
// rows of the page `BadInput` are made here; PATCHBAY_RECORD=1 writes them anew.

import Glibc
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import PatchbayWire
import Testing

/// One row of the table.
struct BadInputRow {
  let input: String
  let exitCode: String
  let code: String
  let message: String

  var markdown: String {
    "| \(input) | \(exitCode) | \(code) | \(message.replacing("|", with: "\\|")) |"
  }
}

@Suite(.serialized) struct BadInputTests {
  private static let page = "Sources/Patchbay/Patchbay.docc/BadInput.md"

  @Test func `bad input is told apart and told what to do`() throws {
    let broker = try BrokerProcess(memory: "64MiB")
    var rows = try commands(broker)
    rows += try library(broker)
    rows += try packets(broker)
    rows += try places(broker)
    rows += try scarcity()
    #expect(try broker.run(["ping"]).exitCode == 0, "the broker minds none of it")
    try broker.stop()
    try compare(rows)
  }

  // MARK: By command

  private func commands(_ broker: BrokerProcess) throws -> [BadInputRow] {
    let small = broker.directory.file("small")
    try writeFile(small, Array("hello".utf8))
    _ = try broker.run(["put", "taken", small])
    _ = try broker.run(["put", "failed", "-", "--length", "9"], input: "short")
    let allBytes = (0...255).map { "%" + hex(UInt8($0)) }.joined()
    let long = String(repeating: "k", count: 1025)
    var rows: [BadInputRow] = []
    func row(_ input: String, _ arguments: [String], input text: String = "") throws {
      rows.append(self.row(input, try broker.run(arguments + ["--json"], input: text), broker))
    }
    try row("a key of 0 bytes", ["put", "", small])
    try row("a key of 1025 bytes", ["put", long, small])
    try row("a key of all 256 byte values", ["put", allBytes, small])
    #expect(try broker.run(["cat", allBytes]).output == "hello")
    try row("a key with `%zz`", ["put", "a%zz", small])
    try row("a key that is taken", ["put", "taken", small])
    try row("a key that nobody has", ["cat", "nothing"])
    try row("more bytes than announced", ["put", "more", "-", "--length", "3"], input: "hello")
    try row("fewer bytes than announced", ["put", "less", "-", "--length", "9"], input: "hello")
    try row("reading a failed blob", ["cat", "failed"])
    try row("a file that is not there", ["put", "file", broker.directory.file("none")])
    try row("a directory as a file", ["put", "file", broker.directory.path])
    try row("a target that cannot be written", ["get", "taken", "/proc/nowhere/file"])
    try row("waiting for a key that never comes", ["cat", "never", "--wait-for", "30ms"])
    try row("a blob larger than memory", ["put", "huge", "-", "--length", "1GiB"], input: "x")
    try row("a size without meaning", ["put", "size", small, "--length", "12parsecs"])
    try row("an unknown flag", ["put", "flag", small, "--fast"])
    try row("importing a directory", ["import", "file", broker.directory.path])
    try row("importing a device", ["import", "file", "/dev/null"])
    try row("importing one of the kernel's files", ["import", "file", "/proc/self/status"])
    let imported = broker.directory.file("imported")
    try writeFile(imported, Array("hello".utf8))
    _ = try broker.run(["import", "imported", imported])
    try writeFile(imported, Array("other".utf8))
    try row("reading an imported file that has changed", ["cat", "imported"])
    try row("pinning what is not there", ["pin", "nothing"])
    try row("cleaning without saying what", ["clean"])
    try row("a grace without a time before it", ["produce", "k", "--grace", "1m", "--", "true"])
    try row("a time to live of nothing", ["put", "mortal", small, "--ttl", "0s"])
    try row(
      "a time for the last bytes", ["put", "w", small, "--policy", "backpressure", "--ttl", "1s"])
    try row("more threads than may be", ["get", "taken", small, "--parallel", "65"])
    try row("standard output by several threads", ["get", "taken", "-", "--parallel", "2"])
    rows.append(
      self.row(
        "a command without a place for the blob",
        try broker.run(["with", "taken", "--json", "--", "cat"]), broker))
    try row("an unknown verb", ["publish", "k"])
    try row("a place to watch from that is none", ["watch", "--from", "yesterday"])
    try row("asking why of a key that nobody has or waits for", ["why", "nothing"])
    try row("verifying nothing", ["verify"])
    try row(
      "verifying a spool that is not there", ["verify", "--spool", broker.directory.file("none")])
    try row("verifying a file that is no container", ["verify", small])
    rows.append(
      self.row(
        "a command and a file to publish",
        try broker.run(["put", "both", small, "--json", "--", "true"]), broker))
    for (name, command) in [
      ("publishing a command that fails", "false"),
      ("publishing a command that is not there", "/nowhere/command"),
    ] {
      // What stands behind the dashes is the command's.
      let outcome = try broker.run(["put", command, "--json", "--", command])
      rows.append(self.row(name, outcome, broker))
    }
    rows.append(
      self.row(
        "no broker",
        try runProgram(
          "patchbay", ["ping", "--json", "--socket", broker.directory.file("nobody.sock")]),
        broker))
    let deep = "/tmp/" + String(repeating: "d", count: 120)
    rows.append(
      self.row(
        "a socket path of 125 bytes",
        try runProgram("patchbay", ["ping", "--json", "--socket", deep]), broker))
    return rows
  }

  // MARK: By the library

  private func library(_ broker: BrokerProcess) throws -> [BadInputRow] {
    let peer = try broker.peer()
    try peer.ask("publish hole 100 any")
    try peer.ask("write hole 10 20")
    return [
      row("a seal with holes", try peer.askForError("seal hole"), broker),
      row("a write over covered bytes", try peer.askForError("write hole 29 5"), broker),
      row("a write past the announced length", try peer.askForError("write hole 99 2"), broker),
    ]
  }

  // MARK: By packet

  private func packets(_ broker: BrokerProcess) throws -> [BadInputRow] {
    let hello = Frame.encode(
      .hello(Hello(oldestVersion: 1, newestVersion: 1, token: .none, name: "test")), request: 1)
    let future = Frame.encode(
      .hello(Hello(oldestVersion: 7, newestVersion: 9, token: .none, name: "test")), request: 1)
    let futureFrame = Frame.encode(
      .hello(Hello(oldestVersion: 7, newestVersion: 9, token: .none, name: "test")), request: 1,
      version: 7)
    var lying = hello
    lying[8] = 255
    let rows = try [
      ("garbage on the socket", Array("GET / HTTP/1.1\r\n\r\n and then some".utf8)),
      ("a truncated header", Array(hello.prefix(11))),
      ("a truncated body", Self.shortened(hello, by: 5)),
      ("a packet that lies about its length", lying),
      ("a hello of a later version", future),
      ("a frame of a later version", futureFrame),
      ("a request before hello", Frame.encode(.ping, request: 1)),
      ("an unknown message type", Self.retyped(hello, 77)),
    ].map { name, packet in row(name, try Self.answer(to: packet, broker.socket), broker) }
    return rows + [try withheldDescriptor(broker)]
  }

  /// The system refuses the first descriptor that a client sends: with its second packet.
  private func withheldDescriptor(_ broker: BrokerProcess) throws -> BadInputRow {
    let outcome = try runProgram(
      "/usr/bin/strace",
      [
        "-qq", "-o", "/dev/null", "-e", "trace=sendmsg", "-e", "inject=sendmsg:error=EPERM:when=2",
        try program("patchbay"), "import", "withheld", broker.directory.file("small"), "--json",
        "--socket", broker.socket,
      ])
    return row("an import whose descriptor the system withholds", outcome, broker)
  }

  /// A packet with fewer bytes and a header that says so.
  private static func shortened(_ packet: [UInt8], by count: Int) -> [UInt8] {
    var short = Array(packet.dropLast(count))
    short[8] = UInt8(truncatingIfNeeded: short.count)
    return short
  }

  private static func retyped(_ packet: [UInt8], _ type: UInt8) -> [UInt8] {
    var other = packet
    other[6] = type
    return other
  }

  /// The failure a raw packet is answered with, after which the broker hangs up.
  private static func answer(to packet: [UInt8], _ path: String) throws -> PatchbayError {
    let socket = try ControlSocket.connect(to: path, until: .distantFuture)
    _ = try socket.send(packet)
    var failure: PatchbayError?
    while try socket.waitReadable(until: MonotonicTime.now.advanced(by: .seconds(30))) {
      switch try socket.receive(byteLimit: Frame.byteLimit, descriptorLimit: 4) {
      case .packet(let bytes, _):
        if case .failure(let error) = try Frame(parsing: bytes).decodeReply(bytes) {
          failure = error
        }
      case .hungUp:
        guard let failure else { throw HarnessError("the broker hung up without a word") }
        return failure
      case .wouldBlock: break
      }
    }
    throw HarnessError("the broker neither answered nor hung up")
  }

  // MARK: By place

  private func places(_ broker: BrokerProcess) throws -> [BadInputRow] {
    var rows: [BadInputRow] = []
    let foreign = broker.directory.file("foreign")
    _ = mkdir(foreign, 0o700)
    _ = chown(foreign, 65534, 65534)
    let open = broker.directory.file("open")
    _ = mkdir(open, 0o777)
    _ = chmod(open, 0o777)
    let file = broker.directory.file("file")
    try writeFile(file, [1])
    for (name, arguments) in [
      ("two brokers on one socket", ["serve", "--socket", broker.socket]),
      ("serving in a directory of another user", ["serve", "--socket", "\(foreign)/s"]),
      (
        "a shared broker in a directory that others cannot pass",
        ["serve", "--shared", "--socket", "\(broker.directory.path)/inner/s"]
      ),
      ("serving in a directory others may write to", ["serve", "--socket", "\(open)/s"]),
      ("a file in place of the socket", ["serve", "--socket", file]),
    ] {
      rows.append(row(name, try runProgram("patchbay", arguments + ["--json"]), broker))
    }
    _ = mkdir("\(foreign)/patchbay", 0o755)
    _ = chown("\(foreign)/patchbay", 65534, 65534)
    rows.append(
      row(
        "asking by the default rules in a directory of another user",
        try runProgram(
          "patchbay", ["ping", "--json"],
          environment: ["XDG_RUNTIME_DIR": foreign, "PATCHBAY_SOCKET": ""]), broker))
    let handedOver = "LISTEN_PID=$$ LISTEN_FDS=1 exec \(try program("patchbay")) serve --json 3<&0"
    rows.append(
      row(
        "serving on a descriptor that is no listening socket",
        try runProgram("/bin/sh", ["-c", handedOver]), broker))
    #expect(try readBytes(file) == [1], "what is not a socket of ours is left alone")
    return rows
  }

  // MARK: By scarcity

  private func scarcity() throws -> [BadInputRow] {
    let directory = try TemporaryDirectory()
    let patchbay = try program("patchbay")
    // A mount namespace of its own, so that /dev/shm is a small one for these processes only.
    let script = """
      mount -t tmpfs -o size=12m tmpfs /dev/shm
      export PATCHBAY_SOCKET=\(directory.path)/s
      \(patchbay) serve --memory 1GiB 2>/dev/null & broker=$!
      \(patchbay) ping --wait 20s >/dev/null
      head -c 30000000 /dev/zero | \(patchbay) put big - --length 30000000 --json
      code=$?
      printf fine | \(patchbay) put small - && \(patchbay) cat small >&2
      kill $broker; wait $broker
      exit $code
      """
    let small = try runProgram("/usr/bin/unshare", ["-m", "bash", "-c", script])
    #expect(small.error.hasSuffix("fine"), "\(small.error)")
    let few = """
      ulimit -n 60
      export PATCHBAY_SOCKET=\(directory.path)/t
      \(patchbay) serve --memory 64MiB 2>/dev/null & broker=$!
      \(patchbay) ping --wait 20s >/dev/null
      waiters=
      for i in $(seq 60); do
        \(patchbay) wait never$i --timeout 1000s 2>/dev/null & waiters="$waiters $!"
      done
      for i in $(seq 500); do
        \(patchbay) ping --json 2>error >/dev/null; code=$?
        [ $code -ne 0 ] && break
      done
      kill $waiters; wait $waiters
      for i in $(seq 500); do \(patchbay) ping >/dev/null 2>&1 && break; done
      cat error >&2
      kill $broker; wait $broker || echo "the broker ended with $?" >&2
      exit $code
      """
    let out = try runProgram("/bin/bash", ["-c", "cd \(directory.path)\n\(few)"])
    return [
      row("a /dev/shm of 12 MiB", small, nil, directory.path),
      row("a broker out of descriptors", out, nil, directory.path),
    ]
  }

  // MARK: Rows

  private func row(
    _ input: String, _ outcome: Outcome, _ broker: BrokerProcess?, _ place: String = "\u{0}"
  ) -> BadInputRow {
    let text = outcome.error
    let code = text.firstMatch(of: /"code":\s*"([A-Za-z0-9]+)"/).map { String($0.1) } ?? "-"
    let message =
      text.firstMatch(of: /"message":\s*"((?:[^"\\]|\\.)*)"/).map { String($0.1) }
      ?? String(text.split(separator: "\n").first ?? "-")
    return BadInputRow(
      input: input, exitCode: "\(outcome.exitCode)", code: code,
      message: plain(message, broker?.directory.path ?? place))
  }

  private func row(
    _ input: String, _ error: PatchbayError, _ broker: BrokerProcess
  ) -> BadInputRow {
    BadInputRow(
      input: input, exitCode: "-", code: "\(error.code)",
      message: plain(error.message, broker.directory.path))
  }

  private func row(_ input: String, _ error: PeerError, _ broker: BrokerProcess) -> BadInputRow {
    let message = error.description.split(separator: " ", maxSplits: 2).last ?? ""
    return BadInputRow(
      input: input, exitCode: "-", code: error.code,
      message: plain(
        String(message.split(separator: " | ", omittingEmptySubsequences: false).first ?? ""),
        broker.directory.path))
  }

  /// Takes out what differs from run to run.
  private func plain(_ message: String, _ place: String) -> String {
    message.replacing(place, with: "DIR").replacing("\\/", with: "/").replacing(
      /process [0-9]+/, with: "process PID"
    ).replacing(/part\.[0-9]+/, with: "part.PID").replacing(/[0-9]{6,}/, with: "N").replacing(
      /k{100,}/, with: "kkk..."
    ).replacing(
      /d{100,}/, with: "ddd...")
  }

  private func hex(_ byte: UInt8) -> String {
    let digits = Array("0123456789ABCDEF")
    return String([digits[Int(byte >> 4)], digits[Int(byte & 15)]])
  }

  private func compare(_ rows: [BadInputRow]) throws {
    let root = #filePath.split(separator: "/").dropLast(3).reduce("") { "\($0)/\($1)" }
    let text = """
      # Bad input

      What people and programs get wrong, and what they are told.

      ## Overview

      This table is made by a test (`bad input is told apart and told what to do`) from what the
      programs print: the exit code of the command, the error's code, and its message. `DIR` stands
      for a directory, `PID` for a process, `N` for a number that differs from run to run.

      | input | exit | code | message |
      |---|---|---|---|
      \(rows.map(\.markdown).joined(separator: "\n"))

      """
    if unsafe getenv("PATCHBAY_RECORD") != nil {
      try writeFile("\(root)/\(Self.page)", Array(text.utf8))
    }
    let recorded = try readFile("\(root)/\(Self.page)").split(separator: "\n").map(String.init)
    let seen = text.split(separator: "\n").map(String.init)
    for line in seen where !recorded.contains(line) { Issue.record("new: \(line)") }
    for line in recorded where !seen.contains(line) { Issue.record("gone: \(line)") }
  }
}
