// Creation. Everything that can be refused is refused before anything changes, so a create that
// fails leaves an old blob of the key where it was, except when the system refuses the memory of the
// new one after the old has gone. Until its board entry and its first ring are there a blob is
// unborn: its key counts as taken, and nobody but its creator's request knows of it, for it may
// still come to nothing.

import PatchbayLayout
import PatchbayTypes
import PatchbayWire

extension Ledger {
  mutating func create(
    _ session: SessionID, _ number: UInt64, _ request: CreateRequest,
    _ terms: CreateTerms = .plain
  ) throws(PatchbayError) {
    try checkOffer(request)
    try checkTerms(request, terms)
    guard terms.compression == nil || limits.spool != nil else {
      throw .noSpoolToCompress(request.key)
    }
    guard !isDraining else { throw .draining }
    guard !isJournalFull else { throw .journalFull(request.key) }
    let old = owners[request.key]
    if let own = ownCreation(old, session, number) {
      confirm(session, own.origin.generation)
      return answerCreation(of: own, RequestID(session: session, number: number))
    }
    if let stale = terms.succeeds {
      if let own = ownSuccessor(request.key, session, number) {
        confirm(session, own.origin.generation)
        return answerCreation(of: own, RequestID(session: session, number: number))
      }
      return try createSuccessor(of: stale, session, number, request, terms)
    }
    if let same = sameCreation(old, session, request, terms) {
      try repeatCreation(of: same, RequestID(session: session, number: number))
      return
    }
    try checkOwner(old, session, request)
    try checkTaken(old, request)
    try checkHandles(session)
    if let bytes = request.inlineBytes {
      try createInline(session, number, request, terms, bytes, replacing: old)
    } else if let source = source(old, terms), resumes(source, session, request, terms) {
      try resume(source, session, number, request, terms)
    } else {
      try createWithExtents(session, number, request, terms, replacing: old)
    }
  }

  /// Refuses what this version does not offer.
  func checkOffer(_ request: CreateRequest) throws(PatchbayError) {
    try checkAcknowledgement(request)
    guard request.mode & ~0o666 == 0 else { throw .badMode(request) }
    guard request.policy == .keep || request.order == .appendOnly && request.inlineBytes == nil
    else { throw .windowNotAppended(request) }
    guard let bytes = request.inlineBytes else { return }
    guard bytes.count <= Frame.inlineByteLimit else {
      throw .inlineTooLong(request.key, byteCount: bytes.count)
    }
    if let announced = request.byteCount, announced != bytes.count {
      throw .lengthMismatch(request.key, announced: announced, found: bytes.count)
    }
  }

  private func checkAcknowledgement(_ request: CreateRequest) throws(PatchbayError) {
    guard request.acknowledgement != .visible else { return }
    guard request.policy == .keep else { throw .windowOutlives(request) }
    guard request.inlineBytes == nil else { throw .inlineOutlives(request) }
    guard limits.spool != nil else { throw .noSpool(request.key) }
  }

  /// Refuses terms that contradict each other.
  private func checkTerms(
    _ request: CreateRequest, _ terms: CreateTerms
  ) throws(PatchbayError) {
    guard terms != .plain else { return }
    guard request.inlineBytes == nil || terms == terms.ofWholeBlob else {
      throw .badTerms(request.key, "a whole blob in one message is nobody's to write")
    }
    guard request.policy == .keep else {
      throw .badTerms(
        request.key,
        "a window has one publisher, and nothing of it is kept to be taken over, verified, or served "
          + "for a time")
    }
    let isShared = terms.ownership == .joinable || terms.ownership == .ownerless
    guard isShared || terms.idleLimit == nil else {
      throw .badTerms(
        request.key, "a blob with one publisher ends with it, not by an idle limit")
    }
    guard terms.ownership == .produced || terms.production == ProductionTerms() else {
      throw .badTerms(request.key, "only the production of a produced blob can have terms")
    }
    let lifetime = terms.lifetime
    guard lifetime.grace == nil || lifetime.timeToLive != nil || lifetime.idleExpiry != nil else {
      throw .badTerms(request.key, "a grace begins when its time is over, and it has no end")
    }
    guard !isShared || request.order == .any else {
      throw .badTerms(
        request.key,
        "a blob that is appended to has one end, so one publisher; several need a "
          + "blob that is written in any order")
    }
  }

