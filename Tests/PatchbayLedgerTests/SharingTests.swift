// Blobs with several publishers or none: who may claim what, and what becomes of the blob when one
// of them goes.

import PatchbayLedger
import PatchbayTypes
import PatchbayWire
import Testing

@Suite struct SharingTests {
  private func seal(_ blob: BlobGrant, _ byteCount: Int = 10_000) -> Request {
    .seal(SealRequest(blob: blob.blob, byteCount: byteCount))
  }

  /// A joinable blob of 10000 bytes with two publishers.
  private func shared(
    _ rig: inout Rig, idle: Duration? = nil
  ) throws -> (first: SessionID, second: SessionID, blob: BlobGrant) {
    let first = rig.connect(process: 1)
    let second = rig.connect(process: 2)
    _ = try need(rig.create(first, "k", as: .joinable, idle: idle) { $0.byteCount = 10_000 }?.grant)
    return (first, second, try need(rig.join(second, "k")?.grant))
  }

  // MARK: Claims

  @Test func `claims of two publishers are apart, those of one may overlap`() throws {
    var rig = Rig()
    let (first, second, blob) = try shared(&rig)
    #expect(rig.claim(first, blob, 100..<200)?.claim?.range == 100..<200)
    #expect(rig.claim(first, blob, 150..<250)?.claim != nil)
    let error = try need(rig.claim(second, blob, 0..<101)?.error)
    #expect(error.code == .rangeOverlap && error.resumePosition == 100)
    #expect(error.message.contains("100..<200") && error.message.contains("process 1"))
    #expect(rig.claim(second, blob, 0..<100)?.claim != nil)
    #expect(rig.claim(second, blob, 250..<10_000)?.claim != nil)
    #expect(rig.claim(second, blob, 249..<250)?.error?.resumePosition == 249)
  }

  @Test func `a release frees one claim, by its request's number and its own session's word`()
    throws
  {
    var rig = Rig()
    let (first, second, blob) = try shared(&rig)
    let number = rig.post(first, .claim(ClaimRequest(blob: blob.blob, range: 0..<10)))
    let release = Request.release(ReleaseRequest(blob: blob.blob, claim: number))
    #expect(rig.ask(second, release) == .done)
    #expect(rig.claim(second, blob, 5..<6)?.code == .rangeOverlap)
    #expect(rig.ask(first, release) == .done)
    #expect(rig.claim(second, blob, 5..<6)?.claim != nil)
    // Late, and by now another's range.
    #expect(rig.ask(first, release) == .done)
    #expect(rig.claim(first, blob, 5..<6)?.code == .rangeOverlap)
  }

  @Test func `a hang-up keeps claims until the process has exited`() throws {
    var rig = Rig()
    let (first, second, blob) = try shared(&rig)
    _ = rig.claim(first, blob, 0..<10)
    rig.send(.hungUp(first))
    #expect(rig.info(second, "k")?.publisherCount == 1)
    let error = try need(rig.claim(second, blob, 5..<6)?.error)
    #expect(error.code == .rangeOverlap && error.message.contains("hung up"))
    #expect(rig.ask(second, seal(blob))?.code == .rangeOverlap)
    rig.send(.exited(first))
    #expect(rig.claim(second, blob, 5..<6)?.claim != nil)
    #expect(rig.ask(second, seal(blob)) == .done)
  }

  @Test func `an exit frees claims at once`() throws {
    var rig = Rig()
    let (first, second, blob) = try shared(&rig)
    _ = rig.claim(first, blob, 0..<10)
    rig.send(.exited(first))
    #expect(rig.claim(second, blob, 0..<10)?.claim != nil)
  }

  @Test func `who leaves or abandons gives its claims back though it is still connected`() throws {
    for request in [Request.leave, Request.abandon, { .close(CloseRequest(blob: $0)) }]
      as [(BlobReference) -> Request]
    {
      var rig = Rig()
      let (first, second, blob) = try shared(&rig)
      _ = rig.claim(first, blob, 0..<10)
      #expect(rig.ask(first, request(blob.blob)) == .done)
      #expect(rig.claim(first, blob, 0..<10)?.code == .closed)
      #expect(rig.claim(second, blob, 0..<10)?.claim != nil)
    }
  }

