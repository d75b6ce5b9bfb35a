// A thread that runs one closure. Signals are left to the threads of the embedding program.

import CPatchbaySystem
import Glibc
import PatchbayTypes
import Synchronization

package final class SystemThread: Sendable {
  private final class Work: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }

  private let thread: pthread_t
  private let isJoined = Mutex(false)

  /// Starts it. Tools that list threads show the first 15 bytes of what it is for, without an article.
  /// - Throws: `limitReached` when the system has no more threads.
  package init(_ what: String, _ body: @escaping @Sendable () -> Void) throws(PatchbayError) {
    let work = unsafe Unmanaged.passRetained(Work(body))
    var everything = sigset_t()
    var before = sigset_t()
    unsafe sigfillset(&everything)
    // The new thread inherits the mask: a signal for the process then finds another thread.
    unsafe pthread_sigmask(SIG_SETMASK, &everything, &before)
    var thread = pthread_t()
    let result = unsafe pthread_create(
      &thread, nil,
      { argument in
        if let argument = unsafe argument {
          unsafe Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().body()
        }
        return nil
      }, work.toOpaque())
    unsafe pthread_sigmask(SIG_SETMASK, &before, nil)
    guard result == 0 else {
      unsafe work.release()
      throw PatchbayError(
        .limitReached, "No thread could be started for \(what): \(systemReason(result)).",
        systemErrno: result)
    }
    self.thread = thread
    let shown = what.hasPrefix("the ") ? what.dropFirst(4) : what[...]
    _ = unsafe pb_name_thread(thread, String(decoding: shown.utf8.prefix(15), as: UTF8.self))
  }

  /// Waits for its end.
  package func join() {
    isJoined.withLock { isJoined in
      if !isJoined { pthread_join(thread, nil) }
      isJoined = true
    }
  }

  /// Starts one that nobody waits for: it ends when its closure returns.
  /// - Throws: `limitReached` when the system has no more threads.
  package static func detached(
    _ what: String, _ body: @escaping @Sendable () -> Void
  ) throws(PatchbayError) {
    let started = try SystemThread(what, body)
    pthread_detach(started.thread)
  }
}
