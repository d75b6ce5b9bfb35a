// Producing a blob once. Of all that ask for a missing key one creates it; the others read the same
// generation while it is written. Who would produce it stands by: when the publisher dies, gives the
// production up, or covers nothing new for its tenure, the one that came first goes on, under the next
// epoch, and readers notice nothing but the pause. Where nobody stands by the blob has failed, as an
// exclusive one has.
//
// A publisher that was fenced may still write into the rings that it has mapped. What is not complete in
// them is copied into fresh ones before the next publisher gets them (HandOver), unless its process has
// exited, or said that it will write no more.

import PatchbayTypes
import PatchbayWire

/// What is known of a production while its blob is being written.
struct Production: Sendable {
  /// How far a hand-over is.
  enum Phase: Sendable, Hashable {
    /// Somebody publishes the blob.
    case steady
    /// Nobody does.
    case vacant
    /// It is being found out which extents are complete.
    case surveying
    /// Fresh rings are being made for those that are not.
    case refitting
    /// What they cover is being copied.
    case copying(CopyID)
  }

  /// A reader whose process would go on.
  struct Candidate: Sendable, Hashable {
    let session: SessionID
    /// The request that opened it.
    let opened: UInt64
    /// The request that waits for the right; nil until it comes.
    var request: UInt64?
  }

  var phase = Phase.steady
  /// In the order of coming.
  var candidates: [Candidate] = []
  /// Sessions that published it before, and may still write into its rings.
  var fenced: Set<SessionID> = []
  /// Whether there may be others of which nobody knows: they were a broker's before this one.
  var isTainted = false
  /// Until when the end of a process is waited for that has hung up.
  var exitDeadline: Int64?
  /// Why a hand-over could not be done when it was last tried, and when it is tried again.
  var hindrance: PatchbayError?
  var retryMoment: Int64?
  /// Rings that take the place of incomplete ones.
  var fresh: [ExtentRecord] = []
  /// Extents whose rings serve nobody any more, and that no fresh one has taken the place of: a copy of them
  /// came to nothing.
  var retracted: Set<Int> = []
  /// How much was covered when that was last seen to grow, and when.
  var progress: (covered: Int, since: Int64)?
  /// How much was covered when a publisher was last fenced, and how many one after the other were fenced
  /// with no more than that.
  var stall: (covered: Int, count: Int)?
  var isBeingMeasured = false
  /// When it is next looked at.
  var nextMoment: Int64?

  var mustRefit: Bool { isTainted || !fenced.isEmpty || !retracted.isEmpty }
  /// Whether the right is on its way to somebody else.
  var isInTransit: Bool { phase != .steady }
  /// Whether its rings are being changed.
  var isUnderWay: Bool { isInTransit && phase != .vacant }
  var isBeingCopied: Bool { if case .copying = phase { true } else { false } }
  var firstAsker: Candidate? { candidates.first { $0.request != nil } }

  /// How long a publisher may cover nothing new: twice as long as the one before that was fenced where this
  /// one is. Else work that is silent for longer than its tenure would be begun again for ever.
  func patience(_ tenure: Duration, at covered: Int) -> Duration {
    guard let stall, covered <= stall.covered else { return tenure }
    return tenure * (1 << min(stall.count, Self.doublingLimit))
  }

  mutating func noteStall(at covered: Int) {
    let isWhereItWas = stall.map { covered <= $0.covered } ?? false
    stall = (covered, isWhereItWas ? (stall?.count ?? 0) + 1 : 1)
  }

  /// A process that has hung up is gone in a moment, as a rule, and nothing has to be copied.
  static let exitPatience = Duration.milliseconds(100)
  /// How long a vacant production waits for somebody to ask for it.
  static let candidatePatience = Duration.seconds(10)
  static let candidateLimit = 4096
  static let askersPerOtherUser = candidateLimit / 4
  /// How long a hand-over rests for which there was too little of something.
  static let refitPause = Duration.milliseconds(100)
  static let looksPerTurn = 256
  /// How often a tenure is doubled at most.
  static let doublingLimit = 20
  static let shortestLook = Duration.milliseconds(5)
}

