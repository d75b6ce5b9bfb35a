// Watchers in the model: each builds its picture of what exists from what it is told, and nothing
// else. Whenever one has been told all, the picture must be what exists.

import PatchbayTypes
import PatchbayWire

@testable import PatchbayLedger

struct SimulatedWatches {
  struct Known: Hashable {
    let generation: Generation
    let state: BlobState
  }
  typealias View = [BlobKey: Known]

  private struct Watch {
    let user: Peer?
    let prefix: [UInt8]
    var view: View
    /// Whether the picture began with something that is certain: all, nothing, or an earlier one.
    var isWhole: Bool
    var position: EventPosition?
  }

  private var watches: [SimulatedModel.RequestID: Watch] = [:]
  var congested: Set<SessionID> = []
  /// Where watchers that have ended stood, and what they knew there.
  private(set) var left: [(user: Peer?, position: EventPosition, prefix: [UInt8], view: View)] = []
  /// Watches that went on where another one had left.
  private(set) var resumedCount = 0
  private(set) var violation: String?

  private static func part(of view: View, _ prefix: [UInt8]) -> View {
    view.filter { $0.key.bytes.starts(with: prefix) }
  }

  mutating func begin(
    _ id: SimulatedModel.RequestID, _ request: WatchRequest, by user: Peer?, known: View
  ) {
    let earlier = left.first {
      $0.position == request.after && $0.prefix == request.prefix && $0.user == user
    }
    if earlier != nil { resumedCount += 1 }
    watches[id] = Watch(
      user: user, prefix: request.prefix,
      view: request.after == nil ? Self.part(of: known, request.prefix) : earlier?.view ?? [:],
      isWhole: request.after == nil || request.after == .start || earlier != nil)
  }

  mutating func end(_ id: SimulatedModel.RequestID) {
    guard let watch = watches.removeValue(forKey: id), watch.isWhole, let position = watch.position
    else { return }
    left.append((watch.user, position, watch.prefix, watch.view))
    if left.count > 12 { left.removeFirst() }
  }

  mutating func end(_ session: SessionID) {
    for id in watches.keys.filter({ $0.session == session }).sorted(by: { $0.number < $1.number }) {
      end(id)
    }
    congested.remove(session)
  }

  mutating func told(_ id: SimulatedModel.RequestID, _ page: EventPage) {
    guard var watch = watches[id] else { return fail("\(id) is told events and watches nothing") }
    if congested.contains(id.session) { fail("\(id) is told events and does not read") }
    if page.hasGap {
      watch.view = [:]
      watch.isWhole = true
    }
    var number = page.hasGap ? 0 : watch.position?.number ?? 0
    for change in page.changes {
      if change.position.number <= number { fail("\(change) comes after \(number)") }
      number = change.position.number
      apply(change, to: &watch)
    }
    if page.position.number < number { fail("\(id) stands before what it was told") }
    watch.position = page.position
    watches[id] = watch
  }

  private mutating func apply(_ change: BlobChange, to watch: inout Watch) {
    let before = watch.view[change.key]
    if !change.key.bytes.starts(with: watch.prefix) { fail("\(change.key) was not asked for") }
    if let before, before.generation > change.generation, change.kind != .removed,
      change.kind != .evicted
    {
      fail("\(change.key) goes back to generation \(change.generation)")
    }
    switch change.kind {
    case .removed, .evicted, .expired:
      if before?.generation == change.generation { watch.view[change.key] = nil }
    case .progress:
      if watch.isWhole, before?.generation != change.generation { fail("progress of a new blob") }
      set(change, .open, &watch)
    case .created: set(change, .open, &watch)
    case .suspended: set(change, .suspended, &watch)
    case .sealed: set(change, .sealed, &watch)
    case .failed: set(change, .failed, &watch)
    }
  }

  private func set(_ change: BlobChange, _ state: BlobState, _ watch: inout Watch) {
    watch.view[change.key] = Known(generation: change.generation, state: state)
  }

  /// Those who watch.
  var sessions: Set<SessionID> { Set(watches.keys.map(\.session)) }

  /// Who reads has been told everything: messages here are large enough for all there is.
  mutating func compare(with known: [SessionID: View]) {
    for (id, watch) in watches where watch.isWhole && !congested.contains(id.session) {
      let expected = Self.part(of: known[id.session] ?? [:], watch.prefix)
      if watch.position != nil, watch.view != expected {
        fail("\(id) knows \(watch.view) of \(expected)")
      }
    }
  }

  private mutating func fail(_ claim: String) { violation = violation ?? claim }
}