  /// The live blob that an ownerless creation asks for, if there is one already: who asks again,
  /// having lost the answer or not, gets the answer again.
  private func sameCreation(
    _ old: Generation?, _ session: SessionID, _ request: CreateRequest, _ terms: CreateTerms
  ) -> Blob? {
    guard let old, let blob = blobs[old], !request.replaces, terms.ownership == .ownerless,
      LifeCycle.outcome(of: .createSame, in: blob.state) == .stays
    else { return nil }
    var first = blob.origin.request
    first.replaces = false
    let isSame =
      first == request && blob.origin.terms.ownership == .ownerless
      && blob.origin.terms.idleLimit == terms.idleLimit
      && blob.origin.terms.compression == terms.compression
      && blob.origin.terms.digest == terms.digest
      && blob.origin.terms.lifetime == terms.lifetime
      && blob.origin.access.uid == sessions[session]?.peer.uid
    return isSame ? blob : nil
  }

  /// The blob that this very request has created: it is sent again when its answer was lost.
  func ownCreation(_ old: Generation?, _ session: SessionID, _ number: UInt64) -> Blob? {
    guard let old, let blob = blobs[old], blob.isBorn, let token = sessions[session]?.token,
      token != .none, blob.origin.token == token, blob.origin.creator.number == number
    else { return nil }
    return blob
  }

  private mutating func repeatCreation(of blob: Blob, _ asker: RequestID) throws(PatchbayError) {
    guard !blob.isBorn else { return answerCreation(of: blob, asker) }
    guard blob.birthWaiters.count < Self.waiterLimit else {
      throw .tooManyWaiters(blob, limit: Self.waiterLimit)
    }
    blobs[blob.origin.generation]?.birthWaiters.append(asker)
  }

  func checkTaken(
    _ old: Generation?, _ request: CreateRequest
  ) throws(PatchbayError) {
    guard let old, let blob = blobs[old] else { return }
    let step: LifeCycle.Step = request.replaces && blob.isBorn ? .createReplacing : .create
    if case .refused = LifeCycle.outcome(of: step, in: blob.state) { throw .keyExists(blob) }
  }

  func checkHandles(_ session: SessionID) throws(PatchbayError) {
    guard let asker = sessions[session] else { return }
    guard asker.handleCount < limits.handlesPerSession else {
      throw .tooManyHandles(limit: limits.handlesPerSession)
    }
    try checkHandles(ofUser: asker.peer.uid)
  }

  mutating func makeOrigin(
    _ session: SessionID, _ number: UInt64, _ request: CreateRequest, _ terms: CreateTerms,
    plan: ExtentPlan, window: WindowShape? = nil, file: FileStamp? = nil
  ) -> BlobOrigin? {
    guard let creator = sessions[session] else { return nil }
    lastGeneration += 1
    return BlobOrigin(
      request: request, terms: terms, generation: Generation(rawValue: lastGeneration),
      access: Access(uid: creator.peer.uid, gid: creator.peer.gid, mode: request.mode), plan: plan,
      window: window, file: file, created: now.wall,
      creator: RequestID(session: session, number: number),
      token: creator.token,
      heldExtentLimit: heldExtentLimit(plan, request, budget(of: session)))
  }

  private mutating func createInline(
    _ session: SessionID, _ number: UInt64, _ request: CreateRequest, _ terms: CreateTerms,
    _ bytes: [UInt8], replacing old: Generation?
  ) throws(PatchbayError) {
    let plan = try ExtentPlan(first: ExtentPlan.page, limit: ExtentPlan.page)
    guard let origin = makeOrigin(session, number, request, terms, plan: plan) else { return }
    _ = try findRoom(inline: bytes.count, of: origin.access.uid, request, replacing: old)
    var blob = Blob(origin: origin)
    blob.state = .sealed
    blob.byteCount = bytes.count
    blob.inlineBytes = bytes
    blob.residentByteCount = bytes.count
    blob.sealer = session
    settleDigest(&blob, bytes)
    inlineByteCount += blob.residentByteCount
    charge(origin.access.uid, blob.residentByteCount)
    keep(blob)
    owners[request.key] = origin.generation
    born(origin.generation)
    settle(origin.generation)
  }

