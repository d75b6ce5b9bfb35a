// Boards, bells and tables of a broker that has taken the place of another, put in the place of the old
// ones under the hands of those who use them.

import PatchbayLayout
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import PatchbayRing

/// What a broker has of a board.
private struct BoardMaker {
  let board: BoardWriter
  let bells: DoorbellWriter
  static let entryCount = 4

  init(_ number: Int) throws {
    let instance = UInt64(number)
    board = try BoardWriter(instance: instance, board: 0, entryCount: Self.entryCount)
    bells = try DoorbellWriter(instance: instance, board: 0, count: Self.entryCount)
  }

  func post(version: UInt32, state: BlobState = .open) {
    board.post(
      entry: 1, generation: Generation(rawValue: 5), state: state, epoch: 1, byteCount: nil,
      extentVersion: version, subscriptionVersion: 0, causeCode: nil, cause: "")
  }

  func mapped() throws -> Board {
    try Board(
      try board.readOnlyDescriptor(), doorbells: try bells.descriptor(),
      entryCount: Self.entryCount)
  }

  func replace(_ board: Board) throws {
    try board.replace(
      with: try self.board.readOnlyDescriptor(), doorbells: try bells.descriptor(),
      entryCount: Self.entryCount)
  }
}

/// Counts for a test.
private final class Tally: Sendable {
  let count = Atomic<Int>(0)
  // relaxed: figures of a test.
  var now: Int { count.load(ordering: .relaxed) }
  // relaxed: as above.
  func add() { count.add(1, ordering: .relaxed) }
}

@Suite struct ReplacementTests {
  private static let generation = Generation(rawValue: 5)

  @Test func `a sleeper at an old bell is woken by its replacement and sees the new board`() throws
  {
    let (first, second) = (try BoardMaker(1), try BoardMaker(2))
    first.post(version: 1)
    second.post(version: 1, state: .sealed)
    let board = try first.mapped()
    let entry = board.entry(1)
    let bell = board.bell(1)
    let woken = Tally()
    let sleeper = TestThread {
      let found: Bool? = try? bell.wait(
        for: 4, until: .distantFuture, patience: SpinPatience(), onBound: {}
      ) { () throws(PatchbayError) in
        entry.status.state(of: Self.generation) == .sealed ? true : nil
      }
      if found == true { woken.add() }
    }
    try eventually("it has armed the old bell") { first.bells.bell(1).armed == 4 }
    try second.replace(board)
    sleeper.join()
    #expect(woken.now == 1 && entry.status.state(of: Self.generation) == .sealed)
    #expect(first.bells.counts().rescuedWaits == 0 && second.bells.counts().rescuedWaits == 0)
    #expect(board.bell(1).id == bell.id)
  }

  @Test func `waits that straddle replacements are not rescued by the bound`() throws {
    var makers = [try BoardMaker(0)]
    makers[0].post(version: 0)
    let board = try makers[0].mapped()
    let entry = board.entry(1)
    let bell = board.bell(1)
    let rounds = isFullTier ? 2000 : 150
    let seen = (0..<4).map { _ in Tally() }
    let threads = seen.enumerated().map { index, tally in
      TestThread {
        let patience = SpinPatience()
        for round in 1...rounds {
          _ = try? bell.wait(
            for: 1 << UInt32(index), until: .distantFuture, patience: patience, onBound: {}
          ) { () throws(PatchbayError) in entry.extentVersion >= UInt32(round) ? true : nil }
          tally.add()
        }
      }
    }
    for round in 1...rounds {
      let maker = try BoardMaker(round)
      maker.post(version: UInt32(round))
      makers.append(maker)
      try maker.replace(board)
      try eventually("everybody has seen the board of round \(round)") {
        seen.allSatisfy { $0.now >= round }
      }
    }
    for thread in threads { thread.join() }
    #expect(makers.reduce(0) { $0 + $1.bells.counts().rescuedWaits } == 0)
  }

