// SIGINT, SIGTERM and SIGHUP, taken by a thread of their own that waits for them, so that what has
// to be cleared away can be done in ordinary code. All other threads have them blocked: `begin`
// comes before the first thread is made.
//
// Without a reaction a signal removes what was registered (a partial file) and ends the process.
// With one, the reaction decides.

import Glibc
import Patchbay
import Synchronization

/// Thrown where work ends because a signal came.
struct Interrupted: Error {
  let signal: Int32

  /// The word for it: also the cause that readers of a failed blob see.
  var word: String { signal == SIGINT ? "interrupted" : "terminated" }
  var message: String { "\(word) by a signal" }
  var exitCode: Int32 { 128 + signal }
}

/// The process's dealings with signals.
final class Interruption: Sendable {
  /// What is to happen now.
  enum Reaction {
    case end
    /// The work has been told; it gets so long to end by itself.
    case grace(Duration)
    /// Whoever it was passed on to decides.
    case goOn
  }

  private struct State {
    var react: (@Sendable (_ signal: Int32, _ index: Int) -> Reaction)?
    var partialFile: String?
    /// 0: nobody. No optional: an optimized build sets this up as zeros, which `kill` would take for
    /// the whole process group.
    var forwardedTo: Int32 = 0
    /// The signals that were blocked before this process blocked its own: for its children.
    var maskBefore = sigset_t()
  }

  private static let state = Mutex(State())
  /// The first signal that came; 0 while none has.
  private static let received = Atomic<Int32>(0)
  /// A pipe that has something to read from the first signal on; for `poll`.
  private static let wakeup = Mutex<(reading: Int32, writing: Int32)>((-1, -1))

  /// Blocks the signals and starts the thread. Signals that the caller's caller has chosen to
  /// ignore (nohup, background jobs) stay ignored.
  static func begin() {
    var ends: [Int32] = [-1, -1]
    if unsafe pipe(&ends) == 0 {
      for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
      wakeup.withLock { $0 = (ends[0], ends[1]) }
    }
    var wanted = awaited
    var before = sigset_t()
    _ = unsafe pthread_sigmask(SIG_BLOCK, &wanted, &before)
    state.withLock { [before] in $0.maskBefore = before }
    startThread()
  }

  /// The signals that this process deals with.
  private static var awaited: sigset_t {
    var wanted = sigset_t()
    _ = unsafe sigemptyset(&wanted)
    for number in [SIGINT, SIGTERM, SIGHUP] where !isIgnored(number) {
      _ = unsafe sigaddset(&wanted, number)
    }
    return wanted
  }

  private static func isIgnored(_ number: Int32) -> Bool {
    var current = sigaction()
    guard unsafe sigaction(number, nil, &current) == 0 else { return false }
    let handler = unsafe current.__sigaction_handler.sa_handler
    return unsafe unsafeBitCast(handler, to: Int.self) == unsafeBitCast(SIG_IGN, to: Int.self)
  }

  private static func startThread() {
    var thread = pthread_t()
    let started = unsafe pthread_create(&thread, nil, { _ in Interruption.serve() }, nil)
    if started == 0 { pthread_detach(thread) }
  }

  /// The thread: waits for signals for ever.
  private static func serve() -> Never {
    var first: Int32 = 0
    var index = 0
    var deadline: ContinuousClock.Instant?
    while true {
      guard let (number, isForGroup) = nextSignal(before: deadline) else { end(first) }
      if index == 0 { first = number }
      // relaxed: the number alone; the byte in the pipe orders what follows for who polls, and who
      // only looks at the number needs nothing else.
      _ = received.compareExchange(expected: 0, desired: number, ordering: .relaxed)
      wakeup.withLock { unsafe _ = write($0.writing, "!", 1) }
      if !isForGroup { passOn(number) }
      let react = state.withLock { $0.react }
      switch react?(number, index) ?? .end {
      case .end: end(number)
      case .grace(let time): deadline = deadline ?? ContinuousClock.now + time
      case .goOn: break
      }
      index += 1
    }
  }

