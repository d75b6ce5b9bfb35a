// Requests to bytes and back, field by field in protocol order.

import CPatchbayLayout
import PatchbayTypes

extension Request {
  package var kind: Kind {
    switch self {
    case .hello: .hello
    case .create: .create
    case .grow: .grow
    case .seal: .seal
    case .fail: .fail
    case .abandon: .abandon
    case .open: .open
    case .cancel: .cancel
    case .attachExtent: .attachExtent
    case .attachBoard: .attachBoard
    case .close: .close
    case .info: .info
    case .list: .list
    case .remove: .remove
    case .statistics: .statistics
    case .ping: .ping
    case .subscribe: .subscribe
    case .unsubscribe: .unsubscribe
    case .subscriptions: .subscriptions
    case .attachTable: .attachTable
    case .detach: .detach
    case .createWith: .createWith
    case .join: .join
    case .claim: .claim
    case .release: .release
    case .leave: .leave
    case .quiesced: .quiesced
    case .watch: .watch
    case .why: .why
    case .giveBack: .giveBack
    case .pin: .pin
    case .import: .import
    case .reattach: .reattach
    case .reattached: .reattached
    case .openOrCreate: .openOrCreate
    case .standBy: .standBy
    case .renew: .renew
    case .demand: .demand
    case .nextDemand: .nextDemand
    case .settleDemand: .settleDemand
    }
  }

  func encodeBody(_ writer: inout WireWriter) {
    switch self {
    case .hello(let hello):
      writer.put(hello.oldestVersion)
      writer.put(hello.newestVersion)
      writer.put(hello.token.high)
      writer.put(hello.token.low)
      writer.put(hello.name)
    case .create(let create): create.encode(&writer)
    case .grow(let grow):
      writer.put(grow.blob)
      writer.put(index: grow.index)
    case .giveBack(let request):
      writer.put(request.blob)
      writer.put(index: request.index)
      writer.put(request.isFull)
    case .seal(let seal):
      writer.put(seal.blob)
      writer.put(Int64(seal.byteCount))
    case .fail(let fail):
      writer.put(fail.blob)
      writer.put(fail.code.rawValue)
      writer.put(fail.cause)
    case .abandon(let blob), .subscriptions(let blob), .leave(let blob), .quiesced(let blob),
      .renew(let blob), .nextDemand(let blob):
      writer.put(blob)
    case .close(let close):
      writer.put(close.blob)
      writer.put(close.opened)
    case .openOrCreate(let request):
      request.create.encode(&writer)
      request.terms.encode(&writer)
      writer.put(request.standsBy)
    case .standBy(let request):
      writer.put(request.generation.rawValue)
      writer.put(request.opened)
    case .demand(let request):
      writer.put(request.generation.rawValue)
      writer.put(request.range)
    case .settleDemand(let request):
      writer.put(request.blob)
      writer.put(request.range)
      request.outcome.encode(&writer)
    case .open(let open):
      writer.put(open.key)
      writer.put(open.waits)
      writer.put(open.observes)
    case .cancel(let cancel): writer.put(cancel.request)
    case .attachExtent(let extent):
      writer.put(extent.generation.rawValue)
      writer.put(index: extent.index)
    case .attachBoard(let board): writer.put(board.board)
    case .info(let info): writer.put(info.key)
    case .list(let list):
      writer.put(list.prefix)
      writer.put(list.after)
      writer.put(UInt32(clamping: list.limit))
    case .remove(let remove):
      writer.put(remove.key)
      writer.put(remove.generation?.rawValue ?? 0)
    case .watch(let watch): watch.encode(&writer)
    case .why(let why): writer.put(why.key)
    case .pin(let pin): pin.encode(&writer)
    case .import(let request): request.encode(&writer)
    case .reattach(let request): request.encode(&writer)
    case .statistics, .ping, .reattached: break
    case .subscribe(let request), .unsubscribe(let request):
      writer.put(request.generation.rawValue)
      writer.put(UInt32(clamping: request.entry))
    case .attachTable(let request):
      writer.put(request.blob)
      writer.put(request.clientID)
    case .detach(let request):
      writer.put(request.blob)
      writer.put(request.subscription)
    case .createWith(let create, let terms):
      create.encode(&writer)
      terms.encode(&writer)
    case .join(let join):
      writer.put(join.key)
      writer.put(join.generation?.rawValue ?? 0)
    case .claim(let claim):
      writer.put(claim.blob)
      writer.put(claim.range)
    case .release(let release):
      writer.put(release.blob)
      writer.put(release.claim)
    }
  }

