// One or more ordinary messages of every kind, whose bytes the golden file holds.

import PatchbayTypes
import PatchbayWire
import Testing

/// A message and the number it travels under.
struct Sample<Message: Hashable & Sendable>: Sendable, CustomTestStringConvertible {
  let name: String
  let number: UInt64
  let message: Message

  init(_ name: String, _ number: UInt64, _ message: Message) {
    self.name = name
    self.number = number
    self.message = message
  }

  var testDescription: String { name }
}

/// A part of a sample: one that is refused is a mistake of the samples.
func right<Part>(_ make: () throws(PatchbayError) -> Part) -> Part {
  do throws(PatchbayError) {
    return try make()
  } catch {
    preconditionFailure(error.message)
  }
}

private let reference = BlobReference(
  generation: Generation(rawValue: 0x0102_0304_0506_0708), epoch: 0x0a0b0c)
private let readers = BlobReference(generation: Generation(rawValue: 7), epoch: 0)
private let key: BlobKey = "demo/a"
private let producedTerms: CreateTerms = {
  var terms = CreateTerms(ownership: .produced, idleLimit: nil, resumes: true)
  terms.production.tenure = .seconds(30)
  terms.production.whenUnread = .pause
  terms.production.failureLifetime = .seconds(5)
  terms.production.leastUses = 2
  terms.lifetime.timeToLive = .seconds(3600)
  terms.lifetime.idleExpiry = .seconds(60)
  terms.lifetime.grace = .seconds(10)
  terms.succeeds = Generation(rawValue: 9)
  terms.demand = DemandTerms(pieceByteCount: 65536, readAhead: 131072, fills: true)
  return terms
}()

/// What the golden bytes were made of.
enum Golden {
  static let requests: [Sample<Request>] = [
    Sample(
      "hello", 1,
      .hello(Hello(oldestVersion: 1, newestVersion: 1, token: .none, name: "example"))),
    Sample(
      "hello, returning", 1,
      .hello(
        Hello(
          oldestVersion: 1, newestVersion: 2,
          token: Token(high: 0x1112_1314_1516_1718, low: 0x2122_2324_2526_2728), name: "é"))),
    Sample("create", 2, .create(CreateRequest(key: key))),
    Sample("create, inline", 2, .create(inlineCreate)),
    Sample("create, every field", 3, .create(fullCreate)),
    Sample("grow", 4, .grow(GrowRequest(blob: reference, index: 3))),
    Sample("seal", 5, .seal(SealRequest(blob: reference, byteCount: 1_000_000))),
    Sample("fail", 6, .fail(FailRequest(blob: reference, cause: "no input"))),
    Sample("abandon", 7, .abandon(reference)),
    Sample("open", 3, .open(OpenRequest(key: key, waits: false, observes: false))),
    Sample("open, waiting", 8, .open(OpenRequest(key: key, waits: true, observes: false))),
    Sample("open, observing", 9, .open(OpenRequest(key: key, waits: false, observes: true))),
    Sample("cancel", 10, .cancel(CancelRequest(request: 8))),
    Sample(
      "attachExtent", 11,
      .attachExtent(ExtentRequest(generation: reference.generation, index: 2))),
    Sample("attachBoard", 12, .attachBoard(BoardRequest(board: 5))),
    Sample("close", 13, .close(CloseRequest(blob: readers, opened: 12))),
    Sample("info", 14, .info(InfoRequest(key: key))),
    Sample(
      "list", 15,
      .list(ListRequest(prefix: Array("demo/".utf8), after: Array("demo/a".utf8), limit: 100))),
    Sample("remove", 16, .remove(RemoveRequest(key: key, generation: nil))),
    Sample(
      "remove, one generation", 17,
      .remove(RemoveRequest(key: key, generation: Generation(rawValue: 9)))),
    Sample("statistics", 18, .statistics),
    Sample("ping", 19, .ping),
    Sample("create, window", 20, .create(windowCreate)),
    Sample(
      "subscribe", 21,
      .subscribe(SubscriptionRequest(generation: reference.generation, entry: 63))),
    Sample(
      "unsubscribe", 22,
      .unsubscribe(SubscriptionRequest(generation: reference.generation, entry: 0))),
    Sample("subscriptions", 23, .subscriptions(reference)),
    Sample("attachTable", 24, .attachTable(TableRequest(blob: reference, clientID: 42))),
    Sample("detach", 25, .detach(DetachRequest(blob: reference, subscription: subscription))),
    Sample("createWith", 26, .createWith(CreateRequest(key: key), .plain)),
    Sample(
      "createWith, every field", 27,
      .createWith(
        fullCreate,
        CreateTerms(
          ownership: .ownerless, idleLimit: .seconds(60), resumes: true, compression: .lz4,
          digest: DigestWish(expecting: digest)))),
    Sample(
      "createWith, any digest", 34,
      .createWith(CreateRequest(key: key), .plain(digest: DigestWish(.sha512)))),
    Sample("join", 28, .join(JoinRequest(key: key, generation: nil))),
    Sample(
      "join, one generation", 29,
      .join(JoinRequest(key: key, generation: Generation(rawValue: 9)))),
    Sample("claim", 30, .claim(ClaimRequest(blob: reference, range: 4096..<1_000_000))),
    Sample("release", 31, .release(ReleaseRequest(blob: reference, claim: 30))),
    Sample("leave", 32, .leave(reference)),
    Sample("quiesced", 33, .quiesced(reference)),
    Sample(
      "watch", 20,
      .watch(WatchRequest(prefix: Array("demo/".utf8), after: nil, wantsProgress: true))),
    Sample(
      "watch, going on", 21,
      .watch(WatchRequest(prefix: [], after: place(42), wantsProgress: false))),
    Sample("why", 22, .why(WhyRequest(key: key))),
    Sample(
      "giveBack", 23, .giveBack(GiveBackRequest(blob: reference, index: 7, isFull: true))),
    Sample("pin", 34, .pin(PinRequest(key: key, isPinned: true))),
    Sample("unpin", 35, .pin(PinRequest(key: key, isPinned: false))),
    Sample("import", 36, .import(ImportRequest(key: key))),
    Sample("import, every field", 37, .import(fullImport)),
    Sample("reattach", 38, .reattach(reattach(.reader))),
    Sample("reattach, every field", 39, .reattach(fullReattach)),
    Sample("reattached", 40, .reattached),
    Sample(
      "openOrCreate", 41,
      .openOrCreate(
        OpenOrCreateRequest(create: CreateRequest(key: key), terms: producedTerms, standsBy: true))),
    Sample("renew", 43, .renew(reference)),
    Sample(
      "demand", 44,
      .demand(DemandRequest(generation: reference.generation, range: 4096..<1_000_000))),
    Sample("nextDemand", 45, .nextDemand(reference)),
    Sample(
      "settleDemand", 46,
      .settleDemand(
        SettleDemandRequest(blob: reference, range: 65536..<131_072, outcome: .fetched))),
    Sample(
      "settleDemand, failed", 47,
      .settleDemand(
        SettleDemandRequest(
          blob: reference, range: 65536..<131_072, outcome: .failed("no route")))),
    Sample(
      "settleDemand, returned", 48,
      .settleDemand(
        SettleDemandRequest(blob: reference, range: 65536..<131_072, outcome: .returned))),
    Sample("standBy", 42, .standBy(StandByRequest(generation: reference.generation, opened: 41))),
  ]

