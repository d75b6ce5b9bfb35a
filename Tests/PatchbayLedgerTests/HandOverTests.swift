// A production whose publisher is lost or fenced while something else goes on: rings on their way, a copy,
// users who may only read, and what a publisher of before says afterwards.

import Glibc
import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct HandOverTests {
  private static let tenure = Duration.seconds(4)

  private static func request(_ tenure: Duration?, mode: UInt16 = 0o600) -> Request {
    var create = CreateRequest(key: "k")
    create.firstExtent = 8192
    create.extentLimit = 8192
    create.mode = mode
    var terms = CreateTerms(ownership: .produced, idleLimit: nil, resumes: true)
    terms.production.tenure = tenure
    return .openOrCreate(OpenOrCreateRequest(create: create, terms: terms, standsBy: true))
  }

  /// A producer, and one that stands by.
  private struct Scene {
    var rig: Rig
    let producer: SessionID
    let created: UInt64
    let blob: BlobGrant
    let heir: SessionID
    let opened: UInt64
    let waiting: UInt64

    init(_ rig: Rig = Rig(), tenure: Duration? = nil) throws {
      self.rig = rig
      producer = self.rig.connect(process: 1)
      created = self.rig.post(producer, request(tenure))
      blob = try need(self.rig.reply(producer, created)?.grant)
      heir = self.rig.connect(process: 2)
      opened = self.rig.post(heir, request(tenure))
      waiting = self.rig.post(
        heir, .standBy(StandByRequest(generation: blob.blob.generation, opened: opened)))
    }

    var generation: Generation { blob.blob.generation }
    var state: Blob? { rig.ledger.blobs[generation] }
    var right: BlobGrant? { rig.reply(heir, waiting)?.grant }

    /// The producer's connection ends, and its process lives.
    mutating func hangUp() {
      rig.send(.hungUp(producer))
      rig.pass(Production.exitPatience)
      rig.send(.tick)
    }

    /// The producer covers nothing for its tenure.
    mutating func stall() {
      for _ in 0..<5 {
        rig.pass(HandOverTests.tenure / 4)
        rig.send(.tick)
      }
    }

    /// The ring that was asked for last as this extent.
    func ring(_ index: Int) -> RingID? {
      rig.trace.compactMap {
        if case .createRing(let ring, index, _, _, _) = $0 { ring } else { nil }
      }.last
    }

    var refit: CopyID? {
      rig.trace.compactMap { if case .refit(let copy, _) = $0 { copy } else { nil } }.last
    }
  }

  @Test(arguments: [false, true])
  func `a ring that was asked for before the hand-over has no part in it`(
    _ isRefused: Bool
  ) throws {
    var scene = try Scene()
    scene.rig.partial = [0]
    scene.rig.holdsRings = true
    scene.rig.post(scene.producer, .grow(GrowRequest(blob: scene.blob.blob, index: 1)))
    scene.hangUp()
    let (early, fresh) = (try need(scene.ring(1)), try need(scene.ring(0)))
    if isRefused {
      scene.rig.send(.ringRefused(early, errno: EAGAIN))
    } else {
      scene.rig.send(.ringCreated(early, inode: 1))
    }
    #expect(scene.state?.state == .suspended && scene.right == nil)
    scene.rig.send(.ringCreated(fresh, inode: 2))
    #expect(scene.right?.extent?.ringID == fresh.rawValue)
    #expect(scene.rig.ledger.inconsistency == nil)
    #expect(scene.rig.ledger.rings.count == (isRefused ? 1 : 2))
  }

  @Test func `the copy does not wait for a ring that was asked for before the hand-over`() throws {
    var scene = try Scene()
    scene.rig.partial = [0]
    scene.rig.holdsRings = true
    scene.rig.post(scene.producer, .grow(GrowRequest(blob: scene.blob.blob, index: 1)))
    scene.hangUp()
    let (early, fresh) = (try need(scene.ring(1)), try need(scene.ring(0)))
    scene.rig.send(.ringCreated(fresh, inode: 2))
    #expect(scene.right?.extent?.ringID == fresh.rawValue)
    scene.rig.send(.ringCreated(early, inode: 1))
    #expect(scene.state?.extents.map(\.ring) == [fresh, early])
    #expect(scene.rig.ledger.inconsistency == nil)
  }

  @Test func `a blob that is given up while it is copied keeps what was covered`() throws {
    var scene = try Scene()
    scene.rig.partial = [0]
    scene.rig.holdsCopies = true
    scene.hangUp()
    let reader = scene.rig.connect(process: 3)
    #expect(scene.rig.open(reader, "k")?.grant != nil)
    let copy = try need(scene.refit)
    scene.rig.send(.exited(scene.heir))
    #expect(scene.state?.state == .suspended, "its readers find nothing in the old ring")
    scene.rig.send(.copied(copy, nil))
    #expect(scene.state?.state == .failed)
    let attach = Request.attachExtent(ExtentRequest(generation: scene.generation, index: 0))
    let granted = try need(scene.rig.ask(reader, attach)?.extent)
    #expect(granted.ringID != scene.blob.extent?.ringID)
    #expect(scene.rig.ledger.inconsistency == nil)
  }

  @Test func `a complete ring that a fenced publisher may still have serves no other blob`() throws
  {
    var scene = try Scene(tenure: Self.tenure)
    scene.stall()
    let grant = try need(scene.right)
    #expect(grant.extent?.ringID == scene.blob.extent?.ringID)
    #expect(
      scene.rig.ask(scene.heir, .seal(SealRequest(blob: grant.blob, byteCount: 8192))) == .done)
    scene.rig.close(scene.producer, scene.blob.reader)
    scene.rig.close(scene.heir, scene.blob.reader)
    #expect(scene.rig.ask(scene.heir, .remove(RemoveRequest(key: "k", generation: nil))) == .done)
    #expect(scene.state == nil)
    // Its last mark may be counted only now.
    #expect(scene.rig.pooledByteCount == 0)
    #expect(scene.rig.trace.unlinked.map(\.rawValue) == [grant.extent?.ringID])
  }

  @Test func `what a session says of the epoch before is not about the one that it writes under`()
    throws
  {
    var scene = try Scene(tenure: Self.tenure)
    scene.rig.ask(scene.heir, .cancel(CancelRequest(request: scene.waiting)))
    let opened = scene.rig.post(scene.producer, Self.request(Self.tenure))
    let waiting = scene.rig.post(
      scene.producer, .standBy(StandByRequest(generation: scene.generation, opened: opened)))
    scene.stall()
    let grant = try need(scene.rig.reply(scene.producer, waiting)?.grant)
    #expect(scene.rig.ask(scene.producer, .abandon(grant.blob)) == .done)
    scene.rig.ask(scene.producer, .quiesced(scene.blob.blob))
    #expect(scene.state?.writers[scene.producer] != nil)
    scene.rig.ask(scene.producer, .quiesced(grant.blob))
    #expect(scene.state?.writers.isEmpty == true)
  }

  @Test func `nobody is fenced for somebody who has gone meanwhile`() throws {
    var scene = try Scene(tenure: Self.tenure)
    scene.rig.holdsMeasures = true
    for _ in 0..<5 {
      scene.rig.pass(Self.tenure / 4)
      scene.rig.send(.tick)
    }
    scene.rig.ask(scene.heir, .cancel(CancelRequest(request: scene.waiting)))
    scene.rig.send(.measured(scene.generation, coveredByteCount: 0))
    #expect(scene.state?.state == .open)
    #expect(
      scene.rig.ask(scene.producer, .seal(SealRequest(blob: scene.blob.blob, byteCount: 8192)))
        == .done)
  }

  // MARK: Other users

  @Test func `who may only read a blob does not go on with it`() throws {
    var rig = Rig { $0.isShared = true }
    let producer = rig.connect(process: 1, uid: 2000)
    let blob = try need(rig.ask(producer, Self.request(nil, mode: 0o644))?.grant)
    let generation = blob.blob.generation
    var readers: [SessionID] = []
    // Neither another user nor the broker's own.
    for (process, uid) in [(Int32(2), UInt32(3000)), (3, Rig.user)] {
      let reader = rig.connect(process: process, uid: uid)
      readers.append(reader)
      let opened = rig.post(reader, Self.request(nil, mode: 0o644))
      #expect(rig.reply(reader, opened)?.grant?.blob.epoch == 0)
      let standBy = Request.standBy(StandByRequest(generation: generation, opened: opened))
      #expect(rig.ask(reader, standBy)?.code == .notPermitted)
    }
    rig.send(.exited(producer))
    #expect(rig.ledger.blobs[generation]?.state == .failed, "nobody is there who could go on")
    for reader in readers { #expect(rig.info(reader, "k")?.state == .failed) }
  }

  // MARK: Short of something

  @Test func `a hand-over that finds too little memory is tried again, and ends in its cause`()
    throws
  {
    for isRelieved in [true, false] {
      var scene = try Scene()
      scene.rig.partial = [0]
      scene.rig.holdsRings = true
      scene.hangUp()
      scene.rig.send(.ringRefused(try need(scene.ring(0)), errno: ENOSPC))
      #expect(scene.state?.state == .suspended && scene.rig.ledger.inconsistency == nil)
      scene.rig.holdsRings = !isRelieved
      for _ in 0..<200 where scene.state?.state == .suspended {
        let last = scene.ring(0)
        scene.rig.pass(Production.refitPause)
        scene.rig.send(.tick)
        if !isRelieved, let ring = scene.ring(0), ring != last {
          scene.rig.send(.ringRefused(ring, errno: ENOSPC))
        }
      }
      #expect((scene.right != nil) == isRelieved)
      #expect(scene.state?.causeCode == (isRelieved ? nil : .noSpaceMemory))
      #expect(scene.rig.ledger.inconsistency == nil)
    }
  }

  @Test func `rings of which the copy came to nothing are copied again, whoever can write them`()
    throws
  {
    var scene = try Scene()
    scene.rig.partial = [0]
    scene.rig.holdsCopies = true
    scene.hangUp()
    let reader = scene.rig.connect(process: 3)
    #expect(scene.rig.open(reader, "k")?.grant != nil)
    let first = try need(scene.refit)
    scene.rig.send(
      .copied(first, PatchbayError(.limitReached, "no descriptor is left for the copy")))
    #expect(scene.state?.state == .suspended)
    // Its ring says no more that it serves the blob: who is given it again takes it for meddled with.
    let attach = Request.attachExtent(ExtentRequest(generation: scene.generation, index: 0))
    #expect(scene.rig.ask(reader, attach)?.extent == nil)
    // The fenced publisher may have completed it behind the tag's back; and then it goes.
    scene.rig.partial = []
    scene.rig.send(.exited(scene.producer))
    #expect(scene.right == nil, "who goes on with the old ring writes what nobody can read")
    scene.rig.pass(Production.refitPause)
    scene.rig.send(.tick)
    let second = try need(scene.refit)
    #expect(second != first)
    scene.rig.send(.copied(second, nil))
    let grant = try need(scene.right)
    #expect(grant.extent?.ringID != scene.blob.extent?.ringID)
    #expect(scene.rig.ask(reader, attach)?.extent?.ringID == grant.extent?.ringID)
    #expect(scene.rig.ledger.inconsistency == nil)
  }

  @Test func `who created it asks again when another has it, and reads it`() throws {
    var scene = try Scene()
    let token = try need(scene.rig.welcome(of: scene.producer)).token
    scene.hangUp()
    let grant = try need(scene.right)
    let back = scene.rig.connectOnly(process: 1)
    scene.rig.post(back, .hello(Rig.hello(token: token)))
    scene.rig.send(.request(back, number: scene.created, Self.request(nil)))
    guard case .opened(let opened) = scene.rig.reply(back, scene.created) else {
      Issue.record("\(String(describing: scene.rig.reply(back, scene.created)))")
      return
    }
    #expect(opened.blob.generation == grant.blob.generation && opened.blob.epoch == 0)
    #expect(scene.rig.ledger.inconsistency == nil)
  }

  @Test func `bytes with a wrong digest reach no second reader, and the next begins afresh`() throws
  {
    var rig = Rig()
    let right = simulatedDigest(.sha256, [1])
    rig.digest = .found(simulatedDigest(.sha256, [2]), byteCount: 8192)
    var terms = CreateTerms(
      ownership: .produced, idleLimit: nil, resumes: true, digest: DigestWish(expecting: right))
    terms.production.tenure = Self.tenure
    var create = CreateRequest(key: "k")
    create.byteCount = 8192
    let request = Request.openOrCreate(
      OpenOrCreateRequest(create: create, terms: terms, standsBy: true))
    let (producer, reader) = (rig.connect(process: 1), rig.connect(process: 2))
    let first = try need(rig.ask(producer, request)?.grant)
    // It is taken over on the way: what it holds is of two producers.
    let opened = rig.post(reader, request)
    let waiting = rig.post(
      reader, .standBy(StandByRequest(generation: first.blob.generation, opened: opened)))
    rig.send(.exited(producer))
    let heir = try need(rig.reply(reader, waiting)?.grant)
    #expect(
      rig.ask(reader, .seal(SealRequest(blob: heir.blob, byteCount: 8192)))?.code
        == .digestMismatch)
    let second = rig.connect(process: 3)
    #expect(rig.open(second, "k")?.code == .digestMismatch)
    // Also under the next broker.
    for isKilled in [false, true] {
      var broker = isKilled ? rig.killed(dead: [2, 3]) : rig
      let next = broker.connect(process: 4)
      let before = broker.trace.count
      guard case .created(let grant) = broker.ask(next, request) else {
        Issue.record("not created")
        return
      }
      #expect(grant.blob.generation > first.blob.generation)
      let copies = broker.trace[before...].contains {
        if case .copy = $0 { true } else { false }
      }
      #expect(!copies)
    }
  }

  // MARK: Bounds

  @Test func `moments of productions that have ended leave nothing behind`() throws {
    var rig = Rig()
    let (producer, other) = (rig.connect(process: 1), rig.connect(process: 2))
    let request = Self.request(.seconds(1_000_000_000))
    for _ in 0..<300 {
      let blob = try need(rig.ask(producer, request)?.grant)
      let opened = rig.post(other, request)
      rig.post(
        other, .standBy(StandByRequest(generation: blob.blob.generation, opened: opened)))
      rig.ask(producer, .fail(FailRequest(blob: blob.blob, cause: "no")))
      rig.close(producer, blob.reader)
      rig.close(other, blob.reader)
    }
    #expect(rig.ledger.productionMoments.count <= 2 * rig.ledger.blobs.count + 65)
  }

  @Test func `a user's requests that wait are bounded, in all of its connections together`() throws
  {
    var rig = Rig {
      $0.isShared = true
      $0.waitingOpensPerOtherUser = 10
    }
    var codes: [PatchbayError.Code?] = []
    for process in [Int32(1), 2] {
      let session = rig.connect(process: process, uid: 2000)
      var create = CreateRequest(key: try BlobKey(Array("k\(process)".utf8)))
      create.byteCount = 100_000
      var terms = CreateTerms.plain
      terms.demand = DemandTerms(pieceByteCount: 4096, readAhead: 0, fills: false)
      let blob = try need(rig.ask(session, .createWith(create, terms))?.grant)
      for _ in 0..<8 {
        codes.append(rig.ask(session, .nextDemand(blob.blob))?.code)
      }
    }
    #expect(codes.prefix(10).allSatisfy { $0 == nil })
    #expect(codes.dropFirst(10).allSatisfy { $0 == .limitReached })
  }

  @Test func `a number that is used again while its request waits ends the connection`() throws {
    var scene = try Scene()
    scene.rig.send(.request(scene.heir, number: scene.waiting, .ping))
    #expect(scene.rig.reply(scene.heir, scene.waiting)?.code == .protocolViolation)
    #expect(scene.rig.trace.contains(.disconnect(scene.heir)))
    #expect(scene.state?.production.candidates.isEmpty == true)
  }
}