  @Test func `a replaced bell never holds what a late sleeper may have read of the old one`() throws
  {
    func bells(rung count: Int) throws -> DoorbellSet {
      let object = try SharedObject.sealedMemfd(
        name: "patchbay-test", byteCount: DoorbellSet.byteCount(1))
      let bells = try DoorbellSet(object, count: 1)
      for _ in 0..<count { bells.bell(0).ringAll() }
      return bells
    }
    for oldCount in 0..<6 {
      for newCount in 0..<6 {
        let old = try bells(rung: oldCount)
        let new = try bells(rung: newCount).bell(0)
        // Each client of the class does it, one after the other.
        for _ in 0..<3 {
          let before = new.sequence
          new.ringAll(inPlaceOf: old.bell(0))
          let distance = Int32(bitPattern: new.sequence &- old.bell(0).sequence).magnitude
          #expect(distance >= 1 << 29 && new.sequence != before)
        }
      }
    }
  }

  @Test func `a board that came to nothing is nobody's, and its sleepers are woken`() throws {
    let maker = try BoardMaker(1)
    maker.post(version: 1)
    let board = try maker.mapped()
    let entry = board.entry(1)
    let bell = board.bell(1)
    #expect(entry.status.state(of: Self.generation) == .open)
    let sleeper = TestThread {
      _ = try? bell.wait(
        for: 1, until: .distantFuture, patience: SpinPatience(), onBound: {}
      ) { () throws(PatchbayError) in
        entry.status.state(of: Self.generation) == nil ? true : nil
      }
    }
    try eventually("it has armed the bell") { maker.bells.bell(1).armed == 1 }
    try board.clear()
    sleeper.join()
    #expect(maker.bells.counts().rescuedWaits == 0)
  }

  @Test func `a board of another size does not take the place of one`() throws {
    let maker = try BoardMaker(1)
    let board = try maker.mapped()
    let small = try SharedObject.sealedMemfd(name: "patchbay-test", byteCount: 4096)
    #expect(throws: PatchbayError.self) {
      try board.replace(
        with: try maker.board.readOnlyDescriptor(), doorbells: try maker.bells.descriptor(),
        entryCount: 5)
    }
    #expect(throws: PatchbayError.self) {
      try SharedMapping(
        small, byteCount: 4096, isWritable: true, what: "a test"
      ).replace(with: try Self.object(of: 100), what: "a test")
    }
  }

  private static func object(of byteCount: Int) throws -> Descriptor {
    try SharedObject.sealedMemfd(name: "patchbay-test", byteCount: byteCount)
  }

  @Test func `what is announced before and during a replacement stands in the new table`() throws {
    let table = try ClientTable(try ClientTable.create(clientID: 1))
    let generation = Self.generation
    let isOver = Atomic<Bool>(false)
    let (begun, busy) = (Tally(), Tally())
    let threads = (1...4).map { index in
      TestThread {
        // Stays, whatever comes.
        _ = try? table.announce(ringID: UInt64(1000 + index), useNumber: 1)
        guard let place = try? table.takePosition(of: generation, at: 0) else { return }
        begun.add()
        var position = 0
        // relaxed: ends a test.
        while !isOver.load(ordering: .relaxed) {
          guard let view = try? table.announce(ringID: UInt64(index), useNumber: 2) else { return }
          position += 1
          table.movePosition(place, to: position)
          table.end(view)
          busy.add()
        }
        table.movePosition(place, to: 10_000_000 + index)
      }
    }
    let last = try ClientTable.create(clientID: 1)
    try eventually("the threads have begun") { begun.now == 4 }
    for round in 0..<200 {
      let before = busy.now
      let next = try round == 199 ? last.duplicate() : ClientTable.create(clientID: 1)
      try table.replace(with: next)
      if round % 20 == 0 {
        for index in 1...4 {
          #expect(try ClientTable.announces(UInt64(1000 + index), in: next), "round \(round)")
        }
      }
      try eventually("the threads go on") { busy.now > before + 4 }
    }
    // relaxed: as above.
    isOver.store(true, ordering: .relaxed)
    for thread in threads { thread.join() }
    #expect(try ClientTable.announcedCount(in: last) == 4)
    let told = try (0..<4).map {
      try ClientTable.position($0, of: generation, in: last) ?? 0
    }
    #expect(Set(told) == Set((1...4).map { 10_000_000 + $0 }))
  }
}
