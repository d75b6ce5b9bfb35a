// The line in which threads and tasks of this process stand that wait for each other: for a write to
// leave, for a turn to append. Rare, and never long.

import PatchbaySystem
import PatchbayTypes
import Synchronization

/// Threads and tasks that wait until something changes that a lock protects. Part of what the lock
/// protects, so whoever finds that it must wait stands in line before the change can come.
struct WaitingLine {
  private var threadCount = 0
  private var tasks: [Awaited<Void>] = []

  /// Whom a change wakes.
  struct Call {
    fileprivate let hasThreads: Bool
    fileprivate let tasks: [Awaited<Void>]
  }

  var count: Int { threadCount + tasks.count }

  mutating func addThread() { threadCount += 1 }
  mutating func removeThread() { threadCount -= 1 }
  /// Puts a task in line; `wait` is what it waits on.
  mutating func add(_ wait: inout Awaited<Void>?) {
    let task = Awaited<Void>()
    tasks.append(task)
    wait = task
  }
  mutating func remove(_ task: Awaited<Void>) { tasks.removeAll { $0 === task } }

  /// Who is to be woken now that something has changed; nil: nobody waits. Tasks leave the line.
  mutating func call() -> Call? {
    guard threadCount > 0 || !tasks.isEmpty else { return nil }
    defer { tasks = [] }
    return Call(hasThreads: threadCount > 0, tasks: tasks)
  }
}

/// The word that the threads of a line sleep on.
final class LineSignal: Sendable {
  private let word = Atomic<UInt32>(0)

  /// To be taken before the look that says that one must wait.
  var now: UInt32 {
    // acquiring: pairs with DEPARTURE; what has changed is read under its lock.
    word.load(ordering: .acquiring)
  }

  /// Wakes who was in line. The caller holds no lock.
  func wake(_ call: WaitingLine.Call?) {
    guard let call else { return }
    if call.hasThreads {
      // releasing: what has changed is read under its lock; the word only ends a sleep. DEPARTURE.
      word.wrappingAdd(1, ordering: .releasing)
      _ = unsafe word.withWord { unsafe Futex.wake($0, mask: .max) }
    }
    for task in call.tasks { task.finish(.success(())) }
  }

  /// Sleeps until a call that came after `before`; false: the moment came first.
  func sleep(since before: UInt32, until: MonotonicTime) -> Bool {
    guard MonotonicTime.now < until else { return false }
    _ = unsafe word.withWord {
      unsafe Futex.wait(on: $0, expected: before, mask: .max, until: until)
    }
    return true
  }
}
