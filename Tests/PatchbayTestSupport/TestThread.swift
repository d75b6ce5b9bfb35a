// Threads that tests start and wait for.

import Glibc

/// A thread that runs a closure.
package final class TestThread: @unchecked Sendable {
  private var thread = pthread_t()
  private final class Box {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }

  package init(_ body: @escaping @Sendable () -> Void) {
    let box = unsafe Unmanaged.passRetained(Box(body)).toOpaque()
    let result = unsafe pthread_create(
      &thread, nil,
      { argument in
        guard let argument = unsafe argument else { return nil }
        unsafe Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().body()
        return nil
      }, box)
    precondition(result == 0, "no thread")
  }

  package func join() { _ = pthread_join(thread, nil) }
}

/// Ranges of 1 to 200 bytes that together cover [0, count), in order.
package func raggedRanges(_ count: Int, seed: UInt64) -> [Range<Int>] {
  var random = SeededRandom(seed: seed)
  var ranges: [Range<Int>] = []
  var at = 0
  while at < count {
    let end = min(count, at + Int.random(in: 1...200, using: &random))
    ranges.append(at..<end)
    at = end
  }
  return ranges
}
