// The views a client holds, where the broker can see them. A view is announced before the tag is
// checked, so whoever wants to reuse a ring either sees the view or has invalidated the tag in time
// for the check to fail. A dead client's table goes with the client.

import CPatchbayLayout
import PatchbaySystem
import PatchbayTypes
import Synchronization

/// A client's own table.
package final class ClientTable: Sendable {
  private let words: SharedWords
  /// Which entries are free; the shared words themselves would do, but a scan per view would not.
  private let free: Mutex<[Int]>

  package static let viewCount = Int(PB_TABLE_VIEW_COUNT)

  /// A new table, for the broker to hand out.
  package static func create(clientID: UInt64) throws(PatchbayError) -> Descriptor {
    let object = try SharedObject.sealedMemfd(
      name: "patchbay-client", byteCount: Int(PB_TABLE_BYTES))
    try SharedObject.write(object, at: 0, ObjectHeader.clientTable(clientID: clientID))
    return object
  }

  package static var byteCount: Int { Int(PB_TABLE_BYTES) }

  /// Maps a table.
  package init(_ descriptor: borrowing Descriptor) throws(PatchbayError) {
    words = SharedWords(
      try SharedMapping(
        descriptor, byteCount: Int(PB_TABLE_BYTES), isWritable: true, what: "the client table"))
    free = Mutex(Array((0..<Self.viewCount).reversed()))
  }

  /// Announces a view of a ring's use. The caller checks the ring's tag afterwards, and ends the
  /// view with `end` whatever it finds.
  /// - Throws: `limitReached` when this client holds as many views as a table has entries.
  package func announce(ringID: UInt64, useNumber: UInt32) throws(PatchbayError) -> Int {
    guard let entry = free.withLock({ $0.popLast() }) else {
      throw PatchbayError(
        .limitReached,
        "This client holds \(Self.viewCount) leases, the most it can. End some before taking more.")
    }
    // relaxed (both): the fence below makes them visible.
    unsafe word(entry, Int(PB_VIEW_USE_NUMBER_AT)).pointee.store(
      UInt64(useNumber), ordering: .relaxed)
    // relaxed: as above.
    unsafe word(entry, Int(PB_VIEW_RING_ID_AT)).pointee.store(ringID, ordering: .relaxed)
    // sequentially consistent (fence): the view is visible before the tag is checked. VIEW, pairs
    // with TAG-END. If the client dies here, its table dies with it.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    return entry
  }

  /// Ends a view; the bytes must not be touched afterwards.
  package func end(_ entry: Int) {
    // releasing: the last loads of the view's bytes come before. VIEW.
    unsafe word(entry, Int(PB_VIEW_RING_ID_AT)).pointee.store(0, ordering: .releasing)
    free.withLock { $0.append(entry) }
  }

  /// How many views are announced in a table: for whoever holds its descriptor.
  package static func announcedCount(
    in descriptor: borrowing Descriptor
  ) throws(PatchbayError) -> Int {
    var views = [UInt8](repeating: 0, count: viewCount * Int(PB_VIEW_BYTES))
    try SharedObject.read(descriptor, at: Int(PB_TABLE_VIEWS_AT), into: &views)
    return (0..<viewCount).count { entry in
      let at = entry * Int(PB_VIEW_BYTES) + Int(PB_VIEW_RING_ID_AT)
      return views[at..<at + 8].contains { $0 != 0 }
    }
  }

  @unsafe private func word(_ entry: Int, _ field: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
    unsafe words.word64(Int(PB_TABLE_VIEWS_AT) + entry * Int(PB_VIEW_BYTES) + field)
  }
}
