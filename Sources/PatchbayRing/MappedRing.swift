// A ring as one process has it mapped, use after use.

import PatchbayLayout
import PatchbaySystem
import PatchbayTypes

/// A ring that is mapped whole, and how far this process has touched it: it need not touch again in
/// the ring's next use.
package final class MappedRing: Sendable {
  package let geometry: RingGeometry
  let mapping: SharedMapping
  /// Nil for readers.
  let firstTouch: FirstTouch?

  /// Maps a ring. The descriptor may be closed afterwards.
  /// - Throws: `corrupt` when the object is smaller than announced; `limitReached`, `inputOutput`.
  package init(
    _ descriptor: borrowing Descriptor, ringID: UInt64, _ geometry: RingGeometry, isWritable: Bool
  ) throws(PatchbayError) {
    self.geometry = geometry
    mapping = try SharedMapping(
      descriptor, byteCount: geometry.objectByteCount, isWritable: isWritable,
      what: "ring \(ringID)")
    firstTouch =
      isWritable
      ? FirstTouch(mapping, data: geometry.dataOffset..<geometry.objectByteCount) : nil
  }
}
