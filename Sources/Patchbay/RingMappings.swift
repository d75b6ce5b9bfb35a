// The rings that a client has mapped, by their numbers: what a handle lets go is still mapped, warm,
// when the ring comes back as part of the next blob. A bounded number, the one not needed for the
// longest time goes first; what somebody still reads or writes in lives as long as that.

import PatchbayLayout
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import Synchronization

final class RingMappings: Sendable {
  private struct Key: Hashable {
    let ring: UInt64
    let isWritable: Bool
  }

  private struct Kept {
    let ring: MappedRing
    var lastUse: UInt64
  }

  private struct State {
    var kept: [Key: Kept] = [:]
    var byteCount = 0
    var clock: UInt64 = 0
    /// Extents that handles for reading hold, in the order in which they were mapped.
    var held: [HeldExtent] = []
    var head = 0
  }

  private struct HeldExtent {
    weak let handle: BlobHandle?
    let index: Int
  }

  private let state = Mutex(State())
  /// The most mappings, and bytes of them, that are kept.
  static let limit = 64
  static let byteLimit = 1 << 30
  /// The most extents that handles for reading hold mapped.
  static let heldLimit = 4096

  /// A ring, mapped now or before. The broker never gives one to a blob of another access class.
  func ring(
    _ descriptor: borrowing Descriptor, _ ringID: UInt64, _ geometry: RingGeometry,
    isWritable: Bool
  ) throws(PatchbayError) -> MappedRing {
    let key = Key(ring: ringID, isWritable: isWritable)
    if let ring = find(key), ring.geometry == geometry { return ring }
    let ring = try MappedRing(descriptor, ringID: ringID, geometry, isWritable: isWritable)
    keep(ring, key)
    return ring
  }

  private func find(_ key: Key) -> MappedRing? {
    state.withLock { state in
      state.clock += 1
      state.kept[key]?.lastUse = state.clock
      return state.kept[key]?.ring
    }
  }

  private func keep(_ ring: MappedRing, _ key: Key) {
    let dropped = state.withLock { state in
      state.clock += 1
      var dropped = [
        state.kept.updateValue(Kept(ring: ring, lastUse: state.clock), forKey: key)
      ]
      state.byteCount +=
        ring.geometry.objectByteCount - (dropped[0]?.ring.geometry.objectByteCount ?? 0)
      while state.kept.count > Self.limit || state.byteCount > Self.byteLimit {
        guard let oldest = state.kept.min(by: { $0.value.lastUse < $1.value.lastUse }) else {
          break
        }
        dropped.append(state.kept.removeValue(forKey: oldest.key))
        state.byteCount -= oldest.value.ring.geometry.objectByteCount
      }
      return dropped
    }
    // Unmapped here, outside of the lock.
    _ = consume dropped
  }

  /// Takes note that a handle for reading has mapped an extent; lets the one go that was mapped
  /// first when there are too many. Its handle asks for it again when it is needed.
  func hold(_ index: Int, of handle: BlobHandle) {
    let dropped = state.withLock { state -> HeldExtent? in
      state.held.append(HeldExtent(handle: handle, index: index))
      guard state.held.count - state.head > Self.heldLimit else { return nil }
      defer {
        state.head += 1
        if state.head > Self.heldLimit {
          state.held.removeFirst(state.head)
          state.head = 0
        }
      }
      return state.held[state.head]
    }
    if let dropped { dropped.handle?.dropExtent(dropped.index) }
  }
}
