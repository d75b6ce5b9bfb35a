// The budget: what is charged, what leaves first, and who is told that nothing can.

import PatchbayLayout
import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct MemoryTests {
  /// What a blob of one page costs: header, map and data.
  private static let cost =
    (try? RingGeometry(dataByteCount: Rig.page, hasMap: true).objectByteCount) ?? 0

  /// Room for this many blobs of one page. The board is made before, and told as overhead.
  private func warm(blobs: Int) throws -> (Rig, SessionID) {
    var rig = Rig(memory: blobs * Self.cost + 100_000) { $0.entriesPerBoard = 8 }
    let writer = rig.connect()
    let grant = try need(rig.create(writer, "warm") { $0.byteCount = 0 })
    rig.abandon(writer, grant.blob)
    rig.ask(writer, .remove(RemoveRequest(key: "warm", generation: nil)))
    rig.send(.overheadChanged(byteCount: 100_000))
    return (rig, writer)
  }

  @Test func `a ring is charged whole, maps included, in the pool, too`() throws {
    var (rig, writer) = try warm(blobs: 2)
    #expect(Self.cost > 2 * Rig.page)
    _ = rig.sealed(writer, "a", byteCount: 10)
    #expect(rig.ledger.usedByteCount == 100_000 + Self.cost)
    #expect(rig.info(writer, "a")?.residentByteCount == Self.cost)
    rig.ask(writer, .remove(RemoveRequest(key: "a", generation: nil)))
    #expect(rig.ledger.usedByteCount == 100_000 + Self.cost)
    #expect(rig.ledger.pool.byteCount == Self.cost)
  }

  @Test func `the least recently read sealed blob leaves first`() throws {
    var (rig, writer) = try warm(blobs: 3)
    for key in ["a", "b", "c"] as [BlobKey] { _ = rig.sealed(writer, key, byteCount: 10) }
    let read = try need(rig.open(writer, "a")?.grant)
    rig.close(writer, read.reader)
    let before = rig.trace.count
    #expect(rig.sealed(writer, "d", byteCount: 10) != nil)
    #expect(rig.list(writer)?.keys == ["a", "c", "d"])
    let after = Array(rig.trace[before...])
    #expect(after.reused.map(\.rawValue) == [2], "its ring serves the new blob")
    #expect(rig.statistics(writer)?.evictionCount == 1)
    #expect(rig.open(writer, "b")?.code == .noSuchKey)
  }

  @Test func `a reader that needs no memory is let in when more than all is used`() throws {
    var (rig, writer) = try warm(blobs: 3)
    for key in ["read", "idle"] as [BlobKey] { _ = rig.sealed(writer, key, byteCount: 10) }
    _ = rig.create(writer, "written") { $0.byteCount = 10 }
    // Journal and tables grow without asking.
    rig.send(.overheadChanged(byteCount: 100_000 + 3 * Self.cost))
    #expect(rig.ledger.usedByteCount > rig.ledger.limits.memoryByteCount)
    #expect(rig.open(writer, "read")?.grant != nil)
    #expect(rig.list(writer)?.keys == ["idle", "read", "written"], "nothing is evicted for it")
  }

  @Test func `failed blobs leave before sealed ones`() throws {
    var (rig, writer) = try warm(blobs: 2)
    _ = rig.sealed(writer, "sealed", byteCount: 10)
    let failed = try need(rig.create(writer, "failed") { $0.byteCount = 10 })
    rig.abandon(writer, failed.blob)
    #expect(rig.create(writer, "new") { $0.byteCount = 10 } != nil)
    #expect(rig.list(writer)?.keys == ["new", "sealed"])
  }

  @Test func `what is open is never evicted, and the refusal says the numbers`() throws {
    var (rig, writer) = try warm(blobs: 2)
    _ = rig.sealed(writer, "read", byteCount: 10)
    _ = rig.open(writer, "read")
    _ = rig.create(writer, "written") { $0.byteCount = 10 }
    var request = CreateRequest(key: "new")
    request.byteCount = 10
    let error = try need(rig.ask(writer, .create(request))?.error)
    #expect(error.code == .noSpaceMemory)
    let limit = 2 * Self.cost + 100_000
    for number in [Self.cost, limit, 2 * Self.cost] {
      #expect(error.message.contains("\(number)"))
    }
    #expect(rig.list(writer)?.keys == ["read", "written"])
  }

  @Test func `nothing is evicted for what would not fit even then`() throws {
    var (rig, writer) = try warm(blobs: 3)
    _ = rig.sealed(writer, "idle", byteCount: 10)
    _ = rig.create(writer, "written") { $0.byteCount = 10 }
    #expect(rig.createError(writer, "new") { $0.byteCount = 9 * Rig.page } == .noSpaceMemory)
    #expect(rig.createError(writer, "huge") { $0.byteCount = 1 << 45 } == .noSpaceMemory)
    #expect(rig.list(writer)?.keys == ["idle", "written"])
  }

  @Test func `a replacing create that does not fit leaves the old blob`() throws {
    var (rig, writer) = try warm(blobs: 2)
    _ = rig.sealed(writer, "k", byteCount: 10)
    _ = rig.open(writer, "k")
    _ = rig.create(writer, "written") { $0.byteCount = 10 }
    #expect(
      rig.createError(writer, "k") {
        $0.byteCount = 10
        $0.replaces = true
      } == .noSpaceMemory)
    #expect(rig.info(writer, "k")?.state == .sealed)
  }

  @Test func `growth that does not fit is refused and may be tried again`() throws {
    var (rig, writer) = try warm(blobs: 2)
    let blob = try need(
      rig.create(writer, "k") {
        $0.firstExtent = Rig.page
        $0.extentLimit = Rig.page
      })
    _ = rig.create(writer, "other") { $0.byteCount = 10 }
    let grow = Request.grow(GrowRequest(blob: blob.blob, index: 1))
    #expect(rig.ask(writer, grow)?.code == .noSpaceMemory)
    let other = BlobReference(
      generation: Generation(rawValue: blob.blob.generation.rawValue + 1), epoch: 1)
    rig.abandon(writer, other)
    #expect(rig.ask(writer, grow)?.extent != nil)
  }

  @Test func `inline blobs are charged and evicted too`() throws {
    var rig = Rig(memory: 2000)
    let writer = rig.connect()
    for key in ["a", "b", "c"] as [BlobKey] {
      #expect(rig.create(writer, key) { $0.inlineBytes = Array(repeating: 1, count: 900) } != nil)
    }
    #expect(rig.list(writer)?.keys == ["b", "c"])
    #expect(rig.ledger.usedByteCount == 1800)
    #expect(
      rig.createError(writer, "d") { $0.inlineBytes = Array(repeating: 1, count: 2001) }
        == .noSpaceMemory)
  }

  @Test func `a process that hung up holds its memory until it has exited`() throws {
    var (rig, writer) = try warm(blobs: 1)
    let reader = rig.connect(process: 200)
    _ = rig.sealed(writer, "a", byteCount: 10)
    _ = rig.open(reader, "a")
    rig.send(.hungUp(reader))
    #expect(rig.createError(writer, "b") { $0.byteCount = 10 } == .noSpaceMemory)
    rig.ask(writer, .remove(RemoveRequest(key: "a", generation: nil)))
    #expect(rig.ledger.pool.count == 0)
    #expect(rig.createError(writer, "b") { $0.byteCount = 10 } == .noSpaceMemory)
    rig.send(.exited(reader))
    #expect(rig.ledger.pool.count == 1)
    #expect(rig.create(writer, "b") { $0.byteCount = 10 } != nil)
  }

  @Test func `a dead publisher's blob is evictable once its process is gone`() throws {
    var (rig, writer) = try warm(blobs: 1)
    let other = rig.connect()
    _ = rig.create(writer, "a") { $0.byteCount = 10 }
    rig.send(.hungUp(writer))
    #expect(rig.createError(other, "b") { $0.byteCount = 10 } == .noSpaceMemory)
    rig.send(.exited(writer))
    #expect(rig.create(other, "b") { $0.byteCount = 10 } != nil)
  }

  @Test func `a full catalog evicts too`() {
    var rig = Rig { $0.blobCount = 2 }
    let writer = rig.connect()
    for key in ["a", "b", "c"] as [BlobKey] {
      #expect(rig.create(writer, key) { $0.inlineBytes = [] } != nil)
    }
    #expect(rig.list(writer)?.keys == ["b", "c"])
  }
}
