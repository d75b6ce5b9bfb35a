// The loop over a real socket: requests, blobs, and every way a connection can end.

import Glibc
import PatchbayLayout
import PatchbayLoop
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Testing

@Suite(.serialized) struct LoopTests {
  private func inlineBlob(_ key: BlobKey, _ bytes: [UInt8]) -> CreateRequest {
    var request = CreateRequest(key: key)
    request.inlineBytes = bytes
    request.byteCount = bytes.count
    return request
  }

  // MARK: Blobs

  @Test func `a greeted client gets its table and answers`() throws {
    let broker = try TestBroker()
    let client = try RawClient(broker.scratch.socket)
    let welcome = try client.hello()
    #expect(welcome.instance == broker.loop.instance)
    #expect(welcome.brokerProcess == getpid())
    #expect(try client.call(.ping).reply == .pong)
    guard case .statistics(let statistics) = try client.call(.statistics).reply else {
      Issue.record("no statistics")
      return
    }
    #expect(statistics.clientCount == 1)
    #expect(statistics.memoryLimit == UInt64(broker.loop.memoryLimit))
    #expect(statistics.memoryByteCount >= 4 << 20)
  }

  @Test func `a small blob travels in messages alone`() throws {
    let broker = try TestBroker()
    let publisher = try broker.client()
    let (created, _) = try publisher.create(inlineBlob("small", Array("content".utf8)))
    #expect(created.state == .sealed)
    let (opened, descriptors) = try broker.client().open("small")
    #expect(opened.inlineBytes == Array("content".utf8))
    #expect(descriptors.rawValues.isEmpty)
    #expect(try publisher.refusal(.create(inlineBlob("small", [1]))).code == .keyExists)
  }

  @Test func `an open that waits is answered when the blob appears`() throws {
    let broker = try TestBroker()
    let reader = try broker.client()
    let number = try reader.send(.open(OpenRequest(key: "later", waits: true, observes: false)))
    _ = try broker.client().create(inlineBlob("later", [7]))
    let answer = try #require(try reader.receive())
    #expect(answer.number == number)
    guard case .opened(let grant) = answer.reply else {
      Issue.record("not opened")
      return
    }
    #expect(grant.inlineBytes == [7])
  }

  private func extent(
    _ grant: ExtentGrant, _ descriptor: consuming Descriptor, _ plan: ExtentPlan, isWritable: Bool
  ) throws -> Extent {
    let geometry = try RingGeometry(dataByteCount: grant.dataByteCount, hasMap: true)
    return Extent(
      try MappedRing(descriptor, ringID: grant.ringID, geometry, isWritable: isWritable),
      index: grant.index, start: plan.range(of: grant.index).lowerBound, ringID: grant.ringID,
      useNumber: grant.useNumber)
  }

  private func fill(_ extent: Extent, _ positions: Range<Int>) {
    let bytes = positions.map { UInt8(truncatingIfNeeded: $0 % 251 + 1) }
    extent.copyIn(bytes.span, at: positions.lowerBound)
    extent.cover(positions)
  }

  @Test func `a blob of two extents is written, looked at, sealed and read`() throws {
    let broker = try TestBroker()
    let publisher = try broker.client()
    var request = CreateRequest(key: "chain")
    request.firstExtent = 4096
    request.extentLimit = 8192
    let (created, firstRing) = try publisher.create(request)
    let firstGrant = try #require(created.extent)
    let first = try extent(firstGrant, firstRing.duplicate(0), created.plan, isWritable: true)
    fill(first, 0..<4096)

    let grown = try publisher.call(.grow(GrowRequest(blob: created.blob, index: 1)))
    guard case .extent(let secondGrant) = grown.reply else {
      Issue.record("not grown: \(grown.reply)")
      return
    }
    let second = try extent(
      secondGrant, grown.descriptors.duplicate(0), created.plan, isWritable: true)
    fill(second, 4096..<5000)
    fill(second, 6000..<6100)

    let live = try publisher.info("chain")
    #expect(live.frontier == 5000)
    #expect(live.coveredByteCount == 5100)
    let holes = try publisher.refusal(.seal(SealRequest(blob: created.blob, byteCount: 6100)))
    #expect(holes.code == .holesAtSeal)
    #expect(holes.missing == [5000..<6000])
    fill(second, 5000..<6000)
    #expect(
      try publisher.call(.seal(SealRequest(blob: created.blob, byteCount: 6100))).reply == .done)
    #expect(try publisher.info("chain").frontier == 6100)

