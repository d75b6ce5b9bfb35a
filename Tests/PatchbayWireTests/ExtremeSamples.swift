// One or more messages of every kind at the bounds of every field.

import PatchbayTypes
import PatchbayWire

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
