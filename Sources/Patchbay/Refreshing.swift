// Producing a stale blob again, behind the back of who asked for it. The caller reads the stale one; its
// closure makes the successor, which nobody sees before it is complete. What goes wrong is nobody's
// concern: the stale one is served on until its grace is over.

import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

/// How many closures of a client produce something, or are about to.
final class RunningProductions: Sendable {
  private struct State {
    var count = 0
    var line = WaitingLine()
  }

  private let state = Mutex(State())
  private let signal = LineSignal()

  func begin() { state.withLock { $0.count += 1 } }

  func end() {
    let call = state.withLock { state in
      state.count -= 1
      return state.count == 0 ? state.line.call() : nil
    }
    signal.wake(call)
  }

  /// Whether there are none; else the caller stands in line.
  private func isIdle(_ stand: (inout WaitingLine) -> Void) -> Bool {
    state.withLock { state in
      if state.count > 0 { stand(&state.line) }
      return state.count == 0
    }
  }

  func wait(until: MonotonicTime) throws(PatchbayError) {
    while true {
      let before = signal.now
      if isIdle({ $0.addThread() }) { return }
      defer { state.withLock { $0.line.removeThread() } }
      guard signal.sleep(since: before, until: until) else { throw Self.timedOut }
    }
  }

  func wait(deadline: Deadline) async throws(PatchbayError) {
    var wait: Awaited<Void>?
    if isIdle({ $0.add(&wait) }) { return }
    guard let wait else { return }
    do throws(PatchbayError) {
      try await wait.value(
        until: deadline, timedOut: Self.timedOut,
        cancelled: PatchbayError(
          .cancelled, "The task was cancelled while it waited for its productions."))
    } catch {
      state.withLock { $0.line.remove(wait) }
      throw error
    }
  }

  private static let timedOut = PatchbayError(
    .timedOut, "A closure still produced a blob when the deadline came.")
}

extension PatchbayClient {
  /// Waits until no closure that was given to `get` runs any more: for programs that end soon, and would
  /// leave a blob or the successor of a stale one half done. Those that only stand by are not waited for.
  /// Blocks until then.
  /// - Throws: `timedOut`.
  @available(*, noasync)
  public func finishProducing(deadline: Deadline = .never) throws(PatchbayError) {
    try session.productions.wait(until: MonotonicTime(deadline))
  }

  /// As the blocking `finishProducing`.
  /// - Throws: `timedOut`, `cancelled`.
  public func finishProducing(deadline: Deadline = .never) async throws(PatchbayError) {
    try await session.productions.wait(deadline: deadline)
  }
}

extension Producer {
  /// Makes the successor of a stale blob, if nobody else does.
  /// - Parameter stale: the one that it succeeds.
  func refresh(
    _ key: BlobKey, _ stale: Generation, _ request: OpenOrCreateRequest
  ) async {
    defer { session.productions.end() }
    var terms = request.terms
    terms.succeeds = stale
    terms.resumes = false
    guard
      let delivery = try? await session.connection.call(
        .createWith(request.create, terms), deadline: .standard),
      case .created(let grant) = delivery.reply
    else { return }
    do throws(PatchbayError) {
      let publisher = Publisher(
        try await BlobHandle.made(
          session, key: key, grant: grant, delivery, isWritable: true, deadline: .standard),
        options.publisherOptions)
      _ = await run(publisher)
    } catch {
      session.connection.post(.abandon(grant.blob))
    }
  }
}