  mutating func createWithExtents(
    _ session: SessionID, _ number: UInt64, _ request: CreateRequest, _ terms: CreateTerms,
    replacing old: Generation?
  ) throws(PatchbayError) {
    let window = try makeWindow(request)
    let plan =
      if let window {
        try ExtentPlan(first: window.ringByteCount, limit: window.ringByteCount)
      } else {
        try makePlan(request, budget(of: session))
      }
    let geometry = try firstGeometry(request, plan)
    let needs = try makeRoomForBlob(
      geometry.map { [(0, $0)] } ?? [], session, request, replacing: old)
    guard
      let generation = beginBlob(
        session, number, request, terms, plan: plan, window: window, source: nil)
    else { return }
    for need in needs { requestRing(for: generation, need, waiters: []) }
    bearIfReady(generation)
  }

  /// Makes room for the rings of a new blob, its board and its name, and takes the old blob of the
  /// key away once it is certain that there will be.
  /// - Parameter geometries: the rings' sizes by the index of their extents.
  mutating func makeRoomForBlob(
    _ geometries: [(index: Int, geometry: RingGeometry)], _ session: SessionID,
    _ request: CreateRequest, replacing old: Generation? = nil
  ) throws(PatchbayError) -> [RingNeed] {
    guard let peer = sessions[session]?.peer else { return [] }
    let access = Access(uid: peer.uid, gid: peer.gid, mode: request.mode)
    try checkAccessClass(access)
    let byteCount = geometries.reduce(0) { $0 + $1.geometry.objectByteCount }
    try checkShare(ofClient: session, byteCount, for: "the blob \(request.key)")
    return try findRoom(
      for: geometries.map { RingNeed(index: $0.index, $0.geometry, access) },
      others: boardNeed(access), of: peer.uid, request, replacing: old)
  }

  /// As `makeRoomForBlob`, within what its user may have.
  /// - Parameters:
  ///   - inline: bytes that the user is charged with beside the rings.
  ///   - others: bytes that nobody is charged with.
  mutating func findRoom(
    for needs: [RingNeed] = [], inline: Int = 0, others: Int = 0, of uid: UInt32,
    _ request: CreateRequest, replacing old: Generation?
  ) throws(PatchbayError) -> [RingNeed] {
    let what = "the blob \(request.key)"
    let byteCount = needs.reduce(inline) { $0 + $1.byteCount }
    let share = byteCount + BlobOrigin.recordByteCount(of: request)
    try checkShare(of: uid, share, for: what)
    try checkRoom(byteCount + others, for: what, evicting: !canSpill(in: .broker))
    try makeRoomInCatalog(of: uid)
    if let old { unname(old) }
    try makeShare(of: uid, share, for: what)
    return try findRoom(for: needs, and: inline + others, what: what)
  }

  /// A blob that is not born yet, with the key and, unless it is ownerless, its publisher.
  mutating func beginBlob(
    _ session: SessionID, _ number: UInt64, _ request: CreateRequest, _ terms: CreateTerms,
    plan: ExtentPlan, window: WindowShape? = nil, source: Generation?
  ) -> Generation? {
    guard
      let origin = makeOrigin(session, number, request, terms, plan: plan, window: window)
    else { return nil }
    let generation = origin.generation
    var blob = Blob(origin: origin)
    blob.source = source
    if terms.ownership != .ownerless {
      blob.publishers = [BlobPublisher(session: session, number: number)]
      sessions[session]?.handles[generation] = Handle(publishes: true)
      sessions[session]?.handleCount += 1
    }
    // A stale one may have gone to make room.
    if let stale = terms.succeeds, owners[request.key] == stale {
      blob.succeeds = stale
      blob.isNamed = false
      successors[request.key] = generation
    } else {
      owners[request.key] = generation
    }
    keep(blob)
    openBlobCount += 1
    seekSlot(generation)
    return generation
  }

