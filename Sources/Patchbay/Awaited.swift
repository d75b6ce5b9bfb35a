// A task that waits, resumed exactly once by whoever comes first: what it waits for, its deadline,
// or its cancellation.

import PatchbayTypes
import Synchronization

/// One wait of one task.
final class Awaited<Value: Sendable>: Sendable {
  typealias Outcome = Result<Value, PatchbayError>

  private enum State {
    case fresh
    case waiting(CheckedContinuation<Outcome, Never>)
    /// Ended before anybody asked for the outcome.
    case over(Outcome)
    case taken
  }

  private let state = Mutex(State.fresh)

  /// Whether the wait has ended; the task may not run yet.
  var isOver: Bool {
    state.withLock { state in
      switch state {
      case .fresh, .waiting: false
      case .over, .taken: true
      }
    }
  }

  /// Ends the wait. The caller holds no lock: the task may run before this returns.
  /// - Returns: whether this outcome is the one; false when the wait had ended.
  @discardableResult
  func finish(_ outcome: Outcome) -> Bool {
    let (isFirst, continuation) = state.withLock { state in
      switch state {
      case .over, .taken: return (false, CheckedContinuation<Outcome, Never>?.none)
      case .fresh:
        state = .over(outcome)
        return (true, nil)
      case .waiting(let continuation):
        state = .taken
        return (true, continuation)
      }
    }
    continuation?.resume(returning: outcome)
    return isFirst
  }

  /// Waits for the outcome. Called once.
  /// - Parameter onCancel: called when the task is cancelled, from any thread; it sees to it that
  ///   the wait ends.
  func outcome(onCancel: @Sendable () -> Void) async -> Outcome {
    await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        let early = state.withLock { state -> Outcome? in
          guard case .over(let outcome) = state else {
            state = .waiting(continuation)
            return nil
          }
          state = .taken
          return outcome
        }
        if let early { continuation.resume(returning: early) }
      }
    } onCancel: {
      onCancel()
    }
  }

  /// Waits for the outcome until a moment, which a task of its own watches: for waits that are rare.
  func value(
    until deadline: Deadline, timedOut: PatchbayError, cancelled: PatchbayError
  ) async throws(PatchbayError) -> Value {
    let alarm = deadline.instant.map { instant in
      Task {
        try? await Task.sleep(until: instant, clock: .continuous)
        finish(.failure(timedOut))
      }
    }
    defer { alarm?.cancel() }
    return try await outcome { finish(.failure(cancelled)) }.get()
  }
}
