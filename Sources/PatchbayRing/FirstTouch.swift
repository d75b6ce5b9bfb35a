// The first touch of a mapped ring, in a few long calls instead of one fault per page: the copies
// behind it run nearly twice as fast in a fresh ring, and faster still in one that was used before. A
// ring's memory was reserved when it was made, so this can only be slow, never refused; where the
// kernel cannot do it, the first write of each page does.

import PatchbaySystem
import Synchronization

/// What of one ring's data this process has touched.
final class FirstTouch: Sendable {
  private let mapping: SharedMapping
  /// Where the data stands in the mapping.
  private let data: Range<Int>
  /// Data offset below which an appending publisher has touched everything.
  private let appendedEnd = Atomic<Int>(0)
  /// Which blocks have been touched for writes in any order.
  private let blocks: Mutex<[Bool]>

  /// As many bytes as one call touches at most: few calls, and none of them long enough to hold a
  /// stream up noticeably.
  private static let block = 4 << 20
  /// Shorter writes out of order are left to the page faults.
  private static let shortest = 64 << 10

  init(_ mapping: SharedMapping, data: Range<Int>) {
    self.mapping = mapping
    self.data = data
    blocks = Mutex(Array(repeating: false, count: (data.count + Self.block - 1) / Self.block))
  }

  /// Before an append into these data offsets: touches as much ahead as has been appended so far,
  /// within bounds, so that a short stream pays for little and a long one calls seldom.
  func beforeAppend(_ offsets: Range<Int>) {
    // relaxed: a figure of the one thread that appends.
    let end = appendedEnd.load(ordering: .relaxed)
    guard offsets.upperBound > end else { return }
    let ahead = offsets.lowerBound + min(max(offsets.lowerBound, Self.shortest), Self.block)
    let stretch = min(max(offsets.upperBound, ahead), data.count)
    populate(offsets.lowerBound..<stretch)
    // relaxed: as above.
    appendedEnd.store(stretch, ordering: .relaxed)
  }

  /// Before a write into these data offsets, from any thread: touches the blocks it lies in, once.
  func beforeWrite(_ offsets: Range<Int>) {
    guard offsets.count >= Self.shortest else { return }
    let touched = offsets.lowerBound / Self.block..<(offsets.upperBound - 1) / Self.block + 1
    for block in touched where isFirst(block) {
      populate(block * Self.block..<min((block + 1) * Self.block, data.count))
    }
  }

  private func isFirst(_ block: Int) -> Bool {
    blocks.withLock { blocks in
      defer { blocks[block] = true }
      return !blocks[block]
    }
  }

  private func populate(_ offsets: Range<Int>) {
    mapping.populate(data.lowerBound + offsets.lowerBound..<data.lowerBound + offsets.upperBound)
  }
}