/// When a production is to be looked at.
struct ProductionMoment: Sendable, Hashable, Comparable {
  let moment: Int64
  let generation: Generation
  static func < (left: Self, right: Self) -> Bool {
    (left.moment, left.generation) < (right.moment, right.generation)
  }
}

extension Blob {
  var isProduced: Bool { origin.terms.ownership == .produced }
}

extension Ledger {
  // MARK: Opening or creating

  mutating func openOrCreate(
    _ session: SessionID, _ number: UInt64, _ request: OpenOrCreateRequest
  ) throws(PatchbayError) {
    guard !isDraining else { throw .draining }
    let key = request.create.key
    let asker = RequestID(session: session, number: number)
    if let own = ownCreation(owners[key], session, number),
      own.state == .failed
        || own.publishers.contains(BlobPublisher(session: session, number: number))
    {
      confirm(session, own.origin.generation)
      return answerCreation(of: own, asker)
    }
    guard request.create.inlineBytes == nil, !request.create.replaces,
      request.terms.ownership != .ownerless
    else { throw .badTerms(key, "whoever opens or creates a blob writes it, and replaces none") }
    if let unborn = unborn(key, readableBy: session) {
      return try awaitBirth(of: unborn, asker, request)
    }
    if let blob = visible(key, to: session), try opens(blob, asker, request) { return }
    guard request.terms.succeeds == nil else {
      throw .badTerms(key, "a successor is created for itself")
    }
    try create(session, number, request.create, request.terms)
    if let generation = owners[key] { countUse(of: generation) }
  }

  private func unborn(_ key: BlobKey, readableBy session: SessionID) -> Blob? {
    guard let generation = owners[key], let blob = blobs[generation], !blob.isBorn,
      mayRead(session, blob.origin.access)
    else { return nil }
    return blob
  }

  /// Asked again when the blob is there, or has come to nothing.
  private mutating func awaitBirth(
    of blob: Blob, _ asker: RequestID, _ request: OpenOrCreateRequest
  ) throws(PatchbayError) {
    guard blob.birthAskers.count < Production.candidateLimit else {
      throw .tooManyWaiters(blob, limit: Production.candidateLimit)
    }
    try checkWaitingRequests(of: asker.session)
    // Another user than its own leaves places to those that wait for the blob.
    let uid = sessions[asker.session]?.peer.uid
    if let uid, !isTrusted(uid), uid != blob.origin.access.uid {
      let own = blob.birthAskers.count { sessions[$0.asker.session]?.peer.uid == uid }
      guard own < Production.askersPerOtherUser else {
        throw .tooManyWaiters(blob, limit: Production.askersPerOtherUser)
      }
    }
    blobs[blob.origin.generation]?.birthAskers.append((asker, request))
  }

  /// To be called when a blob that others have waited for is born or discarded.
  mutating func serveBirthAskers(_ askers: [(asker: RequestID, request: OpenOrCreateRequest)]) {
    for (asker, request) in askers where sessions[asker.session]?.phase == .talking {
      answer(asker.session, asker.number, .openOrCreate(request))
    }
  }

  /// Opens what the key has; false when that is nothing to read, and the key can be taken.
  private mutating func opens(
    _ blob: Blob, _ asker: RequestID, _ request: OpenOrCreateRequest
  ) throws(PatchbayError) -> Bool {
    switch LifeCycle.outcome(of: .openOrCreate, in: blob.state) {
    case .begins, .refused, .refusedWithCause:
      try checkFailure(blob)
      return false
    case .stays, .becomes: break
    }
    guard !looksAtFile(of: blob, asker.session, asker.number, .openOrCreate(request)) else {
      return true
    }
    if request.standsBy, blob.isProduced, blob.state.isLive, mayGoOn(asker.session, with: blob) {
      try addCandidate(asker, request: nil, blob)
    }
    do throws(PatchbayError) {
      try open(
        blob, for: ParkedOpen(session: asker.session, number: asker.number, observes: false))
    } catch {
      dropCandidate(asker.session, opened: asker.number, blob.origin.generation)
      throw error
    }
    return true
  }

  // MARK: Standing by

