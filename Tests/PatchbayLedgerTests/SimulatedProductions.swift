// Productions in the simulation: what clients ask that would produce what is missing, and what must be true
// then: one publisher at a time, none that was fenced is believed, nobody stands by for what has ended,
// nothing expires early and nothing is served late. Times are taken from the records, as the next broker
// would take them.

import PatchbayTypes
import PatchbayWire

@testable import PatchbayLedger

struct SimulatedProductions {
  /// The epoch that a blob's entry shows.
  private var epochs: [Generation: UInt32] = [:]
  private var refits: [CopyID: [ExtentCopy]] = [:]

  mutating func posted(_ post: BoardPost) { epochs[post.generation] = post.epoch }

  /// Whether a request was granted under an epoch that is over.
  func believesFenced(_ reply: Reply, _ request: Request?) -> Bool {
    switch (reply, request) {
    case (.extent, .grow(let grow)): isOver(grow.blob)
    case (.done, .seal(let seal)): isOver(seal.blob)
    case (.done, .fail(let fail)): isOver(fail.blob)
    default: false
    }
  }

  /// A blob that has failed or was sealed by the request itself shows the same epoch as before.
  private func isOver(_ blob: BlobReference) -> Bool {
    epochs[blob.generation].map { $0 != blob.epoch } ?? false
  }

  mutating func refits(_ copy: CopyID, _ pairs: [ExtentCopy]) { refits[copy] = pairs }

  /// The rings whose place others take when a copy is done.
  mutating func replaced(by copy: CopyID) -> [RingID] {
    (refits.removeValue(forKey: copy) ?? []).map(\.source.ring)
  }
}

extension BlobRecord {
  /// When its time is over; nil: never.
  var endOfLife: Int64? {
    guard info.state == .sealed, isNamed, !info.isPinned, let ended else { return nil }
    let byAge = terms.lifetime.timeToLive.map { ended + $0.wholeNanoseconds }
    let byUse = terms.lifetime.idleExpiry.map { max(ended, used ?? ended) + $0.wholeNanoseconds }
    return [byAge, byUse].compactMap(\.self).min()
  }

  var endOfGrace: Int64? {
    endOfLife.map { $0 + (terms.lifetime.grace?.wholeNanoseconds ?? 0) }
  }
}

extension SimulatedWorld {
  mutating func randomLifetime() -> LifetimeTerms {
    var terms = LifetimeTerms()
    let times: [Duration?] = [nil, nil, .seconds(1), .seconds(3)]
    terms.timeToLive = times.randomElement(using: &generator) ?? nil
    terms.idleExpiry = times.randomElement(using: &generator) ?? nil
    if terms != LifetimeTerms(), chance(2, in: 3) { terms.grace = .seconds(3) }
    return terms
  }

  private mutating func randomProduction() -> CreateTerms {
    var terms = CreateTerms(ownership: .produced, idleLimit: nil, resumes: chance(1, in: 2))
    terms.production.tenure = chance(1, in: 2) ? .seconds(1) : nil
    terms.production.whenUnread = UnreadPolicy.allCases.randomElement(using: &generator) ?? .finish
    terms.production.failureLifetime = chance(1, in: 3) ? .seconds(1) : nil
    terms.production.leastUses = chance(1, in: 4) ? 3 : 0
    terms.lifetime = randomLifetime()
    return terms
  }

  /// Asks for one of few keys as who would produce it.
  mutating func randomOpenOrCreate() -> OpenOrCreateRequest {
    var create = CreateRequest(key: ["a", "z"].randomElement(using: &generator) ?? "a")
    create.byteCount = chance(3, in: 4) ? 60_000 : nil
    create.isCache = true
    if chance(1, in: 4) { create.mode = 0o644 }
    return OpenOrCreateRequest(
      create: create, terms: randomProduction(), standsBy: chance(1, in: 2))
  }

  mutating func randomSuccession(of stale: Generation, _ key: BlobKey) -> Request {
    var create = CreateRequest(key: key)
    create.byteCount = chance(3, in: 4) ? 60_000 : nil
    var terms = randomProduction()
    terms.succeeds = stale
    return .createWith(create, terms)
  }

  /// Answers of workers that look into what is handed over.
  mutating func answerProduction(_ action: LedgerAction, fails: Bool) {
    let error = PatchbayError(.inputOutput, "The ring cannot be read.")
    switch action {
    case .survey(let generation, let extents, _, _):
      let complete = Set(extents.map(\.index).filter { _ in chance(1, in: 2) })
      feed(.surveyed(generation, fails ? .failure(error) : .success(complete)))
    case .refit(let copy, _): feed(.copied(copy, fails ? error : nil))
    case .measure(let report):
      feed(
        .measured(
          report.info.generation,
          coveredByteCount: Int.random(in: 0..<3, using: &generator)))
    default: break
    }
  }
}