  init(kind number: UInt16, from reader: inout WireReader) throws(PatchbayError) {
    guard let kind = Kind(rawValue: number) else {
      throw PatchbayError(.protocolViolation, "No request has the type number \(number).")
    }
    switch kind {
    case .hello:
      self = .hello(
        Hello(
          oldestVersion: try reader.take(), newestVersion: try reader.take(),
          token: Token(high: try reader.take(), low: try reader.take()),
          name: try reader.takeText(atMost: WireLimit.name, "a client's name")))
    case .create: self = .create(try CreateRequest(from: &reader))
    case .grow:
      self = .grow(GrowRequest(blob: try reader.takeReference(), index: try reader.takeIndex()))
    case .giveBack:
      self = .giveBack(
        GiveBackRequest(
          blob: try reader.takeReference(), index: try reader.takeIndex(),
          isFull: try reader.takeFlag()))
    case .seal:
      self = .seal(
        SealRequest(
          blob: try reader.takeReference(), byteCount: try reader.takePosition("a length")))
    case .fail:
      self = .fail(
        FailRequest(
          blob: try reader.takeReference(), code: try reader.takeFailure(),
          cause: try reader.takeText(atMost: WireLimit.cause, "a cause")))
    case .abandon: self = .abandon(try reader.takeReference())
    case .open:
      self = .open(
        OpenRequest(
          key: try reader.takeKey(), waits: try reader.takeFlag(), observes: try reader.takeFlag()))
    case .cancel: self = .cancel(CancelRequest(request: try reader.take()))
    case .attachExtent:
      self = .attachExtent(
        ExtentRequest(
          generation: Generation(rawValue: try reader.take()), index: try reader.takeIndex()))
    case .attachBoard: self = .attachBoard(BoardRequest(board: try reader.take()))
    case .close:
      self = .close(CloseRequest(blob: try reader.takeReference(), opened: try reader.take()))
    case .info: self = .info(InfoRequest(key: try reader.takeKey()))
    case .list:
      self = .list(
        ListRequest(
          prefix: try reader.takeBlock(atMost: BlobKey.byteLimit, "a prefix"),
          after: try reader.takeBlock(atMost: BlobKey.byteLimit, "a key"),
          limit: Int(try reader.take(UInt32.self))))
    case .remove:
      self = .remove(
        RemoveRequest(key: try reader.takeKey(), generation: try reader.takeOptionalGeneration()))
    case .statistics: self = .statistics
    case .ping: self = .ping
    case .subscribe: self = .subscribe(try reader.takeSubscriptionRequest())
    case .unsubscribe: self = .unsubscribe(try reader.takeSubscriptionRequest())
    case .subscriptions: self = .subscriptions(try reader.takeReference())
    case .attachTable:
      self = .attachTable(
        TableRequest(blob: try reader.takeReference(), clientID: try reader.take()))
    case .detach:
      self = .detach(
        DetachRequest(
          blob: try reader.takeReference(), subscription: try reader.takeSubscription()))
    case .createWith:
      self = .createWith(try CreateRequest(from: &reader), try CreateTerms(from: &reader))
    case .join:
      self = .join(
        JoinRequest(key: try reader.takeKey(), generation: try reader.takeOptionalGeneration()))
    case .claim:
      self = .claim(
        ClaimRequest(blob: try reader.takeReference(), range: try reader.takeRange("a claim")))
    case .release:
      self = .release(
        ReleaseRequest(blob: try reader.takeReference(), claim: try reader.take()))
    case .leave: self = .leave(try reader.takeReference())
    case .quiesced: self = .quiesced(try reader.takeReference())
    case .watch: self = .watch(try WatchRequest(from: &reader))
    case .why: self = .why(WhyRequest(key: try reader.takeKey()))
    case .pin: self = .pin(try PinRequest(from: &reader))
    case .import: self = .import(try ImportRequest(from: &reader))
    case .reattach: self = .reattach(try ReattachRequest(from: &reader))
    case .reattached: self = .reattached
    case .openOrCreate:
      self = .openOrCreate(
        OpenOrCreateRequest(
          create: try CreateRequest(from: &reader), terms: try CreateTerms(from: &reader),
          standsBy: try reader.takeFlag()))
    case .renew: self = .renew(try reader.takeReference())
    case .demand:
      self = .demand(
        DemandRequest(
          generation: Generation(rawValue: try reader.take()),
          range: try reader.takeRange("a demand")))
    case .nextDemand: self = .nextDemand(try reader.takeReference())
    case .settleDemand:
      self = .settleDemand(
        SettleDemandRequest(
          blob: try reader.takeReference(), range: try reader.takeRange("what was handed out"),
          outcome: try SettleDemandRequest.Outcome(from: &reader)))
    case .standBy:
      self = .standBy(
        StandByRequest(
          generation: Generation(rawValue: try reader.take()), opened: try reader.take()))
    }
  }
}