  @Test func `claims of a process that is not watched any more stay for the blob's life`() throws {
    var rig = Rig { $0.connectionCount = 4 }
    let (first, second, blob) = try shared(&rig)
    _ = rig.claim(first, blob, 0..<10)
    rig.send(.hungUp(first))
    // More ghosts than are remembered push the first one out.
    for index in 0..<5 {
      let other = rig.connect(process: Int32(10 + index))
      _ = rig.create(other, try BlobKey("o\(index)"))
      rig.send(.hungUp(other))
    }
    rig.send(.exited(first))
    let error = try need(rig.claim(second, blob, 0..<10)?.error)
    #expect(error.code == .rangeOverlap && error.message.contains("out of sight"))
    #expect(rig.ask(second, .fail(FailRequest(blob: blob.blob, cause: "x"))) == .done)
  }

  @Test func `claims are bounded, and lie within the blob`() throws {
    var rig = Rig {
      $0.claimsPerPublisher = 2
      $0.claimsPerBlob = 3
    }
    let (first, second, blob) = try shared(&rig)
    #expect(rig.claim(first, blob, 0..<10)?.claim != nil)
    #expect(rig.claim(first, blob, 10..<20)?.claim != nil)
    #expect(rig.claim(first, blob, 20..<30)?.code == .limitReached)
    #expect(rig.claim(second, blob, 20..<30)?.claim != nil)
    #expect(rig.claim(second, blob, 30..<40)?.code == .limitReached)
    #expect(rig.claim(second, blob, 9999..<10_001)?.code == .rangeOutOfBounds)
    #expect(rig.claim(second, blob, 5..<5)?.code == .rangeOutOfBounds)
    let alone = try need(rig.create(first, "alone"))
    #expect(rig.claim(first, alone, 0..<1)?.code == .notPermitted)
  }

  // MARK: Joining and going

  @Test func `a publisher is granted the first extent read-write`() throws {
    var rig = Rig()
    let first = rig.connect()
    let second = rig.connect()
    let created = try need(rig.create(first, "k", as: .joinable) { $0.byteCount = 10 }?.grant)
    #expect(created.extent != nil)
    let number = rig.post(second, .join(JoinRequest(key: "k", generation: nil)))
    let joined = try need(rig.reply(second, number)?.grant)
    #expect(joined.blob == created.blob && joined.state == .open)
    #expect(joined.extent == created.extent)
    let ring = RingID(rawValue: joined.extent?.ringID ?? 0)
    #expect(rig.descriptors(second, number) == [.ring(ring, isWritable: true)])
  }

