// The reading sides of a latency run as tasks: the same exchanges, awaited.

import Glibc
import Patchbay
import PatchbaySystem
import Synchronization

enum LatencyTasks {
  static func ping(_ order: Fields) throws {
    let there = try LatencyWorker.outbox(order, "there")
    let back = try TaskInbox(order, "back")
    let messages = try LatencyWorker.messages(order)
    Worker.waitForStart()
    let samples = try awaited { () async throws in
      var samples: [Int64] = []
      samples.reserveCapacity(messages.count)
      for (index, message) in messages.enumerated() {
        let start = MonotonicTime.now
        try await there.append(message)
        _ = try await back.take(index)
        samples.append(MonotonicTime.now.nanoseconds - start.nanoseconds)
      }
      try await there.seal()
      return samples
    }
    Worker.finish(Percentiles(nanoseconds: samples).fields)
  }

  static func pong(_ order: Fields) throws {
    let back = try LatencyWorker.outbox(order, "back")
    let there = try TaskInbox(order, "there")
    let messages = try LatencyWorker.messages(order)
    let verifies = order.flag("verify")
    Worker.waitForStart()
    try awaited { () async throws in
      for (index, expected) in messages.enumerated() {
        let message = try await there.take(index)
        if verifies, message != expected { throw LoadError("Message \(index) has a wrong byte.") }
        try await back.append(message)
      }
      try await back.seal()
    }
    Worker.finish([:])
  }

  static func receive(_ order: Fields) throws {
    let there = try TaskInbox(order, "there")
    let count = try order.int("count")
    Worker.waitForStart()
    let samples = try awaited { () async throws in
      var samples: [Int64] = []
      samples.reserveCapacity(count)
      for index in 0..<count {
        let message = try await there.take(index)
        samples.append(MonotonicTime.now.nanoseconds - LatencyWorker.stamp(of: message))
      }
      return samples
    }
    Worker.finish(Percentiles(nanoseconds: samples).fields)
  }

  /// Runs a task to its end on behalf of a thread that is none.
  static func awaited<Value: Sendable>(
    _ body: @escaping @Sendable () async throws -> Value
  ) throws -> Value {
    let outcome = Outcome<Value>()
    Task.detached {
      do { outcome.set(.success(try await body())) } catch { outcome.set(.failure(error)) }
    }
    return try outcome.wait().get()
  }

  private final class Outcome<Value: Sendable>: Sendable {
    private let value = Mutex<Result<Value, any Error>?>(nil)
    private let ended: Int32
    private let ending: Int32

    init() {
      var ends: [Int32] = [-1, -1]
      precondition(unsafe pipe(&ends) == 0, "the worker has no descriptors left")
      (ended, ending) = (ends[0], ends[1])
    }

    deinit { _ = close(ended) }

    func set(_ result: Result<Value, any Error>) {
      value.withLock { $0 = result }
      _ = close(ending)
    }

    func wait() -> Result<Value, any Error> {
      var byte: UInt8 = 0
      while true {
        _ = unsafe read(ended, &byte, 1)
        if let result = value.withLock({ $0 }) { return result }
      }
    }
  }
}

/// The reading side of a stream of messages, for a task.
private struct TaskInbox: Sendable {
  private let subscriber: Subscriber
  private let byteCount = LatencyWorker.messageByteCount

  init(_ order: Fields, _ name: String) throws {
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    subscriber = try client.open(
      BlobKey("\(try order.text("key"))/\(name)"), waitUntil: .after(.seconds(10)))
  }

  /// Waits for the message with this number.
  func take(_ index: Int) async throws(PatchbayError) -> [UInt8] {
    let start = index * byteCount
    return try await subscriber.readFully(start..<start + byteCount)
  }
}
