// Tags, frontiers, boards and client tables: what a reader may take and when.

import CPatchbayLayout
import Glibc
import PatchbayLayout
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import PatchbayRing

@Suite struct ExtentTests {
  @Test func `a ring of another use is never current`() throws {
    let ring = try RingFixture(dataByteCount: 4096)
    let old = try ring.extent(1, isWritable: false)
    #expect(old.isCurrent && old.isStillCurrent)
    let next = try ring.extent(2, isWritable: true)
    #expect(!next.isCurrent)
    try ring.begin(2)
    #expect(!old.isCurrent && !old.isStillCurrent && next.isCurrent)
  }

  @Test func `a new use begins with nothing covered`() throws {
    let ring = try RingFixture(dataByteCount: 1 << 16)
    ring.writer.cover(0..<1000)
    ring.writer.cover(5000..<5001)
    let next = try ring.extent(2, isWritable: true)
    try ring.begin(2)
    #expect(next.frontier == 0)
    #expect(next.uncoveredEnd(from: 0, limit: 1 << 16) == 1 << 16)
  }

  /// Litmus for TAG-BEGIN, TAG-END and DATA-MARK: one thread reuses the ring again and again, each
  /// use with bytes of its own; the other accepts only what the tag check lets it.
  @Test func `a copy that the tag check accepts has the bytes of its use`() throws {
    let count = 8192
    let ring = try RingFixture(dataByteCount: count)
    let extents = try (1...400).map { try ring.extent(UInt32($0), isWritable: true) }
    let (geometry, object) = (ring.geometry, ring.descriptor.rawValue)
    let current = Atomic<Int>(0)
    let accepted = Atomic<Int>(0)
    let wrong = Atomic<Int>(0)
    withThreads(2) { side in
      if side == 0 {
        for (use, extent) in extents.enumerated() {
          if use > 0 {
            try? RingUse(number: UInt32(use + 1), index: 0).begin(
              Descriptor(owning: dup(object)), geometry)
          }
          // releasing: test data only.
          current.store(use, ordering: .releasing)
          for start in stride(from: 0, to: count, by: 512) {
            extent.copyIn(oracleBytes(UInt64(use + 1), start..<start + 512).span, at: start)
            extent.cover(start..<start + 512)
          }
        }
        // releasing: test data only.
        current.store(-1, ordering: .releasing)
      } else {
        // acquiring: test data only.
        while case let use = current.load(ordering: .acquiring), use >= 0 {
          let extent = extents[use]
          guard extent.isCurrent else { continue }
          let end = extent.coveredEnd(from: 0, limit: count)
          let copy = unsafe Array(extent.bytes(0..<end))
          guard extent.isStillCurrent else { continue }
          // relaxed (both): counts of the test.
          accepted.add(1, ordering: .relaxed)
          if firstWrong(copy.span, UInt64(use + 1), at: 0) != nil {
            // relaxed: as above.
            wrong.add(1, ordering: .relaxed)
          }
        }
      }
    }
    // relaxed (both): the threads have ended.
    #expect(accepted.load(ordering: .relaxed) > 0)
    // relaxed: as above.
    #expect(wrong.load(ordering: .relaxed) == 0)
  }

  @Test func `the prefix of an appended ring is what its frontier says`() throws {
    let ring = try RingFixture(dataByteCount: 8192, hasMap: false, start: 1000)
    ring.writer.copyIn([1, 2, 3].span, at: 1000)
    #expect(ring.reader.coveredEnd(from: 1000, limit: 9000) == 1000)
    ring.writer.coverPrefix(to: 1003)
    #expect(ring.reader.coveredEnd(from: 1001, limit: 9000) == 1003)
    #expect(ring.reader.coveredEnd(from: 1001, limit: 1002) == 1002)
    #expect(ring.reader.uncoveredEnd(from: 1003, limit: 2000) == 2000)
  }

  @Test func `a view is seen in the table until it ends`() throws {
    let object = try ClientTable.create(clientID: 7)
    let table = try ClientTable(object)
    let first = try table.announce(ringID: 5, useNumber: 1)
    let second = try table.announce(ringID: 5, useNumber: 1)
    #expect(try ClientTable.announcedCount(in: object) == 2)
    table.end(first)
    #expect(try ClientTable.announcedCount(in: object) == 1)
    table.end(second)
    #expect(try ClientTable.announcedCount(in: object) == 0)
  }

  @Test func `a table that is full refuses one more view and takes it after an end`() throws {
    let table = try ClientTable(ClientTable.create(clientID: 7))
    let views = try (0..<ClientTable.viewCount).map { _ in
      try table.announce(ringID: 1, useNumber: 1)
    }
    #expect(throws: PatchbayError.self) { try table.announce(ringID: 1, useNumber: 1) }
    table.end(views[9])
    _ = try table.announce(ringID: 1, useNumber: 1)
  }

  @Test func `a board entry tells its generation, state, length and cause`() throws {
    let writer = try BoardWriter(instance: 1, board: 0, entryCount: 4)
    let bells = try DoorbellWriter(instance: 1, board: 0, count: 4)
    let board = try Board(
      writer.readOnlyDescriptor(), doorbells: bells.descriptor(), entryCount: 4)
    let generation = Generation(rawValue: 0x1_0000_0005)
    writer.post(
      entry: 2, generation: generation, state: .failed, epoch: 3, byteCount: nil,
      extentVersion: 9, subscriptionVersion: 4, causeCode: .abandoned, cause: "gone away")
    let entry = board.entry(2)
    #expect(entry.status.state(of: generation) == .failed)
    #expect(entry.status.epoch == 3)
    #expect(entry.byteCount == nil)
    #expect(entry.extentVersion == 9)
    #expect(entry.subscriptionVersion == 4)
    #expect(entry.cause.code == .abandoned && entry.cause.text == "gone away")
    #expect(entry.status.state(of: Generation(rawValue: 6)) == nil)
    writer.clear(entry: 2)
    #expect(entry.status.state(of: generation) == nil)
  }

  /// Litmus for STATUS: whoever sees the sealed state sees the length that came before it.
  @Test func `a sealed status never comes before its length`() throws {
    let writer = try BoardWriter(instance: 1, board: 0, entryCount: 1)
    let bells = try DoorbellWriter(instance: 1, board: 0, count: 1)
    let board = try Board(
      writer.readOnlyDescriptor(), doorbells: bells.descriptor(), entryCount: 1)
    let early = Atomic<Int>(0)
    withThreads(2) { side in
      for round in 1...20_000 {
        let generation = Generation(rawValue: UInt64(round))
        if side == 0 {
          writer.clear(entry: 0)
          writer.post(
            entry: 0, generation: generation, state: .open, epoch: 0, byteCount: nil,
            extentVersion: 0, subscriptionVersion: 0, causeCode: nil, cause: "")
          writer.post(
            entry: 0, generation: generation, state: .sealed, epoch: 0, byteCount: round,
            extentVersion: 0, subscriptionVersion: 0, causeCode: nil, cause: "")
        } else {
          let entry = board.entry(0)
          let status = entry.status
          let length = entry.byteCount
          guard status.state(of: Generation(rawValue: status.word >> 32)) == .sealed,
            entry.status == status
          else { continue }
          // relaxed: a count of the test.
          if length != Int(status.word >> 32) { early.add(1, ordering: .relaxed) }
        }
      }
    }
    // relaxed: the threads have ended.
    #expect(early.load(ordering: .relaxed) == 0)
  }
}