  /// The window as it was asked for, or one that stays in a core's cache; nil for the policy `keep`.
  private func makeWindow(_ request: CreateRequest) throws(PatchbayError) -> WindowShape? {
    guard request.policy != .keep else { return nil }
    let sizes = 0...ExtentPlan.positionLimit
    guard sizes.contains(request.firstExtent), sizes.contains(request.segment),
      sizes.contains(request.byteCount ?? 0)
    else { throw .badSizes(request) }
    var ring = request.firstExtent
    var segment = request.segment
    if ring == 0 { ring = max(limits.windowRing, segment * 2) }
    if segment == 0 { segment = Self.segment(ofRing: ring) }
    ring = (ring + segment - 1) / max(segment, 1) * segment
    let window = try WindowShape(ringByteCount: ring, segmentByteCount: segment)
    try checkPossible(request, window.ringByteCount)
    return window
  }

  /// An eighth of the ring, as a power of two.
  private static func segment(ofRing byteCount: Int) -> Int {
    let eighth = max(WindowShape.segmentRange.lowerBound, byteCount / 8)
    return min(
      1 << (Int.bitWidth - 1 - eighth.leadingZeroBitCount), WindowShape.segmentRange.upperBound)
  }

  /// The extents as they were asked for, or one for the whole of a known length, or doubling ones.
  /// - Parameter budget: the memory that its publisher may use.
  func makePlan(
    _ request: CreateRequest, _ budget: Int
  ) throws(PatchbayError) -> ExtentPlan {
    let asked = max(request.firstExtent, request.extentLimit, request.byteCount ?? 0)
    guard min(request.firstExtent, request.extentLimit, request.byteCount ?? 0) >= 0,
      asked <= ExtentPlan.positionLimit
    else { throw .badSizes(request) }
    if let byteCount = request.byteCount, request.firstExtent == 0, request.extentLimit == 0,
      limits.spool == nil || byteCount <= budget / 8
    {
      let whole = max(ExtentPlan.page, RingGeometry.roundedToPage(byteCount))
      try checkPossible(request, whole)
      return try ExtentPlan(first: whole, limit: whole)
    }
    let limit = request.extentLimit > 0 ? request.extentLimit : limits.chosenExtentLimit(budget)
    let first = RingGeometry.roundedToPage(
      request.firstExtent > 0 ? request.firstExtent : limits.chosenFirstExtent(request, limit))
    var rounded = max(first, ExtentPlan.page)
    while rounded < limit { rounded *= 2 }
    let plan = try ExtentPlan(first: first, limit: rounded)
    guard let byteCount = request.byteCount else { return plan }
    if canStream(plan, request, budget) {
      try checkStreamable(request, byteCount)
    } else {
      try checkPossible(request, byteCount)
    }
    return plan
  }

  /// A length that memory could never hold is refused at once, before anything is evicted for it.
  private func checkPossible(
    _ request: CreateRequest, _ byteCount: Int
  ) throws(PatchbayError) {
    guard byteCount > limits.memoryByteCount - overheadByteCount else { return }
    throw .neverFits(
      request.key, byteCount: byteCount, limit: limits.memoryByteCount,
      overhead: overheadByteCount)
  }

  /// The first ring; nil for an empty blob, which needs none.
  private func firstGeometry(
    _ request: CreateRequest, _ plan: ExtentPlan
  ) throws(PatchbayError) -> RingGeometry? {
    try Self.geometry(
      of: 0, plan: plan, byteCount: request.policy == .keep ? request.byteCount : nil,
      order: request.order)
  }

  /// The ring of one extent: its share of the blob in whole pages; nil if it has none.
  static func geometry(
    of index: Int, plan: ExtentPlan, byteCount: Int?, order: WriteOrder
  ) throws(PatchbayError) -> RingGeometry? {
    let range = plan.range(of: index)
    let end = byteCount.map { min(range.upperBound, RingGeometry.roundedToPage($0)) }
    let share = (end ?? range.upperBound) - range.lowerBound
    guard share > 0 else { return nil }
    return try RingGeometry(dataByteCount: share, hasMap: order == .any)
  }

  /// Lets a blob into the world once its entry and its first rings are there, with the bytes that
  /// it takes over.
  mutating func bearIfReady(_ generation: Generation) {
    guard let blob = blobs[generation], !blob.isBorn, blob.slot != nil,
      blob.pendingExtents.isEmpty, hasCopied(generation)
    else { return }
    // It was counted as open; it is from now on only if somebody writes it.
    if blob.state == .suspended {
      openBlobCount -= 1
      awaitPublisher(generation)
    }
    followDigest(generation)
    born(generation)
  }

