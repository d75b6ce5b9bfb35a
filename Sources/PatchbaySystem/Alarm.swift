// Being woken from outside while one waits for descriptors.

import CPatchbaySystem
import PatchbayTypes

/// A flag in a descriptor: raised from any thread, or from a signal handler; waited for by one.
package struct Alarm: ~Copyable, Sendable {
  private let descriptor: Descriptor

  package init() throws(PatchbayError) {
    descriptor = Descriptor(owning: try checked(pb_eventfd(), "Making an eventfd"))
  }

  package var rawValue: Int32 { descriptor.rawValue }

  /// A single write: safe in a signal handler.
  package func raise() { _ = pb_eventfd_signal(descriptor.rawValue) }

  package func lower() { _ = pb_eventfd_drain(descriptor.rawValue) }

  /// Waits until it is raised. False: the time came first.
  package func wait(until: MonotonicTime) -> Bool {
    pb_poll_readable(descriptor.rawValue, until.nanoseconds) > 0
  }
}
