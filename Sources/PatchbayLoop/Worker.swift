// Work that takes longer than the loop may: one thread, a bounded queue, results handed back to the
// loop. A job gets nothing but values and gives a value, so the loop's state stays the loop's.

import PatchbaySystem
import PatchbayTypes
import Synchronization

/// Runs jobs in order, elsewhere.
final class Worker<Result: Sendable>: Sendable {
  typealias Job = @Sendable () -> Result

  private struct State {
    var jobs: [Job] = []
    var results: [Result] = []
    var isEnding = false
  }

  private let state = Mutex(State())
  /// Raised for the thread when there is a job.
  private let wanted: Alarm
  /// Raised for the loop when there is a result.
  let finished: Alarm
  private let thread = Mutex<SystemThread?>(nil)
  /// More jobs than this are refused: each stands for memory and for somebody who waits.
  static var jobLimit: Int { 1024 }

  init() throws(PatchbayError) {
    wanted = try Alarm()
    finished = try Alarm()
  }

  func start() throws(PatchbayError) {
    let started = try SystemThread("the worker") { [self] in run() }
    thread.withLock { $0 = started }
  }

  /// False: the queue is full, the job will not run.
  func submit(_ job: @escaping Job) -> Bool {
    let isTaken = state.withLock { state in
      guard state.jobs.count < Self.jobLimit else { return false }
      state.jobs.append(job)
      return true
    }
    if isTaken { wanted.raise() }
    return isTaken
  }

  /// What has finished since the last call, in order.
  func takeResults() -> [Result] {
    finished.lower()
    return state.withLock { state in
      defer { state.results = [] }
      return state.results
    }
  }

  /// Ends the thread after the job it is in; jobs behind that one never run.
  func stop() {
    state.withLock {
      $0.isEnding = true
      $0.jobs = []
    }
    wanted.raise()
    let ended = thread.withLock { $0.take() }
    ended?.join()
  }

  private func run() {
    while true {
      _ = wanted.wait(until: .distantFuture)
      wanted.lower()
      while let job = next() {
        let result = job()
        state.withLock { $0.results.append(result) }
        finished.raise()
      }
      if state.withLock({ $0.isEnding }) { return }
    }
  }

  private func next() -> Job? {
    state.withLock { $0.jobs.isEmpty ? nil : $0.jobs.removeFirst() }
  }
}