  private static func reattach(_ role: ReattachRequest.Role) -> ReattachRequest {
    ReattachRequest(
      blob: BlobReference(generation: reference.generation, epoch: 0), role: role, number: 19)
  }

  private static var fullReattach: ReattachRequest {
    var request = ReattachRequest(blob: reference, role: .publisher, number: 20)
    request.extents = [0, 7]
    request.claims = [
      ReattachRequest.Claim(number: 30, range: 4096..<1_000_000),
      ReattachRequest.Claim(number: 31, range: 0..<1),
    ]
    return request
  }

  static let replies: [Sample<Reply>] = [
    Sample("failure", 4, .failure(PatchbayError(.noSuchKey, "No blob has the key demo/a."))),
    Sample(
      "failure, every field", 5,
      .failure(
        PatchbayError(
          .holesAtSeal, "Holes.", cause: "because", resumePosition: 4096,
          missing: [0..<64, 128..<1_000_000], systemErrno: 28))),
    Sample(
      "welcome", 1,
      .welcome(
        Welcome(
          version: 1, clientID: 42,
          token: Token(high: 0x1112_1314_1516_1719, low: 0x2122_2324_2526_2728),
          instance: 0x3132_3334_3536_3738, brokerProcess: 4242))),
    Sample("created", 3, .created(createdGrant)),
    Sample("created, inline", 2, .created(inlineGrant(epoch: 1, bytes: nil))),
    Sample("extent", 4, .extent(secondExtent)),
    Sample("done", 5, .done),
    Sample("opened", 3, .opened(openedGrant)),
    Sample("opened, inline", 8, .opened(inlineGrant(epoch: 0, bytes: Array("hello".utf8)))),
    Sample("board", 12, .board(BoardGrant(board: 5, entryCount: 4096))),
    Sample("info", 14, .info(sealedInfo)),
    Sample("info, failed", 14, .info(failedInfo)),
    Sample("list", 15, .list(ListPage(blobs: [sealedInfo, failedInfo], hasMore: true))),
    Sample("list, empty", 15, .list(ListPage(blobs: [], hasMore: false))),
    Sample("statistics", 18, .statistics(statistics)),
    Sample("pong", 19, .pong),
    Sample("created, window", 20, .created(windowGrant)),
    Sample(
      "subscriptions", 23,
      .subscriptions(SubscriptionList(version: 7, subscriptions: [subscription]))),
    Sample("table", 24, .table),
    Sample("joined", 28, .joined(joinedGrant)),
    Sample(
      "claimed", 30,
      .claimed(ClaimGrant(blob: reference, claim: 30, range: 4096..<1_000_000))),
    Sample(
      "events", 20,
      .events(EventPage(hasGap: false, position: place(45), changes: [created, failed]))),
    Sample("events, gap", 21, .events(EventPage(hasGap: true, position: place(7), changes: []))),
    Sample("why", 22, .why(situation)),
    Sample("why, nobody", 23, .why(BlobSituation())),
    Sample(
      "spooled", 31, .spooled(SpoolGrant(index: 4, segmentByteCount: 256 * 1024))),
    Sample(
      "scratch", 32,
      .scratch(
        ScratchGrant(
          index: 5, writer: Generation(rawValue: 6), dataByteCount: 2 * 1024 * 1024))),
    Sample("imported", 38, .imported(ImportGrant(stamp: stamp))),
    Sample("demanded", 47, .demanded(65536..<131_072)),
  ]

