// Replies to bytes and back, field by field in protocol order.

import PatchbayTypes

extension Reply {
  package var kind: Kind {
    switch self {
    case .failure: .failure
    case .welcome: .welcome
    case .created: .created
    case .extent: .extent
    case .done: .done
    case .opened: .opened
    case .board: .board
    case .info: .info
    case .list: .list
    case .statistics: .statistics
    case .pong: .pong
    case .subscriptions: .subscriptions
    case .table: .table
    case .joined: .joined
    case .claimed: .claimed
    case .events: .events
    case .why: .why
    case .spooled: .spooled
    case .scratch: .scratch
    case .imported: .imported
    case .demanded: .demanded
    }
  }

  func encodeBody(_ writer: inout WireWriter) {
    switch self {
    case .failure(let error): writer.put(error)
    case .welcome(let welcome):
      writer.put(welcome.version)
      writer.put(welcome.clientID)
      writer.put(welcome.token.high)
      writer.put(welcome.token.low)
      writer.put(welcome.instance)
      writer.put(welcome.brokerProcess)
      writer.put(welcome.isAwaited)
    case .created(let grant), .opened(let grant), .joined(let grant): writer.put(grant)
    case .claimed(let claim):
      writer.put(claim.blob)
      writer.put(claim.claim)
      writer.put(claim.range)
    case .extent(let extent): writer.put(extent)
    case .board(let board):
      writer.put(board.board)
      writer.put(UInt32(clamping: board.entryCount))
    case .info(let info): writer.put(info)
    case .list(let page):
      writer.put(page.hasMore)
      writer.put(list: page.blobs) { writer, blob in writer.put(blob) }
    case .statistics(let statistics): writer.put(statistics)
    case .events(let page): page.encode(&writer)
    case .why(let situation): situation.encode(&writer)
    case .demanded(let range): writer.put(range)
    case .spooled(let grant):
      writer.put(index: grant.index)
      writer.put(Int64(grant.segmentByteCount))
    case .scratch(let grant):
      writer.put(index: grant.index)
      writer.put(grant.writer.rawValue)
      writer.put(Int64(grant.dataByteCount))
    case .imported(let grant): grant.encode(&writer)
    case .subscriptions(let list):
      writer.put(list.version)
      writer.put(list: list.subscriptions) { writer, subscription in writer.put(subscription) }
    case .done, .pong, .table: break
    }
  }

  init(kind number: UInt16, from reader: inout WireReader) throws(PatchbayError) {
    guard let kind = Kind(rawValue: number) else {
      throw PatchbayError(.protocolViolation, "No reply has the type number \(number).")
    }
    switch kind {
    case .failure: self = .failure(try reader.takeError())
    case .welcome:
      self = .welcome(
        Welcome(
          version: try reader.take(), clientID: try reader.take(),
          token: Token(high: try reader.take(), low: try reader.take()),
          instance: try reader.take(), brokerProcess: try reader.take(),
          isAwaited: try reader.takeFlag()))
    case .created: self = .created(try reader.takeGrant())
    case .extent: self = .extent(try reader.takeExtent())
    case .done: self = .done
    case .opened: self = .opened(try reader.takeGrant())
    case .board:
      self = .board(
        BoardGrant(board: try reader.take(), entryCount: Int(try reader.take(UInt32.self))))
    case .info: self = .info(try reader.takeInfo())
    case .list:
      let hasMore = try reader.takeFlag()
      let blobs = try reader.takeList(atMost: WireLimit.pageEntries, "a page of blobs") {
        (reader) throws(PatchbayError) -> BlobInfo in try reader.takeInfo()
      }
      self = .list(ListPage(blobs: blobs, hasMore: hasMore))
    case .statistics: self = .statistics(try reader.takeStatistics())
    case .pong: self = .pong
    case .subscriptions:
      self = .subscriptions(
        SubscriptionList(
          version: try reader.take(),
          subscriptions: try reader.takeList(
            atMost: WireLimit.subscriptions, "the sequential subscribers"
          ) { (reader) throws(PatchbayError) -> Subscription in try reader.takeSubscription() }))
    case .table: self = .table
    case .joined: self = .joined(try reader.takeGrant())
    case .claimed:
      self = .claimed(
        ClaimGrant(
          blob: try reader.takeReference(), claim: try reader.take(),
          range: try reader.takeRange("a claim")))
    case .events: self = .events(try EventPage(from: &reader))
    case .why: self = .why(try BlobSituation(from: &reader))
    case .spooled: self = .spooled(try reader.takeSpoolGrant())
    case .scratch:
      self = .scratch(
        ScratchGrant(
          index: try reader.takeIndex(), writer: Generation(rawValue: try reader.take()),
          dataByteCount: try reader.takePosition("an extent's size")))
    case .imported: self = .imported(try ImportGrant(from: &reader))
    case .demanded: self = .demanded(try reader.takeRange("a demand"))
    }
  }
}

