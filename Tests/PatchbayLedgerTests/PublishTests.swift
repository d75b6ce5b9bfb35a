// Growing, sealing and failing: what a publisher may do, and that nobody else may.

import PatchbayLayout
import PatchbayLedger
import PatchbayTypes
import PatchbayWire
import Testing

@Suite struct PublishTests {
  @Test func `growth grants a new extent, records it, and wakes readers`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    let before = rig.trace.count
    let extent = try need(
      rig.ask(writer, .grow(GrowRequest(blob: blob.blob, index: 1)))?.extent)
    #expect(extent.index == 1)
    #expect(extent.dataByteCount == 128 * 1024)
    let after = Array(rig.trace[before...])
    let record = try #require(after.place { if case .recordBlob = $0 { true } else { false } })
    let reply = try #require(after.place { if case .reply = $0 { true } else { false } })
    let post = try #require(after.place { if case .post = $0 { true } else { false } })
    let ring = try #require(after.place { if case .ring = $0 { true } else { false } })
    #expect(record < reply && post < ring)
    #expect(after.posts.last?.extentVersion == 1)
    let again = rig.ask(writer, .grow(GrowRequest(blob: blob.blob, index: 1)))?.extent
    #expect(again == extent)
  }

  @Test func `the last extent of a known length is cut to whole pages`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(
      rig.create(writer, "k") {
        $0.byteCount = 4096 + 5000
        $0.firstExtent = 4096
        $0.extentLimit = 16384
      })
    let extent = rig.ask(writer, .grow(GrowRequest(blob: blob.blob, index: 1)))?.extent
    #expect(extent?.dataByteCount == 8192)
    #expect(
      rig.ask(writer, .grow(GrowRequest(blob: blob.blob, index: 2)))?.code == .rangeOutOfBounds)
    for index in [-1, Int.max, 1 << 40] {
      #expect(
        rig.ask(writer, .grow(GrowRequest(blob: blob.blob, index: index)))?.code
          == .rangeOutOfBounds)
    }
  }

  @Test func `parallel growth of one extent shares one ring`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    rig.holdsRings = true
    let first = rig.post(writer, .grow(GrowRequest(blob: blob.blob, index: 1)))
    let second = rig.post(writer, .grow(GrowRequest(blob: blob.blob, index: 1)))
    #expect(rig.reply(writer, first) == nil && rig.reply(writer, second) == nil)
    rig.send(.ringCreated(RingID(rawValue: 2), inode: 2))
    #expect(rig.reply(writer, first)?.extent?.ringID == 2)
    #expect(rig.reply(writer, second)?.extent?.ringID == 2)
  }

  @Test func `an extent whose grant was lost is granted again`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    let number = rig.post(writer, .grow(GrowRequest(blob: blob.blob, index: 1)))
    rig.send(.undelivered(writer, number: number))
    let again = rig.ask(writer, .grow(GrowRequest(blob: blob.blob, index: 1)))?.extent
    #expect(again?.index == 1)
  }

  @Test func `a seal posts, records, rings and then answers`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k") { $0.byteCount = 10 })
    let before = rig.trace.count
    #expect(rig.ask(writer, .seal(SealRequest(blob: blob.blob, byteCount: 10))) == .done)
    let after = Array(rig.trace[before...])
    let post = try #require(after.place { if case .post = $0 { true } else { false } })
    let ring = try #require(after.place { if case .ring = $0 { true } else { false } })
    let record = try #require(after.place { if case .recordBlob = $0 { true } else { false } })
    let reply = try #require(after.place { if case .reply = $0 { true } else { false } })
    #expect(post < ring && record < reply && ring < reply)
    #expect(after.posts.first?.state == .sealed)
    #expect(after.posts.first?.byteCount == 10)
    #expect(rig.info(writer, "k")?.coveredByteCount == 10)
    #expect(rig.info(writer, "k")?.publisherCount == 0)
  }

  @Test func `the announced length is enforced at the seal`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k") { $0.byteCount = 10 })
    for byteCount in [9, 11, -1, Int.max] {
      let code = rig.ask(writer, .seal(SealRequest(blob: blob.blob, byteCount: byteCount)))?.code
      #expect(code == .lengthMismatch || code == .rangeOutOfBounds)
    }
    #expect(rig.info(writer, "k")?.state == .open)
    #expect(rig.ask(writer, .seal(SealRequest(blob: blob.blob, byteCount: 10))) == .done)
  }

  @Test(arguments: [
    (WriteOrder.any, PatchbayError.Code.holesAtSeal), (.appendOnly, .lengthMismatch),
  ])
  func `a seal over holes is refused and may be tried again`(
    order: WriteOrder, code: PatchbayError.Code
  ) throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k") { $0.order = order })
    rig.coverage = Coverage(coveredByteCount: 6, missing: [4..<8])
    let error = rig.ask(writer, .seal(SealRequest(blob: blob.blob, byteCount: 10)))?.error
    #expect(error?.code == code)
    #expect(error?.missing == [4..<8])
    #expect(rig.info(writer, "k")?.state == .open)
    rig.coverage = nil
    #expect(rig.ask(writer, .seal(SealRequest(blob: blob.blob, byteCount: 10))) == .done)
  }

  @Test func `a repeated seal is confirmed, with another length it is not`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let other = rig.connect()
    let blob = try need(rig.sealed(writer, "k", byteCount: 10))
    #expect(rig.ask(writer, .seal(SealRequest(blob: blob.blob, byteCount: 10))) == .done)
    #expect(
      rig.ask(writer, .seal(SealRequest(blob: blob.blob, byteCount: 9)))?.code == .lengthMismatch)
    #expect(rig.ask(other, .seal(SealRequest(blob: blob.blob, byteCount: 10)))?.code == .closed)
  }

  @Test func `seals in parallel share one inspection`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    rig.holdsInspections = true
    let first = rig.post(writer, .seal(SealRequest(blob: blob.blob, byteCount: 10)))
    let second = rig.post(writer, .seal(SealRequest(blob: blob.blob, byteCount: 10)))
    let third = rig.ask(writer, .seal(SealRequest(blob: blob.blob, byteCount: 11)))
    #expect(third?.code == .lengthMismatch)
    let covered = Coverage(coveredByteCount: 10, missing: [])
    rig.send(.inspected(InspectionID(rawValue: 1), .success(covered)))
    #expect(rig.reply(writer, first) == .done && rig.reply(writer, second) == .done)
  }

  @Test func `an inspection names the extents that it touches`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(
      rig.create(writer, "k") {
        $0.firstExtent = 4096
        $0.extentLimit = 4096
      })
    for index in [1, 2] { rig.ask(writer, .grow(GrowRequest(blob: blob.blob, index: index))) }
    rig.ask(writer, .seal(SealRequest(blob: blob.blob, byteCount: 4097)))
    let inspected = rig.trace.compactMap {
      if case .inspect(_, let extents, _, _, _, _) = $0 { extents.map(\.index) } else { nil }
    }
    #expect(inspected == [[0, 1]])
  }

  @Test func `rings that cannot be read leave the blob open`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    rig.holdsInspections = true
    let number = rig.post(writer, .seal(SealRequest(blob: blob.blob, byteCount: 10)))
    let error = PatchbayError(.corrupt, "The ring was truncated.")
    rig.send(.inspected(InspectionID(rawValue: 1), .failure(error)))
    #expect(rig.reply(writer, number)?.error == error)
    #expect(rig.info(writer, "k")?.state == .open)
  }

  @Test func `a publisher that dies while its seal is verified has failed the blob`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let reader = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    rig.holdsInspections = true
    let number = rig.post(writer, .seal(SealRequest(blob: blob.blob, byteCount: 10)))
    rig.send(.hungUp(writer))
    let covered = Coverage(coveredByteCount: 10, missing: [])
    rig.send(.inspected(InspectionID(rawValue: 1), .success(covered)))
    #expect(rig.reply(writer, number) == nil)
    #expect(rig.info(reader, "k")?.state == .failed)
  }

  @Test func `a failure carries its publisher's cause and answers what was pending`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    rig.holdsRings = true
    rig.holdsInspections = true
    let grow = rig.post(writer, .grow(GrowRequest(blob: blob.blob, index: 1)))
    let seal = rig.post(writer, .seal(SealRequest(blob: blob.blob, byteCount: 10)))
    #expect(rig.ask(writer, .fail(FailRequest(blob: blob.blob, cause: "disk on fire"))) == .done)
    #expect(rig.reply(writer, grow)?.code == .blobFailed)
    #expect(rig.reply(writer, seal)?.code == .blobFailed)
    let info = rig.info(writer, "k")
    #expect(info?.causeCode == .blobFailed)
    #expect(info?.cause == "disk on fire")
    rig.send(.ringCreated(RingID(rawValue: 2), inode: 2))
    #expect(rig.trace.last == .unlinkRing(RingID(rawValue: 2)))
  }

  @Test func `a cause is cut to what a board entry holds`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    let cause = String(repeating: "ü", count: 900)
    rig.ask(writer, .fail(FailRequest(blob: blob.blob, cause: cause)))
    #expect(rig.trace.posts.last?.cause.utf8.count == 192)
    #expect(rig.info(writer, "k")?.cause?.utf8.count == WireLimit.cause)
  }

  @Test(arguments: [true, false])
  func `a publisher that goes leaves a failed blob and is fenced`(exits: Bool) throws {
    var rig = Rig()
    let writer = rig.connect(process: 123, name: "loader")
    let reader = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    _ = rig.open(reader, "k")
    let before = rig.trace.count
    rig.send(exits ? .exited(writer) : .hungUp(writer))
    let after = Array(rig.trace[before...])
    let post = try #require(after.place { if case .post = $0 { true } else { false } })
    let ring = try #require(after.place { if case .ring = $0 { true } else { false } })
    #expect(post < ring)
    #expect(after.posts.last?.epoch == 2)
    let info = rig.info(reader, "k")
    #expect(info?.causeCode == .abandoned)
    #expect(info?.cause == "its publisher, process 123 (loader), ended without sealing")
    let back = rig.connect(process: 123)
    for request in [
      Request.grow(GrowRequest(blob: blob.blob, index: 0)),
      .seal(SealRequest(blob: blob.blob, byteCount: 10)),
      .fail(FailRequest(blob: blob.blob, cause: "")), .abandon(blob.blob),
    ] {
      #expect(rig.ask(back, request)?.code == .fenced)
    }
  }

  @Test func `closing a publisher's handle without a seal abandons the blob`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    #expect(rig.ask(writer, .close(CloseRequest(blob: blob.blob))) == .done)
    #expect(rig.info(writer, "k")?.causeCode == .abandoned)
  }

  @Test func `only its publisher may grow, seal, fail or abandon a blob`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let other = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    let opened = try need(rig.open(other, "k")?.grant)
    for reference in [blob.blob, opened.blob] {
      #expect(rig.ask(other, .grow(GrowRequest(blob: reference, index: 1)))?.code == .closed)
      #expect(rig.ask(other, .seal(SealRequest(blob: reference, byteCount: 0)))?.code == .closed)
      #expect(rig.ask(other, .fail(FailRequest(blob: reference, cause: "")))?.code == .closed)
      #expect(rig.abandon(other, reference)?.code == .closed)
    }
    let unknown = BlobReference(generation: Generation(rawValue: .max), epoch: 9)
    #expect(rig.ask(other, .seal(SealRequest(blob: unknown, byteCount: 0)))?.code == .closed)
    #expect(rig.info(writer, "k")?.state == .open)
  }

  @Test func `a ring that comes after the seal is unlinked and its grow refused`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    rig.holdsRings = true
    let grow = rig.post(writer, .grow(GrowRequest(blob: blob.blob, index: 1)))
    #expect(rig.ask(writer, .seal(SealRequest(blob: blob.blob, byteCount: 10))) == .done)
    #expect(rig.reply(writer, grow)?.code == .closed)
    let used = rig.ledger.usedByteCount
    rig.send(.ringCreated(RingID(rawValue: 2), inode: 2))
    #expect(rig.trace.last == .unlinkRing(RingID(rawValue: 2)))
    #expect(rig.ledger.usedByteCount < used)
  }
}