  mutating func standBy(
    _ session: SessionID, _ number: UInt64, _ request: StandByRequest
  ) throws(PatchbayError) {
    let generation = request.generation
    guard let handle = sessions[session]?.handles[generation],
      handle.readers.contains(request.opened), let blob = blobs[generation], blob.isBorn
    else { throw .notOpen(generation) }
    switch LifeCycle.outcome(of: .standBy, in: blob.state) {
    case .refusedWithCause: throw blob.failure
    case .refused(let code): throw .ended(blob, step: .standBy, code: code)
    case .stays, .becomes, .begins: break
    }
    guard blob.state.isLive else { return reply(session, number, .done) }
    guard blob.isProduced else { throw .notProduced(blob) }
    guard mayGoOn(session, with: blob) else { throw .foreignBlob(blob) }
    try checkWaitingRequests(of: session)
    if blob.publishers.contains(BlobPublisher(session: session, number: number)) {
      // Asked again by who did not get the answer.
      confirm(session, generation)
      return grantJoin(session, number, generation)
    }
    let place = blob.production.candidates.firstIndex {
      $0.session == session && $0.opened == request.opened
    }
    if let place {
      if let before = blob.production.candidates[place].request { reply(session, before, .done) }
      blobs[generation]?.production.candidates[place].request = number
    } else {
      try addCandidate(
        RequestID(session: session, number: request.opened), request: number, blob)
    }
    handOn(generation)
    watchProgress(of: generation)
  }

  /// Whether a session may publish a blob that it reads: only its own user's may.
  private func mayGoOn(_ session: SessionID, with blob: Blob) -> Bool {
    sessions[session]?.peer.uid == blob.origin.access.uid
  }

  private mutating func addCandidate(
    _ reader: RequestID, request: UInt64?, _ blob: Blob
  ) throws(PatchbayError) {
    guard blob.production.candidates.count < Production.candidateLimit else {
      throw .tooManyWaiters(blob, limit: Production.candidateLimit)
    }
    blobs[blob.origin.generation]?.production.candidates.append(
      Production.Candidate(session: reader.session, opened: reader.number, request: request))
  }

  /// A reader has ended, and with it what it stood by for.
  mutating func dropCandidate(
    _ session: SessionID, opened: UInt64, _ generation: Generation
  ) {
    dropCandidates(of: generation) { $0.session == session && $0.opened == opened }
  }

  mutating func dropCandidates(of session: SessionID, _ generation: Generation) {
    dropCandidates(of: generation) { $0.session == session }
  }

  private mutating func dropCandidates(
    of generation: Generation, where isGoing: (Production.Candidate) -> Bool
  ) {
    guard let candidates = blobs[generation]?.production.candidates,
      candidates.contains(where: isGoing)
    else { return }
    blobs[generation]?.production.candidates.removeAll(where: isGoing)
    for candidate in candidates where isGoing(candidate) {
      if let number = candidate.request { reply(candidate.session, number, .done) }
    }
    giveUpIfDeserted(generation)
  }

  /// Nobody is left that would go on with a vacant production. While its rings are copied its readers
  /// find nothing in them, and what was covered is to stay readable: it fails when the copy is there.
  mutating func giveUpIfDeserted(_ generation: Generation) {
    guard let blob = blobs[generation], blob.isProduced, blob.state == .suspended,
      blob.production.candidates.isEmpty, !blob.isReturning, !blob.production.isBeingCopied
    else { return }
    failBlob(
      generation, .abandoned, "its publisher was lost, and nobody was left to go on with it",
      raisesEpoch: true)
  }

  /// Nobody waits any more for the answer to a `standBy`, or to an `openOrCreate`.
  mutating func cancelProduction(_ asker: RequestID) {
    guard let subject = unanswered[asker.session]?[asker.number]?.subject else { return }
    switch subject {
    case .blob(let generation):
      cancelDemand(asker, generation)
      dropCandidates(of: generation) {
        $0.session == asker.session && $0.request == asker.number
      }
    case .key(let key):
      guard let generation = owners[key],
        blobs[generation]?.birthAskers.contains(where: { $0.asker == asker }) == true
      else { return }
      blobs[generation]?.birthAskers.removeAll { $0.asker == asker }
      refuse(asker.session, asker.number, .waitCancelled(key))
    }
  }

