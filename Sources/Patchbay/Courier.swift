// The one thread that works for waiting tasks wherever descriptors are concerned: it reads replies,
// sends what could not be sent, ends calls at their deadlines, and tells when files can be read or
// written. It holds on to a connection only while that has something for it, and ends when nobody
// has anything for a while.
//
// It also watches for brokers that hang up while nobody calls: a client that only writes comes back in
// time to the next one. A watch keeps the socket open, not the connection.

import PatchbaySystem
import PatchbayTypes
import Synchronization

final class Courier: Sendable {
  static let shared = Courier()

  /// A task that waits until a descriptor is ready.
  fileprivate final class FileWait: Sendable {
    let descriptor: Int32
    let forReading: Bool
    let awaited = Awaited<Void>()

    init(_ descriptor: Int32, forReading: Bool) {
      self.descriptor = descriptor
      self.forReading = forReading
    }
  }

  /// A connection that is told when its broker hangs up.
  private struct Watch {
    let link: Link
    weak var connection: Connection?
  }

  private struct State {
    var isRunning = false
    var connections: [Connection] = []
    var files: [FileWait] = []
    var watches: [Watch] = []
    var unwatched: [Link] = []

    var isEmpty: Bool { connections.isEmpty && files.isEmpty && watches.isEmpty }
  }

  /// Made once, on first need: one descriptor for the whole process.
  private final class Bell: Sendable {
    let alarm: Alarm
    init() throws(PatchbayError) { alarm = try Alarm() }
  }

  private let state = Mutex(State())
  private let bell = Mutex<Bell?>(nil)
  private static let idleLimit = Duration.seconds(5)

  // MARK: For others

  /// Comes for a connection from now on, until that has nothing more for it.
  /// - Throws: `limitReached` without a thread or a descriptor for it.
  func attend(_ connection: Connection) throws(PatchbayError) {
    try submit { $0.connections.append(connection) }
  }

  /// Tells a connection when the broker at the other end of a link has hung up.
  /// - Throws: `limitReached` without a thread or a descriptor for it.
  func watch(_ link: Link, for connection: Connection) throws(PatchbayError) {
    try submit { [weak connection] state in
      state.watches.append(Watch(link: link, connection: connection))
    }
  }

  /// Lets a link go that may have been watched.
  func unwatch(_ link: Link) {
    let isRunning = state.withLock { state in
      if state.isRunning { state.unwatched.append(link) }
      return state.isRunning
    }
    if isRunning { raise() }
  }

  /// Makes it look at everything soon.
  func raise() {
    let bell = bell.withLock { $0 }
    bell?.alarm.raise()
  }

  /// Waits until a descriptor can be read or written, or has failed, without holding a thread.
  /// - Parameters:
  ///   - deadline: when to give up, for waits that are rare: a task of its own watches it.
  ///   - timedOut: what is thrown then.
  /// - Throws: `cancelled`, `limitReached`.
  func waitUntilReady(
    _ descriptor: Int32, forReading: Bool, deadline: Deadline = .never,
    timedOut: PatchbayError = PatchbayError(.timedOut, "The deadline came first.")
  ) async throws(PatchbayError) {
    let wait = FileWait(descriptor, forReading: forReading)
    try submit { $0.files.append(wait) }
    let alarm = deadline.instant.map { instant in
      Task {
        try? await Task.sleep(until: instant, clock: .continuous)
        if wait.awaited.finish(.failure(timedOut)) { raise() }
      }
    }
    defer { alarm?.cancel() }
    let outcome = await wait.awaited.outcome {
      wait.awaited.finish(
        .failure(
          PatchbayError(
            .cancelled,
            "The task was cancelled while it waited for descriptor \(descriptor) to be ready.")))
      raise()
    }
    try outcome.get()
  }

  private func submit(_ add: (inout State) -> Void) throws(PatchbayError) {
    let bell = try madeBell()
    try state.withLock { (state) throws(PatchbayError) in
      if !state.isRunning {
        try SystemThread.detached("calls of tasks") { [self] in run(bell) }
        state.isRunning = true
      }
      add(&state)
    }
    bell.alarm.raise()
  }

