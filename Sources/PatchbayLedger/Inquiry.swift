// Who waits for what, since when. A request that may wait is noted when it comes and crossed out
// when it is answered, whatever it waits for: so there are as many notes as requests without an
// answer, and what waits is known without a look at where it waits.

import PatchbayTypes
import PatchbayWire

/// A request that has not been answered.
struct Unanswered: Sendable {
  enum Subject: Sendable, Hashable {
    case key(BlobKey)
    case blob(Generation)
  }
  let subject: Subject
  let kind: Request.Kind
  let since: WallTime
}

extension Request {
  /// What it is about, if its answer may come later.
  fileprivate var waitingSubject: Unanswered.Subject? {
    switch self {
    case .create(let create), .createWith(let create, _): .key(create.key)
    case .open(let open): .key(open.key)
    case .openOrCreate(let request): .key(request.create.key)
    case .standBy(let request): .blob(request.generation)
    case .demand(let request): .blob(request.generation)
    case .nextDemand(let blob): .blob(blob.generation)
    case .grow(let grow): .blob(grow.blob.generation)
    case .seal(let seal): .blob(seal.blob.generation)
    default: nil
    }
  }
}

extension Ledger {
  /// Called with each request before it is served.
  mutating func noteRequest(_ session: SessionID, _ number: UInt64, _ request: Request) {
    guard let subject = request.waitingSubject else { return }
    unanswered[session, default: [:]][number] = Unanswered(
      subject: subject, kind: request.kind, since: now.wall)
  }

  /// Called with each reply; a grant is the beginning of a handle.
  mutating func noteReply(_ session: SessionID, _ number: UInt64, _ reply: Reply) {
    if unanswered[session]?.removeValue(forKey: number) != nil,
      unanswered[session]?.isEmpty == true
    {
      unanswered[session] = nil
    }
    guard let generation = reply.grantedGeneration,
      sessions[session]?.handles[generation]?.since.rawValue == 0
    else { return }
    sessions[session]?.handles[generation]?.since = now.wall
  }

  mutating func why(
    _ session: SessionID, _ number: UInt64, _ request: WhyRequest
  ) {
    var situation = BlobSituation()
    var figures: LiveFigures?
    let blob = visible(request.key, to: session)
    if let blob {
      situation.wakeClassShift = blob.origin.wakeClasses.shift
      let positions = addParties(of: blob, to: &situation)
      figures = LiveFigures(report: blob.report, slot: blob.slot, positions: positions)
    }
    addWaits(for: request.key, blob, askedBy: session, to: &situation)
    actions.append(.explain(session, number: number, situation, figures))
  }

  /// Adds who has the blob open; where sequential readers of it tell their positions.
  private func addParties(
    of blob: Blob, to situation: inout BlobSituation
  ) -> [LiveFigures.Position] {
    var positions: [LiveFigures.Position] = []
    for (id, session) in sessions.sorted(by: { $0.key < $1.key }) {
      guard let handle = session.handles[blob.origin.generation] else { continue }
      func party(_ count: Int) -> BlobSituation.Party {
        BlobSituation.Party(
          process: session.peer.process, name: session.name, handleCount: count,
          since: handle.since)
      }
      if handle.publishes { situation.publishers.append(party(1)) }
      guard !handle.readers.isEmpty else { continue }
      positions += blob.subscriptions.filter { $0.session == id }.map {
        LiveFigures.Position(
          subscriber: situation.subscribers.count, session: id, entry: $0.subscription.entry)
      }
      situation.subscribers.append(party(handle.readers.count))
    }
    return positions
  }

  /// Who waits for a key that has no blob, as far as the asker can see, is its user's own business.
  private func addWaits(
    for key: BlobKey, _ blob: Blob?, askedBy asker: SessionID, to situation: inout BlobSituation
  ) {
    guard let asker = sessions[asker]?.peer.uid else { return }
    let generation = blob?.origin.generation
    var waits: [BlobSituation.Wait] = []
    for (id, requests) in unanswered {
      guard let session = sessions[id],
        blob != nil || isTrusted(asker) || session.peer.uid == asker
      else { continue }
      for request in requests.values {
        guard
          request.subject == .key(key) || generation.map({ request.subject == .blob($0) }) == true
        else { continue }
        waits.append(
          BlobSituation.Wait(
            want: want(request.kind, isThere: blob != nil), process: session.peer.process,
            name: session.name, since: request.since))
      }
    }
    waits.sort {
      ($0.since, $0.process, $0.want.rawValue) < ($1.since, $1.process, $1.want.rawValue)
    }
    situation.waitCount = waits.count
    situation.waits = Array(waits.prefix(WireLimit.parties))
  }

  private func want(_ kind: Request.Kind, isThere: Bool) -> BlobSituation.Want {
    switch kind {
    case .open, .openOrCreate: isThere ? .board : .key
    case .standBy: .production
    case .demand: .fetch
    case .nextDemand: .demand
    case .seal: .verification
    default: .memory
    }
  }
}

extension Reply {
  fileprivate var grantedGeneration: Generation? {
    switch self {
    case .created(let grant), .joined(let grant), .opened(let grant): grant.blob.generation
    default: nil
    }
  }
}