  @Test func `an extent is on the board before whoever asked for it is told`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    let before = rig.trace.count
    let number = rig.post(writer, .grow(GrowRequest(blob: blob.blob, index: 1)))
    let actions = Array(rig.trace[before...])
    let posted = try need(actions.place { if case .post = $0 { true } else { false } })
    let told = try need(
      actions.place { if case .reply(_, number, .extent, _) = $0 { true } else { false } })
    #expect(posted < told)
  }

  @Test func `an ownerless blob's first joiner begins the ring's use`() throws {
    var rig = Rig()
    let first = rig.connect()
    let number = rig.post(
      first,
      .createWith(
        CreateRequest(key: "k"),
        CreateTerms(ownership: .ownerless, idleLimit: nil, resumes: false)))
    let created = try need(rig.reply(first, number)?.grant)
    #expect(created.state == .suspended && created.extent == nil && created.extentEnd == 1)
    #expect(rig.descriptors(first, number) == [])
    #expect(rig.ask(first, .fail(FailRequest(blob: created.blob, cause: "x")))?.code == .closed)
    #expect(rig.join(rig.connect(), "k")?.grant?.extent != nil)
  }

  @Test func `a join that could not be delivered is taken back`() throws {
    var rig = Rig()
    let first = rig.connect()
    _ = rig.create(first, "k", as: .ownerless)
    let number = rig.post(first, .join(JoinRequest(key: "k", generation: nil)))
    rig.send(.undelivered(first, number: number))
    #expect(rig.info(first, "k")?.state == .suspended)
    #expect(rig.join(first, "k")?.grant?.extent != nil)
  }

  @Test func `what is asked under the blob's epoch by a session that left is refused`() throws {
    var rig = Rig()
    let (first, _, blob) = try shared(&rig)
    rig.ask(first, .leave(blob.blob))
    #expect(rig.ask(first, .grow(GrowRequest(blob: blob.blob, index: 0)))?.code == .closed)
    #expect(rig.ask(first, seal(blob))?.code == .closed)
    #expect(rig.ask(first, .leave(blob.blob)) == .done)
  }

  @Test func `a grow that waits is answered when its session leaves, and the ring stays`() throws {
    var rig = Rig()
    let first = rig.connect()
    let second = rig.connect()
    let blob = try need(rig.create(first, "k", as: .joinable)?.grant)
    _ = rig.join(second, "k")
    rig.holdsRings = true
    let number = rig.post(first, .grow(GrowRequest(blob: blob.blob, index: 1)))
    let other = rig.post(second, .grow(GrowRequest(blob: blob.blob, index: 1)))
    rig.ask(first, .leave(blob.blob))
    #expect(rig.reply(first, number)?.code == .closed)
    for case .createRing(let ring, _, _, _, _) in rig.trace where ring.rawValue == 2 {
      rig.send(.ringCreated(ring, inode: 1))
    }
    #expect(rig.reply(second, other)?.extent != nil)
  }

  @Test func `a suspended blob is given its whole idle limit each time, then fails`() throws {
    var rig = Rig()
    let writer = rig.connect()
    _ = rig.create(writer, "k", as: .ownerless, idle: .seconds(10))
    rig.pass(.seconds(9))
    let blob = try need(rig.join(writer, "k")?.grant)
    // As long as somebody publishes it no limit runs.
    rig.pass(.seconds(100))
    rig.send(.tick)
    #expect(rig.info(writer, "k")?.state == .open)
    rig.ask(writer, .leave(blob.blob))
    rig.pass(.seconds(9))
    rig.send(.tick)
    #expect(rig.info(writer, "k")?.state == .suspended)
    let left = (rig.ledger.nextDeadline ?? 0) - rig.now.monotonicNanoseconds
    #expect(left == 1_000_000_000)
    rig.pass(.seconds(1))
    let actions = rig.send(.tick)
    let info = try need(rig.info(writer, "k"))
    #expect(info.state == .failed && info.causeCode == .abandoned)
    #expect(info.cause?.contains("idle limit") == true)
    let posted = try need(actions.place { if case .post = $0 { true } else { false } })
    let rung = try need(actions.place { if case .ring = $0 { true } else { false } })
    #expect(posted < rung)
    #expect(rig.ledger.nextDeadline == nil)
  }

  @Test func `a wall clock that jumps ends no suspension`() throws {
    var rig = Rig()
    let writer = rig.connect()
    _ = rig.create(writer, "k", as: .ownerless, idle: .seconds(10))
    rig.now.wall = WallTime(rawValue: .max)
    rig.send(.tick)
    #expect(rig.info(writer, "k")?.state == .suspended)
  }

  @Test func `a blob that nobody writes is not evicted, and holds no drain up`() throws {
    var rig = Rig(memory: 1 << 20)
    let writer = rig.connect()
    _ = rig.create(writer, "k", as: .ownerless) { $0.byteCount = 600_000 }
    #expect(rig.createError(writer, "big") { $0.byteCount = 600_000 } == .noSpaceMemory)
    #expect(rig.info(writer, "k")?.state == .suspended)
    rig.send(.drainBegan)
    #expect(rig.ledger.isDrained)
    #expect(rig.join(writer, "k")?.code == .noBroker)
  }

  @Test func `the last one to leave a removed blob fails it`() throws {
    var rig = Rig()
    let (first, second, blob) = try shared(&rig, idle: .seconds(10))
    let reader = rig.connect()
    _ = rig.open(reader, "k")
    rig.ask(reader, .remove(RemoveRequest(key: "k", generation: nil)))
    rig.ask(first, .leave(blob.blob))
    rig.ask(second, .leave(blob.blob))
    #expect(rig.trace.posts.last?.state == .failed)
    #expect(rig.trace.posts.last?.causeCode == .removed)
  }

  // MARK: The same creation again

  @Test func `two that create the same ownerless blob at once get one answer`() throws {
    var rig = Rig()
    let first = rig.connect()
    let second = rig.connect()
    rig.holdsRings = true
    let terms = CreateTerms(ownership: .ownerless, idleLimit: .seconds(5), resumes: false)
    let one = rig.post(first, .createWith(CreateRequest(key: "k"), terms))
    let two = rig.post(second, .createWith(CreateRequest(key: "k"), terms))
    #expect(rig.reply(first, one) == nil && rig.reply(second, two) == nil)
    rig.send(.ringCreated(RingID(rawValue: 1), inode: 1))
    #expect(rig.reply(first, one)?.grant != nil)
    #expect(rig.reply(first, one) == rig.reply(second, two))
  }

  @Test func `two that create the same ownerless blob are both told when it comes to nothing`()
    throws
  {
    var rig = Rig()
    let first = rig.connect()
    let second = rig.connect()
    rig.holdsRings = true
    let terms = CreateTerms(ownership: .ownerless, idleLimit: nil, resumes: false)
    let one = rig.post(first, .createWith(CreateRequest(key: "k"), terms))
    let two = rig.post(second, .createWith(CreateRequest(key: "k"), terms))
    rig.send(.ringRefused(RingID(rawValue: 1), errno: 28))
    #expect(rig.reply(first, one)?.code == .noSpaceMemory)
    #expect(rig.reply(second, two)?.code == .noSpaceMemory)
    #expect(rig.info(first, "k") == nil)
  }

  @Test func `terms that contradict each other are refused`() throws {
    var rig = Rig()
    let writer = rig.connect()
    #expect(
      rig.create(writer, "k", as: .joinable) { $0.order = .appendOnly }?.code
        == .protocolViolation)
    #expect(
      rig.create(writer, "k", as: .exclusive, idle: .seconds(1))?.code == .protocolViolation)
    #expect(
      rig.create(writer, "k", as: .ownerless) { $0.inlineBytes = [1] }?.code == .protocolViolation)
    #expect(rig.create(writer, "k", as: .exclusive)?.grant?.state == .open)
  }

  // MARK: Sealing

  @Test func `a seal that waits for its look ends with the session that asked`() throws {
    var rig = Rig()
    let (first, second, blob) = try shared(&rig)
    rig.holdsInspections = true
    let number = rig.post(first, seal(blob))
    rig.send(.exited(first))
    #expect(rig.reply(first, number) == nil)
    rig.send(
      .inspected(
        InspectionID(rawValue: 1), .success(Coverage(coveredByteCount: 10_000, missing: []))))
    #expect(rig.info(second, "k")?.state == .open)
    rig.holdsInspections = false
    #expect(rig.ask(second, seal(blob)) == .done)
  }

  @Test func `a claim that comes while a seal is looked at stops it`() throws {
    var rig = Rig()
    let (first, second, blob) = try shared(&rig)
    rig.holdsInspections = true
    let number = rig.post(first, seal(blob))
    #expect(rig.claim(second, blob, 0..<10)?.claim != nil)
    rig.send(
      .inspected(
        InspectionID(rawValue: 1), .success(Coverage(coveredByteCount: 10_000, missing: []))))
    #expect(rig.reply(first, number)?.code == .rangeOverlap)
    #expect(rig.info(first, "k")?.state == .open)
  }

  @Test func `without an announced length a seal looks behind its end`() throws {
    var rig = Rig()
    let first = rig.connect()
    let second = rig.connect()
    let blob = try need(rig.create(first, "k", as: .joinable)?.grant)
    _ = rig.join(second, "k")
    let claimed = try need(rig.claim(second, blob, 0..<500)?.claim)
    rig.ask(second, .release(ReleaseRequest(blob: blob.blob, claim: claimed.claim)))
    // Another has covered up to 300 of the 500 it had claimed.
    rig.coverage = Coverage(coveredByteCount: 300, missing: [300..<500])
    #expect(rig.ask(first, seal(blob, 200))?.code == .lengthMismatch)
    #expect(rig.ask(first, seal(blob, 301))?.code == .holesAtSeal)
    #expect(rig.ask(first, seal(blob, 300)) == .done)
    #expect(rig.info(first, "k")?.byteCount == 300)
    // A claim that comes and goes meanwhile may have written.
    let other = try need(rig.create(first, "o", as: .joinable)?.grant)
    _ = rig.join(second, "o")
    rig.holdsInspections = true
    let number = rig.post(first, seal(other, 10))
    let brief = try need(rig.claim(second, other, 10..<20)?.claim)
    rig.ask(second, .release(ReleaseRequest(blob: other.blob, claim: brief.claim)))
    for case .inspect(let inspection, _, _, _, _, _) in rig.trace.suffix(20) {
      rig.send(
        .inspected(inspection, .success(Coverage(coveredByteCount: 10, missing: []))))
    }
    #expect(rig.reply(first, number)?.code == .rangeOverlap)
  }

  // MARK: Resuming

  @Test func `a resumed blob is seen only when its bytes are there, and the old one until then`()
    throws
  {
    var rig = Rig()
    let first = rig.connect()
    let second = rig.connect()
    let old = try need(rig.create(first, "k") { $0.byteCount = 5000 })
    rig.ask(first, .fail(FailRequest(blob: old.blob, cause: "x")))
    rig.holdsCopies = true
    var request = CreateRequest(key: "k")
    request.byteCount = 5000
    let terms = CreateTerms(ownership: .exclusive, idleLimit: nil, resumes: true)
    let before = rig.trace.count
    let number = rig.post(second, .createWith(request, terms))
    #expect(rig.reply(second, number) == nil)
    #expect(rig.info(second, "k") == nil)
    #expect(rig.createError(first, "k") { $0.replaces = true } == .keyExists)
    let copies = rig.trace[before...].compactMap { action -> (CopyID, [ExtentCopy])? in
      if case .copy(let copy, let pairs) = action { (copy, pairs) } else { nil }
    }
    let (copy, pairs) = try #require(copies.first)
    #expect(pairs.map(\.source.ring.rawValue) == [old.extent?.ringID])
    #expect(pairs.map(\.target.useNumber) == [1])
    #expect(!rig.trace.contains(.eraseBlob(old.blob.generation)))
    let copied = rig.trace.count
    rig.send(.copied(copy, nil))
    let grant = try need(rig.reply(second, number)?.grant)
    #expect(grant.blob.generation > old.blob.generation)
    // The old one loses the key first: no broker finds two.
    let records = rig.records(from: copied)
    #expect(
      records.map(\.info.generation) == [old.blob.generation, grant.blob.generation])
    #expect(records.map(\.isNamed) == [false, true])
    rig.ask(first, .quiesced(old.blob))
    #expect(rig.trace.contains(.eraseBlob(old.blob.generation)))
    #expect(rig.freed.map(\.rawValue) == [old.extent?.ringID])
  }

  @Test func `a copy that fails leaves the failed blob, which can be resumed again`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let old = try need(rig.create(writer, "k") { $0.byteCount = 5000 })
    rig.ask(writer, .fail(FailRequest(blob: old.blob, cause: "x")))
    rig.holdsCopies = true
    var request = CreateRequest(key: "k")
    request.byteCount = 5000
    let terms = CreateTerms(ownership: .exclusive, idleLimit: nil, resumes: true)
    let number = rig.post(writer, .createWith(request, terms))
    let waiting = rig.post(
      writer, .open(OpenRequest(key: "k", waits: true, observes: false)))
    rig.send(.copied(CopyID(rawValue: 1), PatchbayError(.inputOutput, "The ring is gone.")))
    #expect(rig.reply(writer, number)?.code == .inputOutput)
    // Who waited for the key hears what became of it.
    #expect(rig.reply(writer, waiting)?.error?.cause == "x")
    #expect(rig.info(writer, "k")?.generation == old.blob.generation)
    rig.holdsCopies = false
    #expect(rig.ask(writer, .createWith(request, terms))?.grant != nil)
  }

  @Test func `a resume that has no room leaves the failed blob where it is`() throws {
    var rig = Rig(memory: 1 << 20)
    let writer = rig.connect()
    let old = try need(rig.create(writer, "k") { $0.byteCount = 600_000 })
    rig.ask(writer, .fail(FailRequest(blob: old.blob, cause: "x")))
    rig.ask(writer, .quiesced(old.blob))
    let reply = rig.create(writer, "k", as: .exclusive, resumes: true) { $0.byteCount = 600_000 }
    #expect(reply?.code == .noSpaceMemory)
    #expect(rig.info(writer, "k")?.state == .failed)
    // It is not protected for ever: what needs the room gets it.
    #expect(rig.create(writer, "other") { $0.byteCount = 600_000 } != nil)
    #expect(rig.info(writer, "k") == nil)
  }

  @Test func `a resumer that dies while bytes are copied leaves the failed blob`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let second = rig.connect()
    let old = try need(rig.create(writer, "k") { $0.byteCount = 5000 })
    rig.ask(writer, .fail(FailRequest(blob: old.blob, cause: "x")))
    rig.holdsCopies = true
    var request = CreateRequest(key: "k")
    request.byteCount = 5000
    rig.post(
      second,
      .createWith(request, CreateTerms(ownership: .exclusive, idleLimit: nil, resumes: true)))
    rig.send(.exited(second))
    #expect(rig.info(writer, "k")?.generation == old.blob.generation)
    rig.send(.copied(CopyID(rawValue: 1), nil))
    #expect(rig.info(writer, "k")?.state == .failed)
    #expect(rig.ledger.inconsistency == nil)
  }
}
