// Which blob has which key, as the simulation knows it from the records that are written, and whether a
// blob may lose its key.

import PatchbayLedger
import PatchbayTypes
import PatchbayWire

extension SimulatedModel {
  /// Which blobs have their keys after an event: some lose them, then others take them.
  mutating func name(_ actions: [LedgerAction], after event: LedgerEvent) {
    let written = SimulatedJournal.records(actions)
    succeeded = Set(written.filter(\.isNamed).compactMap(\.terms.succeeds))
    // A successor may take the key and go in one event, when it is one too many.
    for case .eraseBlob(let generation) in actions {
      guard let record = journal.written[generation], record.isSuccessor else { continue }
      if let stale = record.terms.succeeds { succeeded.insert(stale) }
    }
    for record in written where !record.isNamed && records[record.info.generation] != nil {
      erased(record.info.generation, after: event)
    }
    for case .eraseBlob(let generation) in actions where records[generation] != nil {
      erased(generation, after: event)
    }
    for record in written {
      for extent in record.extents {
        extentOwners[extent.ring] = record.info.generation
        demand(
          rings[extent.ring]?.access == record.info.access,
          "ring \(extent.ring) went to another access class")
      }
      if record.isNamed { recorded(record) }
    }
  }

  /// Nothing that has a key outlives its time, and nobody stands by for what has ended.
  mutating func demandTimely() {
    for record in records.values {
      guard let end = record.endOfGrace, end <= now else { continue }
      // What was unpinned in this event goes with the next.
      let (isUnpinned, late) = (unpinned == record.info.key, now - end)
      demand(isUnpinned, "\(record.info.generation) is there \(late) ns after its time")
    }
    for case (_, .standBy(let request)) in owed {
      let state = posted[request.generation]
      demand(
        state == nil || state == .open || state == .suspended,
        "somebody still stands by for \(request.generation)")
    }
  }

  /// Whatever a client has of a blob that is open is named by a record.
  mutating func demandRecords() {
    for (ring, known) in rings where !known.isUnlinked && !known.holders.isEmpty {
      guard let generation = extentOwners[ring], isHeld(generation) else { continue }
      demand(
        journal.names(ring, of: generation),
        "ring \(ring) of \(generation) was given out and has no record")
    }
  }

  private mutating func erased(_ generation: Generation, after event: LedgerEvent) {
    guard let record = records.removeValue(forKey: generation) else {
      demand(false, "\(generation) was erased without a record")
      return
    }
    let key = record.info.key
    owners[key] = nil
    if succeeded.contains(generation) || record.endOfGrace.map({ $0 <= now }) ?? false { return }
    switch event {
    case .request(let session, _, let request) where Self.taken(by: request) == key:
      // What the request itself makes room for belongs to anybody.
      let isOwn = mayTake(session, record.info.access)
      demand(isOwn || !isHeld(generation), "\(session) took \(key) of another user")
    case .copied, .adopted: demand(record.info.state == .failed, "\(generation) was taken over")
    case .offered(let session, _, let request, _, _) where request.key == key:
      let isOwn = mayTake(session, record.info.access)
      demand(isOwn || !isHeld(generation), "\(session) took \(key) of another user")
    default:
      // A creation that had to wait for memory takes the key when there is some.
      if !isBeingReplaced(record) { evicted.append(record) }
    }
  }

  /// It may have ended by the same event.
  mutating func demandEvictable() {
    for record in evicted {
      let generation = record.info.generation
      let state = posted[generation] ?? record.info.state
      demand(
        record.info.acknowledgement == .visible || record.info.isCache || state != .sealed,
        "\(generation) was evicted and was to be kept")
      demand(!isHeld(generation), "\(generation) was evicted while it is open")
      demand(state != .open, "\(generation) was evicted while it is written")
      demand(!record.info.isPinned, "\(generation) was evicted while it is pinned")
      demand(
        !record.info.isImported || state == .failed,
        "\(generation) was evicted, and takes nothing")
    }
    evicted = []
  }

  private func isBeingReplaced(_ record: BlobRecord) -> Bool {
    owed.contains { asker, request in
      switch request {
      case .openOrCreate(let request):
        return record.info.state == .failed && request.create.key == record.info.key
          && mayTake(asker.session, record.info.access)
      case .create(let create), .createWith(let create, _):
        let takes = create.replaces || record.info.state == .failed
        return takes && create.key == record.info.key
          && mayTake(asker.session, record.info.access)
      default: return false
      }
    }
  }

  /// The key that a request takes away from whoever has it.
  private static func taken(by request: Request) -> BlobKey? {
    switch request {
    case .remove(let remove): remove.key
    case .create(let create), .createWith(let create, _): create.key
    case .openOrCreate(let request): request.create.key
    default: nil
    }
  }

  /// What exists for a session, as each of its watchers that has been told all must know it.
  func known(to session: SessionID) -> SimulatedWatches.View {
    SimulatedWatches.View(
      uniqueKeysWithValues: records.values.filter { mayRead(session, $0.info.generation) }.map {
        ($0.info.key, SimulatedWatches.Known(generation: $0.info.generation, state: $0.info.state))
      })
  }
}
