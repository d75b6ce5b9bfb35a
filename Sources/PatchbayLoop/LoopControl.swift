// How other threads, and signal handlers, speak to the loop: a wish that only grows, and an alarm.

import PatchbaySystem
import PatchbayTypes
import Synchronization

final class LoopControl: Sendable {
  enum Wish: UInt8 {
    case run, handOver, drain, stop
  }

  /// Raised for the loop with every wish.
  let alarm: Alarm
  /// Raised once the loop has ended and everything is cleared up; never lowered.
  let ended: Alarm
  /// Who is to be told of the end; nil once it has come.
  private let witnesses = Mutex<[@Sendable () -> Void]?>([])
  private let wish = Atomic<UInt8>(Wish.run.rawValue)
  private let drainDeadline = Atomic<Int64>(MonotonicTime.distantFuture.nanoseconds)

  init() throws(PatchbayError) {
    alarm = try Alarm()
    ended = try Alarm()
  }

  /// Atomic operations and one write: safe in a signal handler.
  func request(_ wanted: Wish) {
    // releasing: the deadline that came with the wish. Pairs with LOOP-WISH.
    wish.max(wanted.rawValue, ordering: .releasing)
    alarm.raise()
  }

  /// The earliest of all deadlines asked for counts.
  func limitDrain(to deadline: MonotonicTime) {
    // relaxed: made visible by the wish that follows. Pairs with LOOP-WISH.
    drainDeadline.min(deadline.nanoseconds, ordering: .relaxed)
  }

  /// Calls when the loop has ended, on its thread, or at once if it has.
  func whenEnded(_ tell: @escaping @Sendable () -> Void) {
    let isOver = witnesses.withLock { witnesses in
      witnesses?.append(tell)
      return witnesses == nil
    }
    if isOver { tell() }
  }

  /// For the loop, as its last step.
  func end() {
    let told = witnesses.withLock { witnesses in
      defer { witnesses = nil }
      return witnesses ?? []
    }
    for tell in told { tell() }
    ended.raise()
  }

  /// For the loop: what is wanted by now.
  var wanted: (wish: Wish, drainDeadline: MonotonicTime) {
    // acquiring: the deadline that was set before the wish. Pairs with LOOP-WISH.
    let wish = Wish(rawValue: self.wish.load(ordering: .acquiring)) ?? .stop
    // relaxed: at least as new as the wish, by the acquiring load above.
    let deadline = drainDeadline.load(ordering: .relaxed)
    return (wish, MonotonicTime(nanoseconds: deadline))
  }
}
