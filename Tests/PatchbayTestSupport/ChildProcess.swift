// Real processes for tests: started, spoken to by lines, killed, stopped, and always reaped.

import CPatchbaySystem
import Glibc
import PatchbaySystem
import Synchronization

/// What the harness itself could not do; never a result of the code under test.
package struct HarnessError: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// A child process with its standard streams on pipes.
package final class ChildProcess: Sendable {
  package let pid: Int32
  package let name: String
  private let input: Int32
  private let output: Int32
  private let pending = Mutex<[UInt8]>([])
  /// Whether its standard output has come to its end.
  private let outputEnded = Mutex(false)
  private let status = Mutex<Int32?>(nil)

  /// Starts a program. Standard error goes to `errorPath` or stays the test's.
  /// - Parameter inherited: descriptors that the child has as 3, 4, ...
  package init(
    _ path: String, _ arguments: [String] = [], environment: [String: String] = [:],
    errorPath: String? = nil, inherited: [Int32] = []
  ) throws {
    name = "\(path.split(separator: "/").last ?? "") \(arguments.joined(separator: " "))"
    var toChild: [Int32] = [0, 0]
    var fromChild: [Int32] = [0, 0]
    guard unsafe pb_pipe(&toChild) == 0,
      unsafe pb_pipe(&fromChild) == 0
    else { throw HarnessError("no pipe: \(systemReason(errno))") }
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    unsafe posix_spawn_file_actions_adddup2(&actions, toChild[0], 0)
    unsafe posix_spawn_file_actions_adddup2(&actions, fromChild[1], 1)
    if let errorPath {
      unsafe posix_spawn_file_actions_addopen(
        &actions, 2, errorPath, O_WRONLY | O_CREAT | O_APPEND, 0o600)
    }
    for (index, descriptor) in inherited.enumerated() {
      unsafe posix_spawn_file_actions_adddup2(&actions, descriptor, Int32(3 + index))
    }
    // The test runner blocks signals that programs are to get.
    var attributes = posix_spawnattr_t()
    unsafe posix_spawnattr_init(&attributes)
    defer { unsafe posix_spawnattr_destroy(&attributes) }
    var nothing = sigset_t()
    _ = unsafe sigemptyset(&nothing)
    unsafe posix_spawnattr_setsigmask(&attributes, &nothing)
    unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    var all = Self.environment
    all["SWIFT_BACKTRACE"] = "enable=no"
    for (key, value) in environment { all[key] = value }
    let argv = ([path] + arguments).map { unsafe strdup($0) } + [nil]
    let envp = all.map { unsafe strdup("\($0.key)=\($0.value)") } + [nil]
    defer { for pointer in argv + envp { unsafe free(pointer) } }
    var child: pid_t = 0
    let result = unsafe posix_spawn(&child, path, &actions, &attributes, argv, envp)
    _ = close(toChild[0])
    _ = close(fromChild[1])
    input = toChild[1]
    output = fromChild[0]
    pid = child
    guard result == 0 else {
      status.withLock { $0 = -1 }
      throw HarnessError("\(path) does not start: \(systemReason(result))")
    }
  }

  private static var environment: [String: String] {
    var all: [String: String] = [:]
    var entry = unsafe environ
    while let text = unsafe entry.pointee {
      let parts = unsafe String(cString: text).split(
        separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      if parts.count == 2 { all[String(parts[0])] = String(parts[1]) }
      unsafe entry += 1
    }
    return all
  }

  deinit {
    if isRunning {
      kill(SIGKILL)
      _ = try? waitForExit()
    }
    _ = close(input)
    _ = close(output)
  }

  package func kill(_ signal: Int32) {
    if isRunning { _ = Glibc.kill(pid, signal) }
  }

  /// Stops it, all its threads, until it is told to go on by SIGCONT; one that has ended stays so.
  package func suspend() throws {
    kill(SIGSTOP)
    let threads = "/proc/\(pid)/task"
    try eventually("\(name) has stopped") {
      // A thread may end while it is looked at.
      let states = names(in: threads).map { (try? readFile("\(threads)/\($0)/stat")) ?? "" }
      return !isRunning || states.allSatisfy { $0.contains(") T ") }
    }
  }

  /// Writes bytes to its standard input.
  package func send(_ text: String) throws {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let put = unsafe rest.withUnsafeBytes { unsafe write(input, $0.baseAddress, $0.count) }
      guard put > 0 else { throw HarnessError("\(name) takes no input: \(systemReason(errno))") }
      rest = rest.dropFirst(put)
    }
  }

  /// Ends its standard input.
  package func closeInput() { _ = dup2(Self.nowhere, input) }

  private static let nowhere: Int32 = open("/dev/null", O_RDWR | O_CLOEXEC)

  /// The next line of its standard output.
  /// - Throws: when none came within the watchdog's time, or the stream ended.
  package func line(within seconds: Double = 60) throws -> String {
    let until = MonotonicTime.now.advanced(by: .seconds(seconds))
    while true {
      let line: String? = pending.withLock { bytes in
        guard let end = bytes.firstIndex(of: 10) else { return nil }
        defer { bytes.removeFirst(end + 1) }
        return String(decoding: bytes[..<end], as: UTF8.self)
      }
      if let line { return line }
      guard try fill(until: until) else {
        throw HarnessError("\(name) ended its output, or said nothing for \(seconds) s")
      }
    }
  }

  /// Everything up to the end of its standard output.
  /// - Throws: when it had not ended within the watchdog's time.
  package func rest(within seconds: Double = 120) throws -> [UInt8] {
    let until = MonotonicTime.now.advanced(by: .seconds(seconds))
    while try fill(until: until) {}
    guard outputEnded.withLock(\.self) else {
      throw HarnessError("\(name) had not ended its output after \(seconds) s")
    }
    return pending.withLock { bytes in
      defer { bytes = [] }
      return bytes
    }
  }

  /// False at the end of the stream or at the time.
  private func fill(until: MonotonicTime) throws -> Bool {
    guard pb_poll_readable(output, until.nanoseconds) > 0 else { return false }
    var chunk = [UInt8](repeating: 0, count: 65536)
    let got = unsafe chunk.withUnsafeMutableBytes { unsafe read(output, $0.baseAddress, $0.count) }
    guard got > 0 else {
      outputEnded.withLock { $0 = true }
      return false
    }
    pending.withLock { $0 += chunk[..<got] }
    return true
  }

  package var isRunning: Bool {
    status.withLock { status in
      guard status == nil else { return false }
      var raw: Int32 = 0
      if unsafe waitpid(pid, &raw, WNOHANG) == pid { status = raw }
      return status == nil
    }
  }

  /// Waits until it has ended; its exit code, or 128 + the signal that ended it.
  package func waitForExit(within seconds: Double = 60) throws -> Int32 {
    let until = MonotonicTime.now.advanced(by: .seconds(seconds))
    while isRunning {
      guard MonotonicTime.now < until else { throw HarnessError("\(name) does not end") }
      _ = poll(nil, 0, 1)
    }
    return status.withLock { status in
      let raw = status ?? 0
      return raw & 0x7f == 0 ? raw >> 8 & 0xff : 128 + raw & 0x7f
    }
  }
}

/// Waits until a condition holds, looking every few milliseconds.
/// - Throws: when it does not hold within the watchdog's time.
package func eventually(
  _ what: String, within seconds: Double = 60, _ condition: () throws -> Bool
) throws {
  let until = MonotonicTime.now.advanced(by: .seconds(seconds))
  while try !condition() {
    guard MonotonicTime.now < until else { throw HarnessError("never came true: \(what)") }
    _ = poll(nil, 0, 2)
  }
}

/// Waits until a condition holds, without holding a thread.
package func eventually(_ what: String, _ condition: () async throws -> Bool) async throws {
  let until = ContinuousClock.now + .seconds(60)
  while try await !condition() {
    guard ContinuousClock.now < until else { throw HarnessError("never came true: \(what)") }
    try await Task.sleep(for: .milliseconds(2))
  }
}
