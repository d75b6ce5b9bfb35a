// Creation: what is granted, what is refused, and that a blob is never seen before it is certain.

import PatchbayLayout
import PatchbayLedger
import PatchbayTypes
import PatchbayWire
import Testing

@Suite struct CreateTests {
  @Test func `a known length gets one extent of whole pages`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let number = rig.post(writer, .create(with("k") { $0.byteCount = 5000 }))
    let grant = try #require(rig.reply(writer, number)?.grant)
    let extent = try #require(grant.extent)
    #expect(extent.dataByteCount == 8192)
    #expect(extent.useNumber == 1)
    #expect(grant.plan.first == 8192 && grant.plan.limit == 8192)
    #expect(grant.blob.epoch == 1)
    #expect(
      rig.descriptors(writer, number)
        == [.ring(RingID(rawValue: extent.ringID), isWritable: true)])
  }

  @Test func `an unknown length starts small and doubles`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let grant = try need(rig.create(writer, "k"))
    #expect(grant.plan.first == 64 * 1024)
    #expect(grant.plan.limit == 64 * 1024 * 1024)
    #expect(grant.extent?.dataByteCount == 64 * 1024)
  }

  @Test func `given sizes are rounded to pages and powers of two`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let grant = try need(
      rig.create(writer, "k") {
        $0.firstExtent = 5000
        $0.extentLimit = 20000
      })
    #expect(grant.plan.first == 8192)
    #expect(grant.plan.limit == 32768)
    let short = try need(
      rig.create(writer, "short") {
        $0.byteCount = 100
        $0.firstExtent = 8192
      })
    #expect(short.extent?.dataByteCount == 4096)
  }

  @Test func `an empty blob needs no memory and no inspection`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let grant = try need(rig.create(writer, "k") { $0.byteCount = 0 })
    #expect(grant.extent == nil)
    rig.holdsInspections = true
    #expect(rig.ask(writer, .seal(SealRequest(blob: grant.blob, byteCount: 0))) == .done)
    #expect(rig.open(writer, "k")?.grant?.byteCount == 0)
    #expect(rig.ledger.usedByteCount == 0)
  }

  @Test func `small blobs travel in one message and leave no handle`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let grant = try need(rig.create(writer, "k") { $0.inlineBytes = [1, 2, 3] })
    #expect(grant.state == .sealed)
    #expect(grant.byteCount == 3)
    let opened = try need(rig.open(writer, "k")?.grant)
    #expect(opened.inlineBytes == [1, 2, 3])
    #expect(opened.board == 0 && opened.entry == 0)
    #expect(rig.info(writer, "k")?.subscriberCount == 0)
    #expect(rig.info(writer, "k")?.lastRead != nil)
    #expect(rig.close(writer, opened.reader) == .done)
    #expect(rig.ledger.usedByteCount == 3)
    #expect(!rig.trace.contains { if case .createBoard = $0 { true } else { false } })
  }

  @Test func `an inline blob must have the length it announced`() {
    var rig = Rig()
    let writer = rig.connect()
    #expect(
      rig.createError(writer, "k") {
        $0.byteCount = 4
        $0.inlineBytes = [1, 2, 3]
      } == .lengthMismatch)
    #expect(
      rig.createError(writer, "k") {
        $0.inlineBytes = Array(repeating: 1, count: Frame.inlineByteLimit + 1)
      } == .protocolViolation)
  }

  @Test func `what this version does not offer is refused`() {
    var rig = Rig()
    let writer = rig.connect()
    #expect(rig.createError(writer, "k") { $0.policy = .dropOldest } == .protocolViolation)
    #expect(rig.createError(writer, "k") { $0.acknowledgement = .durable } == .notPermitted)
    #expect(rig.createError(writer, "k") { $0.mode = 0o700 } == .protocolViolation)
    #expect(rig.createError(writer, "k") { $0.firstExtent = -1 } == .protocolViolation)
    #expect(rig.createError(writer, "k") { $0.extentLimit = .max } == .protocolViolation)
    #expect(rig.createError(writer, "k") { $0.byteCount = .max } == .protocolViolation)
  }

  @Test func `a key that is open or sealed is taken`() {
    var rig = Rig()
    let writer = rig.connect()
    #expect(rig.create(writer, "open") != nil)
    #expect(rig.sealed(writer, "sealed", byteCount: 10) != nil)
    #expect(rig.createError(writer, "open") == .keyExists)
    #expect(rig.createError(writer, "sealed") == .keyExists)
  }

  @Test func `a failed blob gives its key to the next generation`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let first = try need(rig.create(writer, "k"))
    rig.abandon(writer, first.blob)
    let second = try need(rig.create(writer, "k"))
    #expect(second.blob.generation > first.blob.generation)
    #expect(rig.trace.contains(.eraseBlob(first.blob.generation)))
    #expect(rig.info(writer, "k")?.state == .open)
  }

  @Test func `a replacing create frees the key and lets readers finish`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let reader = rig.connect()
    let first = try need(rig.sealed(writer, "k", byteCount: 10))
    let opened = try need(rig.open(reader, "k")?.grant)
    let second = try need(rig.create(writer, "k") { $0.replaces = true })
    #expect(second.blob.generation > first.blob.generation)
    #expect(rig.freed.isEmpty)
    #expect(rig.close(reader, opened.reader) == .done)
    #expect(rig.freed.map(\.rawValue) == [first.extent?.ringID])
  }

  @Test func `a blob is not seen before its first ring has come`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let reader = rig.connect()
    rig.holdsRings = true
    let creating = rig.post(writer, .create(with("k") { $0.byteCount = 10 }))
    #expect(rig.reply(writer, creating) == nil)
    #expect(rig.createError(reader, "k") == .keyExists)
    #expect(rig.createError(reader, "k") { $0.replaces = true } == .keyExists)
    #expect(rig.open(reader, "k")?.code == .noSuchKey)
    #expect(rig.info(reader, "k") == nil)
    let parked = rig.post(reader, .open(OpenRequest(key: "k", waits: true, observes: false)))
    rig.send(.ringCreated(RingID(rawValue: 1), inode: 1))
    #expect(rig.reply(writer, creating)?.grant != nil)
    #expect(rig.reply(reader, parked)?.grant?.extent != nil)
  }

  @Test(arguments: [
    (28 as Int32, PatchbayError.Code.noSpaceMemory), (12, .noSpaceMemory), (24, .limitReached),
    (23, .limitReached), (5, .inputOutput), (11, .limitReached),
  ])
  func `a refused ring means that the blob never existed`(
    errno: Int32, code: PatchbayError.Code
  ) {
    var rig = Rig()
    let writer = rig.connect()
    let reader = rig.connect()
    let parked = rig.post(reader, .open(OpenRequest(key: "k", waits: true, observes: false)))
    rig.holdsRings = true
    let creating = rig.post(writer, .create(with("k") { $0.byteCount = 10 }))
    rig.send(.ringRefused(RingID(rawValue: 1), errno: errno))
    #expect(rig.reply(writer, creating)?.code == code)
    #expect(rig.reply(writer, creating)?.error?.systemErrno == errno)
    #expect(rig.reply(reader, parked) == nil)
    #expect(rig.ledger.usedByteCount == 0)
    #expect(!rig.trace.contains { if case .recordBlob = $0 { true } else { false } })
    rig.holdsRings = false
    #expect(rig.create(writer, "k") != nil)
    #expect(rig.reply(reader, parked)?.grant != nil)
  }

  @Test func `a ring that there is no place for is refused with the bound and what to do`() throws {
    var rig = Rig()
    let writer = rig.connect()
    rig.holdsRings = true
    let creating = rig.post(writer, .create(with("k") { $0.byteCount = 10 }))
    rig.send(.ringRefused(RingID(rawValue: 1), errno: 11))
    let error = try need(rig.reply(writer, creating)?.error)
    let shown = error.message
    #expect(shown.contains("1024 jobs") && shown.contains("bytes of shared memory for the blob k"))
    #expect(shown.contains("Wait for answers") && shown.contains("ask again"))
  }

  @Test func `a client cannot make boards without end by choosing modes`() throws {
    var rig = Rig { $0.accessClassCount = 3 }
    let writer = rig.connect()
    for mode: UInt16 in [0o600, 0o640, 0o644] {
      #expect(rig.create(writer, try BlobKey("\(mode)")) { $0.mode = mode } != nil)
    }
    var request = with("more") { $0.mode = 0o666 }
    let error = try need(rig.ask(writer, .create(request))?.error)
    #expect(error.code == .limitReached)
    #expect(error.message.contains("3 different") && error.message.contains("mode 0666"))
    request.mode = 0o640
    #expect(rig.ask(writer, .create(request))?.grant != nil)
    // A blob without a ring needs no board.
    request.key = "small"
    request.mode = 0o666
    request.inlineBytes = [1]
    #expect(rig.ask(writer, .create(request))?.grant != nil)
  }

  @Test func `a creator that goes before its ring comes leaves nothing`() {
    var rig = Rig()
    let writer = rig.connect()
    rig.holdsRings = true
    rig.post(writer, .create(with("k") { $0.byteCount = 10 }))
    rig.send(.hungUp(writer))
    #expect(rig.ledger.usedByteCount > 0)
    rig.send(.ringCreated(RingID(rawValue: 1), inode: 1))
    #expect(rig.trace.last == .unlinkRing(RingID(rawValue: 1)))
    #expect(rig.ledger.usedByteCount == 0)
    rig.holdsRings = false
    let next = rig.connect()
    #expect(rig.create(next, "k") != nil)
  }

  @Test func `the record stands before the grant leaves`() throws {
    var rig = Rig()
    let writer = rig.connect()
    _ = rig.create(writer, "k")
    let record = rig.trace.place { if case .recordBlob = $0 { true } else { false } }
    let reply = rig.trace.place {
      if case .reply(_, _, .created, _) = $0 { true } else { false }
    }
    #expect(try #require(record) < #require(reply))
  }

  @Test func `a grant that did not arrive is an abandoned blob`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let number = rig.post(writer, .create(with("k")))
    rig.send(.undelivered(writer, number: number))
    #expect(rig.info(writer, "k")?.state == .failed)
    #expect(rig.info(writer, "k")?.causeCode == .abandoned)
    #expect(rig.create(writer, "k") != nil)
  }

  @Test func `blobs per broker and handles per session are bounded`() {
    var rig = Rig {
      $0.blobCount = 2
      $0.handlesPerSession = 2
    }
    let writer = rig.connect()
    let other = rig.connect()
    #expect(rig.create(writer, "a") != nil)
    #expect(rig.create(writer, "b") != nil)
    #expect(rig.createError(writer, "c") == .limitReached)
    #expect(rig.createError(other, "c") == .limitReached)
    #expect(rig.open(writer, "a")?.code == .limitReached)
  }

  @Test func `a journal without reserve refuses blobs and extents`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let grant = try need(rig.create(writer, "k"))
    rig.send(.journalFull(true))
    #expect(rig.createError(writer, "other") == .noSpaceMemory)
    #expect(
      rig.ask(writer, .grow(GrowRequest(blob: grant.blob, index: 1)))?.code == .noSpaceMemory)
    rig.send(.journalFull(false))
    #expect(rig.create(writer, "other") != nil)
  }

  private func with(
    _ key: BlobKey, _ adjust: (inout CreateRequest) -> Void = { _ in }
  ) -> CreateRequest {
    var request = CreateRequest(key: key)
    adjust(&request)
    return request
  }
}
