// Starting this program again in a process of its own, and talking to it line by line over its
// standard input and output.

import Glibc

/// A process that was started from this program.
final class ChildProcess {
  let process: pid_t
  /// What the child reads.
  let input: Int32
  private let output: Int32
  private var unread: [UInt8] = []

  /// The number under which a child finds a region it was handed.
  static let regionDescriptor: Int32 = 3

  /// Starts the hidden command `worker` with an order.
  /// - Parameters:
  ///   - region: a descriptor that the child gets as `regionDescriptor`.
  ///   - isApart: in a process group of its own, so a terminal's interrupt does not reach it.
  init(order: Fields, region: Int32? = nil, isApart: Bool = false) throws(LoadError) {
    let (childInput, ourEnd) = try Self.makePipe()
    let (ourInput, childOutput) = try Self.makePipe()
    defer { for descriptor in [childInput, childOutput] { _ = Glibc.close(descriptor) } }
    input = ourEnd
    output = ourInput
    var actions = unsafe posix_spawn_file_actions_t()
    _ = unsafe posix_spawn_file_actions_init(&actions)
    defer { _ = unsafe posix_spawn_file_actions_destroy(&actions) }
    _ = unsafe posix_spawn_file_actions_adddup2(&actions, childInput, 0)
    _ = unsafe posix_spawn_file_actions_adddup2(&actions, childOutput, 1)
    if let region {
      _ = unsafe posix_spawn_file_actions_adddup2(&actions, region, Self.regionDescriptor)
    }
    process = try unsafe Self.spawn(
      ["patchbay-load", "worker"] + order.words, &actions, isApart)
  }

  deinit { for descriptor in [input, output] { _ = Glibc.close(descriptor) } }

  private static func makePipe() throws(LoadError) -> (reading: Int32, writing: Int32) {
    var ends: [Int32] = [0, 0]
    guard unsafe pipe(&ends) == 0 else {
      throw LoadError("Making a pipe failed with error \(errno).")
    }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    return (ends[0], ends[1])
  }

  private static func spawn(
    _ words: [String], _ actions: inout posix_spawn_file_actions_t, _ isApart: Bool
  ) throws(LoadError) -> pid_t {
    var attributes = posix_spawnattr_t()
    _ = unsafe posix_spawnattr_init(&attributes)
    defer { _ = unsafe posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    _ = unsafe sigemptyset(&none)
    _ = unsafe posix_spawnattr_setsigmask(&attributes, &none)
    let flags = POSIX_SPAWN_SETSIGMASK | (isApart ? POSIX_SPAWN_SETPGROUP : 0)
    _ = unsafe posix_spawnattr_setflags(&attributes, Int16(flags))
    var arguments = unsafe words.map { unsafe strdup($0) } + [nil]
    defer { unsafe arguments.forEach { unsafe free($0) } }
    var process = pid_t()
    let result = unsafe posix_spawn(
      &process, "/proc/self/exe", &actions, &attributes, &arguments, environ)
    guard result == 0 else {
      throw LoadError("Starting a worker process failed with error \(result).")
    }
    return process
  }

  /// Says one line to the child.
  func send(_ line: String) {
    let bytes = Array("\(line)\n".utf8)
    _ = unsafe Glibc.write(input, bytes, bytes.count)
  }

  /// Waits for a line that begins with this word; its fields.
  /// - Throws: what the child reports instead, or that it ended.
  func expect(_ word: String) throws(LoadError) -> Fields {
    guard let line = readLine() else {
      throw LoadError("A worker process ended before it said \"\(word)\".")
    }
    if line.hasPrefix("\(word)") { return Fields(line: line) }
    if line.hasPrefix("error ") { throw LoadError(String(line.dropFirst("error ".count))) }
    throw LoadError("A worker said \"\(line)\" instead of \"\(word)\".")
  }

  private func readLine() -> String? {
    while true {
      if let line = takeUnread() { return line }
      guard readOn() else { return nil }
    }
  }

  private func takeUnread() -> String? {
    guard let end = unread.firstIndex(of: UInt8(ascii: "\n")) else { return nil }
    defer { unread.removeSubrange(...end) }
    return String(decoding: unread[..<end], as: UTF8.self)
  }

  /// Blocks while the child says nothing; false at the end of its output.
  private func readOn() -> Bool {
    var piece = [UInt8](repeating: 0, count: 4096)
    while true {
      let got = unsafe Glibc.read(output, &piece, piece.count)
      if got < 0 && errno == EINTR { continue }
      guard got > 0 else { return false }
      unread += piece[..<got]
      return true
    }
  }

  /// What to look at for whether it has said something.
  var listening: pollfd { pollfd(fd: output, events: Int16(POLLIN), revents: 0) }

  /// The whole lines among what the child has said; nil once its output has ended. Blocks while it
  /// says nothing.
  func takeLines() -> [String]? {
    guard readOn() else { return nil }
    var lines: [String] = []
    while let line = takeUnread() { lines.append(line) }
    return lines
  }

  /// Waits until the child has ended; how, as the system tells it.
  @discardableResult
  func wait() -> Int32 {
    var status: Int32 = 0
    while unsafe waitpid(process, &status, 0) < 0, errno == EINTR {}
    return status
  }
}

extension ChildProcess {
  /// Ends the child, whatever it does, and waits until it has ended.
  func end() {
    _ = Glibc.kill(process, SIGKILL)
    wait()
  }
}