    let reader = try broker.client()
    let (opened, ring) = try reader.open("chain")
    #expect(opened.byteCount == 6100)
    let readFirst = try extent(
      try #require(opened.extent), ring.duplicate(0), opened.plan, isWritable: false)
    let attached = try reader.call(
      .attachExtent(ExtentRequest(generation: opened.blob.generation, index: 1)))
    guard case .extent(let attachedGrant) = attached.reply else {
      Issue.record("not attached: \(attached.reply)")
      return
    }
    let readSecond = try extent(
      attachedGrant, attached.descriptors.duplicate(0), opened.plan, isWritable: false)
    #expect(fcntl(attached.descriptors.rawValues[0], F_GETFL) & O_ACCMODE == O_RDONLY)
    let bytes = unsafe Array(readFirst.bytes(0..<4096)) + Array(readSecond.bytes(4096..<6100))
    #expect(bytes == (0..<6100).map { UInt8(truncatingIfNeeded: $0 % 251 + 1) })
  }

  @Test func `a ring that takes long to make is made, and inspected, elsewhere`() throws {
    let broker = try TestBroker()
    let publisher = try broker.client()
    var request = CreateRequest(key: "large")
    request.byteCount = 32 << 20
    let number = try publisher.send(.create(request))
    try publisher.send(.ping)
    var answers: [UInt64: Reply] = [:]
    for _ in 0..<2 {
      let answer = try #require(try publisher.receive())
      answers[answer.number] = answer.reply
    }
    guard case .created(let grant) = answers[number] else {
      Issue.record("not created")
      return
    }
    let holes = try publisher.refusal(.seal(SealRequest(blob: grant.blob, byteCount: 32 << 20)))
    #expect(holes.missing == [0..<32 << 20])
  }

  @Test func `a blob beyond the memory limit is refused and costs nothing`() throws {
    let broker = try TestBroker(memory: 64 << 20)
    let client = try broker.client()
    var request = CreateRequest(key: "huge")
    request.byteCount = 1 << 30
    #expect(try client.refusal(.create(request)).code == .noSpaceMemory)
    #expect(Listing.sharedObjects(of: broker.loop.instance).count == 1)
  }

  @Test func `the memory that many small blobs took comes back when they are gone`() throws {
    let broker = try TestBroker()
    let client = try broker.client()
    let before = try client.memoryByteCount()
    for index in 0..<5000 { _ = try client.create(inlineBlob(BlobKey("\(index)"), [1])) }
    #expect(Listing.sharedObjects(of: broker.loop.instance).count == 3)
    #expect(try client.memoryByteCount() >= before + 2 * 4 << 20)
    for index in 0..<5000 {
      _ = try client.call(.remove(RemoveRequest(key: BlobKey("\(index)"), generation: nil)))
    }
    #expect(try client.memoryByteCount() == before)
    #expect(Listing.sharedObjects(of: broker.loop.instance).count == 1)
  }

  @Test func `pages of a listing fit their packets and lose no blob`() throws {
    let broker = try TestBroker()
    let client = try broker.client()
    let long = String(repeating: "k", count: 1000)
    for index in 100..<300 { _ = try client.create(inlineBlob(BlobKey("\(long)\(index)"), [1])) }
    var keys: [BlobKey] = []
    var hasMore = true
    while hasMore {
      let answer = try client.call(
        .list(ListRequest(prefix: [], after: keys.last?.bytes ?? [], limit: 512)))
      guard case .list(let page) = answer.reply else {
        Issue.record("no page: \(answer.reply)")
        return
      }
      keys += page.blobs.map(\.key)
      hasMore = page.hasMore
      try #require(!hasMore || !page.blobs.isEmpty)
    }
    #expect(try keys == (100..<300).map { try BlobKey("\(long)\($0)") })
  }

  // MARK: Clients that misbehave

  @Test func `what was asked before the hang-up is done`() throws {
    let broker = try TestBroker()
    for round in 0..<20 {
      var client: RawClient? = try broker.client()
      try client?.send(.create(inlineBlob(BlobKey("left/\(round)"), [1])))
      client = nil
      _ = try broker.client().open(BlobKey("left/\(round)"), waits: true)
    }
  }

  @Test func `garbage is answered with a refusal and the connection ends`() throws {
    let broker = try TestBroker()
    var generator = SeededGenerator(seed: 0x6a5)
    let witness = try broker.client()
    for byteCount in [1, 23, 24, 25, 100, 4096, 65536] {
      let client = try broker.client()
      try client.send(
        raw: (0..<byteCount).map { _ in UInt8.random(in: 0...255, using: &generator) })
      #expect(try client.failuresUntilHangUp().map(\.code) == [.protocolViolation])
    }
    #expect(try witness.call(.ping).reply == .pong)
  }

