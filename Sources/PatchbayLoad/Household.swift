// Everything this run has started or made, so that nothing is left behind however it ends. An
// interrupt is taken by a thread of its own, which ends the workers, lets the broker go, removes the
// directory and exits. From that moment on nothing is started or made any more: whoever wants to
// waits for the end of the process.

import Glibc
import Synchronization

/// The processes and the directory of this run.
final class Household: Sendable {
  static let shared = Household()

  private struct State {
    var workers: Set<pid_t> = []
    /// The broker ends, and cleans up, when this descriptor is closed.
    var broker: (process: pid_t, input: Int32)?
    var directory: String?
    /// Nothing is added any more, and the process is about to end.
    var isInterrupted = false
  }

  private let state = Mutex(State())

  private init() {}

  /// Starts a worker. Once this run is interrupted it starts none, and does not return.
  func startWorker(
    _ start: () throws(LoadError) -> ChildProcess
  ) throws(LoadError) -> ChildProcess {
    try add { (state) throws(LoadError) in
      let worker = try start()
      state.workers.insert(worker.process)
      return worker
    }
  }

  func forget(worker: pid_t) { _ = state.withLock { $0.workers.remove(worker) } }

  /// Starts a broker. Once this run is interrupted it starts none, and does not return.
  func startBroker(
    _ start: () throws(LoadError) -> ChildProcess
  ) throws(LoadError) -> ChildProcess {
    try add { (state) throws(LoadError) in
      let broker = try start()
      state.broker = (broker.process, fcntl(broker.input, F_DUPFD_CLOEXEC, 0))
      return broker
    }
  }

  /// Ends the broker as a crash does. What it leaves is its heir's in the same directory, or goes
  /// at the end.
  func killBroker() {
    // It has ended before anybody removes what it leaves.
    state.withLock { state in
      guard let broker = state.broker else { return }
      _ = Glibc.kill(broker.process, SIGKILL)
      _ = waitpid(broker.process, nil, 0)
      _ = Glibc.close(broker.input)
      state.broker = nil
    }
  }

  /// The broker has ended by itself, and its end was taken.
  func forgetBroker() {
    state.withLock { state in
      if let broker = state.broker { _ = Glibc.close(broker.input) }
      state.broker = nil
    }
  }

  /// Adds what is made under the lock: an interrupt finds all of it, or it is not made.
  private func add<Added>(
    _ make: (inout State) throws(LoadError) -> Added
  ) throws(LoadError) -> Added {
    let added = try state.withLock { (state) throws(LoadError) -> Added? in
      state.isInterrupted ? nil : try make(&state)
    }
    guard let added else { waitForTheEnd() }
    return added
  }

  /// A new private directory, removed at the end with what is in it.
  func makeDirectory() throws(LoadError) -> String {
    let parent = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
    return try add { (state) throws(LoadError) in
      var template = Array("\(parent)/patchbay-load-XXXXXX".utf8CString)
      guard unsafe mkdtemp(&template) != nil else {
        throw LoadError("Making a directory in \(parent) failed with error \(errno).")
      }
      let directory = String(
        decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
      state.directory = directory
      return directory
    }
  }

  /// Ends and removes everything. Does nothing the second time.
  func close() {
    let all = state.withLock { state in
      defer { state = State(isInterrupted: state.isInterrupted) }
      return state
    }
    for worker in all.workers {
      _ = Glibc.kill(worker, SIGKILL)
      _ = waitpid(worker, nil, 0)
    }
    if let broker = all.broker {
      _ = Glibc.close(broker.input)
      // One that is stopped would not see it.
      _ = Glibc.kill(broker.process, SIGCONT)
      _ = waitpid(broker.process, nil, 0)
    }
    guard let directory = all.directory else { return }
    Self.removeSharedMemory(ofBrokerIn: directory)
    Self.remove(directory)
  }

  private static func removeSharedMemory(ofBrokerIn directory: String) {
    guard let prefix = objectPrefix(ofBrokerIn: directory) else { return }
    for name in names(in: "/dev/shm") where name.hasPrefix(prefix) {
      _ = unsafe unlink("/dev/shm/\(name)")
    }
  }

  /// What the names of a broker's shared memory begin with. One that was killed and had no heir has left
  /// its number in its lock file; one that ended in order has not.
  static func objectPrefix(ofBrokerIn directory: String) -> String? {
    let path = BrokerProcess.socketPath(in: directory) + ".lock"
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { _ = Glibc.close(file) }
    var digits = [UInt8](repeating: 0, count: 16)
    guard unsafe read(file, &digits, digits.count) == digits.count else { return nil }
    return "patchbay-\(String(decoding: digits, as: UTF8.self))-"
  }

  static func remove(_ directory: String) {
    for name in names(in: directory) {
      let path = "\(directory)/\(name)"
      if unsafe unlink(path) != 0 { remove(path) }
    }
    _ = unsafe rmdir(directory)
  }

  static func names(in directory: String) -> [String] {
    guard let listing = unsafe opendir(directory) else { return [] }
    defer { _ = unsafe closedir(listing) }
    var names: [String] = []
    while let entry = unsafe readdir(listing) {
      let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names
  }

  // MARK: Interrupts

  /// From now on nothing is started or made any more; then as `close`.
  func interrupt() {
    // Before the workers go: the main thread sees their end and would take it for a failure.
    state.withLock { $0.isInterrupted = true }
    close()
  }

  /// Leaves the end of the process to the thread that cleans up, when that is under way.
  func yieldToInterrupt() {
    if state.withLock({ $0.isInterrupted }) { waitForTheEnd() }
  }

  private func waitForTheEnd() -> Never {
    while true { _ = pause() }
  }

  private static func endingSignals() -> sigset_t {
    var set = sigset_t()
    _ = unsafe sigemptyset(&set)
    for signal in [SIGINT, SIGTERM, SIGHUP] { _ = unsafe sigaddset(&set, signal) }
    return set
  }

  /// From now on an interrupt ends the run in order. Before any other thread starts.
  static func watchForInterrupts() {
    var set = endingSignals()
    _ = unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
    _ = signal(SIGPIPE, SIG_IGN)
    var thread = pthread_t()
    _ = unsafe pthread_create(
      &thread, nil,
      { _ in
        var set = Household.endingSignals()
        var number: Int32 = 0
        _ = unsafe sigwait(&set, &number)
        Household.shared.interrupt()
        _exit(128 + number)
      }, nil)
  }
}
