// The pool: which rings come to it, who gets them, and when they go.

import Glibc
import PatchbayLayout
import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct PoolTests {
  private static let size = 40_000

  private func remove(_ rig: inout Rig, _ session: SessionID, _ key: BlobKey) {
    rig.ask(session, .remove(RemoveRequest(key: key, generation: nil)))
  }

  private func sealed(_ rig: inout Rig, _ session: SessionID, _ key: BlobKey) throws -> BlobGrant {
    try need(rig.sealed(session, key, byteCount: Self.size))
  }

  @Test func `a removed blob's ring serves the next blob of its kind, in its next use`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let first = try sealed(&rig, writer, "a")
    let used = rig.ledger.usedByteCount
    remove(&rig, writer, "a")
    #expect(rig.ledger.usedByteCount == used && rig.trace.unlinked.isEmpty)
    #expect(rig.statistics(writer).map { Int($0.poolByteCount) } == rig.ledger.pool.byteCount)
    let second = try sealed(&rig, writer, "b")
    #expect(second.extent?.ringID == first.extent?.ringID)
    #expect(first.extent?.useNumber == 1 && second.extent?.useNumber == 2)
    #expect(rig.ledger.usedByteCount == used && rig.ledger.pool.count == 0)
    #expect(rig.statistics(writer)?.reuseCount == 1)
  }

  @Test func `of each kind the last comes back first and the first goes first, however many rest`()
  {
    var pool = RingPool()
    let kinds = [4096, 8192].map {
      RingKind(
        access: Access(uid: 1, gid: 1, mode: 0), dataByteCount: $0, hasMap: false)
    }
    var expected: [(ring: RingID, kind: RingKind)] = []
    for number in 1...20_000 {
      let kind = kinds[number % 3 == 0 ? 1 : 0]
      pool.add(RingID(rawValue: UInt64(number)), kind, byteCount: 1, at: Int64(number))
      expected.append((RingID(rawValue: UInt64(number)), kind))
      if number % 5 == 0 {
        let last = expected.lastIndex { $0.kind == kind }
        #expect(pool.take(kind) == last.map { expected.remove(at: $0).ring })
      }
      if number % 7 == 0 { #expect(pool.takeOldest() == expected.removeFirst().ring) }
    }
    #expect(pool.count == expected.count && pool.byteCount == expected.count)
    for first in expected { #expect(pool.takeOldest() == first.ring) }
    #expect(pool.takeOldest() == nil && pool.count == 0 && pool.byteCount == 0)
    #expect(kinds.allSatisfy { pool.take($0) == nil })
  }

  @Test func `what the system has no room for takes the room of the pool, once`() throws {
    var rig = Rig()
    let writer = rig.connect()
    _ = try sealed(&rig, writer, "a")
    remove(&rig, writer, "a")
    #expect(rig.ledger.pool.count == 1)
    rig.holdsRings = true
    var request = CreateRequest(key: "b")
    request.byteCount = 4 * Self.size
    let asked = rig.post(writer, .create(request))
    let made = { (rig: Rig) in
      rig.trace.compactMap { if case .createRing(let ring, _, _, _, _) = $0 { ring } else { nil } }
    }
    let first = try need(made(rig).last)
    let used = rig.ledger.usedByteCount
    let pooled = rig.ledger.pool.byteCount
    rig.send(.ringRefused(first, errno: ENOSPC))
    #expect(rig.reply(writer, asked) == nil)
    #expect(rig.ledger.pool.count == 0 && rig.ledger.usedByteCount == used - pooled)
    let second = try need(made(rig).last)
    #expect(second != first)
    rig.send(.ringRefused(second, errno: ENOSPC))
    #expect(rig.reply(writer, asked)?.code == .noSpaceMemory)
    let third = rig.post(writer, .create(request))
    rig.send(.ringCreated(try need(made(rig).last), inode: 3))
    #expect(rig.reply(writer, third)?.grant != nil)
  }

  @Test func `another size, order or access class gets another ring`() throws {
    var rig = Rig()
    let writer = rig.connect()
    _ = try sealed(&rig, writer, "a")
    remove(&rig, writer, "a")
    let changes: [(inout CreateRequest) -> Void] = [
      { $0.byteCount = 2 * Self.size }, { $0.order = .appendOnly }, { $0.mode = 0o640 },
    ]
    for change in changes {
      let other = try need(
        rig.create(writer, "b") {
          $0.byteCount = Self.size
          $0.replaces = true
          change(&$0)
        })
      #expect(other.extent?.useNumber == 1)
      rig.ask(writer, .abandon(other.blob))
    }
    #expect(rig.trace.reused.isEmpty)
  }

  @Test func `a ring does not come back while its blob is open, named or observed`() throws {
    var rig = Rig()
    let (writer, reader) = (rig.connect(), rig.connect(process: 200))
    _ = try sealed(&rig, writer, "a")
    let read = try need(rig.open(reader, "a")?.grant)
    remove(&rig, writer, "a")
    #expect(rig.ledger.pool.count == 0)
    _ = try sealed(&rig, writer, "b")
    #expect(rig.trace.reused.isEmpty)
    rig.close(reader, read.reader)
    #expect(rig.ledger.pool.count == 1)
  }

  @Test func `a publisher that failed its blob holds the ring until it is quiescent`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "a") { $0.byteCount = Self.size })
    rig.ask(writer, .fail(FailRequest(blob: blob.blob, cause: "no")))
    remove(&rig, writer, "a")
    #expect(rig.ledger.pool.count == 0 && rig.ledger.rings.count == 1, "it may still write")
    rig.ask(writer, .quiesced(blob.blob))
    #expect(rig.ledger.pool.count == 1)
    #expect(rig.ask(writer, .quiesced(blob.blob)) == .done, "said twice it does no harm")
  }

  @Test func `a publisher that hung up holds the ring until its process is gone`() throws {
    var rig = Rig()
    let (writer, other) = (rig.connect(), rig.connect(process: 200))
    let blob = try need(rig.create(writer, "a") { $0.byteCount = Self.size })
    rig.ask(writer, .fail(FailRequest(blob: blob.blob, cause: "no")))
    rig.send(.hungUp(writer))
    remove(&rig, other, "a")
    _ = try sealed(&rig, other, "b")
    #expect(rig.trace.reused.isEmpty && rig.ledger.pool.count == 0)
    rig.send(.exited(writer))
    #expect(rig.ledger.pool.count == 1)
    _ = try sealed(&rig, other, "c")
    #expect(rig.trace.reused.map(\.rawValue) == [blob.extent?.ringID])
  }

  @Test func `a ring whose stopped process is waited for no longer is never used again`() throws {
    var rig = Rig { $0.connectionCount = 2 }
    let other = rig.connect(process: 1)
    let stopped = rig.connect(process: 2)
    _ = rig.create(stopped, "a") { $0.byteCount = Self.size }
    rig.send(.hungUp(stopped))
    remove(&rig, other, "a")
    // Two ghosts more than are remembered.
    for process in 3...4 as ClosedRange<Int32> {
      let next = rig.connect(process: process)
      _ = rig.create(next, "b") { $0.byteCount = Self.size }
      rig.send(.hungUp(next))
      remove(&rig, other, "b")
    }
    #expect(rig.trace.unlinked.map(\.rawValue) == [1])
    #expect(rig.ledger.pool.count == 0)
  }

  @Test func `the pool goes before any blob, the ring that came first before others`() throws {
    var rig = Rig(memory: 1 << 20)
    let writer = rig.connect()
    _ = try need(rig.sealed(writer, "kept", byteCount: 300_000))
    for (key, size) in [("a", 100_000), ("b", 200_000)] as [(BlobKey, Int)] {
      _ = try need(rig.sealed(writer, key, byteCount: size))
    }
    remove(&rig, writer, "b")
    remove(&rig, writer, "a")
    let before = rig.trace.count
    #expect(rig.sealed(writer, "c", byteCount: 400_000) != nil)
    #expect(Array(rig.trace[before...]).unlinked.map(\.rawValue) == [3])
    #expect(rig.sealed(writer, "d", byteCount: 100_000) != nil)
    #expect(rig.trace.reused.map(\.rawValue) == [2])
    #expect(rig.list(writer)?.keys == ["c", "d", "kept"])
  }

  @Test func `with full memory the blob that is evicted gives its ring to the new one`() throws {
    let geometry = try RingGeometry(
      dataByteCount: RingGeometry.roundedToPage(Self.size), hasMap: true)
    var rig = Rig(memory: 3 * geometry.objectByteCount + 20_000) { $0.entriesPerBoard = 8 }
    let writer = rig.connect()
    for index in 0..<20 { _ = try sealed(&rig, writer, BlobKey("k\(index)")) }
    #expect(rig.trace.unlinked.isEmpty)
    #expect(rig.ledger.rings.count <= 3 && rig.trace.reused.count >= 17)
  }

  @Test func `what nobody takes for a while is given back`() throws {
    var rig = Rig()
    let writer = rig.connect()
    _ = try sealed(&rig, writer, "a")
    _ = try need(rig.sealed(writer, "b", byteCount: 2 * Self.size))
    let used = rig.ledger.usedByteCount
    remove(&rig, writer, "a")
    rig.pass(.seconds(6))
    remove(&rig, writer, "b")
    rig.pass(.seconds(5))
    #expect(rig.ledger.nextDeadline.map { $0 <= rig.now.monotonicNanoseconds } == true)
    rig.send(.tick)
    #expect(rig.trace.unlinked.map(\.rawValue) == [1])
    rig.pass(.seconds(5))
    rig.send(.tick)
    #expect(rig.trace.unlinked.map(\.rawValue) == [1, 2])
    #expect(rig.ledger.nextDeadline == nil && rig.ledger.usedByteCount < used / 2)
  }

  @Test func `a ring that cannot be used again is replaced by a fresh one`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let first = try sealed(&rig, writer, "a")
    remove(&rig, writer, "a")
    rig.holdsRings = true
    let number = rig.post(
      writer,
      .create(
        { () -> CreateRequest in
          var request = CreateRequest(key: "b")
          request.byteCount = Self.size
          return request
        }()))
    let ring = RingID(rawValue: first.extent?.ringID ?? 0)
    rig.holdsRings = false
    rig.send(.ringRefused(ring, errno: 5))
    #expect(rig.trace.unlinked == [ring])
    let grant = try need(rig.reply(writer, number)?.grant)
    #expect(grant.extent?.ringID != first.extent?.ringID && grant.extent?.useNumber == 1)
  }

  @Test func `a broker that drains keeps nothing for later`() throws {
    var rig = Rig()
    let writer = rig.connect()
    _ = try sealed(&rig, writer, "a")
    rig.send(.drainBegan)
    remove(&rig, writer, "a")
    #expect(rig.trace.unlinked.count == 1 && rig.ledger.pool.count == 0)
  }
}
