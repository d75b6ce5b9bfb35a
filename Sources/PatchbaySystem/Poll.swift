// Waiting for a few descriptors at once.

import CPatchbaySystem
import PatchbayTypes

/// A descriptor to wait for.
package struct PollEntry: Sendable {
  fileprivate var entry: pb_poll_entry

  /// Waits until it can be read or written, whichever is wanted, or has failed. Of which nothing is
  /// wanted is passed over: it would be ready for ever once it has hung up.
  package init(_ descriptor: Int32, forReading: Bool, forWriting: Bool) {
    entry = pb_poll_entry(
      descriptor: forReading || forWriting ? descriptor : -1,
      wanted: Int16((forReading ? PB_POLL_READABLE : 0) | (forWriting ? PB_POLL_WRITABLE : 0)),
      ready: 0)
  }

  /// Waits until the other end has hung up, or it has failed.
  package init(hangUpOf descriptor: Int32) {
    entry = pb_poll_entry(descriptor: descriptor, wanted: 0, ready: 0)
  }

  /// Whether there is something to do: what was wanted, or a failure to be found by trying.
  package var isReady: Bool { entry.ready != 0 }
}

package enum Poll {
  /// Waits until one of the descriptors is ready, at most until a moment.
  package static func wait(
    _ entries: inout [PollEntry], until: MonotonicTime
  ) throws(PatchbayError) {
    var list = entries.map(\.entry)
    _ = try checked(
      unsafe pb_poll(&list, Int32(list.count), until.nanoseconds), "Waiting for descriptors")
    for index in entries.indices { entries[index].entry.ready = list[index].ready }
  }
}