  @Test func `every prefix of a request is refused with its number and ends the connection`() throws
  {
    let broker = try TestBroker()
    let whole = Frame.encode(.create(inlineBlob("cut", [1, 2, 3])), request: 0x77)
    for byteCount in 1..<whole.count {
      let client = try broker.client()
      var packet = Array(whole.prefix(byteCount))
      if byteCount >= 12 {
        packet.replaceSubrange(8..<12, with: [UInt8(byteCount), 0, 0, 0])
      }
      try client.send(raw: packet)
      let answer = try #require(try client.receive())
      guard case .failure(let error) = answer.reply else {
        Issue.record("\(byteCount) bytes were not refused")
        return
      }
      #expect(error.code == .protocolViolation)
      #expect(answer.number == (byteCount < 24 ? 0 : 0x77))
      #expect(try client.receive() == nil)
    }
    #expect(try broker.client().refusal(.info(InfoRequest(key: "cut"))).code == .noSuchKey)
  }

  @Test func `a packet that is too long is refused`() throws {
    let broker = try TestBroker()
    let client = try broker.client()
    try client.send(raw: [UInt8](repeating: 1, count: Frame.byteLimit + 1))
    #expect(try client.failuresUntilHangUp().map(\.code) == [.protocolViolation])
  }

  @Test func `another protocol version is told so`() throws {
    let broker = try TestBroker()
    let client = try RawClient(broker.scratch.socket)
    try client.send(raw: Frame.encode(.ping, request: 9, version: 7))
    #expect(try client.failuresUntilHangUp().map(\.code) == [.versionMismatch])
  }

  @Test func `an impossible key is refused and the connection goes on`() throws {
    let broker = try TestBroker()
    let client = try broker.client()
    // A ping with a body would be a violation; an info with an empty key is a mistake.
    var packet = Frame.encode(.info(InfoRequest(key: "k")), request: 5)
    packet.removeLast()
    packet[24] = 0
    packet[8] = UInt8(packet.count)
    try client.send(raw: packet)
    guard case .failure(let error) = try #require(try client.receive()).reply else {
      Issue.record("not refused")
      return
    }
    #expect(error.code == .invalidKey)
    #expect(try client.call(.ping).reply == .pong)
  }

  @Test func `a client that never says hello is told why it is let go`() throws {
    let broker = try TestBroker(handshake: .milliseconds(50))
    let client = try RawClient(broker.scratch.socket)
    let answer = try #require(try client.receive())
    #expect(answer.number == 0)
    guard case .failure(let error) = answer.reply else {
      Issue.record("no reason: \(answer.reply)")
      return
    }
    #expect(error.code == .timedOut)
    #expect(error.message.contains("hello within 0.05 seconds"))
    #expect(try client.receive() == nil)
    #expect(try broker.client().call(.ping).reply == .pong)
  }

  @Test func `descriptors that clients send never arrive, and end the connection`() throws {
    let broker = try TestBroker()
    let witness = try broker.client()
    let marker = "\(broker.scratch.path)/marker"
    let file = Descriptor(owning: unsafe Glibc.open(marker, O_RDWR | O_CREAT | O_CLOEXEC, 0o600))
    for _ in 0..<200 {
      let client = try broker.client()
      try client.send(.ping, descriptors: Array(repeating: file.rawValue, count: 16))
      #expect(try client.failuresUntilHangUp().map(\.code) == [.protocolViolation])
      #expect(try witness.call(.ping).reply == .pong)
      #expect(Listing.descriptorCount(of: marker) == 1)
    }
  }

  @Test func `a hundred connections come and go and leave no descriptor`() throws {
    let broker = try TestBroker()
    let witness = try broker.client()
    #expect(try witness.call(.ping).reply == .pong)
    let before = Listing.descriptorCount
    for _ in 0..<10 {
      var clients: [RawClient] = []
      for _ in 0..<10 { clients.append(try broker.client()) }
      for client in clients { try client.send(.ping) }
    }
    #expect(eventually { Listing.descriptorCount <= before })
    let isForgotten = try eventually {
      guard case .statistics(let statistics) = try witness.call(.statistics).reply else {
        return false
      }
      return statistics.clientCount == 1
    }
    #expect(isForgotten)
  }
}
