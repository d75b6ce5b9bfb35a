// One or more messages of every kind: ordinary ones, whose bytes the golden file holds, and extreme
// ones, at the bounds of every field.

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

/// A part of a sample: one that is refused is a mistake of this file.
private func right<Part>(_ make: () throws(PatchbayError) -> Part) -> Part {
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
private func longestTerms(_ digest: ContentDigest) -> CreateTerms {
  let longest = Duration.nanoseconds(Int64.max)
  var terms = CreateTerms(
    ownership: .ownerless, idleLimit: longest, resumes: true, compression: .lz4,
    digest: DigestWish(expecting: digest))
  terms.production.tenure = longest
  terms.production.whenUnread = .pause
  terms.production.failureLifetime = longest
  terms.production.leastUses = .max
  terms.lifetime.timeToLive = longest
  terms.lifetime.idleExpiry = longest
  terms.lifetime.grace = longest
  terms.succeeds = Generation(rawValue: .max)
  terms.demand = DemandTerms(
    pieceByteCount: ExtentPlan.positionLimit, readAhead: ExtentPlan.positionLimit, fills: true)
  return terms
}

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

/// Messages at the bounds of their fields.
enum Extreme {
  private static let top = ExtentPlan.positionLimit
  private static let highest = BlobReference(generation: Generation(rawValue: .max), epoch: .max)
  private static let longKey = right { () throws(PatchbayError) in
    try BlobKey([UInt8](repeating: 0xff, count: BlobKey.byteLimit))
  }
  private static let page = ExtentPlan.page
  private static let lastIndex = Int(UInt32.max) - 1

  private static func text(_ count: Int) -> String { String(repeating: "x", count: count) }

  private static let labels = [BlobInfo.Label](
    repeating: BlobInfo.Label(name: text(WireLimit.labelPart), value: text(WireLimit.labelPart)),
    count: WireLimit.labelCount)

  static let requests: [Sample<Request>] = [
    Sample(
      "hello", .max,
      .hello(
        Hello(
          oldestVersion: 0, newestVersion: .max, token: Token(high: .max, low: .max),
          name: text(WireLimit.name)))),
    Sample("create", .max, .create(create)),
    Sample("grow", .max, .grow(GrowRequest(blob: highest, index: lastIndex))),
    Sample("seal", .max, .seal(SealRequest(blob: highest, byteCount: top))),
    Sample("seal of nothing", 1, .seal(SealRequest(blob: highest, byteCount: 0))),
    Sample("fail", .max, .fail(FailRequest(blob: highest, cause: text(WireLimit.cause)))),
    Sample("abandon", .max, .abandon(highest)),
    Sample("open", .max, .open(OpenRequest(key: longKey, waits: true, observes: true))),
    Sample("cancel", .max, .cancel(CancelRequest(request: .max))),
    Sample(
      "attachExtent", .max,
      .attachExtent(ExtentRequest(generation: highest.generation, index: lastIndex))),
    Sample("attachBoard", .max, .attachBoard(BoardRequest(board: .max))),
    Sample("close", .max, .close(CloseRequest(blob: highest, opened: .max))),
    Sample("info", .max, .info(InfoRequest(key: longKey))),
    Sample(
      "list", .max,
      .list(
        ListRequest(prefix: longKey.bytes, after: longKey.bytes, limit: Int(UInt32.max)))),
    Sample("list of all", 1, .list(ListRequest(prefix: [], after: [], limit: 0))),
    Sample("remove", .max, .remove(RemoveRequest(key: longKey, generation: highest.generation))),
    Sample("statistics", .max, .statistics),
    Sample("ping", .max, .ping),
    Sample(
      "subscribe", .max,
      .subscribe(SubscriptionRequest(generation: highest.generation, entry: 63))),
    Sample(
      "unsubscribe", .max,
      .unsubscribe(SubscriptionRequest(generation: highest.generation, entry: 63))),
    Sample("subscriptions", .max, .subscriptions(highest)),
    Sample("attachTable", .max, .attachTable(TableRequest(blob: highest, clientID: .max))),
    Sample("detach", .max, .detach(DetachRequest(blob: highest, subscription: subscription))),
    Sample(
      "createWith", .max,
      .createWith(
        create, longestTerms(digest))),
    Sample("join", .max, .join(JoinRequest(key: longKey, generation: highest.generation))),
    Sample("claim", .max, .claim(ClaimRequest(blob: highest, range: top..<top))),
    Sample("release", .max, .release(ReleaseRequest(blob: highest, claim: .max))),
    Sample("leave", .max, .leave(highest)),
    Sample("quiesced", .max, .quiesced(highest)),
    Sample(
      "watch", .max,
      .watch(
        WatchRequest(
          prefix: longKey.bytes, after: EventPosition(instance: .max, number: .max),
          wantsProgress: true))),
    Sample("why", .max, .why(WhyRequest(key: longKey))),
    Sample(
      "giveBack", .max,
      .giveBack(GiveBackRequest(blob: highest, index: lastIndex, isFull: true))),
    Sample("pin", .max, .pin(PinRequest(key: longKey, isPinned: true))),
    Sample("import", .max, .import(longImport)),
    Sample("reattach", .max, .reattach(longReattach)),
    Sample("reattached", .max, .reattached),
    Sample(
      "openOrCreate", .max,
      .openOrCreate(
        OpenOrCreateRequest(create: create, terms: longestTerms(digest), standsBy: true))),
    Sample("renew", .max, .renew(highest)),
    Sample(
      "demand", .max,
      .demand(DemandRequest(generation: highest.generation, range: top..<top))),
    Sample(
      "settleDemand", .max,
      .settleDemand(
        SettleDemandRequest(
          blob: highest, range: top..<top,
          outcome: .failed(String(repeating: "x", count: WireLimit.cause))))),
    Sample("nextDemand", .max, .nextDemand(highest)),
    Sample(
      "standBy", .max, .standBy(StandByRequest(generation: highest.generation, opened: .max))),
  ]

  private static var longReattach: ReattachRequest {
    var request = ReattachRequest(blob: highest, role: .observer, number: .max)
    request.extents = Array(repeating: lastIndex, count: ReattachRequest.extentLimit)
    request.claims = Array(
      repeating: ReattachRequest.Claim(number: .max, range: top..<top),
      count: ReattachRequest.claimLimit)
    return request
  }

  private static var longImport: ImportRequest {
    var request = ImportRequest(key: longKey)
    request.mode = .max
    request.replaces = true
    request.type = text(WireLimit.type)
    request.labels = labels
    return request
  }

  private static let subscription = Subscription(clientID: .max, entry: 63)

  private static var create: CreateRequest {
    var create = CreateRequest(key: longKey)
    create.byteCount = top
    create.mode = .max
    create.firstExtent = top
    create.extentLimit = top
    create.segment = top
    create.type = text(WireLimit.type)
    create.labels = labels
    create.inlineBytes = [UInt8](repeating: 0xee, count: Frame.inlineByteLimit)
    return create
  }

  static let replies: [Sample<Reply>] = [
    Sample(
      "failure", .max,
      .failure(
        PatchbayError(
          PatchbayError.Code(rawValue: .max), text(WireLimit.message), cause: text(WireLimit.cause),
          resumePosition: top, missing: [Range<Int>](repeating: 0..<top, count: WireLimit.missing),
          systemErrno: .min))),
    Sample("failure of nothing", 0, .failure(PatchbayError(.noBroker, "", cause: ""))),
    Sample(
      "welcome", .max,
      .welcome(
        Welcome(
          version: .max, clientID: .max, token: Token(high: .max, low: .max), instance: .max,
          brokerProcess: .min))),
    Sample("created", .max, .created(grant)),
    Sample("extent", .max, .extent(extent)),
    Sample("done", .max, .done),
    Sample("opened", .max, .opened(grant)),
    Sample("board", .max, .board(BoardGrant(board: .max, entryCount: Int(UInt32.max)))),
    Sample("info", .max, .info(info)),
    Sample("list", .max, .list(ListPage(blobs: [info, info, info], hasMore: true))),
    Sample(
      "list of most", .max,
      .list(
        ListPage(
          blobs: [BlobInfo](repeating: smallInfo, count: WireLimit.pageEntries),
          hasMore: false))),
    Sample("statistics", .max, .statistics(statistics)),
    Sample("pong", .max, .pong),
    Sample(
      "subscriptions", .max,
      .subscriptions(
        SubscriptionList(
          version: .max,
          subscriptions: [Subscription](
            repeating: subscription, count: WireLimit.subscriptions)))),
    Sample("table", .max, .table),
    Sample("joined", .max, .joined(grant)),
    Sample("claimed", .max, .claimed(ClaimGrant(blob: highest, claim: .max, range: 0..<top))),
    Sample("events", .max, .events(page(of: 30, change))),
    Sample("events of most", 1, .events(page(of: WireLimit.pageChanges, smallChange))),
    Sample("why", .max, .why(situation)),
    Sample(
      "spooled", .max,
      .spooled(SpoolGrant(index: Int(UInt32.max) - 1, segmentByteCount: top))),
    Sample(
      "scratch", .max,
      .scratch(
        ScratchGrant(index: lastIndex, writer: highest.generation, dataByteCount: top))),
    Sample("demanded", .max, .demanded(0..<ExtentPlan.positionLimit)),
    Sample(
      "imported", .max,
      .imported(
        ImportGrant(
          stamp: FileStamp(
            device: .max, inode: .max, byteCount: top, modified: .min, changed: .max)))),
  ]

  private static var situation: BlobSituation {
    var situation = BlobSituation()
    situation.info = info
    let party = BlobSituation.Party(
      process: .min, name: text(WireLimit.name), handleCount: Int(UInt32.max),
      since: WallTime(rawValue: .max), position: top)
    situation.publishers = [BlobSituation.Party](repeating: party, count: WireLimit.parties)
    situation.subscribers = situation.publishers
    let wait = BlobSituation.Wait(
      want: .verification, process: .max, name: text(WireLimit.name),
      since: WallTime(rawValue: .min))
    situation.waits = [BlobSituation.Wait](repeating: wait, count: WireLimit.parties)
    situation.waitCount = Int(UInt32.max)
    situation.wakeClassShift = .max
    situation.sleepingClasses = .max
    return situation
  }

  private static func page(of count: Int, _ change: BlobChange) -> EventPage {
    EventPage(
      hasGap: true, position: EventPosition(instance: .max, number: .max),
      changes: [BlobChange](repeating: change, count: count))
  }

  private static var change: BlobChange {
    BlobChange(
      kind: .evicted, key: longKey, generation: highest.generation,
      position: EventPosition(instance: .max, number: .max), time: WallTime(rawValue: .min),
      byteCount: top, frontier: top, coveredByteCount: top,
      causeCode: PatchbayError.Code(rawValue: .max), cause: text(WireLimit.cause))
  }

  private static var smallChange: BlobChange {
    BlobChange(
      kind: .created, key: "k", generation: highest.generation,
      position: EventPosition(instance: .max, number: 0), time: WallTime(rawValue: .max),
      byteCount: nil, frontier: 0, coveredByteCount: 0)
  }

  private static var grant: BlobGrant {
    BlobGrant(
      blob: highest, state: .gone, byteCount: top, order: .appendOnly, policy: .dropOldest,
      plan: Golden.plan(page, top), segment: top, wakeClasses: Golden.shift(30), board: .max,
      entry: .max,
      inlineBytes: [UInt8](repeating: 0xee, count: Frame.inlineByteLimit), extentEnd: lastIndex,
      extent: extent, isForeign: true, heldExtentLimit: Int(UInt32.max),
      demandPiece: ExtentPlan.positionLimit)
  }

  private static var extent: ExtentGrant {
    ExtentGrant(
      index: lastIndex, ringID: .max, useNumber: .max, dataByteCount: top)
  }

  private static var info: BlobInfo {
    BlobInfo(
      key: longKey, generation: highest.generation, state: .gone, byteCount: top, frontier: top,
      coveredByteCount: top, residentByteCount: top, spilledByteCount: top, order: .appendOnly,
      policy: .dropOldest, acknowledgement: .durable, publisherCount: Int(UInt32.max),
      subscriberCount: Int(UInt32.max), type: text(WireLimit.type), labels: labels,
      created: WallTime(rawValue: .min), modified: WallTime(rawValue: .max),
      lastRead: WallTime(rawValue: -1), isCache: true, isPinned: true, isImported: true,
      isPaused: true,
      access: Access(uid: .max, gid: .max, mode: .max),
      causeCode: PatchbayError.Code(rawValue: .max), cause: text(WireLimit.cause), digest: digest,
      expires: WallTime(rawValue: .max))
  }

  private static let digest = right { () throws(PatchbayError) in
    try ContentDigest(.sha512, [UInt8](repeating: 0xff, count: WireLimit.digest))
  }

  private static var smallInfo: BlobInfo {
    var small = info
    small.key = "k"
    small.type = ""
    small.labels = []
    small.cause = nil
    small.digest = nil
    return small
  }

  private static var statistics: BrokerStatistics {
    var statistics = BrokerStatistics()
    for counter in BrokerStatistics.counters { statistics[keyPath: counter.path] = .max }
    statistics.uptime = .nanoseconds(Int64.max)
    return statistics
  }
}