extension SettleDemandRequest.Outcome {
  fileprivate func encode(_ writer: inout WireWriter) {
    switch self {
    case .fetched: writer.put(UInt8(0))
    case .failed: writer.put(UInt8(1))
    case .returned: writer.put(UInt8(2))
    }
    if case .failed(let cause) = self { writer.put(cause) } else { writer.put("") }
  }

  fileprivate init(from reader: inout WireReader) throws(PatchbayError) {
    let number = try reader.take(UInt8.self)
    let cause = try reader.takeText(atMost: WireLimit.cause, "a cause")
    switch (number, cause.isEmpty) {
    case (0, true): self = .fetched
    case (1, _): self = .failed(cause)
    case (2, true): self = .returned
    case (0, _), (2, _):
      throw PatchbayError(.protocolViolation, "Only a fetch that has failed has a cause.")
    default:
      throw PatchbayError(
        .protocolViolation, "No outcome of a fetch has the number \(number): 0 to 2 do.")
    }
  }
}

extension CreateTerms {
  package func encode(_ writer: inout WireWriter) {
    writer.put(ownership.rawValue)
    writer.put(optional: idleLimit)
    writer.put(resumes)
    writer.put(compression?.rawValue ?? 0)
    writer.put(digest)
    writer.put(optional: production.tenure)
    writer.put(production.whenUnread.rawValue)
    writer.put(optional: production.failureLifetime)
    writer.put(production.leastUses)
    lifetime.encode(&writer)
    writer.put(succeeds?.rawValue ?? 0)
    writer.put(Int64(demand?.pieceByteCount ?? 0))
    writer.put(Int64(demand?.readAhead ?? 0))
    writer.put(demand?.fills ?? false)
  }

  package init(from reader: inout WireReader) throws(PatchbayError) {
    self.init(
      ownership: try reader.takeCase("an ownership"),
      idleLimit: try reader.takeOptionalDuration("an idle limit"),
      resumes: try reader.takeFlag(), compression: try reader.takeCompression(),
      digest: try reader.takeDigestWish())
    production.tenure = try reader.takeOptionalDuration("a tenure")
    production.whenUnread = try reader.takeCase("what to do when nobody reads")
    production.failureLifetime = try reader.takeOptionalDuration("how long a failure is told")
    production.leastUses = try reader.take()
    lifetime = try LifetimeTerms(from: &reader)
    succeeds = try reader.takeOptionalGeneration()
    let terms = DemandTerms(
      pieceByteCount: try reader.takePosition("a piece's size"),
      readAhead: try reader.takePosition("a number of bytes"), fills: try reader.takeFlag())
    guard terms.pieceByteCount == 0 else {
      demand = terms
      return
    }
    guard terms.readAhead == 0, !terms.fills else {
      throw PatchbayError(
        .protocolViolation, "A blob without pieces has no more to be said of them.")
    }
  }
}

extension LifetimeTerms {
  package func encode(_ writer: inout WireWriter) {
    writer.put(optional: timeToLive)
    writer.put(optional: idleExpiry)
    writer.put(optional: grace)
  }

  package init(from reader: inout WireReader) throws(PatchbayError) {
    self.init()
    timeToLive = try reader.takeOptionalDuration("a time to live")
    idleExpiry = try reader.takeOptionalDuration("a time without readers")
    grace = try reader.takeOptionalDuration("a grace")
  }
}

extension CreateRequest {
  package func encode(_ writer: inout WireWriter) {
    writer.put(key)
    writer.put(optional: byteCount)
    writer.put(order.rawValue)
    writer.put(policy.rawValue)
    writer.put(acknowledgement.rawValue)
    writer.put(mode)
    writer.put(replaces)
    writer.put(isCache)
    writer.put(Int64(firstExtent))
    writer.put(Int64(extentLimit))
    writer.put(Int64(segment))
    writer.put(type)
    writer.put(labels: labels)
    writer.put(inlineBytes != nil)
    if let inlineBytes { writer.put(inlineBytes) }
  }

