// The ring of a windowed blob without a broker: laps, positions, marks.

import PatchbayLayout
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import PatchbayRing

/// A window that is mapped twice, as by its publisher and by a subscriber.
private struct WindowFixture {
  let shape: WindowShape
  let writer: Window
  let reader: Window

  init(segments: Int, segment: Int = 4096) throws {
    shape = try WindowShape(ringByteCount: segments * segment, segmentByteCount: segment)
    let geometry = try RingGeometry(dataByteCount: shape.ringByteCount, hasMap: false)
    let object = try SharedObject.sealedMemfd(
      name: "patchbay-test", byteCount: geometry.objectByteCount)
    try RingUse(number: 1, index: 0).begin(object, geometry)
    let rings = try [true, false].map {
      try MappedRing(object, ringID: 1, geometry, isWritable: $0)
    }
    writer = Window(rings[0], ringID: 1, useNumber: 1, shape: shape)
    reader = Window(rings[1], ringID: 1, useNumber: 1, shape: shape)
  }
}

/// Appends the oracle's bytes, a segment at most at a time, giving up whatever is in the way.
private func append(_ window: Window, _ range: Range<Int>) {
  var at = range.lowerBound
  while at < range.upperBound {
    let end = min(range.upperBound, window.shape.segmentEnd(of: at))
    let next = window.shape.base(writing: at)
    if next > window.base { window.reclaim(to: next) }
    window.copyIn(oracleBytes(1, at..<end).span, at: at)
    window.publish(to: end)
    at = end
  }
}

@Suite struct WindowTests {
  @Test(arguments: [(2, 1), (2, 4096), (3, 5000), (8, 20_000)])
  func `what is below the frontier and not below the base is the blob's`(
    segments: Int, step: Int
  ) throws {
    let fixture = try WindowFixture(segments: segments)
    let (writer, reader) = (fixture.writer, fixture.reader)
    for start in stride(from: 0, to: segments * 4096 * 3, by: step) {
      append(writer, start..<start + step)
      let (base, frontier) = (reader.base, reader.frontier)
      #expect(frontier == start + step)
      #expect(base == max(0, fixture.shape.segmentEnd(of: frontier - 1) - segments * 4096))
      var at = base
      while at < frontier {
        let bytes = unsafe Array(reader.bytes(from: at, limit: frontier))
        #expect(firstWrong(bytes.span, 1, at: at) == nil)
        #expect(reader.wasThere(at))
        at += bytes.count
      }
      #expect(base == 0 || !reader.wasThere(base - 1))
      if step == 1 && start > 9000 { break }
    }
  }

  /// Litmus for BASE: the writer laps the reader again and again; whatever the look after a copy
  /// lets through is right.
  @Test func `a copy that was there all the time has the bytes of its positions`() throws {
    let fixture = try WindowFixture(segments: 2)
    let (writer, reader) = (fixture.writer, fixture.reader)
    let accepted = Atomic<Int>(0)
    let refused = Atomic<Int>(0)
    let wrong = Atomic<Int>(0)
    let isDone = Atomic<Bool>(false)
    let patience = ContinuousClock.now + .seconds(60)
    withThreads(2) { side in
      if side == 0 {
        var at = 0
        var hasBoth = false
        // On a busy machine the two may hardly meet.
        while at < 4096 * 3000 || !hasBoth && ContinuousClock.now < patience {
          append(writer, at..<at + 4096 * 100)
          at += 4096 * 100
          // relaxed (both): counts of the test.
          hasBoth =
            accepted.load(ordering: .relaxed) > 0 && refused.load(ordering: .relaxed) > 0
        }
        // releasing: test data only.
        isDone.store(true, ordering: .releasing)
        return
      }
      // acquiring: test data only.
      while !isDone.load(ordering: .acquiring) {
        let frontier = reader.frontier
        let at = max(0, frontier - 6000)
        let copy = unsafe Array(reader.bytes(from: at, limit: frontier))
        guard reader.wasThere(at) else {
          // relaxed (all): counts of the test.
          refused.add(1, ordering: .relaxed)
          continue
        }
        // relaxed: as above.
        accepted.add(1, ordering: .relaxed)
        // relaxed: as above.
        if firstWrong(copy.span, 1, at: at) != nil { wrong.add(1, ordering: .relaxed) }
      }
    }
    // relaxed (all): the threads have ended.
    let counts = (accepted.load(ordering: .relaxed), refused.load(ordering: .relaxed))
    #expect(counts.0 > 0 && counts.1 > 0, "\(counts)")
    // relaxed: as above.
    #expect(wrong.load(ordering: .relaxed) == 0)
  }

