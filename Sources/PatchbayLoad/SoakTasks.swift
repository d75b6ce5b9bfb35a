// A worker of a soak that waits as tasks do: several at once in one process, which read, or write a blob,
// and some of which are cancelled meanwhile.

import Glibc
import Patchbay

struct SoakTasks: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  /// What one task is to do.
  private struct Plan: Sendable {
    let key: BlobKey
    let writes: Bool
    /// The most bytes at once.
    let byteLimit: Int
    /// When it is cancelled; nil: not.
    let milliseconds: Int?
  }

  private enum Ending: Sendable {
    case done
    case refused(SoakDeed, String, PatchbayError)
    case wrong(SoakViolation)
  }

  mutating func round() throws {
    // One key has one writer.
    let writer = try SoakKind.task.key(desk.ownSlot(.task))
    let plans = try (0..<4).map { number in
      Plan(
        key: number == 0 ? writer : try desk.anyKey(), writes: number == 0,
        byteLimit: desk.number(100...100_000),
        milliseconds: desk.chance(1, in: 4) ? desk.number(0...300) : nil)
    }
    let keys = plans.map { "\($0.key)" }.joined(separator: ", ")
    desk.voice.begin("write, and read the others of \(keys) in tasks")
    for (ending, plan) in zip(try endings(plans), plans) {
      try judge(ending, wasCancelled: plan.milliseconds != nil)
    }
    desk.voice.finish()
    desk.breathe(milliseconds: 20)
  }

  private func endings(_ plans: [Plan]) throws -> [Ending] {
    let scene = Scene(client: desk.client, oracle: desk.oracle, voice: desk.voice)
    return try LatencyTasks.awaited {
      let tasks = plans.map { plan in Task.detached { await scene.perform(plan) } }
      for (task, plan) in zip(tasks, plans) {
        guard let milliseconds = plan.milliseconds else { continue }
        try await Task.sleep(for: .milliseconds(milliseconds))
        task.cancel()
      }
      var endings: [Ending] = []
      for task in tasks { endings.append(await task.value) }
      return endings
    }
  }

  private func judge(_ ending: Ending, wasCancelled: Bool) throws {
    switch ending {
    case .done: break
    case .wrong(let violation): throw violation
    case .refused(_, _, let error) where wasCancelled && error.code == .cancelled: break
    case .refused(let deed, let what, let error):
      _ = try desk.attempt(deed, "\(what), in a task") { throw error }
    }
  }

  /// What tasks share.
  private struct Scene: Sendable {
    let client: PatchbayClient
    let oracle: SoakOracle
    let voice: SoakVoice

    func perform(_ plan: Plan) async -> Ending {
      do {
        return plan.writes ? try await write(plan) : try await read(plan)
      } catch {
        return .wrong(error as? SoakViolation ?? SoakViolation("A task has met \(error)."))
      }
    }

    private func read(_ plan: Plan) async throws -> Ending {
      let subscriber: Subscriber
      do throws(PatchbayError) {
        subscriber = try await client.open(plan.key)
      } catch {
        return .refused(.open, "\(plan.key)", error)
      }
      let life = try oracle.life(plan.key, subscriber.generation)
      do {
        try await read(subscriber, life, plan.byteLimit)
        return .done
      } catch let error as PatchbayError {
        let deed = SoakKind(of: plan.key)?.reading ?? .read
        return .refused(deed, life.name, error)
      }
    }

    private func read(
      _ subscriber: Subscriber, _ life: SoakLife, _ byteLimit: Int
    ) async throws {
      var at = 0
      for try await chunk in subscriber.chunks(byteLimit: byteLimit) {
        guard chunk.range.lowerBound == at else {
          throw SoakViolation(
            "A chunk of \(life.name) begins at \(chunk.range) and not at \(at).")
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

    /// A publisher that is dropped because its task was cancelled has failed its blob.
    private func write(_ plan: Plan) async throws -> Ending {
      let publisher: Publisher
      do {
        let options = BlobOptions(order: .appendOnly, replaces: true)
        publisher = try await client.publisher(plan.key, options)
      } catch {
        return .refused(.create, "\(plan.key)", error)
      }
      let life = try oracle.life(plan.key, publisher.generation)
      do {
        for start in stride(from: 0, to: life.byteCount, by: plan.byteLimit) {
          let piece = start..<min(life.byteCount, start + plan.byteLimit)
          try await publisher.append(oracle.bytes(of: life, piece), expecting: start)
          voice.finish()
        }
      } catch {
        return .refused(.write, life.name, error)
      }
      do {
        try await publisher.seal()
        voice.addBlob()
        return .done
      } catch {
        return .refused(.seal, life.name, error)
      }
    }
  }
}
