// A reader of a soak that waits as tasks do: several at once in one process, some of which are cancelled
// while they wait.

import Glibc
import Patchbay

struct SoakTasks: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  /// What one task is to do.
  private struct Plan: Sendable {
    let key: BlobKey
    let byteLimit: Int
    /// When it is cancelled; nil: not.
    let milliseconds: Int?
  }

  private enum Ending: Sendable {
    case read
    case refused(SoakDeed, String, PatchbayError)
    case wrong(SoakViolation)
  }

  mutating func round() throws {
    let plans = try (0..<4).map { _ in
      Plan(
        key: try desk.anyKey(), byteLimit: desk.number(100...100_000),
        milliseconds: desk.chance(1, in: 4) ? desk.number(0...300) : nil)
    }
    desk.voice.begin("reads \(plans.map { "\($0.key)" }.joined(separator: ", ")) in tasks")
    let (client, oracle, voice) = (desk.client, desk.oracle, desk.voice)
    let endings = try LatencyTasks.awaited {
      let tasks = plans.map { plan in
        Task.detached { await Self.perform(plan, client, oracle, voice) }
      }
      for (task, plan) in zip(tasks, plans) {
        guard let milliseconds = plan.milliseconds else { continue }
        try await Task.sleep(for: .milliseconds(milliseconds))
        task.cancel()
      }
      var endings: [Ending] = []
      for task in tasks { endings.append(await task.value) }
      return endings
    }
    desk.voice.finish()
    for (ending, plan) in zip(endings, plans) {
      try judge(ending, wasCancelled: plan.milliseconds != nil)
    }
    desk.breathe(milliseconds: 20)
  }

  private func judge(_ ending: Ending, wasCancelled: Bool) throws {
    switch ending {
    case .read: break
    case .wrong(let violation): throw violation
    case .refused(_, _, let error) where wasCancelled && error.code == .cancelled: break
    case .refused(let deed, let what, let error):
      _ = try desk.attempt(deed, "\(what), in a task") { throw error }
    }
  }

  private static func perform(
    _ plan: Plan, _ client: PatchbayClient, _ oracle: SoakOracle, _ voice: SoakVoice
  ) async -> Ending {
    do {
      let subscriber = try await client.open(plan.key)
      do {
        try await read(subscriber, plan, oracle, voice)
        return .read
      } catch let error as PatchbayError {
        return .refused(.read, "\(plan.key), generation \(subscriber.generation)", error)
      }
    } catch let error as PatchbayError {
      return .refused(.open, "\(plan.key)", error)
    } catch {
      return .wrong(error as? SoakViolation ?? SoakViolation("A task has met \(error)."))
    }
  }

  private static func read(
    _ subscriber: Subscriber, _ plan: Plan, _ oracle: SoakOracle, _ voice: SoakVoice
  ) async throws {
    let life = try oracle.life(subscriber.key, subscriber.generation)
    var at = 0
    for try await chunk in subscriber.chunks(byteLimit: plan.byteLimit) {
      guard chunk.range.lowerBound == at else {
        throw SoakViolation("A chunk of \(life.name) begins at \(chunk.range) and not at \(at).")
      }
      try chunk.withBytes { (bytes) throws(SoakViolation) in
        try oracle.check(bytes, of: life, at: at)
      }
      at = chunk.range.upperBound
      voice.add(bytes: chunk.range.count)
      voice.finish()
      if voice.isOver { return }
    }
    try oracle.checkEnd(of: life, at: at)
  }
}