  /// Litmus for JOIN: who joins while the writer gives up a segment is refused, or seen by it.
  @Test func `who joins is refused or seen`() throws {
    let fixture = try WindowFixture(segments: 2)
    let (writer, reader) = (fixture.writer, fixture.reader)
    let object = try ClientTable.create(clientID: 1)
    let table = try ClientTable(object)
    let peer = try PeerTable(object)
    let generation = Generation(rawValue: 9)
    let missed = Atomic<Int>(0)
    let stops = Atomic<Int>(0)
    let publisherSaw = Atomic<Bool>(false)
    withThreads(2) { side in
      func meet(_ stop: Int) {
        // acquiring and releasing (both): test data only.
        stops.add(1, ordering: .acquiringAndReleasing)
        // acquiring: test data only.
        while stops.load(ordering: .acquiring) < 2 * stop { Futex.pause() }
      }
      for round in 1...20_000 {
        let next = round * 4096
        meet(3 * round - 2)
        var joinerSaw = false
        if side == 0 {
          writer.announceReclaim(to: next)
          let position = peer.position(0, of: generation) ?? .max
          // relaxed: test data only.
          publisherSaw.store(position < next, ordering: .relaxed)
        } else {
          _ = try? table.takePosition(of: generation, at: next - 4096)
          joinerSaw = reader.intent > next - 4096
        }
        meet(3 * round - 1)
        if side == 1 {
          // relaxed (both): test data only.
          let isSeen = publisherSaw.load(ordering: .relaxed) || joinerSaw
          // relaxed: as above.
          if !isSeen { missed.add(1, ordering: .relaxed) }
          table.endPosition(0)
        }
        meet(3 * round)
      }
    }
    // relaxed: the threads have ended.
    #expect(missed.load(ordering: .relaxed) == 0)
  }

  @Test func `a position is told until it ends, and only of its blob`() throws {
    let object = try ClientTable.create(clientID: 1)
    let table = try ClientTable(object)
    let peer = try PeerTable(object)
    let generation = Generation(rawValue: 9)
    let entry = try table.takePosition(of: generation, at: 100)
    #expect(peer.position(entry, of: generation) == 100)
    table.movePosition(entry, to: 5000)
    #expect(peer.position(entry, of: generation) == 5000)
    #expect(peer.position(entry, of: Generation(rawValue: 8)) == nil)
    table.endPosition(entry)
    #expect(peer.position(entry, of: generation) == nil)
    for _ in 0..<ClientTable.positionCount { _ = try table.takePosition(of: generation, at: 0) }
    #expect(throws: PatchbayError.self) { try table.takePosition(of: generation, at: 0) }
  }

  @Test func `the last marks are kept, and found from both sides`() throws {
    let fixture = try WindowFixture(segments: 2)
    let marks = fixture.reader.marks
    #expect(marks.isEmpty && marks.last(notAbove: .max) == nil)
    for mark in 0..<1000 { fixture.writer.marks.add(mark * 10) }
    #expect(!marks.isEmpty && marks.newest == 9990)
    #expect(marks.last(notAbove: 9995) == 9990)
    #expect(marks.last(notAbove: 9989) == 9980)
    #expect(marks.first(notBelow: 9981) == 9990)
    #expect(marks.first(notBelow: 9991) == nil)
    // The oldest one may be being overwritten: 127 can be told.
    #expect(marks.first(notBelow: 0) == (1000 - RingMarks.keptCount + 1) * 10)
  }

  /// Litmus for MARK: a mark that is told was made, though its slot is taken again meanwhile.
  @Test func `a mark that is told was made`() throws {
    let fixture = try WindowFixture(segments: 2)
    let (writer, reader) = (fixture.writer.marks, fixture.reader.marks)
    let count = 300_000
    let wrong = Atomic<Int>(0)
    withThreads(2) { side in
      if side == 0 {
        for mark in 1...count { writer.add(mark * 7) }
        return
      }
      var last = 0
      while last < count * 7 {
        if let newest = reader.newest, newest < last || newest % 7 != 0 {
          // relaxed: a count of the test.
          wrong.add(1, ordering: .relaxed)
        }
        guard let found = reader.last(notAbove: .max) else { continue }
        let first = reader.first(notBelow: 0) ?? 7
        if found < last || found % 7 != 0 || first % 7 != 0 {
          // relaxed: a count of the test.
          wrong.add(1, ordering: .relaxed)
        }
        last = found
      }
    }
    // relaxed: the threads have ended.
    #expect(wrong.load(ordering: .relaxed) == 0)
  }
}
