// Brokers that follow one another on one socket and one spool, as a supervisor starts them: each may
// be killed at a moment or at one of its system calls, and the next one takes its place. At the end
// nothing may be left of any of them.

import Glibc
import PatchbaySystem
import Synchronization

/// A system call at which a broker is killed, before the call is made: the number-th of its kind that
/// one of its threads makes. The tracer counts for each thread and each kind of call by itself.
package struct KillPoint: Sendable, Hashable, CustomStringConvertible {
  package let call: String
  package let number: Int

  package init(_ call: String, _ number: Int) {
    self.call = call
    self.number = number
  }

  package var description: String { "\(call) \(number)" }

  /// What a tracer is told that kills there.
  package var trace: [String] {
    ["-e", "trace=\(call)", "-e", "inject=\(call):signal=KILL:when=\(number)"]
  }
}

/// The socket, the spool and whoever serves them.
package final class Succession: Sendable {
  package let place: TemporaryDirectory
  package let socket: String
  package let spool: String
  private let options: [String]
  private let environment: [String: String]

  private struct State {
    var broker: ChildProcess?
    /// That looks at the broker, or kills it.
    var tracer: ChildProcess?
    var startCount = 0
    var killCount = 0
    var instances: Set<String> = []
  }

  private let state = Mutex(State())

  package static let strace = "/usr/bin/strace"
  package static let canTrace = access(strace, X_OK) == 0

  /// Nobody serves so far.
  /// - Parameters:
  ///   - options: more of `patchbay serve`.
  ///   - environment: of the brokers.
  package init(
    memory: String = "64MiB", options: [String] = [], environment: [String: String] = [:]
  ) throws {
    place = try TemporaryDirectory()
    socket = place.file("control.sock")
    spool = place.file("spool")
    self.options = ["--memory", memory] + options
    self.environment = environment
  }

  /// Brokers with other options, on the same socket and spool.
  package init(following other: Succession, options: [String] = []) throws {
    place = other.place
    socket = other.socket
    spool = other.spool
    self.options = Array(other.options.prefix(2)) + options
    environment = other.environment
    state.withLock { $0.startCount = other.startCount }
  }

  // MARK: One after another

  package var startCount: Int { state.withLock { $0.startCount } }
  /// How many of them were killed.
  package var killCount: Int { state.withLock { $0.killCount } }

  private var broker: ChildProcess {
    get throws {
      guard let broker = state.withLock({ $0.broker }) else { throw HarnessError("no broker") }
      return broker
    }
  }

  package var brokerProcess: Int32 { get throws { try broker.pid } }

  private func logPath(_ number: Int) -> String { place.file("log.\(number)") }

  /// What the last one has said.
  package var log: String { (try? readFile(logPath(startCount))) ?? "" }

  /// Starts the next one, and does not wait for it.
  /// - Parameter trace: under a tracer from its first call on; what the tracer is told.
  package func begin(trace: [String]? = nil) throws {
    let number = state.withLock { state in
      state.startCount += 1
      return state.startCount
    }
    // The tracer stands aside: the process that is started is the broker itself.
    var command = trace.map { [Self.strace, "-D", "-f", "-o", tracePath] + $0 } ?? []
    command += [try program("patchbay"), "serve", "--socket", socket, "--spool", spool] + options
    let broker = try ChildProcess(
      command[0], Array(command.dropFirst()), environment: environment,
      errorPath: logPath(number))
    state.withLock { $0.broker = broker }
  }

  /// Has a tracer look at the last one from now on.
  package func attach(trace: [String]) throws {
    let process = try broker.pid
    let log = place.file("tracer.\(startCount)")
    let tracer = try ChildProcess(
      Self.strace, ["-f", "-p", "\(process)", "-o", tracePath] + trace, errorPath: log)
    state.withLock { $0.tracer = tracer }
    try eventually("the tracer is attached") {
      guard tracer.isRunning else { throw HarnessError((try? readFile(log)) ?? "no tracer") }
      return try readFile(log).contains("attached")
    }
  }

  /// What a tracer has seen of the last one that it has looked at.
  package var tracePath: String { place.file("trace") }

  /// Starts the next one and waits until it serves.
  package func start() throws {
    try begin()
    guard try becameReady() else { throw HarnessError("the broker ended: \(log)") }
  }

  /// Waits until the last one serves; false: it has ended before.
  package func becameReady() throws -> Bool {
    let broker = try broker
    var isReady = false
    try eventually("broker \(startCount) is ready") {
      isReady = log.contains("patchbay: ready")
      return isReady || !broker.isRunning
    }
    noteInstance()
    return isReady
  }

  package var isRunning: Bool { state.withLock { $0.broker }?.isRunning ?? false }

  /// Kills the last one.
  package func kill() throws {
    noteInstance()
    try broker.kill(SIGKILL)
    try reap()
  }

  /// Takes the end of one that was killed.
  /// - Throws: when it has ended in another way: a broker never does so by itself.
  package func reap() throws {
    let code = try broker.waitForExit()
    guard code == 128 + SIGKILL else {
      throw HarnessError("broker \(startCount) ended with \(code): \(log)")
    }
    state.withLock { $0.killCount += 1 }
  }

  /// As a supervisor does: starts the next one whenever one has been killed, until a process has ended.
  /// - Returns: its exit code.
  package func supervise(until client: ChildProcess, within seconds: Double = 60) throws -> Int32 {
    try eventually("\(client.name) ends", within: seconds) {
      if client.isRunning, !isRunning {
        try reap()
        try begin()
      }
      return !client.isRunning
    }
    return try client.waitForExit()
  }

  /// Starts the next one if the last one has been killed, and waits until one serves.
  package func serveAgain() throws {
    repeat {
      if !isRunning {
        try reap()
        try begin()
      }
    } while try !becameReady()
  }

  // MARK: What they leave

  /// The number in the names of this place's shared memory; all of its brokers have the same.
  package var instance: String { (try? readFile(socket + ".lock").filter(\.isHexDigit)) ?? "" }

  private func noteInstance() {
    let instance = instance
    if !instance.isEmpty { _ = state.withLock { $0.instances.insert(instance) } }
  }

  /// The instances that have served.
  package var instances: Set<String> { state.withLock { $0.instances } }

  /// The named shared-memory objects of all of them.
  package var objects: [String] {
    let instances = instances
    return names(in: "/dev/shm").filter { name in
      instances.contains { name.hasPrefix("patchbay-\($0)-") }
    }
  }

  /// As a machine that loses its memory leaves things.
  package func removeObjects() {
    for name in objects { _ = unlink("/dev/shm/\(name)") }
  }

  /// Ends the last one in order; its exit code.
  package func end() throws -> Int32 {
    noteInstance()
    let broker = try broker
    broker.kill(SIGTERM)
    return try broker.waitForExit()
  }

  /// Ends the last one in order and looks at what is left of all of them.
  /// - Throws: when there is anything but complete blobs and empty lock files, or it ended otherwise
  ///   than drained.
  package func stop() throws {
    let code = try end()
    var left = objects
    if names(in: place.path).contains("control.sock") { left.append("control.sock") }
    left += names(in: spool).filter { name in
      !name.hasSuffix(".blob") && !name.hasSuffix(".pinned") && name != "broker.lock"
    }
    for lock in [socket + ".lock", "\(spool)/broker.lock"] {
      if try !readBytes(lock).isEmpty { left.append(lock) }
    }
    guard code == 0, left.isEmpty else {
      throw HarnessError("broker \(startCount) ended with \(code) and left \(left): \(log)")
    }
  }

  deinit {
    state.withLock { $0.broker }?.kill(SIGKILL)
    _ = try? state.withLock { $0.broker }?.waitForExit()
    removeObjects()
  }

  // MARK: Its clients

  /// Runs the command to its end.
  package func run(_ arguments: [String], input: String = "") throws -> Outcome {
    try runProgram(
      "patchbay", arguments, input: input, environment: ["PATCHBAY_SOCKET": socket])
  }

  /// A test client to talk with.
  package func peer() throws -> Peer {
    let peer = try Peer([])
    try peer.ask("connect \(socket)")
    return peer
  }

  /// Starts a test client in a role. What it has to complain about is in `complaint` afterwards.
  package func client(_ role: String, _ arguments: [String] = []) throws -> ChildProcess {
    try ChildProcess(
      try program("patchbay-peer"), [role, socket] + arguments, errorPath: place.file(role))
  }

  /// What clients in a role have said is wrong.
  package func complaint(_ role: String) -> String { (try? readFile(place.file(role))) ?? "" }
}
