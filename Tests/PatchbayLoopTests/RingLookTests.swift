// What a broker tells of a blob from its rings, when some of them have gone on to serve others meanwhile.

import CPatchbayLayout
import Glibc
import PatchbayLayout
import PatchbayLedger
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import Testing

@testable import PatchbayLoop

@Suite struct RingLookTests {
  private static let page = 4096

  /// Rings in a row, in each of which a publisher says that all but one byte is there.
  private final class Rings {
    let places: [RingPlace]

    init(_ count: Int, hasMap: Bool) throws {
      let geometry = try RingGeometry(dataByteCount: page, hasMap: hasMap)
      let instance = UInt64.random(in: 1...UInt64.max)
      places = try (0..<count).map { index in
        let id = RingID(rawValue: UInt64(index) + 1)
        let order = RingOrder(
          ring: id, name: ObjectName.ring(instance: instance, id), instance: instance,
          geometry: geometry, use: RingUse(number: 1, index: index))
        return try order.fill().get()
      }
    }

    func write(_ number: Int, at offset: some BinaryInteger, in ring: Int) throws {
      let bytes = withUnsafeBytes(of: UInt64(number).littleEndian) { Array($0) }
      try SharedObject.write(
        try places[ring].open(isWritable: true), at: Int(offset), bytes)
    }

    func say(_ count: Int, in ring: Int) throws {
      try write(count, at: PB_RING_FRONTIER_AT, in: ring)
      try write(count, at: PB_RING_COVERED_BYTES_AT, in: ring)
    }

    /// It serves another blob, whose publisher has been as far.
    func useAgain(_ ring: Int) throws {
      let descriptor = try places[ring].open(isWritable: true)
      try RingUse(number: 2, index: 0).begin(descriptor, places[ring].geometry)
      try say(page - 1, in: ring)
    }

    deinit { for place in places { try? SharedObject.unlink(name: place.name) } }
  }

  private func look(_ rings: Rings, _ order: WriteOrder) throws -> BlobInfo {
    let extents = rings.places.indices.map { index in
      ExtentRecord(
        index: index, ring: RingID(rawValue: UInt64(index) + 1), useNumber: 1,
        dataByteCount: Self.page)
    }
    let info = BlobInfo(
      key: "k", generation: Generation(rawValue: 1), state: .open, byteCount: nil, frontier: 0,
      coveredByteCount: 0, residentByteCount: 0, spilledByteCount: 0, order: order, policy: .keep,
      acknowledgement: .visible, publisherCount: 1, subscriberCount: 0, type: "", labels: [],
      created: WallTime(rawValue: 1), modified: WallTime(rawValue: 1), lastRead: nil,
      isCache: false, isPinned: false, access: Access(uid: 0, gid: 0, mode: 0o600),
      causeCode: nil, cause: nil)
    let plan = try ExtentPlan(first: Self.page, limit: Self.page)
    return RingLook.fill(
      BlobReport(info: info, plan: plan, liveExtents: extents),
      zip(extents, rings.places).map { PlacedExtent(extent: $0, place: $1) })
  }

  @Test(arguments: [WriteOrder.any, .appendOnly])
  func `what a ring says of a later use is not told of the blob that had it`(
    _ order: WriteOrder
  ) throws {
    let rings = try Rings(2, hasMap: order == .any)
    try rings.say(Self.page, in: 0)
    try rings.say(10, in: 1)
    let before = try look(rings, order)
    #expect(before.frontier == Self.page + 10 && before.coveredByteCount == Self.page + 10)
    try rings.useAgain(1)
    let after = try look(rings, order)
    #expect(after.frontier == Self.page && after.coveredByteCount == Self.page)
  }

  @Test func `of what is appended to a ring that others have by now was full`() throws {
    let rings = try Rings(3, hasMap: false)
    for ring in 0..<2 { try rings.say(Self.page, in: ring) }
    try rings.say(10, in: 2)
    try rings.useAgain(1)
    #expect(try look(rings, .appendOnly).frontier == 2 * Self.page + 10)
  }
}
