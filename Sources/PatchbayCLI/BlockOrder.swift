// The order in which `put --shuffle` writes, and the speed at which `put --rate` does. Pure but for
// the sleeping.

import Patchbay

/// The blocks of a length, in an order that a seed decides: the same on every machine.
struct BlockOrder {
  /// Every block once.
  let blocks: [Range<Int>]

  /// The order is held in memory, so there is a limit.
  static let countLimit = 1 << 24

  /// - Throws: `limitReached` for more blocks than that.
  init(_ byteCount: Int, _ blockByteCount: Int, seed: UInt64) throws(PatchbayError) {
    let count = byteCount / blockByteCount + (byteCount % blockByteCount == 0 ? 0 : 1)
    guard count <= Self.countLimit else {
      throw PatchbayError(
        .limitReached,
        "\(byteCount) bytes in blocks of \(blockByteCount) are \(count) blocks; at most "
          + "\(Self.countLimit) can be shuffled. Choose larger ones with --block.")
    }
    var random = SplitMix(state: seed)
    var order = Array(0..<count)
    // Fisher and Yates, written out so that the order does not depend on the standard library's.
    for last in stride(from: count - 1, to: 0, by: -1) {
      order.swapAt(last, Int(random.next() % UInt64(last + 1)))
    }
    blocks = order.map { index in
      index * blockByteCount..<min((index + 1) * blockByteCount, byteCount)
    }
  }
}

/// SplitMix64, by Sebastiano Vigna (public domain, prng.di.unimi.it).
struct SplitMix {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
    return mixed ^ (mixed >> 31)
  }
}

/// Holds a transfer down to so many bytes a second; nil: not at all.
struct Pace {
  private let rate: Int?
  private let started = ContinuousClock.now

  init(_ rate: Int?) { self.rate = rate }

  /// Pieces of at most a twentieth of a second, so that a slow transfer is smooth.
  func limit(_ byteCount: Int) -> Int { rate.map { min(byteCount, max(1, $0 / 20)) } ?? byteCount }

  /// Sleeps until so many bytes are due.
  /// - Throws: `Interrupted`.
  func wait(after byteCount: Int) throws {
    guard let rate else { return }
    let due = started + .nanoseconds(Int64(Double(byteCount) / Double(rate) * 1e9))
    try Interruption.sleep(due - ContinuousClock.now)
  }
}
