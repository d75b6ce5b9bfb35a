// Views of rings that are used in place without a lease.

import PatchbayRing
import PatchbayTypes
import Synchronization

/// Keeps rings from their next use until it is ended.
final class HeldViews: Sendable {
  private let table: ClientTable
  private let views = Mutex<[Int]>([])

  init(_ table: ClientTable) { self.table = table }

  deinit { end() }

  func end() {
    let held = views.withLock { views in
      defer { views = [] }
      return views
    }
    for view in held { table.end(view) }
  }

  /// Announces a view of an extent; false when its ring serves another use already.
  /// - Throws: `limitReached` when this client holds as many views as it can.
  func hold(_ extent: Extent) throws(PatchbayError) -> Bool {
    let view = try table.announce(ringID: extent.ringID, useNumber: extent.useNumber)
    views.withLock { $0.append(view) }
    return extent.isCurrent
  }

  /// The same; false also when this client holds as many views as it can.
  func holdIfRoom(_ extent: Extent) -> Bool { (try? hold(extent)) ?? false }
}
