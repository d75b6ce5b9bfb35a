// What a soak takes for right and for wrong: the oracle, the judge, and what the director remembers.

import Glibc
import Patchbay
import PatchbayTypes
import Testing

@testable import PatchbayLoad

@Suite struct SoakOracleTests {
  private let oracle = SoakOracle(seed: 7)

  private func life(_ kind: SoakKind, _ slot: Int = 1, generation: UInt64 = 5) throws -> SoakLife {
    try oracle.life(kind.key(slot), Generation(rawValue: generation))
  }

  private func bytes(_ life: SoakLife) -> [UInt8] { oracle.bytes(of: life, 0..<life.byteCount) }

  @Test(arguments: SoakKind.allCases)
  func `what belongs to a blob passes, in pieces as at once, and has no zero`(
    _ kind: SoakKind
  ) throws {
    for slot in 0..<kind.slotCount {
      let life = try life(kind, slot)
      let bytes = bytes(life)
      #expect(!bytes.contains(0))
      try oracle.check(bytes.span, of: life, at: 0)
      let middle = life.byteCount / 3
      let rest = Array(bytes[middle...])
      try oracle.check(rest.span, of: life, at: middle)
      try oracle.checkEnd(of: life, at: bytes.count)
    }
  }

  @Test func `one wrong byte is found, wherever it stands, and named with its place`() throws {
    let life = try life(.stream, 2)
    let right = bytes(life)
    for place in [0, 1, life.byteCount / 2, life.byteCount - 1] {
      var wrong = right
      wrong[place] ^= 0x10
      let violation = #expect(throws: SoakViolation.self) {
        try oracle.check(wrong.span, of: life, at: 0)
      }
      let text = violation?.description ?? ""
      #expect(text.contains("position \(place) of soak/stream/2, generation 5"), "\(text)")
      wrong[place] = 0
      #expect(throws: SoakViolation.self) { try oracle.check(wrong.span, of: life, at: 0) }
    }
  }

  @Test func `bytes of another place, another life and another key are wrong`() throws {
    let life = try life(.patch, 1)
    let right = bytes(life)
    for step in [1, 4096, 65_536, 131_072] {
      let moved = Array(right[step..<step + 8192])
      #expect(throws: SoakViolation.self, "\(step) bytes off") {
        try oracle.check(moved.span, of: life, at: 0)
      }
    }
    let others = [
      try self.life(.patch, 1, generation: 6), try self.life(.patch, 2),
      try SoakOracle(seed: 8).life(life.key, life.generation),
    ]
    for other in others {
      let piece = SoakOracle(seed: 7).bytes(of: other, 0..<1000)
      #expect(throws: SoakViolation.self) { try oracle.check(piece.span, of: life, at: 0) }
    }
  }

  @Test func `an end that is too early or too late is found`() throws {
    let life = try life(.window)
    for end in [0, life.byteCount - 1, life.byteCount + 1] {
      let violation = #expect(throws: SoakViolation.self) {
        try oracle.checkEnd(of: life, at: end)
      }
      #expect(violation?.description.contains("ends at position \(end)") == true)
    }
    let long: [UInt8] = [1, 2]
    #expect(throws: SoakViolation.self) {
      try oracle.check(long.span, of: life, at: life.byteCount - 1)
    }
  }

  @Test func `blobs that are taken over have the same bytes in each life, others have not`() throws
  {
    #expect(bytes(try life(.shared)) == bytes(try life(.shared, generation: 9)))
    #expect(bytes(try life(.kept)) != bytes(try life(.kept, generation: 9)))
  }

  @Test func `what is announced does not depend on the generation`() throws {
    for kind in SoakKind.allCases where kind.announcesLength {
      for slot in 0..<kind.slotCount {
        let life = try life(kind, slot, generation: UInt64(slot) + 1)
        #expect(life.byteCount == oracle.announcedByteCount(kind, life.key))
      }
    }
  }

  @Test func `a blob that no role makes is a violation`() {
    #expect(throws: SoakViolation.self) {
      try oracle.life("somebody/else", Generation(rawValue: 1))
    }
    #expect(throws: SoakViolation.self) {
      try oracle.life("soak/nothing/1", Generation(rawValue: 1))
    }
  }
}

