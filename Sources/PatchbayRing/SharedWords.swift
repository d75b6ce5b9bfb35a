// The small unsafe core of this room: atomic words and plain bytes at checked offsets of a mapping.
// Everything above it names offsets from the layout header and never touches a pointer. An offset
// outside the mapping is a mistake of ours and traps; nothing that a peer writes is ever an offset.

import PatchbaySystem
import Synchronization

/// Words and bytes of one mapped object.
@safe struct SharedWords: Sendable {
  let mapping: SharedMapping

  init(_ mapping: SharedMapping) { self.mapping = mapping }

  @inline(__always)
  private func checked(_ offset: Int, _ byteCount: Int) -> UnsafeMutableRawPointer {
    precondition(offset >= 0 && byteCount >= 0 && offset <= mapping.byteCount - byteCount)
    return unsafe mapping.base + offset
  }

  /// The 64-bit atomic word at an offset that is a multiple of 8.
  @unsafe @inline(__always)
  func word64(_ offset: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
    unsafe checked(offset, 8).assumingMemoryBound(to: Atomic<UInt64>.self)
  }

  /// The 32-bit atomic word at an offset that is a multiple of 4.
  @unsafe @inline(__always)
  func word32(_ offset: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
    unsafe checked(offset, 4).assumingMemoryBound(to: Atomic<UInt32>.self)
  }

  /// Where so many plain bytes begin; as `bytes`.
  @unsafe @inline(__always)
  func place(_ offset: Int, _ byteCount: Int) -> UnsafeMutableRawPointer {
    unsafe checked(offset, byteCount)
  }

  /// Plain bytes; who may touch them when is the caller's argument.
  @unsafe @inline(__always)
  func bytes(_ offset: Int, _ byteCount: Int) -> UnsafeMutableRawBufferPointer {
    unsafe UnsafeMutableRawBufferPointer(start: checked(offset, byteCount), count: byteCount)
  }
}
