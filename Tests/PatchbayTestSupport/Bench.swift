// A broker and its clients in processes of their own, and what they must not leave behind.

import Glibc
import PatchbaySystem

/// A broker process with a socket of its own.
package final class BrokerProcess: Sendable {
  package let directory: TemporaryDirectory
  package let process: ChildProcess
  package let socket: String
  package let logPath: String
  /// The number in the names of this broker's shared memory.
  private let instance: String

  /// Starts `patchbay serve` and waits until it answers.
  /// - Parameters:
  ///   - wrapper: a program and arguments to run it under.
  ///   - options: more of its options. With any, other users can pass its directory.
  package init(
    memory: String = "1GiB", wrapper: [String] = [], options: [String] = []
  ) throws {
    directory = try TemporaryDirectory()
    if !options.isEmpty { _ = chmod(directory.path, 0o755) }
    socket = directory.file("control.sock")
    logPath = directory.file("log")
    let command =
      wrapper + [try program("patchbay"), "serve", "--socket", socket, "--memory", memory] + options
    process = try ChildProcess(command[0], Array(command.dropFirst()), errorPath: logPath)
    try eventually("the broker answers") { [process, logPath, socket] in
      guard process.isRunning else {
        throw HarnessError("the broker ended: \((try? readFile(logPath)) ?? "")")
      }
      return try runProgram("patchbay", ["ping", "--socket", socket]).exitCode == 0
    }
    instance = try readFile(socket + ".lock").filter { $0.isHexDigit }
  }

  package var log: String { (try? readFile(logPath)) ?? "" }

  /// Stops the process, all its threads: it answers nothing that is asked from now on, until it is
  /// told to go on by SIGCONT.
  package func suspend() throws { try process.suspend() }

  /// This broker's named shared-memory objects.
  package var objects: Set<String> {
    Set(names(in: "/dev/shm").filter { $0.hasPrefix("patchbay-\(instance)-") })
  }

  /// Runs the command against this broker to its end.
  package func run(_ arguments: [String], input: String = "") throws -> Outcome {
    try runProgram(
      "patchbay", arguments, input: input, environment: ["PATCHBAY_SOCKET": socket])
  }

  /// Runs the command as another user.
  package func run(
    as user: OtherUser, _ arguments: [String], input: String = ""
  ) throws -> Outcome {
    let command = user.wrapper + [try program("patchbay")] + arguments
    return try runProgram(
      command[0], Array(command.dropFirst()), input: input,
      environment: ["PATCHBAY_SOCKET": socket])
  }

  /// Starts the command against this broker.
  package func start(_ arguments: [String], errorPath: String? = nil) throws -> ChildProcess {
    try ChildProcess(
      try program("patchbay"), arguments, environment: ["PATCHBAY_SOCKET": socket],
      errorPath: errorPath)
  }

  /// A client that does what it is told.
  package func peer(_ wrapper: [String] = []) throws -> Peer {
    let peer = try Peer(wrapper)
    _ = try peer.ask("connect \(socket)")
    return peer
  }

  /// Ends the broker and looks at what it left behind.
  /// - Throws: when there is anything: shared memory, its socket, another exit code than 0.
  package func stop() throws {
    process.kill(SIGTERM)
    let code = try process.waitForExit()
    var left = objects.sorted()
    if names(in: directory.path).contains("control.sock") { left.append("control.sock") }
    guard code == 0, left.isEmpty else {
      throw HarnessError("the broker ended with \(code) and left \(left): \(log)")
    }
  }

  /// A number from `patchbay stats --json`.
  package func statistic(_ name: String) throws -> Int {
    let text = try run(["stats", "--json"]).output
    guard let value = jsonNumber(text, name) else { throw HarnessError("no \(name) in \(text)") }
    return value
  }
}

