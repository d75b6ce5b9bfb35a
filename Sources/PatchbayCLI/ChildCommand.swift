// A command that is started, told the signals that come here, and waited for. Where its output is
// wanted it has its standard output on a pipe, and how it ended decides whether that is complete; all
// else is as this process has it.

import CPatchbaySystem
import Glibc
import Patchbay
import PatchbaySystem

/// A running command.
final class ChildCommand {
  /// The command's name, for messages.
  let name: String
  private let process: Int32
  /// Readable once the process has ended.
  private let end: Descriptor
  private var status: Int32?

  /// How long a command may take to end by itself after it was asked to.
  private static let patience = Duration.seconds(5)

  /// What a command reads.
  enum Input {
    /// The standard input of this process.
    case ours
    /// Nothing: it finds the end at once.
    case none
  }

  /// Starts a command.
  /// - Parameters:
  ///   - words: its name, looked for as a shell does, and its arguments; not empty.
  ///   - input: what the command gets as its standard input.
  ///   - output: what the command gets as its standard output.
  /// - Throws: `inputOutput`, `notPermitted` when it cannot be started, `limitReached`.
  convenience init(
    _ words: [String], input: Input = .ours, output: borrowing Descriptor
  ) throws(PatchbayError) {
    try self.init(words, input, standardOutput: output.rawValue)
  }

  /// Starts a command with all streams as this process has them.
  /// - Throws: as the other `init`.
  convenience init(_ words: [String]) throws(PatchbayError) {
    try self.init(words, .ours, standardOutput: STDOUT_FILENO)
  }

  private init(
    _ words: [String], _ input: Input, standardOutput: Int32
  ) throws(PatchbayError) {
    let process = try Self.spawn(words, input, standardOutput)
    let pidfd = pb_pidfd(process)
    guard pidfd >= 0 else {
      _ = kill(process, SIGKILL)
      Self.reap(process)
      throw .system("Watching \(words[0])", errno: -pidfd)
    }
    name = words[0]
    self.process = process
    end = Descriptor(owning: pidfd)
    Interruption.forward(to: process)
  }

  deinit { stop() }

  private static func spawn(
    _ words: [String], _ input: Input, _ output: Int32
  ) throws(PatchbayError) -> Int32 {
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    if input == .none {
      unsafe posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
    }
    unsafe posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO)
    var attributes = posix_spawnattr_t()
    unsafe posix_spawnattr_init(&attributes)
    defer { unsafe posix_spawnattr_destroy(&attributes) }
    setSignals(&attributes)
    let arguments = unsafe words.map { unsafe strdup($0) } + [nil]
    defer { unsafe arguments.forEach { unsafe free($0) } }
    var process: pid_t = 0
    let refused = unsafe posix_spawnp(
      &process, words[0], &actions, &attributes, arguments, environ)
    guard refused == 0 else { throw .system("Starting \(words[0])", errno: refused) }
    return process
  }

  /// The child has the signals blocked that this process was born with, and dies of a broken pipe.
  private static func setSignals(_ attributes: inout posix_spawnattr_t) {
    var mask = Interruption.maskForChildren
    unsafe posix_spawnattr_setsigmask(&attributes, &mask)
    var defaults = sigset_t()
    _ = unsafe sigemptyset(&defaults)
    _ = unsafe sigaddset(&defaults, SIGPIPE)
    unsafe posix_spawnattr_setsigdefault(&attributes, &defaults)
    let flags = Int32(POSIX_SPAWN_SETSIGMASK) | Int32(POSIX_SPAWN_SETSIGDEF)
    unsafe posix_spawnattr_setflags(&attributes, Int16(flags))
  }

  @discardableResult
  private static func reap(_ process: Int32) -> Int32 {
    var status: Int32 = 0
    while unsafe waitpid(process, &status, 0) < 0 && errno == EINTR {}
    return status
  }

  // MARK: The end

  /// Waits a while for the command's end; whether it has come.
  /// - Throws: `Interrupted` when a signal comes first.
  func awaitEnd(for duration: Duration) throws -> Bool {
    try status != nil || Interruption.waitReadable(end.rawValue, for: duration)
  }

  /// Waits for the command's end.
  /// - Throws: `blobFailed`, with how it ended as the cause, unless that was with status 0;
  ///   `Interrupted` when a signal comes first.
  func expectSuccess(for key: BlobKey) throws {
    if status == nil { try Interruption.waitReadable(end.rawValue) }
    let words = Self.words(for: ended())
    guard let words else { return }
    throw PatchbayError(
      .blobFailed, "The command \(name) did not succeed, so the blob \(key) has failed.",
      cause: "\(name) \(words)")
  }

  /// Waits for the command's end, signals or not; its exit status, or 128 + the signal that ended it.
  func exitCode() -> Int32 {
    let never = MonotonicTime.distantFuture.nanoseconds
    while status == nil, pb_poll_readable(end.rawValue, never) <= 0 { continue }
    let status = ended()
    let signal = status & 0x7f
    return signal == 0 ? status >> 8 & 0xff : 128 + signal
  }

  /// Asks the command to end, unless a signal that came here has done so, and waits for it; kills it
  /// when it takes too long. Does nothing when it has ended.
  func stop() {
    guard status == nil else { return }
    if (try? Interruption.check()) != nil { _ = kill(process, SIGTERM) }
    let until = MonotonicTime.now.advanced(by: Self.patience)
    if pb_poll_readable(end.rawValue, until.nanoseconds) <= 0 { _ = kill(process, SIGKILL) }
    _ = ended()
  }

  /// The wait status; blocks until there is one.
  private func ended() -> Int32 {
    if let status { return status }
    Interruption.forward(to: nil)
    let status = Self.reap(process)
    self.status = status
    return status
  }

  /// How a process ended, as words behind its name; nil for status 0.
  static func words(for status: Int32) -> String? {
    let signal = status & 0x7f
    guard signal == 0 else {
      let reason = unsafe strsignal(signal).map { unsafe String(cString: $0) } ?? "unknown"
      return "was ended by signal \(signal) (\(reason))"
    }
    let code = status >> 8 & 0xff
    return code == 0 ? nil : "exited with status \(code)"
  }
}
