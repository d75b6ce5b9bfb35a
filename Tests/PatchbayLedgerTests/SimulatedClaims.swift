// The model's own view of who writes what: publishers, claims, suspensions and copies, from nothing
// but what was asked and answered. Two claims of different sessions that overlap, or one that is
// given away while its holder may still write, would let a covered byte change.

import PatchbayLedger
import PatchbayTypes
import PatchbayWire

struct SimulatedClaims {
  struct Publisher: Hashable {
    let number: UInt64
    let epoch: UInt32
  }

  struct Held: Hashable {
    let session: SessionID
    let number: UInt64
    let range: Range<Int>
  }

  private(set) var publishers: [Generation: [SessionID: Publisher]] = [:]
  private(set) var claims: [Generation: [Held]] = [:]
  /// Sessions that were given a ring of a blob to write into.
  private var writers: [Generation: Set<SessionID>] = [:]
  private var suspended: [Generation: Int64] = [:]
  /// They are suspended while they are handed over, or until nobody is left that would go on.
  private var produced: Set<Generation> = []
  private var limits: [Generation: Int64] = [:]
  private var copies: [CopyID: [ExtentCopy]] = [:]
  private let standardLimit: Int64

  init(standardLimit: Duration) { self.standardLimit = standardLimit.wholeNanoseconds }

  func isPublished(_ generation: Generation) -> Bool {
    publishers[generation]?.isEmpty == false
  }

  // MARK: What goes in

  /// A hang-up ends no claim of who may still write.
  mutating func hungUp(_ session: SessionID) {
    for generation in publishers.keys { publishers[generation]?[session] = nil }
    for generation in claims.keys where writers[generation]?.contains(session) != true {
      claims[generation]?.removeAll { $0.session == session }
    }
  }

  mutating func exited(_ session: SessionID) {
    hungUp(session)
    for generation in claims.keys { claims[generation]?.removeAll { $0.session == session } }
  }

  mutating func released(_ session: SessionID, _ request: ReleaseRequest) {
    claims[request.blob.generation]?.removeAll {
      $0.session == session && $0.number == request.claim
    }
  }

  mutating func takeBack(_ session: SessionID, _ number: UInt64) {
    for generation in publishers.keys
    where publishers[generation]?[session]?.number == number { depart(session, generation) }
  }

  /// Leave, abandon or close: nothing if the reference is not this publisher's.
  mutating func departed(_ session: SessionID, _ reference: BlobReference) {
    guard publishers[reference.generation]?[session]?.epoch == reference.epoch else { return }
    depart(session, reference.generation)
  }

  private mutating func depart(_ session: SessionID, _ generation: Generation) {
    publishers[generation]?[session] = nil
    claims[generation]?.removeAll { $0.session == session }
  }

  // MARK: What comes out

  mutating func created(
    _ session: SessionID, _ number: UInt64, _ grant: BlobGrant, _ terms: CreateTerms
  ) {
    let generation = grant.blob.generation
    limits[generation] = terms.idleLimit?.wholeNanoseconds ?? standardLimit
    if terms.ownership == .produced { produced.insert(generation) }
    guard terms.ownership != .ownerless, grant.state == .open else { return }
    publishers[generation, default: [:]][session] = Publisher(
      number: number, epoch: grant.blob.epoch)
  }

  mutating func joined(_ session: SessionID, _ number: UInt64, _ grant: BlobGrant) -> String? {
    let generation = grant.blob.generation
    guard grant.state == .open else { return "\(session) joined \(generation), \(grant.state)" }
    guard publishers[generation]?[session] == nil else {
      return "\(session) publishes \(generation) twice"
    }
    publishers[generation, default: [:]][session] = Publisher(
      number: number, epoch: grant.blob.epoch)
    return nil
  }

  mutating func gaveRing(_ session: SessionID, of generation: Generation) {
    writers[generation, default: []].insert(session)
  }

  mutating func claimed(
    _ session: SessionID, _ number: UInt64, _ grant: ClaimGrant, asked: Range<Int>
  ) -> String? {
    let generation = grant.blob.generation
    guard grant.range == asked, !asked.isEmpty, grant.claim == number else {
      return "\(session) claimed \(asked) and got \(grant.range)"
    }
    guard publishers[generation]?[session] != nil else { return "\(session) claims from outside" }
    if let other = claims[generation]?.first(where: {
      $0.session != session && $0.range.overlaps(asked)
    }) {
      return "\(asked) of \(generation) was claimed by \(session) and \(other)"
    }
    claims[generation, default: []].append(
      Held(session: session, number: number, range: asked))
    return nil
  }

  /// - Parameter askers: the sessions that wait for a seal of the blob.
  mutating func posted(
    _ generation: Generation, _ before: BlobState?, _ post: BoardPost, askers: Set<SessionID>,
    at now: Int64
  ) -> String? {
    if produced.contains(generation), post.state == .suspended {
      publishers[generation] = [:]
      return nil
    }
    if post.state == .suspended {
      if before != .suspended { suspended[generation] = now }
      return nil
    }
    let since = suspended.removeValue(forKey: generation)
    guard post.state != .open else { return nil }
    publishers[generation] = [:]
    let held = claims.removeValue(forKey: generation) ?? []
    if post.state == .sealed, let other = held.first(where: { !askers.contains($0.session) }) {
      return "\(generation) was sealed while \(other) was claimed"
    }
    if let since, post.causeCode == .abandoned, now - since < limits[generation] ?? 0 {
      return "\(generation) was given up after \(now - since) ns"
    }
    return nil
  }

  mutating func copies(_ copy: CopyID, _ pairs: [ExtentCopy]) { copies[copy] = pairs }

  /// Before the ledger hears that a copy is done: as long as the target is wanted its source stays.
  mutating func copied(_ copy: CopyID, isThere: (RingID) -> Bool) -> String? {
    for pair in copies.removeValue(forKey: copy) ?? []
    where isThere(pair.target.ring) && !isThere(pair.source.ring) {
      return "ring \(pair.source.ring) was unlinked while it was copied"
    }
    return nil
  }

  // MARK: Between events

  /// Whether states and publishers fit, and no suspension is overdue.
  func settled(_ posted: [Generation: BlobState], isTick: Bool, at now: Int64) -> String? {
    for (generation, state) in posted {
      if (state == .open) != isPublished(generation) {
        return "\(generation) is \(state) with \(publishers[generation]?.count ?? 0) publishers"
      }
    }
    guard isTick else { return nil }
    let late = suspended.first { now - $0.value >= limits[$0.key] ?? standardLimit }
    return late.map { "\($0.key) is still suspended after \(now - $0.value) ns" }
  }
}