extension WireWriter {
  mutating func put(_ error: PatchbayError) {
    put(error.code.rawValue)
    put(error.message.cut(toUTF8Count: WireLimit.message))
    put(error.cause != nil)
    if let cause = error.cause { put(cause.cut(toUTF8Count: WireLimit.cause)) }
    put(optional: error.resumePosition)
    put(list: Array(error.missing.prefix(WireLimit.missing))) { writer, range in writer.put(range) }
    put(error.systemErrno ?? 0)
  }

  mutating func put(_ grant: BlobGrant) {
    put(grant.blob)
    put(grant.state.rawValue)
    put(optional: grant.byteCount)
    put(grant.order.rawValue)
    put(grant.policy.rawValue)
    put(Int64(grant.plan.first))
    put(Int64(grant.plan.limit))
    put(Int64(grant.segment))
    put(grant.wakeClasses.shift)
    put(grant.board)
    put(grant.entry)
    put(grant.inlineBytes != nil)
    if let inlineBytes = grant.inlineBytes { put(inlineBytes) }
    put(index: grant.extentEnd)
    put(grant.extent != nil)
    if let extent = grant.extent { put(extent) }
    put(grant.isForeign)
    put(UInt32(clamping: grant.heldExtentLimit))
    put(grant.isStale)
    put(grant.pausesUnread)
    put(Int64(grant.demandPiece ?? 0))
  }

  mutating func put(_ extent: ExtentGrant) {
    put(index: extent.index)
    put(extent.ringID)
    put(extent.useNumber)
    put(Int64(extent.dataByteCount))
  }

  mutating func put(_ info: BlobInfo) {
    put(info.key)
    put(info.generation.rawValue)
    put(info.state.rawValue)
    put(optional: info.byteCount)
    put(Int64(info.frontier))
    put(Int64(info.coveredByteCount))
    put(Int64(info.residentByteCount))
    put(Int64(info.spilledByteCount))
    put(info.order.rawValue)
    put(info.policy.rawValue)
    put(info.acknowledgement.rawValue)
    put(UInt32(clamping: info.publisherCount))
    put(UInt32(clamping: info.subscriberCount))
    put(info.type)
    put(labels: info.labels)
    put(info.created.rawValue)
    put(info.modified.rawValue)
    put(info.lastRead?.rawValue ?? 0)
    put(info.isCache)
    put(info.isPinned)
    put(info.isImported)
    put(info.isPaused)
    put(info.access)
    put(info.causeCode?.rawValue ?? 0)
    put((info.cause ?? "").cut(toUTF8Count: WireLimit.cause))
    put(info.digest)
    put(info.expires?.rawValue ?? 0)
  }

  mutating func put(_ statistics: BrokerStatistics) {
    for (_, path) in BrokerStatistics.counters { put(statistics[keyPath: path]) }
    put(statistics.uptime.wholeNanoseconds)
  }
}

extension BrokerStatistics {
  /// The counters in protocol order, with the names that people see.
  package static var counters: [(name: String, path: WritableKeyPath<Self, UInt64>)] {
    [
      ("blobs", \.blobCount), ("memoryBytes", \.memoryByteCount), ("memoryLimit", \.memoryLimit),
      ("poolBytes", \.poolByteCount), ("spoolBytes", \.spoolByteCount),
      ("spoolLimit", \.spoolLimit), ("clients", \.clientCount), ("rings", \.ringCount),
      ("reuses", \.reuseCount), ("spills", \.spillCount), ("restores", \.restoreCount),
      ("evictions", \.evictionCount),
      ("wakes", \.wakeCount), ("needlessWakes", \.needlessWakeCount),
      ("rescuedWaits", \.rescuedWaitCount), ("users", \.userCount),
      ("userMemoryBytes", \.userMemoryByteCount), ("userMemoryLimit", \.userMemoryLimit),
      ("clientMemoryBytes", \.clientMemoryByteCount), ("clientMemoryLimit", \.clientMemoryLimit),
    ]
  }
}

extension String {
  /// The longest prefix of whole characters within this many UTF-8 bytes.
  package func cut(toUTF8Count limit: Int) -> String {
    guard utf8.count > limit else { return self }
    var kept = self[...]
    while kept.utf8.count > limit { kept = kept.dropLast() }
    return String(kept)
  }
}