  mutating func born(_ generation: Generation) {
    let waiters = blobs[generation]?.birthWaiters ?? []
    blobs[generation]?.isBorn = true
    blobs[generation]?.modified = now.wall
    touch(generation)
    blobs[generation]?.birthWaiters = []
    guard let blob = blobs[generation] else { return }
    if !blob.state.isLive { noteEnd(generation) }
    if blob.isNamed { catalog.insert(blob.key) }
    changed(generation)
    post(generation)
    record(generation)
    let askers = blob.birthAskers
    blobs[generation]?.birthAskers = []
    for asker in [blob.origin.creator] + waiters { answerCreation(of: blob, asker) }
    answerParked(blob.key)
    serveBirthAskers(askers)
  }

  /// Tells who created a blob, with its first extent if that makes it a publisher.
  mutating func answerCreation(of blob: Blob, _ asker: RequestID) {
    // It came and was wrong in one message.
    guard blob.state != .failed else { return refuse(asker.session, asker.number, blob.failure) }
    let isPublisher = blob.publishers.contains(
      BlobPublisher(session: asker.session, number: asker.number))
    let (extent, descriptors) = isPublisher ? grantFirst(of: blob, asker) : (nil, [])
    if isPublisher, opensToo(asker) { addReaderOnce(asker, blob.origin.generation) }
    reply(
      asker.session, asker.number, .created(blob.grant(epoch: blob.epoch, extent: extent)),
      descriptors)
  }

  /// Whether a request asked for a reader of what it creates.
  private func opensToo(_ asker: RequestID) -> Bool {
    unanswered[asker.session]?[asker.number]?.kind == .openOrCreate
  }

  private mutating func addReaderOnce(_ asker: RequestID, _ generation: Generation) {
    let readers = sessions[asker.session]?.handles[generation]?.readers ?? []
    guard sessions[asker.session] != nil, !readers.contains(asker.number) else { return }
    sessions[asker.session]?.handleCount += 1
    addReader(asker, generation, observes: false)
  }

  /// Undoes a creation that came to nothing: the blob never existed.
  mutating func discardUnborn(_ generation: Generation, _ error: PatchbayError?) {
    guard let blob = blobs[generation], !blob.isBorn else { return }
    _ = orphanPendingRings(of: generation)
    for extent in blob.extents { dropRing(extent.ring, exists: true) }
    for publisher in blob.publishers { endPublisher(publisher.session, generation) }
    openBlobCount -= 1
    if owners[blob.key] == generation { owners[blob.key] = nil }
    forgetSuccessor(blob)
    if let slot = blob.slot { clear(slot, of: generation) }
    // Files that it was to adopt go when that is over.
    chargeDisk(blob, -blob.spoolByteCount, idle: 0)
    drop(blob)
    giveBackSource(blob)
    if let error {
      for asker in [blob.origin.creator] + blob.birthWaiters {
        refuse(asker.session, asker.number, error)
      }
    }
    serveBirthAskers(blob.birthAskers)
  }
}

extension CreateTerms {
  /// As far as they are about a blob that comes whole.
  fileprivate var ofWholeBlob: CreateTerms {
    var terms = CreateTerms.plain(digest: digest)
    terms.lifetime = lifetime
    return terms
  }
}

extension Blob {
  /// What a client is told that opens or creates it.
  func grant(epoch: UInt32, extent: ExtentGrant?) -> BlobGrant {
    BlobGrant(
      blob: BlobReference(generation: origin.generation, epoch: epoch), state: state,
      byteCount: byteCount, order: origin.request.order, policy: origin.request.policy,
      plan: origin.plan, segment: origin.window?.segmentByteCount ?? 0,
      wakeClasses: origin.wakeClasses, board: slot?.board ?? 0, entry: slot?.entry ?? 0,
      inlineBytes: epoch == 0 ? inlineBytes : nil,
      extentEnd: extentEnd,
      extent: extent, heldExtentLimit: epoch == 0 ? 0 : origin.heldExtentLimit,
      pausesUnread: epoch != 0 && isProduced
        && origin.terms.production.whenUnread == .pause)
  }
}

extension ExtentRecord {
  var grant: ExtentGrant {
    ExtentGrant(
      index: index, ringID: ring.rawValue, useNumber: useNumber, dataByteCount: dataByteCount)
  }
}