  /// The next signal, and whether the kernel sent it (a key at the terminal did), which then tells
  /// all processes of the group; nil when the deadline passes first.
  private static func nextSignal(
    before deadline: ContinuousClock.Instant?
  ) -> (number: Int32, isForGroup: Bool)? {
    var wanted = awaited
    var facts = unsafe siginfo_t()
    while true {
      let number: Int32
      if let deadline {
        let left = max(0, (deadline - ContinuousClock.now).wholeNanoseconds)
        var time = timespec(
          tv_sec: Int(left / 1_000_000_000), tv_nsec: Int(left % 1_000_000_000))
        number = unsafe sigtimedwait(&wanted, &facts, &time)
        if number < 0 && errno == EAGAIN { return nil }
      } else {
        number = unsafe sigwaitinfo(&wanted, &facts)
      }
      if number > 0 { return unsafe (number, facts.si_code > 0) }
    }
  }

  private static func passOn(_ number: Int32) {
    // Under the lock: who is told here has not been waited for, so the number is still its own.
    state.withLock { state in
      if state.forwardedTo > 0 { _ = kill(state.forwardedTo, number) }
    }
  }

  /// Ends the process at once. Output is written without buffers, so none is lost.
  private static func end(_ number: Int32) -> Never {
    let partialFile = state.withLock { $0.partialFile }
    if let partialFile { _ = unsafe unlink(partialFile) }
    _exit(128 + number)
  }

  // MARK: For verbs

  /// Sets what a signal does from now on; nil: ends the process.
  static func react(_ body: (@Sendable (_ signal: Int32, _ index: Int) -> Reaction)?) {
    state.withLock { $0.react = body }
  }

  /// The file that a signal removes; nil: none.
  static func removeWhenInterrupted(_ path: String?) { state.withLock { $0.partialFile = path } }

  /// The child that gets every signal that comes to this process alone; nil: none. It must be one
  /// that has not been waited for.
  static func forward(to process: Int32?) {
    state.withLock { $0.forwardedTo = process ?? 0 }
    // relaxed: a number that was set before the lock was last taken by `passOn` is seen through the
    // lock; one that comes later is passed on there.
    let number = received.load(ordering: .relaxed)
    if number != 0, let process { _ = kill(process, number) }
  }

  /// The signals that a child is to have blocked: those that this process was born with.
  static var maskForChildren: sigset_t { state.withLock { $0.maskBefore } }

  /// - Throws: `Interrupted` when a signal has come.
  static func check() throws {
    // relaxed: as where it is set.
    let number = received.load(ordering: .relaxed)
    if number != 0 { throw Interrupted(signal: number) }
  }

  /// Waits until a descriptor can be read, or its end or an error shows there.
  /// - Throws: `Interrupted` when a signal comes first.
  static func waitReadable(_ descriptor: Int32) throws {
    _ = try wait(for: descriptor, POLLIN, timeout: -1)
  }

  /// The same for a while; false when it has passed.
  static func waitReadable(_ descriptor: Int32, for duration: Duration) throws -> Bool {
    let milliseconds = max(0, duration.wholeNanoseconds) / 1_000_000 + 1
    return try wait(for: descriptor, POLLIN, timeout: Int32(min(milliseconds, 60_000)))
  }

  /// Waits until a descriptor takes bytes, or an error shows there.
  /// - Throws: `Interrupted` when a signal comes first.
  static func waitWritable(_ descriptor: Int32) throws {
    _ = try wait(for: descriptor, POLLOUT, timeout: -1)
  }

  /// Sleeps.
  /// - Throws: `Interrupted` when a signal comes first.
  static func sleep(_ duration: Duration) throws {
    let end = ContinuousClock.now + duration
    while true {
      let left = (end - ContinuousClock.now).wholeNanoseconds
      guard left > 0 else { return }
      _ = try wait(for: -1, POLLIN, timeout: Int32(min(left / 1_000_000 + 1, 60_000)))
    }
  }

  private static func wait(
    for descriptor: Int32, _ events: Int32, timeout: Int32
  ) throws -> Bool {
    let pipe = wakeup.withLock { $0.reading }
    var waiting = [
      pollfd(fd: descriptor, events: Int16(events), revents: 0),
      pollfd(fd: pipe, events: Int16(POLLIN), revents: 0),
    ]
    while true {
      let count = unsafe poll(&waiting, 2, timeout)
      try check()
      if count >= 0 { return count > 0 }
      guard errno == EINTR else { return true }
    }
  }
}

/// The second signal's number, from the thread that takes it to the one that ends.
final class SecondSignal: Sendable {
  private let stored = Atomic<Int32>(0)

  var number: Int32? {
    get {
      // relaxed: the number alone is wanted.
      let number = stored.load(ordering: .relaxed)
      return number == 0 ? nil : number
    }
    set {
      // relaxed: as above.
      stored.store(newValue ?? 0, ordering: .relaxed)
    }
  }
}