extension WireReader {
  mutating func takeError() throws(PatchbayError) -> PatchbayError {
    let code = PatchbayError.Code(rawValue: try take())
    let message = try takeText(atMost: WireLimit.message, "an error's message")
    let cause = try takeFlag() ? takeText(atMost: WireLimit.cause, "a cause") : nil
    let resumePosition = try takeOptionalPosition("a resume position")
    let missing = try takeList(atMost: WireLimit.missing, "the missing ranges") {
      (reader) throws(PatchbayError) -> Range<Int> in try reader.takeRange("a missing range")
    }
    let systemErrno = try take(Int32.self)
    return PatchbayError(
      code, message, cause: cause, resumePosition: resumePosition, missing: missing,
      systemErrno: systemErrno == 0 ? nil : systemErrno)
  }

  mutating func takeGrant() throws(PatchbayError) -> BlobGrant {
    BlobGrant(
      blob: try takeReference(), state: try takeCase("a state"),
      byteCount: try takeOptionalPosition("a length"), order: try takeCase("a write order"),
      policy: try takeCase("a policy"),
      plan: try ExtentPlan(
        first: takePosition("an extent's size"), limit: takePosition("an extent's size")),
      segment: try takePosition("a segment's size"), wakeClasses: try WakeClasses(shift: take()),
      board: try take(), entry: try take(),
      inlineBytes: try takeFlag()
        ? takeBlock(atMost: Frame.inlineByteLimit, "an inline blob") : nil,
      extentEnd: try takeIndex(), extent: try takeFlag() ? takeExtent() : nil,
      isForeign: try takeFlag(), heldExtentLimit: Int(try take(UInt32.self)),
      isStale: try takeFlag(), pausesUnread: try takeFlag(), demandPiece: try takeDemandPiece())
  }

  /// 0 stands for nil.
  private mutating func takeDemandPiece() throws(PatchbayError) -> Int? {
    let byteCount = try takePosition("a piece's size")
    return byteCount == 0 ? nil : byteCount
  }

  mutating func takeExtent() throws(PatchbayError) -> ExtentGrant {
    ExtentGrant(
      index: try takeIndex(), ringID: try take(), useNumber: try take(),
      dataByteCount: try takePosition("an extent's size"))
  }

  mutating func takeSpoolGrant() throws(PatchbayError) -> SpoolGrant {
    SpoolGrant(
      index: try takeIndex(), segmentByteCount: try takePosition("a segment's size"))
  }

  mutating func takeInfo() throws(PatchbayError) -> BlobInfo {
    let key = try takeKey()
    let generation = Generation(rawValue: try take())
    let state: BlobState = try takeCase("a state")
    let byteCount = try takeOptionalPosition("a length")
    let frontier = try takePosition("a frontier")
    let covered = try takePosition("a count of covered bytes")
    let resident = try takePosition("a count of resident bytes")
    let spilled = try takePosition("a count of spilled bytes")
    let order: WriteOrder = try takeCase("a write order")
    let policy: FlowPolicy = try takeCase("a policy")
    let acknowledgement: Acknowledgement = try takeCase("an acknowledgement level")
    let publisherCount = Int(try take(UInt32.self))
    let subscriberCount = Int(try take(UInt32.self))
    let type = try takeText(atMost: WireLimit.type, "a media type")
    let labels = try takeLabels()
    let created = WallTime(rawValue: try take())
    let modified = WallTime(rawValue: try take())
    let lastRead = try take(Int64.self)
    let isCache = try takeFlag()
    let isPinned = try takeFlag()
    let isImported = try takeFlag()
    let isPaused = try takeFlag()
    let access = try takeAccess()
    let causeCode = try take(UInt16.self)
    let cause = try takeText(atMost: WireLimit.cause, "a cause")
    let digest = try takeDigest()
    let expires = try take(Int64.self)
    return BlobInfo(
      key: key, generation: generation, state: state, byteCount: byteCount, frontier: frontier,
      coveredByteCount: covered, residentByteCount: resident, spilledByteCount: spilled,
      order: order, policy: policy, acknowledgement: acknowledgement,
      publisherCount: publisherCount, subscriberCount: subscriberCount, type: type,
      labels: labels, created: created, modified: modified,
      lastRead: lastRead == 0 ? nil : WallTime(rawValue: lastRead), isCache: isCache,
      isPinned: isPinned, isImported: isImported, isPaused: isPaused,
      access: access,
      causeCode: causeCode == 0 ? nil : PatchbayError.Code(rawValue: causeCode),
      cause: cause.isEmpty ? nil : cause, digest: digest,
      expires: expires == 0 ? nil : WallTime(rawValue: expires))
  }

  mutating func takeStatistics() throws(PatchbayError) -> BrokerStatistics {
    var statistics = BrokerStatistics()
    for (_, path) in BrokerStatistics.counters { statistics[keyPath: path] = try take() }
    statistics.uptime = .nanoseconds(try take(Int64.self))
    return statistics
  }
}