/// Who a program is run as; needs root.
package struct OtherUser: Sendable {
  private let uid: UInt32
  private let gid: UInt32
  private let groups: [UInt32]

  package init(_ uid: UInt32, gid: UInt32? = nil, groups: [UInt32] = []) {
    self.uid = uid
    self.gid = gid ?? uid
    self.groups = groups
  }

  package var wrapper: [String] {
    let others =
      groups.isEmpty
      ? ["--clear-groups"] : ["--groups", groups.map { "\($0)" }.joined(separator: ",")]
    return [Self.setpriv, "--reuid", "\(uid)", "--regid", "\(gid)"] + others
  }

  private static let setpriv = "/usr/bin/setpriv"

  /// Whether programs of this build can be run as another user here.
  package static let isPossible: Bool = {
    guard geteuid() == 0, access(setpriv, X_OK) == 0, let patchbay = try? program("patchbay") else {
      return false
    }
    let command = OtherUser(2000).wrapper + [patchbay, "version"]
    let outcome = try? runProgram(command[0], Array(command.dropFirst()))
    return outcome?.exitCode == 0
  }()
}

/// How a program ended and what it said.
package struct Outcome: Sendable {
  package let exitCode: Int32
  package let bytes: [UInt8]
  package let error: String
  package var output: String { String(decoding: bytes, as: UTF8.self) }
}

/// The path of a program of this build.
package func program(_ name: String) throws -> String { try buildDirectory() + "/\(name)" }

/// Runs a program of this build to its end.
package func runProgram(
  _ name: String, _ arguments: [String], input: String = "", environment: [String: String] = [:],
  within seconds: Double = 120
) throws -> Outcome {
  let directory = try TemporaryDirectory()
  let errorPath = directory.file("stderr")
  let child = try ChildProcess(
    name.contains("/") ? name : try program(name), arguments, environment: environment,
    errorPath: errorPath)
  try? child.send(input)
  child.closeInput()
  let bytes = try child.rest(within: seconds)
  let code = try child.waitForExit()
  return Outcome(exitCode: code, bytes: bytes, error: try readFile(errorPath))
}

/// The number behind `"name":` in a JSON object, without a parser: for figures of our own.
package func jsonNumber(_ text: String, _ name: String) -> Int? {
  guard let at = text.firstRange(of: "\"\(name)\":") else { return nil }
  let rest = text[at.upperBound...].drop { $0 == " " }
  return Int(rest.prefix { $0 == "-" || $0.isNumber })
}

/// The conversation with one test client.
package final class Peer: Sendable {
  package let process: ChildProcess

  init(_ wrapper: [String]) throws {
    let command = wrapper + [try program("patchbay-peer")]
    process = try ChildProcess(command[0], Array(command.dropFirst()))
  }

  /// Says a line without waiting for the answer.
  package func tell(_ line: String) throws { try process.send(line + "\n") }

  /// The answer to the line told before: everything behind `ok `.
  /// - Throws: `PeerError` for an error.
  package func answer(within seconds: Double = 20) throws -> String {
    let line = try process.line(within: seconds)
    if line.hasPrefix("ok") { return String(line.dropFirst(3)) }
    throw PeerError(line)
  }

  /// Says a line and waits for the answer.
  @discardableResult
  package func ask(_ line: String) throws -> String {
    try tell(line)
    return try answer()
  }

  /// Says a line that must be answered by an error; `CODE MESSAGE | CAUSE`.
  package func askForError(_ line: String) throws -> PeerError {
    do {
      throw HarnessError("\(line) was answered by ok \(try ask(line))")
    } catch let error as PeerError {
      return error
    }
  }
}

/// An error that a test client reported.
package struct PeerError: Error, CustomStringConvertible {
  package let description: String
  package let code: String
  package let cause: String

  init(_ line: String) {
    description = line
    let words = line.split(separator: " ", maxSplits: 2)
    code = words.count > 1 ? String(words[1]) : ""
    cause = line.split(separator: "|").last.map { String($0.dropFirst()) } ?? ""
  }
}