  /// The blob has ended: who stands by is told.
  mutating func dismissCandidates(of generation: Generation, _ error: PatchbayError?) {
    let candidates = blobs[generation]?.production.candidates ?? []
    blobs[generation]?.production.candidates = []
    for candidate in candidates {
      guard let number = candidate.request else { continue }
      reply(candidate.session, number, error.map { .failure($0) } ?? .done)
    }
  }

  // MARK: Losing the publisher

  /// The publisher of a produced blob is one no more.
  /// - Parameter mayWrite: it may still write into the rings that it has mapped.
  mutating func loseProducer(
    _ session: SessionID, _ before: Blob, cause: String, mayWrite: Bool, waitsForExit: Bool
  ) {
    let generation = before.origin.generation
    // Of a successor nobody knows: who stands by for it cannot be on the way back.
    guard !before.production.candidates.isEmpty || before.isReturning && before.succeeds == nil
    else {
      return failBlob(generation, .abandoned, cause, raisesEpoch: true)
    }
    let waiting = forgetWaiters(of: session, generation)
    endPublisher(session, generation)
    beginVacancy(of: generation, epoch: before.nextEpoch)
    if mayWrite {
      blobs[generation]?.production.fenced.insert(session)
      if waitsForExit {
        blobs[generation]?.production.exitDeadline = now.monotonicNanoseconds.addingClamped(
          Production.exitPatience.wholeNanoseconds)
      }
    }
    for number in waiting { refuse(session, number, .departed(before)) }
    handOn(generation)
    settle(generation)
  }

  private mutating func beginVacancy(of generation: Generation, epoch: UInt32) {
    blobs[generation]?.epoch = epoch
    blobs[generation]?.production.phase = .vacant
    blobs[generation]?.production.progress = nil
    suspend(generation)
  }

  /// A process that was fenced can write no more, or will not.
  mutating func unfence(_ session: SessionID, _ generation: Generation) {
    guard blobs[generation]?.production.fenced.remove(session) != nil else { return }
    handOn(generation)
  }

  // MARK: Handing on

  /// Gives a vacant production to whoever asked for it first, once nobody else can write.
  mutating func handOn(_ generation: Generation) {
    guard let blob = blobs[generation], blob.state == .suspended,
      blob.production.phase == .vacant, blob.production.firstAsker != nil
    else { return }
    guard blob.production.mustRefit else { return grantProduction(generation) }
    let earliest = [blob.production.exitDeadline, blob.production.retryMoment].compactMap(\.self)
      .max()
    if let earliest, earliest > now.monotonicNanoseconds {
      return attend(generation, at: earliest)
    }
    beginRefit(of: generation)
  }

  private mutating func grantProduction(_ generation: Generation) {
    while let candidate = blobs[generation]?.production.firstAsker, let number = candidate.request {
      blobs[generation]?.production.candidates.removeAll { $0 == candidate }
      do throws(PatchbayError) {
        try checkHandles(candidate.session)
      } catch {
        refuse(candidate.session, number, error)
        continue
      }
      return grantProduction(generation, RequestID(session: candidate.session, number: number))
    }
    giveUpIfDeserted(generation)
  }

  private mutating func grantProduction(_ generation: Generation, _ asker: RequestID) {
    blobs[generation]?.production.phase = .steady
    blobs[generation]?.production.exitDeadline = nil
    blobs[generation]?.production.retryMoment = nil
    blobs[generation]?.production.hindrance = nil
    changePublishers(of: generation) {
      $0.append(BlobPublisher(session: asker.session, number: asker.number))
    }
    sessions[asker.session]?.handles[generation, default: Handle()].publishes = true
    sessions[asker.session]?.handleCount += 1
    reopen(generation)
    updateIdle(generation)
    grantJoin(asker.session, asker.number, generation)
    watchProgress(of: generation)
  }

  // MARK: Tenure

