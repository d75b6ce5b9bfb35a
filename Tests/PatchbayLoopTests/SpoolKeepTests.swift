// What a container promises on its way to its name: a device's error reaches the one who promises,
// and what was lost is not gone on with.

import Glibc
import PatchbaySpool
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger
@testable import PatchbayLoop

@Suite(.serialized) struct SpoolKeepTests {
  private static func spool(in directory: String) throws -> Spool {
    try Spool.open(
      SpoolPlace(directory: directory, byteLimit: 1 << 30, compression: .none, floor: 0),
      instance: 0xaa
    ).spool
  }

  /// A durable blob without bytes: all that there is of it is its container.
  private static func order(_ generation: UInt64) throws -> PersistOrder {
    var request = CreateRequest(key: try BlobKey("key/\(generation)"))
    request.byteCount = 0
    request.acknowledgement = .durable
    return PersistOrder(
      blob: StoredBlob(
        request: request, generation: Generation(rawValue: generation),
        access: Access(uid: geteuid(), gid: getegid(), mode: 0o600),
        plan: try ExtentPlan(first: 4096, limit: 4096), byteCount: 0,
        segmentByteCount: 1 << 18, created: WallTime(rawValue: 1), modified: WallTime(rawValue: 2),
        containerByteCount: 0),
      extents: [], scratch: [], compression: .none)
  }

  /// Begins the containers of other blobs, that stay open for writing: more than may.
  private static func beginOthers(_ spool: Spool) throws {
    for generation in 1000..<1070 as Range<UInt64> {
      let header = ContainerHeader(
        key: try BlobKey("other/\(generation)"), generation: Generation(rawValue: generation),
        shape: try ContainerShape(segmentByteCount: 1 << 18), compression: .none, byteCount: nil)
      _ = try spool.writer(for: header, isDurable: false)
    }
  }

  private static func path(_ spool: Spool, _ directory: String, _ generation: UInt64) -> String {
    "\(directory)/\(spool.partName(Generation(rawValue: generation)))"
  }

  @Test func `a container that is ready is open at nobody's but who keeps it`() throws {
    let place = try TemporaryDirectory()
    let directory = place.file("spool")
    let spool = try Self.spool(in: directory)
    let order = try Self.order(1)
    let container = try spool.ready(order)
    let path = Self.path(spool, directory, 1)
    #expect(Listing.descriptorCount(of: path) == 1)
    try Self.beginOthers(spool)
    #expect(Listing.descriptorCount(of: path) == 1)
    guard case .done = spool.keep(order, container) else {
      Issue.record("a sound disk has lost it")
      return
    }
  }

  /// The system tells what the device refused once to each that has opened a file: had the worker the
  /// container open, and closed it for the sake of others, it might be told to the worker alone.
  @Test(.enabled(if: LostDisk.isPossible, "needs root and a loop device"))
  func `what the device refuses is told to who promises, however many others are open`() throws {
    let disk = try LostDisk(directoryNames: 100)
    let directory = disk.path + "/spool"
    let spool = try Self.spool(in: directory)
    let order = try Self.order(1)
    let container = try spool.ready(order)
    try disk.fill()
    try Self.beginOthers(spool)
    guard case .lost = spool.keep(order, container) else {
      Issue.record("it was promised what the device has refused")
      return
    }
    spool.leave()
  }

  @Test func `a container that was lost is begun anew, also when nothing else is to be written`()
    throws
  {
    let place = try TemporaryDirectory()
    let directory = place.file("spool")
    let spool = try Self.spool(in: directory)
    let order = try Self.order(1)
    let path = Self.path(spool, directory, 1)
    var facts = stat()
    let lost = try spool.ready(order)
    #expect(unsafe stat(path, &facts) == 0)
    let first = facts.st_ino
    // As `keep` does when the device has refused.
    spool.losesContainer(order.blob.generation)
    let container = try spool.ready(order)
    #expect(unsafe stat(path, &facts) == 0 && facts.st_ino != first)
    guard case .done = spool.keep(order, container) else {
      Issue.record("a sound disk has lost it")
      return
    }
    // The jobs of others come and go, and with them what has been lost.
    _ = spool.removeLeaving()
    #expect(names(in: directory).contains { $0.hasSuffix(".blob") })
    withExtendedLifetime(lost) {}
  }

  @Test func `a container that was lost is not taken over`() throws {
    let place = try TemporaryDirectory()
    let directory = place.file("spool")
    let spool = try Self.spool(in: directory)
    _ = try spool.ready(try Self.order(1))
    spool.losesContainer(Generation(rawValue: 1))
    let adoption = AdoptOrder(
      copy: CopyID(rawValue: 1), source: Generation(rawValue: 1), hasContainer: true, scratch: [],
      rings: [], key: "key/1", target: Generation(rawValue: 2))
    #expect(throws: PatchbayError.self) { try spool.adoptContainer(adoption) }
    #expect(names(in: directory) == ["broker.lock"])
  }
}
