// The two clocks: monotonic for waiting, wall for stamps that people read.

import CPatchbaySystem
import PatchbayTypes

/// A moment of CLOCK_MONOTONIC, in nanoseconds: what the kernel's waits take.
package struct MonotonicTime: Sendable, Hashable, Comparable {
  package let nanoseconds: Int64
  package init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  package static var now: MonotonicTime { MonotonicTime(nanoseconds: pb_monotonic_ns()) }
  /// Far enough never to come, near enough for the kernel's arithmetic.
  package static let distantFuture = MonotonicTime(nanoseconds: .max / 4)

  package static func < (left: Self, right: Self) -> Bool { left.nanoseconds < right.nanoseconds }

  package func advanced(by duration: Duration) -> MonotonicTime {
    let (sum, overflow) = nanoseconds.addingReportingOverflow(duration.wholeNanoseconds)
    return overflow ? .distantFuture : min(MonotonicTime(nanoseconds: sum), .distantFuture)
  }

  /// The same moment on this clock.
  package init(_ deadline: Deadline) {
    self = deadline.remaining.map { Self.now.advanced(by: $0) } ?? .distantFuture
  }
}

extension WallTime {
  package static var now: WallTime { WallTime(rawValue: pb_realtime_ns()) }
}