@Suite struct SoakJudgeTests {
  @Test func `what can happen to a deed is plausible, what cannot is wrong`() {
    func verdict(_ code: PatchbayError.Code, _ deed: SoakDeed) -> SoakVerdict {
      SoakJudge.verdict(on: code, in: deed)
    }
    #expect(verdict(.abandoned, .read) == .plausible)
    #expect(verdict(.abandoned, .get) == .plausible)
    #expect(verdict(.noSuchKey, .open) == .plausible)
    #expect(verdict(.noSpaceSpool, .write) == .plausible)
    #expect(verdict(.timedOut, .watch) == .plausible)
    #expect(verdict(.fenced, .write) == .needsExcuse)
    for deed in SoakDeed.allCases {
      #expect(verdict(.noBroker, deed) == .needsExcuse)
      for code: PatchbayError.Code in [
        .corrupt, .protocolViolation, .versionMismatch, .digestMismatch, .cancelled,
        .contentDiverged, .notPermitted, .invalidKey, .limitReached,
      ] {
        #expect(verdict(code, deed) == .wrong, "\(code) of \(deed)")
      }
      if deed != .watch { #expect(verdict(.timedOut, deed) == .wrong, "\(deed)") }
      // What is fetched by somebody may not be to be had.
      if deed != .demand { #expect(verdict(.inputOutput, deed) == .wrong, "\(deed)") }
    }
    #expect(verdict(.noSpaceMemory, .read) == .wrong)
    #expect(verdict(.noSuchKey, .read) == .wrong)
    #expect(verdict(.holesAtSeal, .seal) == .wrong)
  }

  @Test func `who writes with others may find that they were first`() {
    for (code, deed) in [
      (PatchbayError.Code.rangeOverlap, SoakDeed.claim), (.closed, .seal), (.holesAtSeal, .seal),
      (.abandoned, .write),
    ] {
      #expect(SoakJudge.verdict(on: code, in: deed, isShared: true) == .plausible)
      #expect(SoakJudge.verdict(on: code, in: deed) != .plausible)
    }
  }

  @Test func `an end that the soak has not brought about is complained of`() {
    #expect(SoakJudge.complaint(aboutEnd: SIGSEGV, isExpected: true)?.contains("signal 11") == true)
    #expect(SoakJudge.complaint(aboutEnd: SIGKILL, isExpected: true)?.contains("signal 9") == true)
    #expect(SoakJudge.complaint(aboutEnd: 70 << 8, isExpected: true)?.contains("code 70") == true)
    #expect(SoakJudge.complaint(aboutEnd: 0, isExpected: false) != nil)
    #expect(SoakJudge.complaint(aboutEnd: 0, isExpected: true) == nil)
  }

  @Test func `a lost broker is an excuse only for who was there when it was drained`() {
    var history = SoakHistory()
    history.noteChange(at: 100)
    #expect(!history.excuses(1, since: 50), "that one was killed")
    history.noteDrain()
    #expect(history.excuses(1, since: 150))
    history.noteChange(at: 200)
    #expect(history.excuses(1, since: 150))
    #expect(!history.excuses(1, since: 201), "it came afterwards")
    history.noteChange(at: 300)
    #expect(!history.excuses(1, since: 201))
  }

  @Test func `a stop is an excuse only with another broker, and only for who was stopped`() {
    var history = SoakHistory()
    history.noteStop(of: 1)
    #expect(!history.excuses(1, since: 50))
    history.noteChange(at: 100)
    #expect(history.excuses(1, since: 50))
    #expect(!history.excuses(2, since: 50))
    history.noteContinue(of: 1, at: 200)
    #expect(history.excuses(1, since: 50))
    #expect(!history.excuses(1, since: 201), "what it has had since was never out of reach")
    history.forget(1)
    #expect(!history.excuses(1, since: 50))
  }

  @Test func `a promise stands until it is taken back, for its own generation`() {
    var promises = SoakPromises()
    promises.make(SoakPromises.Promise(key: "k", generation: 3, byteCount: 10))
    #expect(promises.isBroken("k", 3))
    #expect(!promises.isBroken("k", 2) && !promises.isBroken("other", 3))
    promises.forget("k")
    #expect(!promises.isBroken("k", 3))
    #expect(promises.all.isEmpty && promises.madeCount == 1)
  }

  @Test func `what has grown beyond its allowance is named with both figures`() {
    let before = SoakFigures([
      SoakFigures.Figure(name: "rings", value: 2),
      SoakFigures.Figure(name: "bytes", value: 10, allowance: 5),
    ])
    func grown(_ rings: Int, _ bytes: Int) -> [String] {
      SoakFigures([
        SoakFigures.Figure(name: "rings", value: rings),
        SoakFigures.Figure(name: "bytes", value: bytes, allowance: 5),
      ]).grown(since: before)
    }
    #expect(grown(2, 15) == [] && grown(0, 0) == [])
    #expect(grown(3, 10) == ["rings: 2 before, 3 after"])
    #expect(grown(2, 16) == ["bytes: 10 before, 16 after"])
  }

  @Test func `what a worker has kept beyond what it may is named`() throws {
    func growth(_ descriptors: Int, _ threads: Int) throws -> SoakGrowth {
      try SoakGrowth([
        "descriptors": "\(descriptors)", "threads": "\(threads)", "mappings": "0", "private": "0",
      ])
    }
    #expect(try growth(12, -1).excess == [])
    #expect(try growth(13, 0).excess == ["13 more descriptors than in the beginning"])
    #expect(try growth(13, 17).excess.count == 2)
    #expect(try SoakGrowth(growth(3, 4).fields).values == growth(3, 4).values)
  }

  @Test func `a line of a worker is taken apart`() {
    let line = SoakLine("lost key=soak/kept/1 generation=4 : it : went")
    #expect(line.word == "lost" && line.text == "it : went")
    #expect(line.fields["key"] == "soak/kept/1" && line.fields["generation"] == "4")
    #expect(SoakLine("ready").word == "ready")
  }

  @Test func `each round of faults hits every role, the broker in every way, in the seed's order`()
  {
    var deck = SoakDeck.complete(seed: 3)
    let round = (0..<deck.count).map { _ in deck.draw() }
    for role in SoakRole.allCases {
      #expect(round.contains(.kill(role)) && round.contains(.stop(role)), "\(role)")
    }
    for fault: SoakFault in [
      .killBroker, .killBrokerAndHeir, .stopBroker, .drainBroker, .handOverBroker,
    ] {
      #expect(round.contains(fault))
    }
    #expect(deck.playedCount == 1)
    var same = SoakDeck.complete(seed: 3)
    var other = SoakDeck.complete(seed: 4)
    #expect(round == (0..<same.count).map { _ in same.draw() })
    #expect(round != (0..<other.count).map { _ in other.draw() })
  }

  @Test func `a gentle round stops everybody, and lets the broker and half of the roles live`() {
    var deck = SoakDeck.gentle(seed: 3)
    let round = (0..<deck.count).map { _ in deck.draw() }
    let killed = SoakRole.allCases.filter { round.contains(.kill($0)) }
    #expect(SoakRole.allCases.allSatisfy { round.contains(.stop($0)) })
    #expect(killed.count == SoakRole.allCases.count / 2)
    #expect(deck.count == SoakRole.allCases.count + killed.count + 1)
    #expect(round.contains(.stopBroker))
  }

  @Test func `a watcher knows what can become of a key next`() throws {
    func change(_ kind: BlobChange.Kind, _ generation: UInt64 = 1) -> BlobChange {
      BlobChange(
        kind: kind, key: "k", generation: Generation(rawValue: generation), position: .start,
        time: WallTime(rawValue: 0), byteCount: nil, frontier: 0, coveredByteCount: 0)
    }
    for (last, next) in [
      (BlobChange.Kind.created, BlobChange.Kind.progress), (.progress, .sealed),
      (.suspended, .progress), (.sealed, .removed), (.failed, .evicted), (.progress, .failed),
    ] {
      #expect(SoakWatcher.mayFollow(change(next), change(last)), "\(next) after \(last)")
    }
    for (last, next) in [
      (BlobChange.Kind.sealed, BlobChange.Kind.progress), (.sealed, .failed), (.failed, .sealed),
      (.removed, .sealed), (.progress, .created),
    ] {
      #expect(!SoakWatcher.mayFollow(change(next), change(last)), "\(next) after \(last)")
    }
    #expect(SoakWatcher.mayFollow(change(.created, 2), change(.sealed, 1)))
    #expect(!SoakWatcher.mayFollow(change(.sealed, 1), change(.created, 2)))
  }
}
