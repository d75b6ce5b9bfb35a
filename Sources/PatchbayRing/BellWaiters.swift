// Waiting at doorbells without a thread for each wait: a few threads, each asleep on the words of up
// to 127 bells at once, look for all that wait there.
//
// A thread wakes for every ring of one of its bells that finds somebody of the bell waiting, and then
// looks for every wait at that bell. It cannot go by the bits that were cleared: another process may
// have set a bit again since, so a bit that is set does not say that its class was not rung. The
// steps are those of `Doorbell.wait`: seq, arm, look, sleep. A bell whose seq has not changed since
// stays armed, and is slept on again with the same value.
//
// A thread with nothing to wait for ends after a while.

import PatchbaySystem
import PatchbayTypes
import Synchronization

/// One wait at a bell. Its methods are called on a thread of `BellWaiters`, none of them may wait.
package protocol BellWait: AnyObject, Sendable {
  var bell: Doorbell { get }
  /// The classes it waits for.
  var bits: UInt32 { get }
  /// When it is given up.
  var until: MonotonicTime { get }
  /// Waits of one company find out together whether their peer is alive.
  var company: ObjectIdentifier { get }

  /// Looks at the truth, and ends the wait if it finds what is waited for.
  func look() -> BellLook
  /// Called once its moment has come and a last look has found nothing.
  func timeOut()
  /// Whether the peer is alive: asked of one wait of each company at least every `Doorbell.bound`.
  func checkPeer() throws(PatchbayError)
  /// Ends the wait because the peer is not.
  func fail(_ error: PatchbayError)
}

/// What a look has come to.
package enum BellLook: Sendable {
  case nothing, found
  /// The wait was ended from outside.
  case over
}

/// All waits of this process that have no thread of their own.
package final class BellWaiters: Sendable {
  /// The one that everybody uses.
  package static let shared = BellWaiters()

  /// The most bells of a thread: one word of its sleep is for news from this process.
  package static let bellLimit = Futex.Words.limit - 1

  private struct Watch {
    let thread: BellThread
    /// Waits at the bell, those included that the thread has not seen yet.
    var waitCount: Int
  }

  private struct State {
    var threads: [BellThread] = []
    var watches: [Doorbell.ID: Watch] = [:]
  }

  private let state = Mutex(State())
  private let idleLimit: Duration

  /// - Parameter idleLimit: how long a thread with nothing to wait for stays.
  package init(idleLimit: Duration = .seconds(5)) { self.idleLimit = idleLimit }

  /// Threads that run now.
  package var threadCount: Int { state.withLock { $0.threads.count } }
  /// Waits that have not ended.
  package var waitCount: Int {
    state.withLock { $0.watches.values.reduce(0) { $0 + $1.waitCount } }
  }

  // MARK: For those who wait

  /// Takes a wait over: `look` is called soon, and again after rings, until it is over.
  /// - Throws: `limitReached` without a thread for it, `inputOutput` when the kernel is too old or
  ///   a filter of system calls is in the way.
  package func add(_ wait: any BellWait) throws(PatchbayError) {
    guard Futex.canWaitForSeveral else {
      throw PatchbayError(
        .inputOutput,
        "Asynchronous waits need the system call futex_waitv: Linux 5.16 or later, and in a container "
          + "a seccomp profile that allows it. Use the blocking calls.")
    }
    let sleeper = try state.withLock { (state) throws(PatchbayError) in
      let thread = try thread(for: wait.bell.id, &state)
      state.watches[wait.bell.id, default: Watch(thread: thread, waitCount: 0)].waitCount += 1
      return thread.post { $0.arrivals.append(wait) }
    }
    sleeper?.signal()
  }

  /// Says that a wait was ended from outside, so that it is let go soon.
  package func ended(_ wait: any BellWait) {
    let bell = wait.bell.id
    let sleeper = state.withLock { state in
      state.watches[bell]?.thread.post { _ = $0.stale.insert(bell) }
    }
    sleeper?.signal()
  }

  /// The thread that watches a bell, or will.
  private func thread(
    for bell: Doorbell.ID, _ state: inout State
  ) throws(PatchbayError) -> BellThread {
    if let watch = state.watches[bell] { return watch.thread }
    if let thread = state.threads.first(where: { $0.bellCount < Self.bellLimit }) {
      thread.bellCount += 1
      return thread
    }
    let thread = BellThread(self, idleLimit)
    try SystemThread.detached("waits at doorbells") { thread.run() }
    thread.bellCount = 1
    state.threads.append(thread)
    return thread
  }

  // MARK: For the threads

  /// What has come for a thread since the last time. If nothing has it may sleep, and is signalled
  /// when something comes.
  func news(for thread: BellThread) -> BellThread.News? {
    state.withLock { _ in thread.takeNews() }
  }

  /// Forgets waits that are over; a bell without waits is nobody's.
  func forget(_ counts: [Doorbell.ID: Int]) {
    guard !counts.isEmpty else { return }
    state.withLock { state in
      for (bell, count) in counts {
        guard var watch = state.watches[bell] else { continue }
        watch.waitCount -= count
        state.watches[bell] = watch.waitCount > 0 ? watch : nil
        if watch.waitCount == 0 { watch.thread.bellCount -= 1 }
      }
    }
  }

  /// Whether a thread may end; then it gets no wait any more.
  func lets(_ thread: BellThread) -> Bool {
    state.withLock { state in
      guard thread.bellCount == 0 else { return false }
      state.threads.removeAll { $0 === thread }
      return true
    }
  }
}
