// `patchbay serve` under a service manager: a listening socket handed over, words about its state,
// and an end of its own when nobody wants it.

import CPatchbaySystem
import Glibc
import PatchbaySystem
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct ServiceTests {
  /// Starts `serve` as a service manager would: the descriptors from 3 on, told of by variables.
  private func serve(
    _ arguments: [String], listeners: [Int32] = [], environment: [String: String] = [:],
    _ directory: TemporaryDirectory
  ) throws -> ChildProcess {
    let patchbay = try program("patchbay")
    let setting = listeners.isEmpty ? "" : "LISTEN_PID=$$ LISTEN_FDS=\(listeners.count) "
    let words = arguments.joined(separator: " ")
    let script = "\(setting)exec \(patchbay) serve --memory 64MiB \(words)"
    return try ChildProcess(
      "/bin/sh", ["-c", script], environment: environment, errorPath: directory.file("log"),
      inherited: listeners)
  }

  private func run(_ arguments: [String], _ socket: String, input: String = "") throws -> Outcome {
    try runProgram("patchbay", arguments, input: input, environment: ["PATCHBAY_SOCKET": socket])
  }

  @Test func `an idle broker ends by itself, and not while somebody is connected`() throws {
    let directory = try TemporaryDirectory()
    let socket = directory.file("control.sock")
    let broker = try serve(["--socket", socket, "--idle-exit", "3s"], directory)
    #expect(try run(["ping", "--wait", "20s"], socket).exitCode == 0)
    let put = try ChildProcess(
      try program("patchbay"), ["put", "k", "--socket", socket], errorPath: directory.file("put"))
    // A sealed blob does not keep it; a client does, however long it says nothing.
    try eventually("a client has a blob open") {
      try run(["info", "k"], socket).exitCode == 0
    }
    #expect(try run(["wait", "never", "--timeout", "4s"], socket).exitCode == 75)
    #expect(broker.isRunning)
    put.closeInput()
    #expect(try put.waitForExit() == 0)
    #expect(try broker.waitForExit() == 0)
    #expect(names(in: directory.path).contains("control.sock") == false)
    #expect(try readFile(directory.file("log")).contains("No client and no open blob"))
  }

  @Test func `a broker serves on a socket that it was handed, and leaves its name`() throws {
    let directory = try TemporaryDirectory()
    let socket = directory.file("given.sock")
    let listener = Descriptor(owning: try checked(unsafe pb_listen(socket, 16, 0o600), "Listening"))
    let broker = try serve([], listeners: [listener.rawValue], directory)
    #expect(try run(["put", "k"], socket, input: "hello").exitCode == 0)
    #expect(try run(["cat", "k"], socket).output == "hello")
    let environment = try readFile("/proc/\(broker.pid)/environ")
    #expect(environment.contains("LISTEN_PID"), "the test has handed it over")
    broker.kill(SIGTERM)
    #expect(try broker.waitForExit() == 0)
    #expect(names(in: directory.path).contains("given.sock"))
    // Who connects now is served by the next one.
    let waiting = try ChildProcess(
      try program("patchbay"), ["ping", "--socket", socket], errorPath: directory.file("ping"))
    let next = try serve([], listeners: [listener.rawValue], directory)
    #expect(try waiting.waitForExit() == 0)
    next.kill(SIGTERM)
    #expect(try next.waitForExit() == 0)
  }

  @Test func `what was handed over must be one listening socket`() throws {
    let directory = try TemporaryDirectory()
    let socket = directory.file("given.sock")
    let listener = Descriptor(owning: try checked(unsafe pb_listen(socket, 16, 0o600), "Listening"))
    let pair = try ControlSocket.pair()
    let first = Descriptor(owning: pair.0)
    let second = Descriptor(owning: pair.1)
    #expect(try serve([], listeners: [first.rawValue], directory).waitForExit() == 74)
    #expect(
      try serve([], listeners: [listener.rawValue, second.rawValue], directory).waitForExit() == 74)
    let named = try serve(
      ["--socket", directory.file("other")], listeners: [listener.rawValue], directory)
    #expect(try named.waitForExit() == 64)
    let log = try readFile(directory.file("log"))
    #expect(log.contains("is not a listening socket") && log.contains("2 sockets were handed"))
    #expect(log.contains("leave --socket out"))
  }

  @Test func `variables of another process are not ours`() throws {
    let directory = try TemporaryDirectory()
    let socket = directory.file("control.sock")
    let broker = try serve(
      ["--socket", socket], environment: ["LISTEN_PID": "1", "LISTEN_FDS": "1"], directory)
    #expect(try run(["ping", "--wait", "20s"], socket).exitCode == 0)
    broker.kill(SIGTERM)
    #expect(try broker.waitForExit() == 0)
  }

  @Test(arguments: [true, false])
  func `the service manager is told that it is ready, and that it stops`(isAbstract: Bool) throws {
    let directory = try TemporaryDirectory()
    let path = (isAbstract ? "@" : "") + directory.file("notify")
    let manager = try Manager(path)
    let socket = directory.file("control.sock")
    let broker = try serve(
      ["--socket", socket], environment: ["NOTIFY_SOCKET": path], directory)
    #expect(try manager.word() == "READY=1")
    #expect(try run(["ping"], socket).exitCode == 0, "ready means that it answers")
    broker.kill(SIGTERM)
    #expect(try manager.word() == "STOPPING=1")
    #expect(try broker.waitForExit() == 0)
    let log = try readFile(directory.file("log"))
    #expect(!log.contains("NOTIFY_SOCKET"), "\(log)")
  }

  @Test func `a service manager that cannot be told is no reason to stop`() throws {
    let directory = try TemporaryDirectory()
    let socket = directory.file("control.sock")
    let broker = try serve(
      ["--socket", socket], environment: ["NOTIFY_SOCKET": directory.file("nobody")], directory)
    #expect(try run(["ping", "--wait", "20s"], socket).exitCode == 0)
    try eventually("it is said") {
      try readFile(directory.file("log")).contains("telling READY=1")
    }
    broker.kill(SIGTERM)
    #expect(try broker.waitForExit() == 0)
  }

  private static let activator = "/usr/bin/systemd-socket-activate"

  @Test(.enabled(if: access(activator, X_OK) == 0))
  func `systemd starts it for the first client`() throws {
    let directory = try TemporaryDirectory()
    let socket = directory.file("given.sock")
    let activator = try ChildProcess(
      Self.activator,
      ["--seqpacket", "-l", socket, try program("patchbay"), "serve", "--idle-exit", "200ms"],
      errorPath: directory.file("log"))
    try eventually("it listens") { names(in: directory.path).contains("given.sock") }
    #expect(!names(in: directory.path).contains("given.sock.lock"), "not started so far")
    #expect(try run(["ping"], socket).exitCode == 0)
    #expect(try activator.waitForExit() == 0, "the broker has taken its place, and is idle")
    #expect(names(in: directory.path).contains("given.sock"))
  }
}

/// The end of NOTIFY_SOCKET that a service manager has.
private final class Manager {
  private let receiver: Descriptor

  init(_ path: String) throws {
    receiver = Descriptor(owning: socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0))
    var address = sockaddr_un()
    address.sun_family = UInt16(AF_UNIX)
    var bytes = Array(path.utf8)
    if bytes.first == UInt8(ascii: "@") { bytes[0] = 0 }
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    let byteCount = socklen_t(MemoryLayout<sa_family_t>.size + bytes.count)
    let bound = unsafe withUnsafeBytes(of: address) {
      unsafe bind(
        receiver.rawValue, $0.baseAddress?.assumingMemoryBound(to: sockaddr.self), byteCount)
    }
    guard bound == 0 else { throw HarnessError("no socket at \(path): \(systemReason(errno))") }
  }

  /// The next datagram.
  func word() throws -> String {
    let until = MonotonicTime.now.advanced(by: .seconds(20))
    guard pb_poll_readable(receiver.rawValue, until.nanoseconds) > 0 else {
      throw HarnessError("the service manager was told nothing")
    }
    var bytes = [UInt8](repeating: 0, count: 256)
    let count = unsafe recv(receiver.rawValue, &bytes, bytes.count, 0)
    return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
  }
}
