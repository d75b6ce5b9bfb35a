// Blobs that outlive their broker: what happens before their seal is answered, what may make them go,
// and how they are found again.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct PersistTests {
  private func post(
    _ rig: inout Rig, _ session: SessionID, _ grant: BlobGrant, _ byteCount: Int
  ) -> UInt64 {
    rig.post(session, .seal(SealRequest(blob: grant.blob, byteCount: byteCount)))
  }

  private func seal(
    _ rig: inout Rig, _ session: SessionID, _ grant: BlobGrant, _ byteCount: Int
  ) -> Reply? {
    let number = post(&rig, session, grant, byteCount)
    return rig.reply(session, number)
  }

  private func orders(_ rig: Rig) -> [PersistOrder] {
    rig.trace.compactMap { if case .persist(let order) = $0 { order } else { nil } }
  }

  private func withdrawn(_ rig: Rig) -> [Generation] {
    rig.trace.compactMap { if case .withdrawContainer(let found) = $0 { found } else { nil } }
  }

  private func stored(
    _ key: BlobKey, _ generation: UInt64, byteCount: Int = 100, modified: Int64 = 0,
    _ adjust: (inout CreateRequest) -> Void = { _ in }
  ) throws -> StoredBlob {
    var request = CreateRequest(key: key)
    request.acknowledgement = .durable
    adjust(&request)
    return StoredBlob(
      request: request, generation: Generation(rawValue: generation),
      access: Access(uid: Rig.user, gid: 100, mode: 0o600),
      plan: try ExtentPlan(first: Rig.extent, limit: Rig.extent), byteCount: byteCount,
      segmentByteCount: 1 << 18, created: WallTime(rawValue: 1),
      modified: WallTime(rawValue: modified), containerByteCount: byteCount)
  }

  // MARK: The seal

  @Test(arguments: [Acknowledgement.retained, .durable])
  func `a seal is answered, and seen, when the container is complete`(
    _ level: Acknowledgement
  ) throws {
    var rig = Rig.spooling()
    rig.holdsPersists = true
    let writer = rig.connect()
    let blob = try rig.begin(writer, "a", level)
    _ = rig.grow(writer, blob, 1)
    let number = post(&rig, writer, blob, Rig.extent + 5)
    let order = try need(orders(rig).first)
    #expect(order.isDurable == (level == .durable))
    #expect(order.extents.map(\.index) == [0, 1])
    #expect(order.range(of: order.extents[1]) == Rig.extent..<Rig.extent + 5)
    #expect(rig.reply(writer, number) == nil)
    #expect(rig.info(writer, "a")?.state == .open)
    rig.send(.persisted(blob.blob.generation, .done(containerByteCount: 2 << 20)))
    #expect(rig.reply(writer, number) == .done)
    let info = try need(rig.info(writer, "a"))
    #expect(info.state == .sealed && info.spilledByteCount == 2 << 20)
  }

  @Test func `what cannot be kept is refused at once`() throws {
    var bare = Rig()
    let writer = bare.connect()
    #expect(bare.createError(writer, "a") { $0.acknowledgement = .durable } == .notPermitted)
    var rig = Rig.spooling()
    let other = rig.connect()
    let window = rig.createError(other, "w") {
      $0.acknowledgement = .retained
      $0.policy = .backpressure
      $0.order = .appendOnly
    }
    #expect(window == .protocolViolation)
    let inline = rig.createError(other, "i") {
      $0.acknowledgement = .retained
      $0.inlineBytes = [1]
    }
    #expect(inline == .protocolViolation)
  }

  @Test func `a container that could not be completed leaves the blob open, to be tried again`()
    throws
  {
    var rig = Rig.spooling()
    let writer = rig.connect()
    let blob = try rig.begin(writer, "a", .durable)
    let full = PatchbayError(.noSpaceSpool, "full")
    rig.persistResult = .failed(full, containerByteCount: 4096)
    var number = post(&rig, writer, blob, 7)
    #expect(rig.reply(writer, number)?.code == .noSpaceSpool)
    #expect(try need(rig.statistics(writer)).spoolByteCount == 4096)
    rig.persistResult = .lost(PatchbayError(.inputOutput, "fsync"))
    number = post(&rig, writer, blob, 7)
    #expect(rig.reply(writer, number)?.code == .inputOutput)
    #expect(rig.info(writer, "a")?.state == .open)
    rig.persistResult = nil
    number = post(&rig, writer, blob, 7)
    #expect(rig.reply(writer, number) == .done)
  }

  @Test func `a blob that stood on disk in part fails with its container`() throws {
    var rig = Rig.spooling()
    let writer = rig.connect()
    let blob = try rig.begin(writer, "a", .durable)
    for index in 1..<20 { _ = rig.grow(writer, blob, index) }
    rig.persistResult = .lost(PatchbayError(.inputOutput, "fsync"))
    let number = post(&rig, writer, blob, 20 * Rig.extent)
    #expect(rig.reply(writer, number)?.code == .inputOutput)
    #expect(rig.info(writer, "a")?.state == .failed)
    #expect(rig.open(writer, "a")?.code == .inputOutput)
  }

  @Test func `a disk without room for it refuses the seal before anything is written`() throws {
    var rig = Rig.spooling(spool: 1 << 20)
    let writer = rig.connect()
    let blob = try rig.begin(writer, "a", .durable)
    for index in 1..<3 { _ = rig.grow(writer, blob, index) }
    let number = post(&rig, writer, blob, 3 * Rig.extent)
    #expect(rig.reply(writer, number)?.code == .noSpaceSpool)
    #expect(orders(rig).isEmpty)
  }

  @Test func `a blob that fails while it is put on disk is found by nobody`() throws {
    var rig = Rig.spooling()
    rig.holdsPersists = true
    let writer = rig.connect()
    let blob = try rig.begin(writer, "a", .durable)
    _ = seal(&rig, writer, blob, 7)
    rig.send(.exited(writer))
    #expect(withdrawn(rig) == [blob.blob.generation])
    rig.send(.persisted(blob.blob.generation, .done(containerByteCount: 4096)))
    let other = rig.connect(process: 101)
    #expect(rig.info(other, "a")?.state == .failed)
  }

  @Test func `a blob that is removed while it is put on disk is found by nobody`() throws {
    var rig = Rig.spooling()
    rig.holdsPersists = true
    let (writer, other) = (rig.connect(), rig.connect(process: 101))
    let blob = try rig.begin(writer, "a", .durable)
    let number = post(&rig, writer, blob, 7)
    rig.ask(other, .remove(RemoveRequest(key: "a", generation: nil)))
    #expect(!rig.trace.contains { if case .removeContainer = $0 { true } else { false } })
    #expect(withdrawn(rig) == [blob.blob.generation])
    let given = PatchbayError(.closed, "given up")
    rig.send(.persisted(blob.blob.generation, .failed(given, containerByteCount: 4096)))
    #expect(rig.reply(writer, number) == .done)
    #expect(rig.trace.contains(.removeContainer(blob.blob.generation)))
  }

  @Test func `a seal that comes while nobody waits for the one before is not answered by that one`()
    throws
  {
    var rig = Rig.spooling()
    rig.holdsPersists = true
    let (one, two) = (rig.connect(), rig.connect(process: 101))
    _ = rig.create(one, "k", as: .ownerless) { $0.acknowledgement = .durable }
    let first = try need(rig.join(one, "k")?.grant)
    _ = rig.grow(one, first, 0)
    _ = post(&rig, one, first, 100)
    rig.ask(one, .leave(first.blob))
    #expect(Set(withdrawn(rig)) == [first.blob.generation])
    let before = rig.trace.count
    let second = try need(rig.join(two, "k")?.grant)
    let number = post(&rig, two, second, 200)
    #expect(orders(rig).map(\.blob.byteCount) == [100])
    rig.send(.persisted(first.blob.generation, .done(containerByteCount: 4096)))
    #expect(rig.reply(two, number) == nil)
    #expect(orders(rig).map(\.blob.byteCount) == [100, 200])
    rig.send(.persisted(first.blob.generation, .done(containerByteCount: 8192)))
    #expect(rig.reply(two, number) == .done)
    #expect(!rig.trace[before...].contains(.withdrawContainer(first.blob.generation)))
    #expect(rig.ledger.inconsistency == nil)
  }

  @Test func `nothing is claimed of a blob that is being put on disk`() throws {
    var rig = Rig.spooling()
    rig.holdsPersists = true
    let (one, two) = (rig.connect(), rig.connect(process: 101))
    _ = rig.create(one, "k", as: .ownerless) { $0.acknowledgement = .retained }
    let first = try need(rig.join(one, "k")?.grant)
    let second = try need(rig.join(two, "k")?.grant)
    let number = post(&rig, one, first, 100)
    #expect(rig.claim(two, second, 0..<10)?.code == .closed)
    rig.send(
      .persisted(
        first.blob.generation,
        .failed(PatchbayError(.noSpaceSpool, "full"), containerByteCount: nil)))
    #expect(rig.reply(one, number)?.code == .noSpaceSpool)
    guard case .claimed = rig.claim(two, second, 0..<10) else {
      Issue.record("the blob is not open again")
      return
    }
  }

  @Test func `what is on its way to disk as a seal comes is counted once`() throws {
    var rig = Rig.spooling()
    rig.holdsSpills = true
    rig.holdsPersists = true
    let writer = rig.connect()
    let blob = try rig.begin(writer, "a", .durable)
    for index in 1..<14 { _ = rig.grow(writer, blob, index) }
    #expect(rig.trace.contains { if case .spill = $0 { true } else { false } })
    _ = post(&rig, writer, blob, 14 * Rig.extent)
    let generation = blob.blob.generation
    rig.send(.spilled(generation, .done(containerByteCount: Rig.extent)))
    let reserved = try need(rig.statistics(writer)).spoolByteCount
    #expect(reserved >= 15 * Rig.extent)
    let full = PatchbayError(.noSpaceSpool, "full")
    rig.send(.persisted(generation, .failed(full, containerByteCount: nil)))
    // What is there, and what was begun to spill since.
    #expect(try need(rig.statistics(writer)).spoolByteCount < UInt64(4 * Rig.extent))
    #expect(rig.ledger.inconsistency == nil)
  }

  @Test func `a length below what stands on disk is refused`() throws {
    var rig = Rig.spooling()
    let writer = rig.connect()
    let blob = try rig.begin(writer, "a", .visible)
    for index in 1..<20 { _ = rig.grow(writer, blob, index) }
    #expect(seal(&rig, writer, blob, Rig.extent)?.code == .lengthMismatch)
    #expect(seal(&rig, writer, blob, 20 * Rig.extent) == .done)
  }

  @Test func `the name goes before the removal is answered`() throws {
    var rig = Rig.spooling()
    let writer = rig.connect()
    let blob = try rig.begin(writer, "a", .durable)
    _ = seal(&rig, writer, blob, 7)
    rig.ask(writer, .remove(RemoveRequest(key: "a", generation: nil)))
    let name = try need(rig.trace.firstIndex(of: .withdrawContainer(blob.blob.generation)))
    let answer = try need(
      rig.trace.lastIndex { if case .reply(_, _, .done, _) = $0 { true } else { false } })
    #expect(name < answer)
    #expect(rig.containers.isEmpty)
  }

  @Test func `its extents leave memory without being copied again`() throws {
    var rig = Rig.spooling()
    let writer = rig.connect()
    let blob = try rig.begin(writer, "a", .durable)
    for index in 1..<5 { _ = rig.grow(writer, blob, index) }
    _ = seal(&rig, writer, blob, 5 * Rig.extent)
    let copied = rig.trace.count { if case .spill = $0 { true } else { false } }
    let next = try rig.begin(writer, "next", .visible)
    for index in 1..<12 {
      #expect(
        rig.grow(writer, next, index)?.extent?.index == index)
    }
    #expect(rig.info(writer, "a")?.residentByteCount ?? 0 < 5 * Rig.extent)
    let spills = rig.trace.compactMap { if case .spill(let order) = $0 { order } else { nil } }
    #expect(spills.dropFirst(copied).allSatisfy { $0.generation != blob.blob.generation })
  }

  // MARK: Who goes first

  @Test func `what is kept stays when the disk is full, and what is cached goes, read last`() throws
  {
    var rig = Rig.spooling(spool: 4 << 20)
    let writer = rig.connect()
    for (key, level, isCache) in [
      ("kept", Acknowledgement.durable, false), ("old", .durable, true), ("new", .retained, true),
    ] as [(BlobKey, Acknowledgement, Bool)] {
      let blob = try rig.begin(writer, key, level) { $0.isCache = isCache }
      let number = post(&rig, writer, blob, Rig.extent)
      #expect(rig.reply(writer, number) == .done, "\(key)")
    }
    // Read now, the older one is the newer one.
    let opened = try need(rig.open(writer, "old")?.grant)
    rig.close(writer, BlobReference(generation: opened.blob.generation, epoch: 0))
    let third = try rig.begin(writer, "third", .durable)
    _ = rig.grow(writer, third, 1)
    #expect(seal(&rig, writer, third, Rig.extent + 1) == .done)
    #expect(rig.info(writer, "new") == nil)
    #expect(rig.info(writer, "old") != nil && rig.info(writer, "kept") != nil)
    let fourth = try rig.begin(writer, "fourth", .durable)
    #expect(seal(&rig, writer, fourth, Rig.extent) == .done)
    #expect(rig.info(writer, "old") == nil)
    let fifth = try rig.begin(writer, "fifth", .durable)
    #expect(seal(&rig, writer, fifth, Rig.extent)?.code == .noSpaceSpool)
    for key in ["kept", "third", "fourth"] as [BlobKey] {
      #expect(rig.info(writer, key)?.state == .sealed, "\(key)")
    }
  }

  @Test func `another user's share of the disk is its own to fill`() throws {
    var rig = Rig.spooling(spool: 8 << 20) { $0.isShared = true }
    let stranger = rig.connect(process: 101, uid: 2000)
    var refusal: PatchbayError?
    for index in 0..<8 where refusal == nil {
      let blob = try rig.begin(stranger, BlobKey(stringLiteral: "s\(index)"), .durable)
      refusal = seal(&rig, stranger, blob, Rig.extent)?.error
    }
    #expect(refusal?.code == .limitReached && refusal?.message.contains("user 2000") == true)
    #expect(try need(rig.statistics(stranger)).spoolByteCount <= 4 << 20)
    let own = rig.connect()
    let blob = try rig.begin(own, "own", .durable)
    #expect(seal(&rig, own, blob, Rig.extent) == .done)
    #expect(rig.ledger.spilling.pause == nil)
  }

  // MARK: Finding them again

  @Test func `what was complete is there again, with all that was said about it`() throws {
    var rig = Rig.spooling()
    let blob = try stored("a", 41, byteCount: Rig.extent + 1) {
      $0.type = "x/y"
      $0.labels = [BlobInfo.Label(name: "n", value: "v")]
    }
    rig.send(.found([blob], last: blob.generation))
    let reader = rig.connect()
    let info = try need(rig.info(reader, "a"))
    #expect(info.state == .sealed && info.byteCount == Rig.extent + 1 && info.type == "x/y")
    #expect(info.residentByteCount == 0 && info.labels == blob.request.labels)
    let opened = try need(rig.open(reader, "a")?.grant)
    #expect(opened.extentEnd == 2 && opened.extent == nil)
    for index in 0..<2 {
      let number = rig.post(
        reader, .attachExtent(ExtentRequest(generation: opened.blob.generation, index: index)))
      guard case .spooled = rig.reply(reader, number) else {
        Issue.record("extent \(index): \(String(describing: rig.reply(reader, number)))")
        return
      }
      #expect(rig.descriptors(reader, number) == [.container(opened.blob.generation)])
    }
    let next = try need(rig.create(reader, "b"))
    #expect(next.blob.generation.rawValue > 41)
    #expect(rig.ledger.inconsistency == nil)
  }

  @Test func `a pin is there again with its blob`() throws {
    var rig = Rig.spooling(spool: 2 << 20)
    var blob = try stored("a", 1, byteCount: 1 << 20) { $0.isCache = true }
    blob.isPinned = true
    rig.send(.found([blob], last: blob.generation))
    let writer = rig.connect()
    #expect(rig.info(writer, "a")?.isPinned == true)
    let next = try rig.begin(writer, "b", .durable)
    _ = rig.grow(writer, next, 1)
    #expect(seal(&rig, writer, next, Rig.extent + 1)?.code == .noSpaceSpool)
    rig.ask(writer, .pin(PinRequest(key: "a", isPinned: false)))
    #expect(rig.trace.contains(.markContainer(blob.generation, isPinned: false)))
    #expect(seal(&rig, writer, next, Rig.extent + 1) == .done)
    #expect(rig.info(writer, "a") == nil)
  }

  @Test func `no number is given out that a file bears`() throws {
    var rig = Rig.spooling()
    rig.send(.found([try stored("a", 3)], last: Generation(rawValue: 70)))
    let writer = rig.connect()
    #expect(try need(rig.create(writer, "b")).blob.generation.rawValue == 71)
  }

  @Test func `what was found leaves by removal, and as a cache`() throws {
    var rig = Rig.spooling(spool: 2 << 20)
    rig.send(
      .found(
        [
          try stored("kept", 1, byteCount: 1 << 20),
          try stored("cached", 2, byteCount: 1 << 20) { $0.isCache = true },
        ], last: Generation(rawValue: 2)))
    let writer = rig.connect()
    let blob = try rig.begin(writer, "new", .durable)
    #expect(seal(&rig, writer, blob, 4096) == .done)
    #expect(rig.info(writer, "cached") == nil && rig.info(writer, "kept") != nil)
    rig.ask(writer, .remove(RemoveRequest(key: "kept", generation: nil)))
    #expect(withdrawn(rig).contains(Generation(rawValue: 1)))
    #expect(rig.ledger.inconsistency == nil)
  }
}
