// The same work in plain C: the parent makes a fresh region for each run, a writer and readers in
// processes of their own pass the bytes through it.

import CFloor
import Glibc
import PatchbaySystem

/// One run of the C ring.
struct ThroughputFloor {
  var total: Int
  /// Bytes of the ring: as many as the stream has for a region that is used once.
  var capacity: Int
  var writeSize: Int
  var batch = 1
  var readSize: Int
  var readerCount: Int
  var consume: Consume
  var verify: Bool
  var seed: UInt32

  func run() throws(LoadError) -> Throughput.Figure {
    let start = MonotonicTime.now
    let region = try FloorRegion(
      byteCount: Int(pf_ring_region_bytes(UInt64(capacity))))
    let preparation = MonotonicTime.now.nanoseconds - start.nanoseconds
    _ = unsafe pf_ring_init(region.base, UInt64(capacity), UInt32(readerCount))
    let team = Team()
    let order: Fields = [
      "capacity": String(capacity), "total": String(total), "seed": String(seed),
      "verify": String(verify), "consume": consume.rawValue,
    ]
    try team.add(
      order.adding([
        "role": "floor-writer", "piece": String(writeSize), "batch": String(batch),
      ]),
      region: region.descriptor)
    for index in 0..<readerCount {
      try team.add(
        order.adding([
          "role": "floor-reader", "piece": String(readSize), "reader": String(index),
        ]),
        region: region.descriptor)
    }
    return try Throughput.figure(team.run(), total: total, preparation: Int(preparation))
  }

  // MARK: Workers

  static func write(_ order: Fields) throws {
    let work = try work(order)
    let content = Content(seed: UInt64(try order.int("seed")), longest: Int(work.piece))
    let region = try inheritedRegion(order)
    Worker.waitForStart()
    var (work_, content_, outcome) = unsafe (work, content.forFloor, pf_outcome())
    unsafe pf_ring_write(region.base, &content_, &work_, &outcome)
    withExtendedLifetime(content) {}
    Worker.finish(["first": String(outcome.first_ns)])
  }

  static func read(_ order: Fields) throws {
    let work = try work(order)
    let content = Content(seed: UInt64(try order.int("seed")), longest: Int(work.piece))
    let buffer = PrivateBuffer(byteCount: Int(work.piece))
    let region = try inheritedRegion(order)
    let consume = try floorConsume(order)
    let reader = UInt32(try order.int("reader"))
    Worker.waitForStart()
    var (work_, content_, outcome) = unsafe (work, content.forFloor, pf_outcome())
    unsafe pf_ring_read(
      region.base, reader, buffer.bytes.baseAddress, consume, order.flag("verify") ? 1 : 0,
      &content_, &work_, &outcome)
    withExtendedLifetime((content, buffer)) {}
    Worker.finish([
      "last": String(outcome.last_ns), "mismatch": String(outcome.mismatch),
      "sum": String(outcome.sum),
    ])
  }

  private static func work(_ order: Fields) throws -> pf_work {
    pf_work(
      total: UInt64(try order.int("total")), piece: UInt64(try order.int("piece")),
      batch: UInt64(order["batch"] ?? "") ?? 1, spins: 0)
  }

  private static func inheritedRegion(_ order: Fields) throws -> FloorRegion {
    try FloorRegion(
      inheritedWith: Int(pf_ring_region_bytes(UInt64(try order.int("capacity")))))
  }

  private static func floorConsume(_ order: Fields) throws -> Int32 {
    switch Consume(rawValue: try order.text("consume")) {
    case .view: Int32(PF_VIEW)
    case .sum: Int32(PF_SUM)
    case .copy, nil: Int32(PF_COPY)
    }
  }
}

/// A mapped region of the floor; unmapped and closed with this object.
@safe final class FloorRegion {
  let descriptor: Int32
  private let byteCount: Int
  @unsafe let base: UnsafeMutableRawPointer

  /// A fresh, reserved one.
  convenience init(byteCount: Int) throws(LoadError) {
    let descriptor = pf_region_create(UInt64(byteCount))
    guard descriptor >= 0 else {
      throw LoadError(
        "Reserving \(byteCount) bytes for the floor failed with error \(-descriptor).")
    }
    try self.init(descriptor, byteCount)
  }

  /// The one that this worker was handed.
  convenience init(inheritedWith byteCount: Int) throws(LoadError) {
    try self.init(ChildProcess.regionDescriptor, byteCount)
  }

  private init(_ descriptor: Int32, _ byteCount: Int) throws(LoadError) {
    guard let base = unsafe pf_region_map(descriptor, UInt64(byteCount)) else {
      throw LoadError("Mapping \(byteCount) bytes of the floor failed with error \(errno).")
    }
    self.descriptor = descriptor
    self.byteCount = byteCount
    unsafe self.base = unsafe base
  }

  deinit {
    _ = unsafe pf_region_unmap(base, UInt64(byteCount))
    _ = Glibc.close(descriptor)
  }
}

/// The floor against memcpy within one process, with few warm slots.
struct FloorCheck {
  let seed: UInt32
  static let leastRatio = 0.6
  private static let piece = 1 << 20
  private static let pieceCount = 1024
  private static let repeats = 5

  func run() throws(LoadError) -> (ring: Series, memcpy: Series) {
    var (ring, memcpy) = (Series(), Series())
    for _ in 0..<Self.repeats {
      let floor = ThroughputFloor(
        total: Self.piece * Self.pieceCount, capacity: 8 * Self.piece, writeSize: Self.piece,
        readSize: Self.piece, readerCount: 1, consume: .copy, verify: false, seed: seed)
      ring.values.append(try floor.run().gigabytesPerSecond)
      memcpy.values.append(Self.memcpyRate())
    }
    return (ring, memcpy)
  }

  private static func memcpyRate() -> Double {
    let (target, source) = (PrivateBuffer(byteCount: piece), PrivateBuffer(byteCount: piece))
    let nanoseconds = unsafe pf_memcpy_ns(
      target.bytes.baseAddress, source.bytes.baseAddress, piece, Int32(pieceCount))
    withExtendedLifetime((target, source)) {}
    return Double(piece * pieceCount) / Double(max(nanoseconds, 1))
  }
}