  /// Looks at a production again at a moment.
  mutating func attend(_ generation: Generation, at moment: Int64) {
    if let next = blobs[generation]?.production.nextMoment, next <= moment { return }
    blobs[generation]?.production.nextMoment = moment
    productionMoments.push(ProductionMoment(moment: moment, generation: generation))
    guard productionMoments.count > 2 * blobs.count + 64 else { return }
    // Blobs that have ended before leave their entries behind.
    let live = blobs
    productionMoments.keep { live[$0.generation]?.production.nextMoment == $0.moment }
  }

  /// So many in one turn; the rest is due at once.
  mutating func attendProductions() {
    for _ in 0..<Production.looksPerTurn {
      guard let first = productionMoments.first, first.moment <= now.monotonicNanoseconds else {
        return
      }
      _ = productionMoments.pop()
      guard blobs[first.generation]?.production.nextMoment == first.moment else { continue }
      blobs[first.generation]?.production.nextMoment = nil
      handOn(first.generation)
      watchProgress(of: first.generation)
    }
  }

  /// While somebody stands by it is seen to that the publisher covers something within its tenure.
  mutating func watchProgress(of generation: Generation) {
    guard let blob = blobs[generation], blob.state == .open, blob.isBorn,
      blob.origin.terms.production.tenure != nil, !blob.production.isBeingMeasured,
      blob.production.nextMoment == nil, !blob.isPaused
    else { return }
    guard blob.production.firstAsker != nil else { return forgetProgress(of: generation) }
    blobs[generation]?.production.isBeingMeasured = true
    actions.append(.measure(blob.report))
  }

  /// Answer to `measure`.
  mutating func measured(_ generation: Generation, coveredByteCount: Int) {
    guard let blob = blobs[generation], blob.production.isBeingMeasured else { return }
    blobs[generation]?.production.isBeingMeasured = false
    guard blob.state == .open, !blob.isPaused, let tenure = blob.origin.terms.production.tenure
    else { return }
    guard blob.production.firstAsker != nil else { return forgetProgress(of: generation) }
    let now = now.monotonicNanoseconds
    let before = blob.production.progress
    if before == nil || coveredByteCount > before?.covered ?? 0 || waitsForBroker(blob) {
      blobs[generation]?.production.progress = (coveredByteCount, now)
    } else if let before {
      let patience = blob.production.patience(tenure, at: coveredByteCount)
      if now - before.since >= patience.wholeNanoseconds {
        blobs[generation]?.production.noteStall(at: coveredByteCount)
        return fence(generation, patience)
      }
    }
    let look = max(tenure / 4, Production.shortestLook)
    attend(generation, at: now.addingClamped(look.wholeNanoseconds))
  }

  /// Nobody looks any more: whether its publisher has something to do meanwhile is not known.
  private mutating func forgetProgress(of generation: Generation) {
    blobs[generation]?.production.progress = nil
  }

  /// A publisher has repeated what is covered, on its way to where there is something to cover.
  mutating func renew(
    _ session: SessionID, _ number: UInt64, _ reference: BlobReference
  ) throws(PatchbayError) {
    _ = try published(reference, by: session, for: .grow)
    blobs[reference.generation]?.production.progress?.since = now.monotonicNanoseconds
    reply(session, number, .done)
  }

  /// Whether it is the broker that its publisher waits for.
  private func waitsForBroker(_ blob: Blob) -> Bool {
    guard let publisher = blob.publishers.first else { return true }
    guard !blob.isUndemanded, !blob.awaitsTurn else { return true }
    return unanswered[publisher.session]?.values.contains {
      $0.subject == .blob(blob.origin.generation) && [.grow, .seal].contains($0.kind)
    } ?? false
  }

  private mutating func fence(_ generation: Generation, _ patience: Duration) {
    guard let blob = blobs[generation], let publisher = blob.publishers.first else { return }
    loseProducer(
      publisher.session, blob, cause: "its publisher covered nothing new for \(patience)",
      mayWrite: true, waitsForExit: false)
  }
}

extension PatchbayError {
  static func notProduced(_ blob: Blob) -> PatchbayError {
    PatchbayError(
      .notPermitted,
      "The blob \(blob.key) was not created for others to go on with it: nobody can stand by.")
  }
}