  private static var situation: BlobSituation {
    var situation = BlobSituation()
    situation.info = failedInfo
    situation.publishers = [
      BlobSituation.Party(
        process: 4242, name: "maker", handleCount: 1, since: WallTime(rawValue: 5))
    ]
    situation.subscribers = [
      BlobSituation.Party(
        process: 4343, name: "", handleCount: 2, since: WallTime(rawValue: 6),
        position: 4096)
    ]
    situation.waits = [
      BlobSituation.Wait(want: .memory, process: 4242, name: "maker", since: WallTime(rawValue: 7))
    ]
    situation.waitCount = 3
    situation.wakeClassShift = 12
    situation.sleepingClasses = 0x8000_0001
    return situation
  }

  static func place(_ number: UInt64) -> EventPosition {
    EventPosition(instance: 0x3132_3334_3536_3738, number: number)
  }

  private static let created = BlobChange(
    kind: .created, key: key, generation: Generation(rawValue: 7), position: place(43),
    time: WallTime(rawValue: 1_700_000_000_000_000_001), byteCount: 10000, frontier: 4096,
    coveredByteCount: 8192)

  private static let failed = BlobChange(
    kind: .failed, key: "b", generation: Generation(rawValue: 8), position: place(44),
    time: WallTime(rawValue: 1_700_000_000_000_000_002), byteCount: nil, frontier: 1,
    coveredByteCount: 2, causeCode: .blobFailed, cause: "no input")

  private static var inlineCreate: CreateRequest {
    var create = CreateRequest(key: key)
    create.byteCount = 5
    create.type = "text/plain"
    create.inlineBytes = Array("hello".utf8)
    return create
  }

  private static let subscription = Subscription(clientID: 42, entry: 5)

  private static var windowCreate: CreateRequest {
    var create = CreateRequest(key: key)
    create.order = .appendOnly
    create.policy = .backpressure
    create.firstExtent = 1 << 20
    create.segment = 1 << 17
    return create
  }

  private static var windowGrant: BlobGrant {
    BlobGrant(
      blob: reference, state: .open, byteCount: nil, order: .appendOnly, policy: .backpressure,
      plan: plan(1 << 20, 1 << 20), segment: 1 << 17, wakeClasses: shift(14), board: 5, entry: 17,
      extent: ExtentGrant(
        index: 0, ringID: 0x5152_5354_5556_5758, useNumber: 1, dataByteCount: 1 << 20))
  }

  private static var fullCreate: CreateRequest {
    var create = CreateRequest(key: key)
    create.byteCount = 0x0001_0203_0405
    create.order = .appendOnly
    create.policy = .dropOldest
    create.acknowledgement = .durable
    create.mode = 0o640
    create.replaces = true
    create.isCache = true
    create.firstExtent = 65536
    create.extentLimit = 1 << 20
    create.segment = 4096
    create.type = "text/plain"
    create.labels = [
      BlobInfo.Label(name: "unit", value: "m"), BlobInfo.Label(name: "", value: "ü"),
    ]
    create.inlineBytes = []
    return create
  }