  private func madeBell() throws(PatchbayError) -> Bell {
    try bell.withLock { (bell) throws(PatchbayError) in
      if let bell { return bell }
      let made = try Bell()
      bell = made
      return made
    }
  }

  // MARK: The thread

  /// What it has in hand.
  private struct Work {
    var connections: [Connection] = []
    var errands: [Connection.Errand] = []
    var files: [FileWait] = []
    var watches: [Watch] = []
    /// Those whose broker has hung up while another thread was reading: looked at again soon.
    var hungUp: [Watch] = []

    var isEmpty: Bool {
      connections.isEmpty && files.isEmpty && watches.isEmpty && hungUp.isEmpty
    }

    /// Visits all connections; forgets those that have nothing for it, and waits that are over.
    mutating func visitAll() {
      errands = []
      connections.removeAll { connection in
        guard let errand = connection.visit() else { return true }
        errands.append(errand)
        return false
      }
      files.removeAll { $0.awaited.isOver }
      hungUp.removeAll { $0.connection?.looksLost($0.link) ?? true }
    }

    func entries(_ alarm: Int32) -> [PollEntry] {
      [PollEntry(alarm, forReading: true, forWriting: false)]
        + errands.map {
          PollEntry(
            $0.link.descriptor, forReading: $0.isReading, forWriting: $0.isSending)
        }
        + files.map {
          PollEntry($0.descriptor, forReading: $0.forReading, forWriting: !$0.forReading)
        }
        + watches.map { PollEntry(hangUpOf: $0.link.descriptor) }
    }

    /// Serves who is ready; the first entry is the alarm's.
    mutating func serve(_ entries: [PollEntry]) {
      var ready = entries.dropFirst().map(\.isReady)[...]
      for connection in connections where ready.popFirst() == true {
        connection.receiveForTasks()
      }
      for file in files where ready.popFirst() == true { file.awaited.finish(.success(())) }
      guard ready.contains(true) else { return }
      hungUp += zip(watches, ready).filter(\.1).map(\.0)
      watches = zip(watches, ready).filter { !$0.1 }.map(\.0)
    }

    mutating func forget(_ links: [Link]) {
      guard !links.isEmpty else { return }
      let gone = Set(links.map(ObjectIdentifier.init))
      watches.removeAll { gone.contains(ObjectIdentifier($0.link)) }
      hungUp.removeAll { gone.contains(ObjectIdentifier($0.link)) }
    }
  }

  private static let pause = Duration.milliseconds(10)

  private func run(_ bell: Bell) {
    var work = Work()
    var idleEnd = MonotonicTime.now.advanced(by: Self.idleLimit)
    while true {
      bell.alarm.lower()
      take(&work)
      work.visitAll()
      let now = MonotonicTime.now
      if !work.isEmpty { idleEnd = now.advanced(by: Self.idleLimit) }
      if now >= idleEnd, ends() { return }
      var until = work.errands.reduce(work.watches.isEmpty ? idleEnd : .distantFuture) {
        min($0, $1.comesBack)
      }
      if !work.hungUp.isEmpty { until = min(until, now.advanced(by: Self.pause)) }
      var entries = work.entries(bell.alarm.rawValue)
      do throws(PatchbayError) {
        try Poll.wait(&entries, until: until)
        work.serve(entries)
      } catch {
        // Only for want of kernel memory: tried again after a moment that lets others free some.
        _ = bell.alarm.wait(until: now.advanced(by: .milliseconds(10)))
      }
    }
  }

  private func take(_ work: inout Work) {
    let new = state.withLock { state in
      let new = state
      state = State()
      state.isRunning = true
      return new
    }
    work.connections += new.connections
    work.files += new.files
    work.watches += new.watches
    work.forget(new.unwatched)
  }

  /// Whether it may end; then the next one in need starts another.
  private func ends() -> Bool {
    state.withLock { state in
      guard state.isEmpty else { return false }
      state = State()
      return true
    }
  }
}
