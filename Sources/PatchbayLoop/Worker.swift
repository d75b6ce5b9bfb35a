// Work that takes longer than the loop may: one thread, a bounded queue, results handed back to the
// loop. A job gets nothing but values and gives a value, so the loop's state stays the loop's. Inline, for
// tests that need the same system calls in the same order each time, a job runs when it is submitted.

import PatchbaySystem
import PatchbayTypes
import Synchronization

/// Runs jobs in order, elsewhere.
package final class Worker<Result: Sendable>: Sendable {
  package typealias Job = @Sendable () -> Result

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
  private let name: String
  private let jobLimit: Int
  private let isInline: Bool

  /// - Parameters:
  ///   - jobLimit: More waiting jobs are refused: each stands for memory and for somebody who waits.
  ///   - isInline: no thread; results wait for the loop all the same.
  package init(_ name: String, jobLimit: Int, isInline: Bool = false) throws(PatchbayError) {
    self.name = name
    self.jobLimit = jobLimit
    self.isInline = isInline
    wanted = try Alarm()
    finished = try Alarm()
  }

  package func start() throws(PatchbayError) {
    guard !isInline else { return }
    let started = try SystemThread(name) { [self] in run() }
    thread.withLock { $0 = started }
  }

  /// False: the queue is full, the job will not run.
  package func submit(_ job: @escaping Job) -> Bool {
    guard !isInline else {
      let result = job()
      state.withLock { $0.results.append(result) }
      finished.raise()
      return true
    }
    let isTaken = state.withLock { state in
      guard state.jobs.count < jobLimit else { return false }
      state.jobs.append(job)
      return true
    }
    if isTaken { wanted.raise() }
    return isTaken
  }

  /// What has finished since the last call, in order.
  package func takeResults() -> [Result] {
    finished.lower()
    return state.withLock { state in
      defer { state.results = [] }
      return state.results
    }
  }

  /// Ends the thread after the job it is in; jobs behind that one never run.
  package func stop() {
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
