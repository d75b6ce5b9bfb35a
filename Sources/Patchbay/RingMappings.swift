// The rings that a client has mapped, by their numbers: what a handle lets go is still mapped, warm,
// when the ring comes back as part of the next blob. A bounded number, the one not needed for the
// longest time goes first; what somebody still reads or writes in lives as long as that.

import PatchbaySystem
import PatchbayTypes
import Synchronization

final class RingMappings: Sendable {
  private struct Key: Hashable {
    let ring: UInt64
    let isWritable: Bool
  }

  private struct Kept {
    let mapping: SharedMapping
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

  /// The mapping of a ring, which the broker never gives to a blob of another access class.
  func mapping(
    _ descriptor: borrowing Descriptor, ring: UInt64, byteCount: Int, isWritable: Bool
  ) throws(PatchbayError) -> SharedMapping {
    let key = Key(ring: ring, isWritable: isWritable)
    if let mapping = find(key), mapping.byteCount == byteCount { return mapping }
    let mapping = try SharedMapping(
      descriptor, byteCount: byteCount, isWritable: isWritable, what: "ring \(ring)")
    keep(mapping, key)
    return mapping
  }

  private func find(_ key: Key) -> SharedMapping? {
    state.withLock { state in
      state.clock += 1
      state.kept[key]?.lastUse = state.clock
      return state.kept[key]?.mapping
    }
  }

  private func keep(_ mapping: SharedMapping, _ key: Key) {
    let dropped = state.withLock { state in
      state.clock += 1
      var dropped = [
        state.kept.updateValue(Kept(mapping: mapping, lastUse: state.clock), forKey: key)
      ]
      state.byteCount += mapping.byteCount - (dropped[0]?.mapping.byteCount ?? 0)
      while state.kept.count > Self.limit || state.byteCount > Self.byteLimit {
        guard let oldest = state.kept.min(by: { $0.value.lastUse < $1.value.lastUse }) else {
          break
        }
        dropped.append(state.kept.removeValue(forKey: oldest.key))
        state.byteCount -= oldest.value.mapping.byteCount
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