  private static var fullImport: ImportRequest {
    var request = ImportRequest(key: key)
    request.mode = 0o640
    request.replaces = true
    request.type = "text/plain"
    request.labels = [BlobInfo.Label(name: "unit", value: "m")]
    return request
  }

  private static let stamp = FileStamp(
    device: 0x0000_0801_0000_0002, inode: 1234, byteCount: 1_000_000,
    modified: 1_700_000_000_000_000_001, changed: 1_700_000_000_000_000_002)

  private static var createdGrant: BlobGrant {
    BlobGrant(
      blob: reference, state: .open, byteCount: nil, order: .any, plan: plan(65536, 1 << 26),
      wakeClasses: shift(12), board: 5, entry: 17,
      extent: ExtentGrant(
        index: 0, ringID: 0x5152_5354_5556_5758, useNumber: 1, dataByteCount: 65536))
  }

  private static var joinedGrant: BlobGrant {
    BlobGrant(
      blob: reference, state: .open, byteCount: 1_000_000, order: .any,
      plan: plan(65536, 1 << 26), wakeClasses: shift(12), board: 5, entry: 17, extentEnd: 3,
      heldExtentLimit: 3, demandPiece: 65536)
  }

  private static var openedGrant: BlobGrant {
    BlobGrant(
      blob: readers, state: .sealed, byteCount: 10000, order: .appendOnly,
      plan: plan(12288, 12288), wakeClasses: shift(8), board: 5, entry: 18, extentEnd: 1,
      extent: ExtentGrant(
        index: 0, ringID: 9, useNumber: 1, dataByteCount: 12288))
  }

  private static func inlineGrant(epoch: UInt32, bytes: [UInt8]?) -> BlobGrant {
    BlobGrant(
      blob: BlobReference(generation: Generation(rawValue: 6), epoch: epoch), state: .sealed,
      byteCount: 5, order: .any, plan: plan(4096, 4096), wakeClasses: shift(6), board: 0, entry: 0,
      inlineBytes: bytes)
  }

  private static let secondExtent = ExtentGrant(
    index: 1, ringID: 0x5152_5354_5556_5759, useNumber: 1, dataByteCount: 131072)

  private static let sealedInfo = info(state: .sealed, byteCount: 10000) { info in
    info.labels = [BlobInfo.Label(name: "unit", value: "m")]
    info.lastRead = WallTime(rawValue: 1_700_000_000_000_000_003)
    info.isCache = true
    info.digest = digest
  }

  private static let digest = right { () throws(PatchbayError) in
    try ContentDigest(.sha256, Array(0..<32))
  }

  private static let failedInfo = info(state: .failed, byteCount: nil) { info in
    info.isPinned = true
    info.isImported = true
    info.isPaused = true
    info.causeCode = .abandoned
    info.cause = "its publisher ended"
  }

  private static func info(
    state: BlobState, byteCount: Int?, _ change: (inout BlobInfo) -> Void
  ) -> BlobInfo {
    var info = BlobInfo(
      key: key, generation: Generation(rawValue: 7), state: state, byteCount: byteCount,
      frontier: 10001, coveredByteCount: 10002, residentByteCount: 20480, spilledByteCount: 3,
      order: .appendOnly, policy: .keep, acknowledgement: .visible, publisherCount: 1,
      subscriberCount: 2, type: "text/plain", labels: [],
      created: WallTime(rawValue: 1_700_000_000_000_000_001),
      modified: WallTime(rawValue: 1_700_000_000_000_000_002), lastRead: nil, isCache: false,
      isPinned: false, access: Access(uid: 1000, gid: 100, mode: 0o600), causeCode: nil, cause: nil)
    change(&info)
    return info
  }

  private static var statistics: BrokerStatistics {
    var statistics = BrokerStatistics()
    for (index, counter) in BrokerStatistics.counters.enumerated() {
      statistics[keyPath: counter.path] = UInt64(index + 1)
    }
    statistics.uptime = .nanoseconds(3_000_000_007)
    return statistics
  }

  static func plan(_ first: Int, _ limit: Int) -> ExtentPlan {
    right { () throws(PatchbayError) in try ExtentPlan(first: first, limit: limit) }
  }

  static func shift(_ shift: UInt8) -> WakeClasses {
    right { () throws(PatchbayError) in try WakeClasses(shift: shift) }
  }
}
