// Blobs in any order, longer than memory: who has which extent, what leaves, and what comes back.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct GiveBackTests {
  private static let extent = 1 << 20

  private func rig(spool: Int = 1 << 30) -> Rig {
    Rig.spooling(memory: 24 << 20, spool: spool)
  }

  private func size(_ request: inout CreateRequest) {
    request.firstExtent = Self.extent
    request.extentLimit = Self.extent
  }

  private func begin(
    _ rig: inout Rig, _ session: SessionID, _ key: BlobKey, extents: Int = 64
  ) throws -> BlobGrant {
    try need(
      rig.create(session, key) {
        $0.byteCount = extents * Self.extent
        size(&$0)
      })
  }

  private func shared(
    _ rig: inout Rig, _ session: SessionID, _ key: BlobKey
  ) throws -> BlobGrant {
    try need(
      rig.create(session, key, as: .joinable) {
        $0.byteCount = 64 * Self.extent
        size(&$0)
      }?.grant)
  }

  @discardableResult
  private func grow(
    _ rig: inout Rig, _ session: SessionID, _ grant: BlobGrant, _ index: Int
  ) -> Reply? {
    rig.ask(session, .grow(GrowRequest(blob: grant.blob, index: index)))
  }

  @discardableResult
  private func giveBack(
    _ rig: inout Rig, _ session: SessionID, _ grant: BlobGrant, _ index: Int, isFull: Bool = false
  ) -> Reply? {
    rig.ask(
      session, .giveBack(GiveBackRequest(blob: grant.blob, index: index, isFull: isFull)))
  }

  /// Asks for an extent and gives it back.
  private func visit(
    _ rig: inout Rig, _ session: SessionID, _ grant: BlobGrant, _ indices: some Sequence<Int>
  ) {
    for index in indices {
      #expect(grow(&rig, session, grant, index)?.extent?.index == index)
      #expect(giveBack(&rig, session, grant, index) == .done)
    }
  }

  private func attach(
    _ rig: inout Rig, _ session: SessionID, _ grant: BlobGrant, _ index: Int
  ) -> Reply? {
    rig.ask(
      session,
      .attachExtent(ExtentRequest(generation: grant.blob.generation, index: index)))
  }

  private func orders(_ rig: Rig) -> [Int] {
    rig.trace.compactMap { if case .spill(let order) = $0 { order.extent.index } else { nil } }
  }

  private func isRetracted(_ rig: Rig, _ ring: UInt64) -> Bool {
    rig.trace.contains { action in
      if case .retractRing(RingID(rawValue: ring), _) = action { true } else { false }
    }
  }

  // MARK: Holding

  @Test func `a grant says how many extents a publisher may have, so that four of them fit`() throws
  {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer, "big")
    #expect(blob.heldExtentLimit == 2)
    let small = try need(rig.create(writer, "small") { $0.byteCount = 64 << 20 })
    let object = small.plan.limit + small.plan.limit / 8
    #expect(small.heldExtentLimit >= 2)
    #expect(small.heldExtentLimit * object * 4 <= 24 << 20)
    #expect(try need(rig.open(writer, "big")?.grant).heldExtentLimit == 0)
    var bare = Rig(memory: 24 << 20)
    let other = bare.connect()
    #expect(try need(bare.create(other, "b") { $0.byteCount = 1 << 20 }).heldExtentLimit == 0)
  }

  @Test func `what may leave does not make extents that do not fit twice`() throws {
    var rig = rig()
    let writer = rig.connect()
    let refusal = rig.createError(writer, "big") {
      $0.byteCount = 64 << 20
      $0.firstExtent = 8 << 20
      $0.extentLimit = 8 << 20
    }
    #expect(refusal == .noSpaceMemory)
    #expect(rig.createError(writer, "long") { $0.byteCount = 2 << 30 } == .noSpaceSpool)
  }

  @Test func `an extent that somebody has for writing stays in memory`() throws {
    var rig = rig()
    rig.partial = Set(0..<64)
    let writer = rig.connect()
    let blob = try begin(&rig, writer, "big")
    let held = try need(grow(&rig, writer, blob, 5)?.extent)
    visit(&rig, writer, blob, 6..<50)
    #expect(rig.ledger.usedByteCount <= 24 << 20)
    #expect(!orders(rig).isEmpty && !orders(rig).contains(5) && !orders(rig).contains(0))
    #expect(!isRetracted(rig, held.ringID))
    giveBack(&rig, writer, blob, 5)
    visit(&rig, writer, blob, 50..<64)
    // Given back after the others, and of no use for longer than those that came later.
    visit(&rig, writer, blob, (6..<30))
    #expect(isRetracted(rig, held.ringID))
  }

  @Test func `an extent that two have leaves when both have given it back`() throws {
    var rig = rig()
    rig.partial = Set(0..<64)
    let (first, second) = (rig.connect(), rig.connect(process: 101))
    let blob = try shared(&rig, first, "big")
    let joined = try need(rig.join(second, "big")?.grant)
    #expect(joined.heldExtentLimit == blob.heldExtentLimit)
    for session in [first, second] { grow(&rig, session, blob, 3) }
    giveBack(&rig, first, blob, 3)
    visit(&rig, first, blob, 10..<50)
    #expect(!orders(rig).contains(3))
    giveBack(&rig, second, blob, 3)
    visit(&rig, first, blob, 10..<50)
    #expect(orders(rig).contains(3))
  }

  @Test func `giving back what one does not have changes nothing`() throws {
    var rig = rig()
    let (first, second) = (rig.connect(), rig.connect(process: 101))
    let blob = try shared(&rig, first, "big")
    grow(&rig, first, blob, 3)
    #expect(giveBack(&rig, second, blob, 3) == .done)
    #expect(giveBack(&rig, first, blob, 60) == .done)
    visit(&rig, first, blob, 10..<50)
    #expect(!orders(rig).contains(3))
  }

  @Test func `a grant that did not arrive holds nothing`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer, "big")
    let number = rig.post(writer, .grow(GrowRequest(blob: blob.blob, index: 3)))
    rig.send(.undelivered(writer, number: number))
    visit(&rig, writer, blob, 10..<50)
    #expect(orders(rig).contains(3))
  }

  // MARK: Leaving and coming back

  @Test func `what was given back first leaves first, but full ones before all others`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer, "big")
    giveBack(&rig, writer, blob, 0)
    for index in 1..<10 {
      grow(&rig, writer, blob, index)
      giveBack(&rig, writer, blob, index, isFull: index == 7)
    }
    visit(&rig, writer, blob, [0])
    visit(&rig, writer, blob, 10..<40)
    #expect(Array(orders(rig).prefix(4)) == [7, 1, 2, 3])
    let place = try need(orders(rig).firstIndex(of: 0))
    #expect(place > (orders(rig).firstIndex(of: 9) ?? .max))
  }

  @Test func `a partly covered extent leaves for a scratch file and comes back by a grow`() throws {
    var rig = rig()
    rig.partial = Set(0..<64)
    let (writer, reader) = (rig.connect(), rig.connect(process: 101))
    let blob = try begin(&rig, writer, "big")
    visit(&rig, writer, blob, 1..<40)
    #expect(rig.scratches[blob.blob.generation]?.contains(1) == true)
    let opened = try need(rig.open(reader, "big")?.grant)
    #expect(opened.extentEnd == 40)
    #expect(
      attach(&rig, reader, opened, 1)
        == .scratch(
          ScratchGrant(
            index: 1, writer: blob.blob.generation, dataByteCount: Self.extent)))
    let info = try need(rig.info(reader, "big"))
    let files = rig.scratches[blob.blob.generation]?.count ?? 0
    #expect(info.spilledByteCount == files * Rig.scratchByteCount)
    let version = try need(rig.trace.posts.last).extentVersion
    #expect(grow(&rig, writer, blob, 1)?.extent?.index == 1)
    #expect(rig.scratches[blob.blob.generation]?.contains(1) == false)
    #expect(try need(rig.trace.posts.last).extentVersion != version)
    #expect(attach(&rig, reader, opened, 1)?.extent?.index == 1)
    #expect(try need(rig.statistics(reader)).restoreCount == 1)
  }

  @Test func `who asks for what is coming back waits for it, and gets it once it is there`() throws
  {
    var rig = rig()
    rig.partial = Set(0..<64)
    let (first, second) = (rig.connect(), rig.connect(process: 101))
    let blob = try shared(&rig, first, "big")
    _ = rig.join(second, "big")
    visit(&rig, first, blob, 1..<40)
    rig.holdsRestores = true
    let numbers = [first, second].map {
      rig.post($0, .grow(GrowRequest(blob: blob.blob, index: 1)))
    }
    #expect(rig.reply(first, numbers[0]) == nil && rig.reply(second, numbers[1]) == nil)
    // Until then readers have the file.
    guard case .scratch = attach(&rig, first, blob, 1) else {
      if rig.open(first, "big") == nil { Issue.record("not open") }
      guard case .scratch = attach(&rig, first, blob, 1) else {
        Issue.record("extent 1 is nowhere")
        return
      }
      return
    }
    let order = try need(restores(rig).last)
    rig.send(.restored(order.ring, nil))
    #expect(rig.reply(first, numbers[0])?.extent == rig.reply(second, numbers[1])?.extent)
    #expect(rig.reply(first, numbers[0])?.extent?.index == 1)
  }

  private func restores(_ rig: Rig) -> [RestoreOrder] {
    rig.trace.compactMap { if case .restore(let order) = $0 { order } else { nil } }
  }

  @Test func `an extent of which nothing is covered leaves no trace`() throws {
    var rig = rig()
    rig.untouched = Set(0..<64)
    let writer = rig.connect()
    let blob = try begin(&rig, writer, "big")
    visit(&rig, writer, blob, 1..<40)
    #expect(rig.containers.isEmpty && rig.scratches.isEmpty)
    #expect(try need(rig.statistics(writer)).spoolByteCount == 0)
    #expect(grow(&rig, writer, blob, 1)?.extent?.index == 1)
    #expect(restores(rig).isEmpty)
  }

  @Test func `a full extent on disk is not given to write into`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer, "big")
    visit(&rig, writer, blob, 1..<40)
    #expect(grow(&rig, writer, blob, 1)?.code == .rangeOverlap)
    #expect(restores(rig).isEmpty)
  }

  @Test func `an extent that is wanted again while it is copied stays, and the copy goes`() throws {
    var rig = rig()
    rig.partial = Set(0..<64)
    rig.holdsSpills = true
    let writer = rig.connect()
    let blob = try begin(&rig, writer, "big")
    var index = 1
    while orders(rig).isEmpty {
      visit(&rig, writer, blob, [index])
      index += 1
    }
    let spilled = try need(orders(rig).first)
    let held = try need(grow(&rig, writer, blob, spilled)?.extent)
    let standing = ScratchStanding(fileByteCount: 8192, coveredByteCount: 5, frontier: 0)
    rig.send(.spilled(blob.blob.generation, .partial(standing)))
    #expect(!isRetracted(rig, held.ringID))
    #expect(rig.trace.contains(.dropScratch(blob.blob.generation, index: spilled)))
  }

  @Test func `a damaged scratch file fails the blob for everybody`() throws {
    var rig = rig()
    rig.partial = Set(0..<64)
    rig.restoreError = PatchbayError(.corrupt, "damaged")
    let (first, second) = (rig.connect(), rig.connect(process: 101))
    let blob = try shared(&rig, first, "big")
    _ = rig.join(second, "big")
    visit(&rig, first, blob, 1..<40)
    #expect(grow(&rig, first, blob, 1)?.code == .corrupt)
    #expect(
      try need(rig.trace.posts.last { $0.generation == blob.blob.generation }).state == .failed)
    #expect(grow(&rig, second, blob, 50)?.code == .closed)
    rig.restoreError = nil
  }

  @Test func `a scratch file that cannot be read now is an answer, and is tried again`() throws {
    var rig = rig()
    rig.partial = Set(0..<64)
    rig.restoreError = PatchbayError(.limitReached, "no descriptor left")
    let writer = rig.connect()
    let blob = try begin(&rig, writer, "big")
    visit(&rig, writer, blob, 1..<40)
    #expect(grow(&rig, writer, blob, 1)?.code == .limitReached)
    rig.restoreError = nil
    #expect(grow(&rig, writer, blob, 1)?.extent?.index == 1)
  }

  @Test(arguments: [true, false])
  func `what may have been written since it was copied stays`(isEmpty: Bool) throws {
    var rig = rig()
    rig.partial = Set(0..<64)
    rig.holdsSpills = true
    let writer = rig.connect()
    let blob = try begin(&rig, writer, "big")
    var index = 1
    while orders(rig).isEmpty {
      visit(&rig, writer, blob, [index])
      index += 1
    }
    let spilled = try need(orders(rig).first)
    let held = try need(grow(&rig, writer, blob, spilled)?.extent)
    giveBack(&rig, writer, blob, spilled)
    let standing = ScratchStanding(fileByteCount: 8192, coveredByteCount: 5, frontier: 0)
    rig.send(.spilled(blob.blob.generation, isEmpty ? .empty : .partial(standing)))
    #expect(!isRetracted(rig, held.ringID))
  }

  @Test func `a blob is not taken over while its container is completed`() throws {
    var rig = rig()
    rig.partial = Set(stride(from: 0, to: 64, by: 2))
    rig.holdsPersists = true
    rig.holdsCopies = true
    let (writer, other) = (rig.connect(), rig.connect(process: 101))
    let blob = try need(
      rig.create(writer, "kept") {
        $0.byteCount = 60 * Self.extent
        size(&$0)
        $0.acknowledgement = .retained
      })
    visit(&rig, writer, blob, 1..<60)
    rig.post(writer, .seal(SealRequest(blob: blob.blob, byteCount: 60 * Self.extent)))
    rig.send(.exited(writer))
    _ = rig.create(other, "kept", as: .exclusive, resumes: true) {
      $0.byteCount = 60 * Self.extent
      size(&$0)
      $0.acknowledgement = .retained
    }
    let place = rig.trace.place { if case .persist = $0 { true } else { false } }
    #expect(place != nil)
    let adopts = rig.trace.place { if case .adopt = $0 { true } else { false } }
    #expect(adopts == nil)
  }

  @Test func `of two grants at once one that did not arrive takes nothing away`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer, "big")
    rig.holdsRings = true
    let first = rig.post(writer, .grow(GrowRequest(blob: blob.blob, index: 5)))
    let second = rig.post(writer, .grow(GrowRequest(blob: blob.blob, index: 5)))
    rig.holdsRings = false
    var made: RingID?
    for case .createRing(let ring, 5, _, _, _) in rig.trace { made = ring }
    let ring = try need(made)
    rig.send(.ringCreated(ring, inode: 5))
    #expect(rig.reply(writer, first)?.extent != nil && rig.reply(writer, second)?.extent != nil)
    rig.send(.undelivered(writer, number: first))
    #expect(rig.ledger.blobs[blob.blob.generation]?.patchwork.isHeld(5) == true)
  }

  @Test func `files are not shared between access classes`() throws {
    var rig = rig()
    rig.partial = Set(stride(from: 0, to: 64, by: 2))
    let (writer, other) = (rig.connect(), rig.connect(process: 101))
    let blob = try need(
      rig.create(writer, "big") {
        $0.byteCount = 64 * Self.extent
        $0.mode = 0o644
        size(&$0)
      })
    visit(&rig, writer, blob, 1..<60)
    rig.abandon(writer, blob.blob)
    _ = resume(&rig, other)
    var shared = false
    for case .adopt(let order) in rig.trace { shared = order.hasContainer }
    #expect(!shared)
  }

  // MARK: Taking over

  /// A blob with extents in memory, in the container and in scratch files, whose publisher has gone.
  private func failed(_ rig: inout Rig, _ writer: SessionID) throws -> BlobGrant {
    rig.partial = Set(stride(from: 0, to: 64, by: 2))
    let blob = try begin(&rig, writer, "big")
    visit(&rig, writer, blob, 1..<60)
    rig.abandon(writer, blob.blob)
    return blob
  }

  private func resume(_ rig: inout Rig, _ session: SessionID) -> Reply? {
    rig.create(session, "big", as: .exclusive, resumes: true) {
      $0.byteCount = 64 * Self.extent
      size(&$0)
    }
  }

  @Test func `a failed blob on disk is taken over without memory, and the old one's readers go on`()
    throws
  {
    var rig = rig()
    let (writer, reader, other) = (
      rig.connect(), rig.connect(process: 101), rig.connect(process: 102)
    )
    let old = try failed(&rig, writer)
    let before = try need(rig.open(reader, "big", observes: true)?.grant)
    let resumed = try need(resume(&rig, other)?.grant)
    #expect(resumed.extentEnd == 60 && resumed.extent == nil)
    for index in 0..<60 {
      let here = attach(&rig, reader, before, index)
      _ = rig.open(other, "big")
      switch attach(&rig, other, resumed, index) {
      case .spooled: #expect(index % 2 == 1 && here?.error == nil)
      case .scratch: #expect(index % 2 == 0 && here?.error == nil)
      case let reply: Issue.record("extent \(index): \(String(describing: reply))")
      }
    }
    #expect(grow(&rig, other, resumed, 2)?.extent?.index == 2)
    #expect(grow(&rig, other, resumed, 1)?.code == .rangeOverlap)
    rig.closeObserver(reader, before.reader)
    #expect(rig.containers[old.blob.generation] == nil)
    #expect(rig.containers[resumed.blob.generation] != nil)
  }

  @Test func `a take-over that fails leaves the failed blob as it was, to be taken over again`()
    throws
  {
    var rig = rig()
    let (writer, other) = (rig.connect(), rig.connect(process: 101))
    let old = try failed(&rig, writer)
    rig.spillResult = .failed(PatchbayError(.noSpaceSpool, "full"), containerByteCount: nil)
    let before = try need(rig.statistics(other)).spoolByteCount
    #expect(resume(&rig, other)?.code == .noSpaceSpool)
    #expect(rig.containers.keys.elementsEqual([old.blob.generation]))
    #expect(try need(rig.statistics(other)).spoolByteCount == before)
    rig.spillResult = nil
    #expect(try need(resume(&rig, other)?.grant).extentEnd == 60)
  }

  @Test func `whoever goes while a blob is taken over leaves no file behind`() throws {
    var rig = rig()
    let (writer, other) = (rig.connect(), rig.connect(process: 101))
    let old = try failed(&rig, writer)
    rig.holdsCopies = true
    _ = resume(&rig, other)
    var copy: CopyID?
    for case .adopt(let order) in rig.trace { copy = order.copy }
    rig.send(.exited(other))
    let adoption = Adoption(containerByteCount: 0, whole: [], scratch: [:])
    let decided = rig.send(.adopted(try need(copy), .success(adoption)))
    let target = Generation(rawValue: old.blob.generation.rawValue + 1)
    #expect(decided == [.removeContainer(target)])
  }

  // MARK: Ends

  @Test func `a process that hung up and lives keeps all of the blob in memory until it is gone`()
    throws
  {
    var rig = rig()
    let (first, second) = (rig.connect(), rig.connect(process: 101))
    let blob = try shared(&rig, first, "big")
    _ = rig.join(second, "big")
    visit(&rig, first, blob, 1..<4)
    rig.send(.hungUp(second))
    var index = 4
    var number: UInt64 = 0
    repeat {
      number = rig.post(first, .grow(GrowRequest(blob: blob.blob, index: index)))
      giveBack(&rig, first, blob, index)
      index += 1
    } while rig.reply(first, number) != nil && index < 60
    #expect(orders(rig).isEmpty && index < 60)
    rig.send(.exited(second))
    #expect(rig.reply(first, number)?.extent != nil)
    #expect(!orders(rig).isEmpty)
  }

  @Test func `who waits for a process to be gone that lives on is told in a while`() throws {
    var rig = rig()
    let (first, second) = (rig.connect(), rig.connect(process: 101))
    let blob = try shared(&rig, first, "big")
    _ = rig.join(second, "big")
    rig.send(.hungUp(second))
    var index = 1
    while grow(&rig, first, blob, index) != nil { index += 1 }
    #expect(index < 60)
    let before = rig.trace.count
    rig.pass(.seconds(2))
    rig.send(.tick)
    #expect(
      rig.trace[before...].contains { action in
        if case .reply(first, _, .failure(let error), _) = action {
          return error.code == .noSpaceMemory
        }
        return false
      })
  }

  @Test func `what a dead process had can leave, and its blob goes on`() throws {
    var rig = rig()
    rig.partial = Set(0..<64)
    let (first, second) = (rig.connect(), rig.connect(process: 101))
    let blob = try shared(&rig, first, "big")
    _ = rig.join(second, "big")
    for index in [3, 4] { grow(&rig, second, blob, index) }
    rig.send(.exited(second))
    visit(&rig, first, blob, 10..<60)
    #expect(orders(rig).contains(3) && orders(rig).contains(4))
    #expect(grow(&rig, first, blob, 3)?.extent?.index == 3)
  }

  @Test func `a suspended blob leaves memory, and whoever joins finds all of it`() throws {
    var rig = rig()
    rig.partial = [1, 2, 3]
    let (first, second) = (rig.connect(), rig.connect(process: 101))
    let blob = try shared(&rig, first, "big")
    for index in 1..<4 { grow(&rig, first, blob, index) }
    #expect(rig.ask(first, .leave(blob.blob)) == .done)
    let other = try begin(&rig, second, "other")
    visit(&rig, second, other, 1..<60)
    #expect(rig.scratches[blob.blob.generation] == [1, 2, 3])
    let joined = try need(rig.join(first, "big")?.grant)
    for index in 1..<4 { #expect(grow(&rig, first, joined, index)?.extent?.index == index) }
  }

  @Test func `a seal looks into all places, and what a scratch file holds goes to the container`()
    throws
  {
    var rig = rig()
    rig.partial = [1]
    let (writer, other) = (rig.connect(), rig.connect(process: 101))
    let blob = try need(rig.create(writer, "grown") { size(&$0) })
    visit(&rig, writer, blob, [1])
    giveBack(&rig, writer, blob, 0)
    let filler = try begin(&rig, other, "filler")
    visit(&rig, other, filler, 1..<40)
    #expect(rig.scratches[blob.blob.generation] == [1])
    rig.holdsInspections = true
    let number = rig.post(
      writer, .seal(SealRequest(blob: blob.blob, byteCount: Self.extent + 100)))
    guard case .inspect(let inspection, _, let onDisk, _, _, let end) = try need(rig.trace.last)
    else {
      Issue.record("nothing is looked at")
      return
    }
    #expect(onDisk.whole == [0] && onDisk.scratch.map(\.index) == [1])
    rig.send(
      .inspected(
        inspection, .success(Coverage(coveredByteCount: end, missing: []))))
    #expect(rig.reply(writer, number) == .done)
    visit(&rig, other, filler, 40..<64)
    #expect(rig.scratches[blob.blob.generation]?.isEmpty == true)
    let opened = try need(rig.open(other, "grown")?.grant)
    guard case .spooled = attach(&rig, other, opened, 1) else {
      Issue.record("extent 1 did not reach the container")
      return
    }
  }

  @Test func `a seal that outlives the broker takes what a scratch file holds along`() throws {
    var rig = rig()
    rig.partial = [1]
    rig.holdsPersists = true
    let (writer, other) = (rig.connect(), rig.connect(process: 101))
    let blob = try need(
      rig.create(writer, "kept") {
        size(&$0)
        $0.acknowledgement = .retained
      })
    visit(&rig, writer, blob, [1])
    giveBack(&rig, writer, blob, 0)
    let filler = try begin(&rig, other, "filler")
    visit(&rig, other, filler, 1..<40)
    #expect(rig.scratches[blob.blob.generation] == [1])
    let length = Self.extent + 100
    let number = rig.post(writer, .seal(SealRequest(blob: blob.blob, byteCount: length)))
    var persists: [PersistOrder] = []
    for case .persist(let order) in rig.trace { persists.append(order) }
    let order = try need(persists.last)
    #expect(order.scratch.map(\.index) == [1] && order.extents.isEmpty)
    #expect(order.range(of: 1, order.scratch[0].dataByteCount) == Self.extent..<length)
    rig.send(.persisted(blob.blob.generation, .done(containerByteCount: 2 * Self.extent)))
    #expect(rig.reply(writer, number) == .done)
    #expect(rig.scratches[blob.blob.generation]?.isEmpty == true)
    let opened = try need(rig.open(other, "kept")?.grant)
    guard case .spooled = attach(&rig, other, opened, 1) else {
      Issue.record("extent 1 is not in the container")
      return
    }
    #expect(rig.info(other, "kept")?.spilledByteCount == 2 * Self.extent)
  }

  @Test func `scratch files go with their blob, and count against the limit of the disk`() throws {
    var rig = rig(spool: 3 << 20)
    rig.partial = Set(0..<64)
    let writer = rig.connect()
    let blob = try begin(&rig, writer, "big", extents: 24)
    var refusal: PatchbayError?
    for index in 1..<24 where refusal == nil {
      refusal = grow(&rig, writer, blob, index)?.error
      giveBack(&rig, writer, blob, index)
    }
    #expect(refusal == nil)
    let statistics = try need(rig.statistics(writer))
    #expect(statistics.spoolByteCount > 0 && statistics.spoolByteCount <= 3 << 20)
    rig.abandon(writer, blob.blob)
    rig.ask(writer, .remove(RemoveRequest(key: "big", generation: nil)))
    #expect(rig.scratches.isEmpty)
    #expect(try need(rig.statistics(writer)).spoolByteCount == 0)
  }

  @Test func `what stands far away from the rest waits in a scratch file, full or not`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try need(
      rig.create(writer, "sparse") {
        $0.firstExtent = 256 << 10
        $0.extentLimit = 256 << 10
      })
    for index in 0..<120 {
      grow(&rig, writer, blob, 4_000_000 + index)
      giveBack(&rig, writer, blob, 4_000_000 + index, isFull: true)
    }
    #expect(rig.scratches[blob.blob.generation]?.contains(4_000_000) == true)
    #expect(grow(&rig, writer, blob, 4_000_000)?.extent?.index == 4_000_000)
  }
}
