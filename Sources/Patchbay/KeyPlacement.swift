// Where a key belongs, by numbers that are the same everywhere and for ever. A partition of weight n
// draws n numbers for each key, and the highest of all numbers wins: so each wins in proportion to its
// weight, with whole numbers alone, which no two machines round differently. Draws of other partitions
// do not change when one is added or taken away: hence no key moves between those that stay.

import PatchbayTypes

/// Which of several partitions a key belongs to.
struct KeyPlacement: Sendable {
  /// A draw of a partition: what the key's number is mixed with, and whose it is.
  private struct Draw: Sendable {
    let seed: UInt64
    let index: Int
  }

  private let draws: [Draw]

  /// The highest weight. What a key costs to place grows with the sum of all.
  static let weightLimit = 1024

  /// - Parameter partitions: in an order that is the same everywhere.
  /// - Throws: `protocolViolation` when there is none, two have one name, or a weight is not 1 to 1024.
  init(_ partitions: [(name: String, weight: Int)]) throws(PatchbayError) {
    guard !partitions.isEmpty, Set(partitions.map { Array($0.name.utf8) }).count == partitions.count
    else {
      throw PatchbayError(
        .protocolViolation,
        "\(partitions.count) partitions were given. There must be one at least, each with a name of "
          + "its own.")
    }
    for (name, weight) in partitions where !(1...Self.weightLimit).contains(weight) {
      throw PatchbayError(
        .protocolViolation,
        "The partition \(name) has the weight \(weight); weights are 1 to \(Self.weightLimit).")
    }
    draws = partitions.enumerated().flatMap { index, partition in
      (0..<partition.weight).map { Draw(seed: Self.seed(partition.name, $0), index: index) }
    }
  }

  /// The number of a draw of a partition: of its name, then of which draw it is, as four bytes, lowest
  /// first.
  private static func seed(_ name: String, _ draw: Int) -> UInt64 {
    let number = (0..<4).map { UInt8(truncatingIfNeeded: draw >> ($0 * 8)) }
    return StableHash.mixed(StableHash.ofBytes(Array(name.utf8) + number))
  }

  /// The index of the partition with the highest number for a key; of equal ones the first.
  func index(of key: BlobKey) -> Int {
    let number = StableHash.ofBytes(key.bytes)
    var best = (value: UInt64(0), index: draws[0].index)
    for draw in draws {
      let value = StableHash.mixed(number ^ draw.seed)
      if value > best.value { best = (value, draw.index) }
    }
    return best.index
  }
}

/// Hashes that are the same in every process; for spreading, not for secrets.
enum StableHash {
  /// FNV-1a of 64 bits (Fowler, Noll, Vo, Eastlake: RFC 9923).
  static func ofBytes(_ bytes: [UInt8]) -> UInt64 {
    bytes.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x0000_0100_0000_01b3 }
  }

  /// The finalizer of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
  /// OOPSLA 2014; constants of Stafford's variant 13): every bit of the result depends on all.
  static func mixed(_ word: UInt64) -> UInt64 {
    var word = word
    word = (word ^ word >> 30) &* 0xbf58_476d_1ce4_e5b9
    word = (word ^ word >> 27) &* 0x94d0_49bb_1331_11eb
    return word ^ word >> 31
  }
}