  package init(from reader: inout WireReader) throws(PatchbayError) {
    self.init(key: try reader.takeKey())
    byteCount = try reader.takeOptionalPosition("a length")
    order = try reader.takeCase("a write order")
    policy = try reader.takeCase("a policy")
    acknowledgement = try reader.takeCase("an acknowledgement level")
    mode = try reader.take()
    replaces = try reader.takeFlag()
    isCache = try reader.takeFlag()
    firstExtent = try reader.takePosition("an extent's size")
    extentLimit = try reader.takePosition("an extent's size")
    segment = try reader.takePosition("a segment's size")
    type = try reader.takeText(atMost: WireLimit.type, "a media type")
    labels = try reader.takeLabels()
    if try reader.takeFlag() {
      inlineBytes = try reader.takeBlock(atMost: Frame.inlineByteLimit, "an inline blob")
    }
  }
}

extension WireWriter {
  mutating func put(_ blob: BlobReference) {
    put(blob.generation.rawValue)
    put(blob.epoch)
  }

  mutating func put(_ subscription: Subscription) {
    put(subscription.clientID)
    put(UInt32(clamping: subscription.entry))
  }

  /// In nanoseconds; 0 stands for nil.
  mutating func put(optional duration: Duration?) { put(duration?.wholeNanoseconds ?? 0) }

  /// What is no index becomes the one number that no reader takes for one.
  mutating func put(index: Int) { put(UInt32(clamping: index)) }

  package mutating func put(labels: [BlobInfo.Label]) {
    put(list: labels) { writer, label in
      writer.put(label.name)
      writer.put(label.value)
    }
  }
}

extension WireReader {
  /// 0 stands for nil.
  mutating func takeCompression() throws(PatchbayError) -> SpoolCompression? {
    let number = try take(UInt8.self)
    guard number != 0 else { return nil }
    guard let compression = SpoolCompression(rawValue: number) else {
      throw PatchbayError(.protocolViolation, "No way of compressing has the number \(number).")
    }
    return compression
  }

  /// What a publisher may say that its blob failed with.
  fileprivate mutating func takeFailure() throws(PatchbayError) -> PatchbayError.Code {
    let code = PatchbayError.Code(rawValue: try take())
    guard [.blobFailed, .contentDiverged].contains(code) else {
      throw PatchbayError(.protocolViolation, "No publisher can fail its blob with \(code).")
    }
    return code
  }

  /// 0 stands for nil.
  mutating func takeOptionalDuration(_ what: String) throws(PatchbayError) -> Duration? {
    let nanoseconds = try take(Int64.self)
    guard nanoseconds >= 0 else {
      throw PatchbayError(
        .protocolViolation,
        "\(nanoseconds) nanoseconds were given as \(what); 0 stands for none.")
    }
    return nanoseconds == 0 ? nil : .nanoseconds(nanoseconds)
  }

  mutating func takeReference() throws(PatchbayError) -> BlobReference {
    BlobReference(generation: Generation(rawValue: try take()), epoch: try take())
  }

  /// 0 stands for nil.
  mutating func takeOptionalGeneration() throws(PatchbayError) -> Generation? {
    let number = try take(UInt64.self)
    return number == 0 ? nil : Generation(rawValue: number)
  }

  /// An extent's index, or one more than the highest: a ring's tag holds the index plus one in 32
  /// bits, so the last number is no index.
  mutating func takeIndex() throws(PatchbayError) -> Int {
    let index = try take(UInt32.self)
    guard index != .max else {
      throw PatchbayError(.protocolViolation, "No blob can have an extent \(index).")
    }
    return Int(index)
  }

  mutating func takeSubscriptionRequest() throws(PatchbayError) -> SubscriptionRequest {
    SubscriptionRequest(generation: Generation(rawValue: try take()), entry: try takeTableEntry())
  }

  mutating func takeSubscription() throws(PatchbayError) -> Subscription {
    Subscription(clientID: try take(), entry: try takeTableEntry())
  }

  private mutating func takeTableEntry() throws(PatchbayError) -> Int {
    let entry = try take(UInt32.self)
    guard entry < UInt32(PB_TABLE_POSITION_COUNT) else {
      throw PatchbayError(
        .protocolViolation,
        "Entry \(entry) of a client table was named, which has "
          + "\(PB_TABLE_POSITION_COUNT) positions.")
    }
    return Int(entry)
  }

  package mutating func takeLabels() throws(PatchbayError) -> [BlobInfo.Label] {
    try takeList(atMost: WireLimit.labelCount, "the labels") {
      (reader) throws(PatchbayError) -> BlobInfo.Label in
      BlobInfo.Label(
        name: try reader.takeText(atMost: WireLimit.labelPart, "a label's name"),
        value: try reader.takeText(atMost: WireLimit.labelPart, "a label's value"))
    }
  }
}
