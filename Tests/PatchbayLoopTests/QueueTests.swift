// Replies that wait because their client does not read: none is lost, none holds a descriptor, and
// the room for them has an end.

import PatchbayLoop
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Testing

@Suite(.serialized) struct QueueTests {
  /// As many as one connection may have.
  private static let waitingCount = 4096

  /// A client whose opens of one key all wait, and the broker knows it.
  private func waitingClient(_ broker: TestBroker, _ key: BlobKey) throws -> RawClient {
    let client = try broker.client()
    for _ in 0..<Self.waitingCount {
      try client.send(.open(OpenRequest(key: key, waits: true, observes: false)))
    }
    #expect(try client.call(.ping).reply == .pong)
    return client
  }

  @Test func `all opens that one connection may have waiting are answered, read late or not`()
    throws
  {
    let broker = try TestBroker()
    let reader = try waitingClient(broker, "awaited")
    let publisher = try broker.client()
    let before = Listing.descriptorCount
    var request = CreateRequest(key: "awaited")
    request.byteCount = 4096
    let (created, ring) = try publisher.create(request)
    #expect(try publisher.info("awaited").subscriberCount == Self.waitingCount)
    // The publisher's ring, board and bells, and whatever tests beside this one have open: nothing
    // for what waits to be read.
    #expect(Listing.descriptorCount < before + 256)
    var numbers: Set<UInt64> = []
    for _ in 0..<Self.waitingCount {
      let answer = try #require(try reader.receive(), "hung up on after \(numbers.count) grants")
      guard case .opened(let grant) = answer.reply else {
        Issue.record("not opened: \(answer.reply)")
        return
      }
      #expect(grant.blob.generation == created.blob.generation)
      #expect(answer.descriptors.rawValues.count == 1)
      numbers.insert(answer.number)
    }
    #expect(numbers.count == Self.waitingCount)
    #expect(try reader.call(.ping).reply == .pong)
    withExtendedLifetime(ring) {}
  }

  @Test func `the longest small blob has room for as many answers, too`() throws {
    let broker = try TestBroker()
    let reader = try waitingClient(broker, "awaited")
    var request = CreateRequest(key: "awaited")
    request.inlineBytes = [UInt8](repeating: 9, count: Frame.inlineByteLimit)
    request.byteCount = Frame.inlineByteLimit
    _ = try broker.client().create(request)
    for index in 0..<Self.waitingCount {
      let answer = try #require(try reader.receive(), "hung up on after \(index) grants")
      guard case .opened(let grant) = answer.reply else {
        Issue.record("not opened: \(answer.reply)")
        return
      }
      #expect(grant.inlineBytes?.count == Frame.inlineByteLimit)
    }
    #expect(try reader.call(.ping).reply == .pong)
  }

  @Test func `a grant whose ring cannot be opened when its turn comes is refused and taken back`()
    throws
  {
    let broker = try TestBroker()
    let reader = try waitingClient(broker, "awaited")
    let publisher = try broker.client()
    var request = CreateRequest(key: "awaited")
    request.byteCount = 4096
    let (created, ring) = try publisher.create(request)
    let name = try #require(created.extent.map { Listing.hex($0.ringID) })
    let object = try #require(
      Listing.sharedObjects(of: broker.loop.instance).first { $0.hasSuffix("-\(name)") })
    Listing.remove("/dev/shm/\(object)")
    var grantedCount = 0
    var refusals: [PatchbayError] = []
    for _ in 0..<Self.waitingCount {
      let answer = try #require(try reader.receive())
      switch answer.reply {
      case .opened:
        #expect(answer.descriptors.rawValues.count == 1)
        grantedCount += 1
      case .failure(let error): refusals.append(error)
      default: Issue.record("neither opened nor refused: \(answer.reply)")
      }
    }
    #expect(!refusals.isEmpty)
    #expect(refusals.allSatisfy { $0.code == .inputOutput })
    #expect(try reader.call(.ping).reply == .pong)
    #expect(try publisher.info("awaited").subscriberCount == grantedCount)
    withExtendedLifetime(ring) {}
  }

  @Test func `a client that never reads its replies is let go and keeps nobody waiting`() throws {
    let broker = try TestBroker()
    let witness = try broker.client()
    var blob = CreateRequest(key: "b")
    blob.inlineBytes = [UInt8](repeating: 1, count: Frame.inlineByteLimit)
    blob.byteCount = Frame.inlineByteLimit
    _ = try witness.create(blob)
    let deaf = try broker.client()
    let request = Frame.encode(
      .open(OpenRequest(key: "b", waits: false, observes: false)), request: 5)
    let isLost = try eventually {
      #expect(try witness.call(.ping).reply == .pong)
      return try (0..<64).contains { _ in try deaf.send(raw: request) == .hungUp }
    }
    #expect(isLost)
  }
}
