// Everything this run has started or made, so that nothing is left behind however it ends. An
// interrupt is taken by a thread of its own, which ends the workers, lets the broker go, removes the
// directory and exits.

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
  }

  private let state = Mutex(State())
  private let isInterrupted = Mutex(false)

  private init() {}

  func add(worker: pid_t) { _ = state.withLock { $0.workers.insert(worker) } }
  func forget(worker: pid_t) { _ = state.withLock { $0.workers.remove(worker) } }
  func add(broker: pid_t, input: Int32) { state.withLock { $0.broker = (broker, input) } }

  /// Ends the broker as a crash does. What it leaves is its heir's in the same directory, or goes
  /// at the end.
  func killBroker() {
    let broker = state.withLock { state in
      defer { state.broker = nil }
      return state.broker
    }
    guard let broker else { return }
    _ = Glibc.kill(broker.process, SIGKILL)
    _ = waitpid(broker.process, nil, 0)
    _ = Glibc.close(broker.input)
  }

  /// A new private directory, removed at the end with what is in it.
  func makeDirectory() throws(LoadError) -> String {
    let parent = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
    var template = Array("\(parent)/patchbay-load-XXXXXX".utf8CString)
    guard unsafe mkdtemp(&template) != nil else {
      throw LoadError("Making a directory in \(parent) failed with error \(errno).")
    }
    let directory = String(
      decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
    state.withLock { $0.directory = directory }
    return directory
  }

  /// Ends and removes everything. Does nothing the second time.
  func close() {
    let all = state.withLock { state in
      defer { state = State() }
      return state
    }
    for worker in all.workers {
      _ = Glibc.kill(worker, SIGKILL)
      _ = waitpid(worker, nil, 0)
    }
    if let broker = all.broker {
      _ = Glibc.close(broker.input)
      _ = waitpid(broker.process, nil, 0)
    }
    guard let directory = all.directory else { return }
    Self.removeSharedMemory(ofBrokerIn: directory)
    Self.remove(directory)
  }

  /// A broker that was killed and had no heir has left its number in its lock file; one that ended
  /// in order has not.
  private static func removeSharedMemory(ofBrokerIn directory: String) {
    let path = BrokerProcess.socketPath(in: directory) + ".lock"
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return }
    defer { _ = Glibc.close(file) }
    var digits = [UInt8](repeating: 0, count: 16)
    guard unsafe read(file, &digits, digits.count) == digits.count else { return }
    let prefix = "patchbay-\(String(decoding: digits, as: UTF8.self))-"
    for name in names(in: "/dev/shm") where name.hasPrefix(prefix) {
      _ = unsafe unlink("/dev/shm/\(name)")
    }
  }

  static func remove(_ directory: String) {
    for name in names(in: directory) {
      let path = "\(directory)/\(name)"
      if unsafe unlink(path) != 0 { remove(path) }
    }
    _ = unsafe rmdir(directory)
  }

  private static func names(in directory: String) -> [String] {
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

  /// Leaves the end of the process to the thread that cleans up, when that is under way.
  func yieldToInterrupt() {
    while isInterrupted.withLock({ $0 }) { _ = pause() }
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
        // Before the workers go: the main thread sees their end and would take it for a failure.
        Household.shared.isInterrupted.withLock { $0 = true }
        Household.shared.close()
        _exit(128 + number)
      }, nil)
  }
}
