// Where keys belong: the same everywhere, in proportion to weights, and moving as little as can be.

import PatchbayTestSupport
import PatchbayTypes
import Testing

@testable import Patchbay

@Suite struct PlacementTests {
  private let keys: [BlobKey] = (0..<12_000).map { BlobKey(stringLiteral: "tile/7/\($0)") }

  /// How keys belong to partitions, by their names.
  private func homes(_ weights: [(String, Int)]) throws -> [String] {
    let placement = try KeyPlacement(weights.map { (name: $0.0, weight: $0.1) })
    return keys.map { weights[placement.index(of: $0)].0 }
  }

  @Test func `the hashes are those that were published`() {
    #expect(StableHash.ofBytes([]) == 0xcbf2_9ce4_8422_2325)
    #expect(StableHash.ofBytes(Array("a".utf8)) == 0xaf63_dc4c_8601_ec8c)
    #expect(StableHash.ofBytes(Array("foobar".utf8)) == 0x8594_4171_f739_67e8)
    // What splitmix64 gives from the seed 0: its finalizer of the first multiples of its constant.
    let step: UInt64 = 0x9e37_79b9_7f4a_7c15
    #expect(StableHash.mixed(step) == 0xe220_a839_7b1d_cdaf)
    #expect(StableHash.mixed(step &* 2) == 0x6e78_9e6a_a1b9_65f4)
    #expect(StableHash.mixed(step &* 3) == 0x06c4_5d18_8009_454f)
  }

  @Test func `equal partitions have equal shares, and others in proportion to their weights`()
    throws
  {
    for weights in [
      [("a", 1), ("b", 1), ("c", 1), ("d", 1)], [("a", 1), ("b", 3), ("c", 8)],
      [("disk1", 100), ("disk2", 50)],
    ] {
      let homes = try homes(weights)
      let sum = weights.reduce(0) { $0 + $1.1 }
      for (name, weight) in weights {
        let share = Double(homes.count { $0 == name }) / Double(keys.count)
        let expected = Double(weight) / Double(sum)
        // Six standard deviations; the keys are always the same.
        let deviation = (expected * (1 - expected) / Double(keys.count)).squareRoot()
        #expect(abs(share - expected) < 6 * deviation, "\(name) of \(weights) has \(share)")
      }
    }
  }

  @Test func `a partition that is added takes keys and moves no other`() throws {
    let before = try homes([("a", 2), ("b", 1), ("c", 5)])
    let after = try homes([("a", 2), ("b", 1), ("c", 5), ("new", 2)])
    var movedCount = 0
    for (old, new) in zip(before, after) where old != new {
      #expect(new == "new")
      movedCount += 1
    }
    #expect((2000..<2800).contains(movedCount), "a fifth of the keys is \(keys.count / 5)")
  }

  @Test func `a weight that grows takes keys and moves no other`() throws {
    let before = try homes([("a", 2), ("b", 1), ("c", 5)])
    let after = try homes([("a", 2), ("b", 3), ("c", 5)])
    for (old, new) in zip(before, after) where old != new { #expect(new == "b") }
    #expect(before != after)
  }

  @Test func `a partition that is taken away gives its keys to the others and moves no other`()
    throws
  {
    let before = try homes([("a", 1), ("b", 1), ("c", 1), ("d", 1)])
    let after = try homes([("a", 1), ("b", 1), ("d", 1)])
    for (old, new) in zip(before, after) where old != "c" { #expect(new == old) }
    let heirs = zip(before, after).filter { $0.0 == "c" }.map(\.1)
    #expect(Set(heirs) == ["a", "b", "d"])
  }

  @Test func `the order of the partitions does not matter`() async throws {
    try await withBroker { (_, client) async throws in
      let parts = ["x", "y", "z", "é"].enumerated().map {
        PartitionedStore.Partition($1, weight: $0 + 1, client)
      }
      let store = try PartitionedStore(parts)
      for order in [parts.reversed(), [parts[2], parts[0], parts[3], parts[1]]] {
        let other = try PartitionedStore(order)
        #expect(
          keys.allSatisfy { store.partition(of: $0).name == other.partition(of: $0).name })
      }
      let refused: [[PartitionedStore.Partition]] = [
        [], [parts[0], parts[0]], [.init("zero", weight: 0, client)],
        [.init("heavy", weight: 1025, client)],
      ]
      for partitions in refused {
        #expect(await code { _ = try PartitionedStore(partitions) } == .protocolViolation)
      }
    }
  }
}
