// The two output streams: whole writes, no buffers of our own, so that nothing is lost or repeated
// when the process ends on a signal.

import Glibc
import Patchbay
import PatchbaySystem

/// Data and answers.
enum StandardOutput {
  /// Writes everything.
  /// - Throws: `inputOutput`; with EPIPE beneath when the reader has gone.
  static func write(_ text: String) throws(PatchbayError) {
    let refused = writeAll(text, to: STDOUT_FILENO)
    guard refused == 0 else { throw .system("Writing to standard output", errno: refused) }
  }

  /// Whether what is written can appear on no terminal, where it would mix with a progress line.
  static var isRegularFile: Bool {
    var facts = stat()
    return unsafe fstat(STDOUT_FILENO, &facts) == 0 && facts.st_mode & S_IFMT == S_IFREG
  }

  static func line(_ text: String) throws(PatchbayError) { try write(text + "\n") }

  /// Ends the process, as SIGPIPE would, when nobody can read what it writes any more, also while it
  /// has nothing to write. For verbs that wait without an end.
  static func endWithReader() {
    var thread = pthread_t()
    let started = unsafe pthread_create(&thread, nil, { _ in StandardOutput.watchReader() }, nil)
    if started == 0 { pthread_detach(thread) }
  }

  private static func watchReader() -> Never {
    // Nothing is asked for: what is told besides is that the other end has gone.
    var waiting = pollfd(fd: STDOUT_FILENO, events: 0, revents: 0)
    while unsafe poll(&waiting, 1, -1) < 1 {}
    _exit(128 + SIGPIPE)
  }
}

/// Messages. That nobody reads them any more is no reason to stop.
enum StandardError {
  static func write(_ text: String) { _ = writeAll(text, to: STDERR_FILENO) }
}

/// 0, or the error number.
private func writeAll(_ text: String, to descriptor: Int32) -> Int32 {
  var rest = Array(text.utf8)[...]
  while !rest.isEmpty {
    let count = unsafe rest.withUnsafeBytes {
      unsafe Glibc.write(descriptor, $0.baseAddress, $0.count)
    }
    if count >= 0 {
      rest = rest.dropFirst(count)
    } else if errno == EAGAIN {
      var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
      _ = unsafe poll(&waiting, 1, -1)
    } else if errno != EINTR {
      return errno
    }
  }
  return 0
}

/// What is known of a terminal behind a descriptor.
struct Terminal {
  let descriptor: Int32

  static let output = Terminal(descriptor: STDOUT_FILENO)
  static let error = Terminal(descriptor: STDERR_FILENO)

  var isTerminal: Bool { isatty(descriptor) == 1 }

  /// Whether colours are welcome: a terminal that is not dumb, and no `NO_COLOR`.
  var hasColors: Bool {
    isTerminal && !Self.isSet("NO_COLOR") && Self.environment("TERM") != "dumb"
  }

  var columnCount: Int { size.columns }

  /// What the terminal says of itself; 80 by 24 when it says nothing.
  var size: (columns: Int, rows: Int) {
    var size = winsize()
    guard unsafe ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0, size.ws_row > 0
    else { return (80, 24) }
    return (Int(size.ws_col), Int(size.ws_row))
  }

  func inRed(_ text: String) -> String { hasColors ? "\u{1b}[31m\(text)\u{1b}[0m" : text }

  private static func environment(_ name: String) -> String? {
    unsafe getenv(name).map { unsafe String(cString: $0) }
  }

  static func isSet(_ name: String) -> Bool { environment(name)?.isEmpty == false }
}
