// What leaves memory for the disk, when, and who waits for it.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct SpillTests {
  private func attach(
    _ rig: inout Rig, _ session: SessionID, _ grant: BlobGrant, _ index: Int
  ) -> Reply? {
    rig.ask(
      session,
      .attachExtent(ExtentRequest(generation: grant.blob.generation, index: index)))
  }

  @Test func `a stream longer than memory goes on, and all of it can be read`() throws {
    var rig = Rig.spooling()
    let (writer, reader) = (rig.connect(), rig.connect(process: 101))
    let blob = try rig.begin(writer, "stream", .visible)
    for index in 1..<64 {
      #expect(rig.grow(writer, blob, index)?.extent?.index == index)
      #expect(rig.ledger.usedByteCount <= 16 << 20)
    }
    let seal = SealRequest(blob: blob.blob, byteCount: 64 * Rig.extent)
    #expect(rig.ask(writer, .seal(seal)) == .done)
    let opened = try need(rig.open(reader, "stream")?.grant)
    #expect(opened.extentEnd == 64)
    for index in 0..<64 {
      switch attach(&rig, reader, opened, index) {
      case .extent(let granted): #expect(granted.index == index)
      case .spooled(let granted): #expect(granted.index == index)
      case let other: Issue.record("extent \(index): \(String(describing: other))")
      }
    }
    let statistics = try need(rig.statistics(reader))
    #expect(statistics.spillCount > 48)
    #expect(statistics.spoolByteCount == UInt64(statistics.spillCount) * UInt64(Rig.extent))
    let info = try need(rig.info(reader, "stream"))
    #expect(info.spilledByteCount == Int(statistics.spoolByteCount))
    #expect(info.residentByteCount < 16 << 20)
  }

  @Test func `the first extent of an open blob, and the last two, stay in memory`() throws {
    var rig = Rig.spooling()
    let writer = rig.connect()
    let blob = try rig.begin(writer, "stream", .visible)
    for index in 1..<30 { _ = rig.grow(writer, blob, index) }
    var indices: [Int] = []
    for case .spill(let order) in rig.trace { indices.append(order.extent.index) }
    #expect(!indices.isEmpty)
    #expect(indices == Array(1...indices.count))
    #expect(indices.count < 28)
  }

  @Test func `who finds no memory waits until a ring has come back`() throws {
    var rig = Rig.spooling()
    rig.holdsSpills = true
    let writer = rig.connect()
    let blob = try rig.begin(writer, "stream", .visible)
    var index = 1
    while rig.grow(writer, blob, index) != nil { index += 1 }
    #expect(index > 10)
    let waiting = try need(rig.trace.last { if case .spill = $0 { true } else { false } })
    guard case .spill(let order) = waiting else { return }
    let before = rig.trace.count
    rig.send(.spilled(order.generation, .done(containerByteCount: Rig.extent)))
    var granted: [Int] = []
    for case .reply(writer, _, .extent(let extent), _) in rig.trace[before...] {
      granted.append(extent.index)
    }
    #expect(granted == [index])
  }

  @Test func `an extent that somebody views keeps its ring until the view ends`() throws {
    var rig = Rig.spooling()
    let writer = rig.connect()
    let grant = try need(rig.sealed(writer, "viewed", byteCount: 1 << 20))
    let ring = try need(grant.extent.map { RingID(rawValue: $0.ringID) })
    rig.viewed = [ring]
    let reader = rig.connect(process: 101)
    let opened = try need(rig.open(reader, "viewed")?.grant)
    let stream = try rig.begin(writer, "stream", .visible)
    for index in 1..<12 { _ = rig.grow(writer, stream, index) }
    guard case .spooled = attach(&rig, reader, opened, 0) else {
      Issue.record("the sealed blob did not leave memory")
      return
    }
    #expect(!rig.freed.contains(ring))
    #expect(!rig.trace.reused.contains(ring))
    rig.viewed = []
    rig.pass(.milliseconds(100))
    rig.send(.tick)
    #expect(rig.freed.contains(ring) || rig.trace.reused.contains(ring))
  }

  @Test func `a full spool lets go what may go, then refuses, and recovers`() throws {
    var rig = Rig.spooling(spool: 8 << 20)
    let writer = rig.connect()
    let old = try need(rig.sealed(writer, "old", byteCount: 1 << 20))
    let blob = try rig.begin(writer, "stream", .visible)
    var refusal: PatchbayError?
    for index in 1..<64 {
      guard let error = rig.grow(writer, blob, index)?.error else { continue }
      refusal = error
      break
    }
    #expect(refusal?.code == .noSpaceSpool)
    #expect(attach(&rig, writer, old, 0)?.code == .closed)
    #expect(rig.info(writer, "old") == nil)
    #expect(try need(rig.statistics(writer)).spoolByteCount <= 8 << 20)
    #expect(rig.abandon(writer, blob.blob) == .done)
    rig.pass(.seconds(2))
    rig.send(.tick)
    #expect(rig.create(writer, "next", { $0.byteCount = 1 << 20 }) != nil)
  }

  @Test func `a disk that is full is an answer, and is not asked again at once`() throws {
    var rig = Rig.spooling()
    rig.spillResult = .failed(
      PatchbayError(.noSpaceSpool, "full"), containerByteCount: 0)
    let writer = rig.connect()
    let blob = try rig.begin(writer, "stream", .visible)
    var index = 1
    var refusal: PatchbayError?
    while refusal == nil, index < 64 {
      refusal = rig.grow(writer, blob, index)?.error
      index += 1
    }
    #expect(refusal?.code == .noSpaceSpool)
    func spillCount(_ rig: Rig) -> Int {
      rig.trace.count { if case .spill = $0 { true } else { false } }
    }
    let tried = spillCount(rig)
    _ = rig.grow(writer, blob, index)
    #expect(spillCount(rig) == tried)
    rig.spillResult = nil
    rig.pass(.seconds(1))
    rig.send(.tick)
    #expect(spillCount(rig) > tried)
    #expect(rig.grow(writer, blob, index - 1)?.extent?.index == index - 1)
  }

  @Test func `what a broker is short of for a while does not keep a blob in memory for good`()
    throws
  {
    var rig = Rig.spooling()
    rig.spillResult = .failed(
      PatchbayError(.limitReached, "no descriptor left"), containerByteCount: nil)
    let writer = rig.connect()
    let blob = try rig.begin(writer, "stream", .visible)
    var index = 1
    var refusal: PatchbayError?
    while refusal == nil, index < 64 {
      refusal = rig.grow(writer, blob, index)?.error
      index += 1
    }
    #expect(refusal?.code == .limitReached)
    // What was set aside for it is free again.
    #expect(try need(rig.statistics(writer)).spoolByteCount == 0)
    rig.spillResult = nil
    rig.pass(.seconds(1))
    rig.send(.tick)
    #expect(rig.grow(writer, blob, index - 1)?.extent?.index == index - 1)
  }

  @Test func `a container that cannot be written keeps its blob in memory`() throws {
    var rig = Rig.spooling()
    rig.spillResult = .failed(
      PatchbayError(.inputOutput, "broken"), containerByteCount: 0)
    let writer = rig.connect()
    _ = try need(rig.sealed(writer, "a", byteCount: 1 << 20))
    let blob = try rig.begin(writer, "stream", .visible)
    var index = 1
    while index < 64, rig.grow(writer, blob, index)?.error == nil { index += 1 }
    #expect(index < 64)
    // The sealed one was evicted in the end, as without a spool.
    #expect(rig.info(writer, "a") == nil)
  }

  @Test func `what was not full yet is tried again when its publisher has gone on`() throws {
    var rig = Rig.spooling()
    rig.spillResult = .incomplete
    let writer = rig.connect()
    let blob = try rig.begin(writer, "stream", .visible)
    for index in 1..<13 { _ = rig.grow(writer, blob, index) }
    rig.spillResult = nil
    let before = rig.trace.count
    _ = rig.grow(writer, blob, 13)
    #expect(rig.trace[before...].contains { if case .spill = $0 { true } else { false } })
  }

  @Test func `a container goes with its blob`() throws {
    var rig = Rig.spooling()
    let writer = rig.connect()
    _ = try need(rig.sealed(writer, "gone", byteCount: 1 << 20))
    let blob = try rig.begin(writer, "stream", .visible)
    for index in 1..<13 { _ = rig.grow(writer, blob, index) }
    #expect(rig.containers.count == 2)
    rig.ask(writer, .remove(RemoveRequest(key: "gone", generation: nil)))
    #expect(rig.containers.count == 1)
    rig.abandon(writer, blob.blob)
    rig.ask(writer, .remove(RemoveRequest(key: "stream", generation: nil)))
    #expect(rig.containers.isEmpty)
    #expect(try need(rig.statistics(writer)).spoolByteCount == 0)
  }

  @Test func `a session that ends while it waits for memory gets nothing`() throws {
    var rig = Rig.spooling()
    rig.holdsSpills = true
    let writer = rig.connect()
    let blob = try rig.begin(writer, "stream", .visible)
    var index = 1
    while rig.grow(writer, blob, index) != nil { index += 1 }
    rig.send(.hungUp(writer))
    rig.send(.exited(writer))
    let before = rig.trace.count
    rig.send(.spilled(blob.blob.generation, .done(containerByteCount: Rig.extent)))
    #expect(!rig.trace[before...].contains { if case .reply = $0 { true } else { false } })
    #expect(rig.ledger.spilling.line.count == 0)
  }

  // MARK: What else wants an extent

  private func orders(_ rig: Rig) -> [SpillOrder] {
    rig.trace.compactMap { if case .spill(let order) = $0 { order } else { nil } }
  }

  private func isRetracted(_ rig: Rig, _ order: SpillOrder) -> Bool {
    rig.trace.contains { action in
      if case .retractRing(order.extent.ring, _) = action { true } else { false }
    }
  }

  private func beginLarge(
    _ rig: inout Rig, _ session: SessionID, _ key: BlobKey
  ) throws -> BlobGrant {
    try need(
      rig.create(session, key) {
        $0.order = .appendOnly
        $0.firstExtent = 5 << 20
        $0.extentLimit = 5 << 20
      })
  }

  @Test func `the last ring on its way is waited for`() throws {
    var rig = Rig.spooling()
    rig.holdsSpills = true
    let writer = rig.connect()
    let blob = try beginLarge(&rig, writer, "stream")
    for index in 1...2 { #expect(rig.grow(writer, blob, index)?.extent?.index == index) }
    let number = rig.post(writer, .grow(GrowRequest(blob: blob.blob, index: 3)))
    #expect(rig.reply(writer, number) == nil)
    rig.send(.spilled(blob.blob.generation, .done(containerByteCount: 5 << 20)))
    #expect(rig.reply(writer, number)?.extent?.index == 3)
  }

  @Test func `what was not full when it was looked at is looked at again when memory is wanted`()
    throws
  {
    var rig = Rig.spooling()
    rig.spillResult = .incomplete
    let writer = rig.connect()
    let blob = try beginLarge(&rig, writer, "stream")
    for index in 1...2 { _ = rig.grow(writer, blob, index) }
    #expect(!orders(rig).isEmpty)
    rig.spillResult = nil
    #expect(rig.grow(writer, blob, 3)?.extent?.index == 3)
  }

  @Test func `eviction for memory leaves alone what stands on disk only`() throws {
    var rig = Rig.spooling()
    let writer = rig.connect()
    let keys = (0..<40).map { BlobKey(stringLiteral: "k\($0)") }
    for key in keys[..<20] { _ = rig.sealed(writer, key, byteCount: 1 << 20) }
    let onDisk = keys[..<20].filter { rig.info(writer, $0)?.residentByteCount == 0 }
    #expect(!onDisk.isEmpty)
    rig.spillResult = .failed(PatchbayError(.inputOutput, "broken"), containerByteCount: 0)
    for key in keys[20...] { _ = rig.sealed(writer, key, byteCount: 1 << 20) }
    #expect(rig.ledger.evictionCount > 0)
    for key in onDisk { #expect(rig.info(writer, key) != nil, "\(key)") }
  }

  @Test func `a full spool takes nothing from those that have nothing there`() throws {
    var rig = Rig.spooling(spool: 4 << 20)
    let writer = rig.connect()
    let keys = (0..<50).map { BlobKey(stringLiteral: "tiny\($0)") }
    for key in keys { _ = rig.create(writer, key) { $0.inlineBytes = [1, 2, 3] } }
    let blob = try rig.begin(writer, "stream", .visible)
    var index = 1
    while index < 30, rig.grow(writer, blob, index)?.error == nil { index += 1 }
    #expect(index < 30)
    // Refused because of the disk, they are not what could make room there.
    #expect(keys.count { rig.info(writer, $0) != nil } == 50)
  }

  @Test func `a blob that a ghost had open leaves memory when the ghost is gone`() throws {
    var rig = Rig.spooling()
    let (writer, reader) = (rig.connect(), rig.connect(process: 101))
    _ = try need(rig.sealed(writer, "a", byteCount: 1 << 20))
    _ = rig.open(reader, "a")
    rig.send(.hungUp(reader))
    let blob = try rig.begin(writer, "stream", .visible)
    for index in 1..<14 { _ = rig.grow(writer, blob, index) }
    #expect(rig.info(writer, "a")?.residentByteCount ?? 0 > 0)
    rig.send(.exited(reader))
    for index in 14..<30 { _ = rig.grow(writer, blob, index) }
    #expect(rig.info(writer, "a")?.residentByteCount == 0)
  }

  @Test func `an extent that is being copied for a heir stays`() throws {
    var rig = Rig.spooling()
    rig.holdsSpills = true
    rig.holdsCopies = true
    let (writer, other) = (rig.connect(), rig.connect(process: 101))
    let blob = try rig.begin(writer, "stream", .visible)
    for index in 1..<3 { _ = rig.grow(writer, blob, index) }
    var fillers: [BlobGrant] = []
    for index in 0..<10 {
      let key = BlobKey(stringLiteral: "f\(index)")
      fillers.append(try need(rig.create(other, key) { $0.byteCount = 1 << 20 }))
    }
    _ = rig.grow(writer, blob, 3)
    let order = try need(orders(rig).first)
    rig.abandon(writer, blob.blob)
    for (index, filler) in fillers.enumerated() {
      rig.abandon(other, filler.blob)
      let key = BlobKey(stringLiteral: "f\(index)")
      rig.ask(other, .remove(RemoveRequest(key: key, generation: nil)))
    }
    _ = rig.create(other, "stream", as: .exclusive, resumes: true) {
      $0.order = .appendOnly
      $0.firstExtent = Rig.extent
      $0.extentLimit = Rig.extent
    }
    #expect(rig.trace.contains { if case .copy = $0 { true } else { false } })
    rig.send(.spilled(order.generation, .done(containerByteCount: Rig.extent)))
    #expect(!isRetracted(rig, order))
  }

  @Test func `what stands on disk cannot be resumed, and nothing of it is lost`() throws {
    var rig = Rig.spooling()
    let (writer, other) = (rig.connect(), rig.connect(process: 101))
    let blob = try rig.begin(writer, "stream", .visible)
    for index in 1..<20 { _ = rig.grow(writer, blob, index) }
    let reader = try need(rig.open(other, "stream")?.grant)
    rig.send(.exited(writer))
    let reply = rig.create(other, "stream", as: .exclusive, resumes: true) {
      $0.order = .appendOnly
      $0.firstExtent = Rig.extent
      $0.extentLimit = Rig.extent
    }
    #expect(reply?.error?.message.contains("has left memory") == true)
    #expect(rig.containers.count == 1)
    guard case .spooled = attach(&rig, other, reader, 1) else {
      Issue.record("extent 1 is gone")
      return
    }
  }

  @Test func `an extent that a seal looks at stays until it has been looked at`() throws {
    var rig = Rig.spooling()
    rig.holdsSpills = true
    rig.holdsInspections = true
    let writer = rig.connect()
    let blob = try beginLarge(&rig, writer, "stream")
    for index in 1...2 { _ = rig.grow(writer, blob, index) }
    let order = try need(orders(rig).first)
    let number = rig.post(writer, .seal(SealRequest(blob: blob.blob, byteCount: 15 << 20)))
    rig.send(.spilled(order.generation, .done(containerByteCount: 5 << 20)))
    #expect(!isRetracted(rig, order))
    rig.holdsSpills = false
    for case .inspect(let inspection, _, _, _, _, let byteCount) in rig.trace {
      rig.send(
        .inspected(
          inspection, .success(Coverage(coveredByteCount: byteCount, missing: []))))
    }
    #expect(rig.reply(writer, number) == .done)
    #expect(isRetracted(rig, order))
  }

  @Test func `a ring that a forgotten process may have mapped is never used again`() throws {
    var rig = Rig.spooling { $0.connectionCount = 2 }
    rig.holdsSpills = true
    let writer = rig.connect()
    let blob = try beginLarge(&rig, writer, "stream")
    for index in 1...2 { _ = rig.grow(writer, blob, index) }
    let order = try need(orders(rig).first)
    rig.send(.hungUp(writer))
    for index in 0..<4 {
      let session = rig.connect(process: Int32(200 + index))
      _ = rig.create(session, BlobKey(stringLiteral: "g\(index)")) { $0.byteCount = 4096 }
      rig.send(.hungUp(session))
    }
    rig.send(.spilled(order.generation, .done(containerByteCount: 5 << 20)))
    #expect(!rig.ledger.pool.resting.keys.contains(order.extent.ring))
    #expect(!rig.trace.reused.contains(order.extent.ring))
  }

  @Test func `what stands far away from the rest is not laid out on disk`() throws {
    var rig = Rig.spooling()
    let writer = rig.connect()
    let blob = try need(
      rig.create(writer, "sparse") {
        $0.order = .appendOnly
        $0.firstExtent = 4096
        $0.extentLimit = 4096
      })
    for index in 0..<13 {
      _ = rig.create(writer, BlobKey(stringLiteral: "h\(index)")) { $0.byteCount = 1 << 20 }
    }
    for index in [4_000_000_000, 4_000_000_001, 4_000_000_002] {
      #expect(rig.grow(writer, blob, index)?.extent?.index == index)
    }
    #expect(orders(rig).isEmpty)
  }

  @Test(arguments: [Acknowledgement.visible, .retained])
  func `a removed blob that somebody still reads makes room for the next`(
    _ level: Acknowledgement
  ) throws {
    var rig = Rig.spooling()
    let (writer, reader) = (rig.connect(), rig.connect(process: 101))
    let blob = try rig.begin(writer, "old", level)
    for index in 1..<10 { #expect(rig.grow(writer, blob, index)?.extent?.index == index) }
    let length = 10 * Rig.extent
    #expect(rig.ask(writer, .seal(SealRequest(blob: blob.blob, byteCount: length))) == .done)
    let opened = try need(rig.open(reader, "old")?.grant)
    #expect(rig.ask(writer, .remove(RemoveRequest(key: "old", generation: nil))) == .done)
    // In one extent: nothing of its own can leave for it.
    let next = rig.create(writer, "new") {
      $0.byteCount = 8 << 20
      $0.firstExtent = 8 << 20
      $0.extentLimit = 8 << 20
    }
    #expect(next?.extent != nil)
    for index in 0..<10 {
      let answer = attach(&rig, reader, opened, index)
      if case .spooled(let granted) = answer {
        #expect(granted.index == index)
      } else {
        #expect(answer?.extent?.index == index)
      }
    }
    #expect(rig.ledger.inconsistency == nil)
    rig.close(reader, opened.reader)
    #expect(rig.ledger.blobs[blob.blob.generation] == nil)
    #expect(
      rig.trace.contains(.removeContainer(blob.blob.generation)))
  }
}
