// The ledger's kept counts against what they count: each is derived again, the slow way.

import PatchbayTypes

@testable import PatchbayLedger

extension Ledger {
  /// The first kept figure that is not what it should be; nil while all are.
  var inconsistency: String? {
    for (generation, blob) in blobs {
      if let wrong = inconsistency(of: blob) { return "blob \(generation): \(wrong)" }
    }
    for (session, requests) in unanswered {
      if sessions[session]?.phase != .talking { return "\(session) is owed and has ended" }
      if requests.isEmpty { return "\(session) is owed nothing" }
    }
    for (session, kept) in sessions {
      let handles = kept.handles.values.reduce(0) {
        $0 + ($1.publishes ? 1 : 0) + $1.readers.count + $1.observers.count
      }
      if kept.phase != .ghost, kept.handleCount != handles + kept.asked.count {
        return "\(session) counts \(kept.handleCount) of \(handles) handles"
      }
      let paid = blobs.values.reduce(0) { $0 + ($1.payer == session ? $1.residentByteCount : 0) }
      if kept.paidByteCount != paid { return "\(session) pays \(kept.paidByteCount) of \(paid)" }
      // Who joins a blob, or stays in one, may come to pay for more than it could have asked for.
      let joined = blobs.values.contains { $0.payer == session && $0.isJoinable }
      if let limit = limits.memoryPerClient, paid > limit, !joined {
        return "\(session) has \(paid) bytes in blobs that it writes"
      }
    }
    let pooled = rings.filter { pool.resting[$0.key] != nil }.map(\.value)
    let idle = blobs.values.reduce(0) { $0 + ($1.isIdle ? $1.residentByteCount : 0) }
    let ringBytes = rings.values.reduce(0) { $0 + $1.byteCount }
    let inlineBytes = blobs.values.reduce(0) { $0 + ($1.inlineBytes?.count ?? 0) }
    let askers = blobs.values.reduce(0) { $0 + $1.askers.count }
    let parked = parkedOpens.values.reduce(0) { $0 + $1.count }
    if let wrong = accountInconsistency { return wrong }
    let figures = [
      ("idle bytes", idleByteCount, idle), ("ring bytes", ringByteCount, ringBytes),
      ("inline bytes", inlineByteCount, inlineBytes), ("askers", askerCount, askers),
      ("parked opens", parkedCount, parked),
      ("open blobs", openBlobCount, blobs.values.count { $0.state == .open || !$0.isBorn }),
      ("copies", copies.count, blobs.values.count { $0.pendingCopy != nil } + staleCopyCount),
      ("bytes in the pool", pool.byteCount, pooled.reduce(0) { $0 + $1.byteCount }),
      ("charged bytes", chargedByteCount, ringBytes + inlineBytes - pool.byteCount),
      ("names", catalog.count, blobs.values.count { $0.isBorn && $0.isNamed }),
      ("standings", watching.log.standings.count, catalog.count),
      (
        "suspended standings", watching.log.suspendedCount,
        blobs.values.count { $0.isBorn && $0.isNamed && $0.state == .suspended }
      ),
      (
        "open standings", watching.log.open.count,
        blobs.values.count { $0.isBorn && $0.isNamed && $0.state == .open }
      ),
      ("bytes on disk", spilling.byteCount, blobs.values.reduce(0) { $0 + $1.spoolByteCount }),
      (
        "idle bytes on disk", spilling.idleByteCount,
        blobs.values.reduce(0) { $0 + ($1.isIdle ? $1.spoolByteCount : 0) }
      ),
      ("persists", spilling.persistCount, blobs.values.count { $0.persistReserve != nil }),
      (
        "waiters", spilling.line.count,
        spilling.line.scopes.reduce(0) { $0 + spilling.line.waiters(in: $1).count }
      ),
      ("waiters of sessions", spilling.line.count, spilling.line.counts.values.reduce(0, +)),
      ("spills", spilling.underWay.count, blobs.values.count { $0.spillingIndex != nil }),
      ("files", importCount, blobs.values.count(where: \.holdsFile)),
      ("transfers", transferCount, blobs.values.reduce(0) { $0 + $1.demands.underWay.count }),
      ("sources", demandSources.count, blobs.values.count { !$0.demands.idle.isEmpty }),
      ("successors", successors.count, blobs.values.count { $0.succeeds != nil }),
      ("cached blobs", cache.count, blobs.values.count { $0.isIdle && $0.state == .sealed }),
      ("owners", owners.count, blobs.values.count { $0.isNamed && !$0.isSource }),
    ]
    return figures.first { $0.1 != $0.2 }.map { "\($0.0): kept \($0.1), counted \($0.2)" }
  }

  /// Copies whose blob came to nothing meanwhile.
  private var staleCopyCount: Int {
    copies.count { blobs[$0.value]?.pendingCopy != $0.key }
  }

  /// What users are charged with beside records: rings that do not rest in the pool, inline blobs.
  private var chargedByteCount: Int {
    let records = blobs.values.reduce(0) { $0 + $1.origin.recordByteCount }
    return accounts.values.reduce(-records) { $0 + $1.byteCount }
  }

  /// What each user is charged with, and whether that is within its limits.
  private var accountInconsistency: String? {
    let live = sessions.filter { $0.value.phase != .ghost }
    let uids = Set(live.values.map(\.peer.uid)).union(blobs.values.map(\.origin.access.uid))
    for uid in uids.union(accounts.keys).union(rings.values.map(\.owner)) {
      let account = accounts[uid] ?? UserAccount()
      let own = blobs.values.filter { $0.origin.access.uid == uid }
      let records = own.reduce(0) { $0 + $1.origin.recordByteCount }
      let served = rings.filter { $0.value.owner == uid && pool.resting[$0.key] == nil }
      let ringBytes = served.values.reduce(0) { $0 + $1.byteCount }
      let bytes = own.reduce(ringBytes + records) { $0 + ($1.inlineBytes?.count ?? 0) }
      let idle = own.reduce(0) {
        $0 + ($1.isIdle ? $1.residentByteCount + $1.origin.recordByteCount : 0)
      }
      let mine = Set(live.filter { $0.value.peer.uid == uid && $0.value.phase != .absent }.keys)
      if account.byteCount != bytes { return "user \(uid): \(account.byteCount) of \(bytes) bytes" }
      if account.idleByteCount != idle { return "user \(uid): \(account.idleByteCount) idle" }
      let disk = own.reduce(0) { $0 + $1.spoolByteCount }
      if account.diskByteCount != disk { return "user \(uid): \(account.diskByteCount) on disk" }
      let idleDisk = own.reduce(0) { $0 + ($1.isIdle ? $1.spoolByteCount : 0) }
      if account.idleDiskByteCount != idleDisk { return "user \(uid): idle on disk" }
      if !isTrusted(uid), limits.spool != nil, disk > diskPerOtherUser {
        return "user \(uid) has \(disk) bytes on disk"
      }
      if account.persistCount != own.count(where: { $0.persistReserve != nil }) {
        return "user \(uid): \(account.persistCount) persists"
      }
      if account.blobCount != own.count { return "user \(uid): \(account.blobCount) blobs" }
      if account.sessions != mine { return "user \(uid): sessions" }
      if isTrusted(uid) { continue }
      if own.contains(where: \.holdsFile) { return "user \(uid) has imported a file" }
      if bytes > limits.memoryPerOtherUser { return "user \(uid) has \(bytes) bytes" }
      if own.count > limits.blobsPerOtherUser { return "user \(uid) has \(own.count) blobs" }
      let handles = live.values.reduce(0) { $0 + ($1.peer.uid == uid ? $1.handleCount : 0) }
      if handles > limits.handlesPerOtherUser { return "user \(uid) has \(handles) handles" }
      let parked = live.values.reduce(0) { $0 + ($1.peer.uid == uid ? $1.parked.count : 0) }
      if parked > limits.waitingOpensPerOtherUser { return "user \(uid) waits \(parked) times" }
    }
    return nil
  }

  private func inconsistency(of blob: Blob) -> String? {
    let generation = blob.origin.generation
    let fresh = blob.production.fresh
    let ringBytes = ((blob.extents + fresh).map(\.ring) + blob.pendingExtents.values).reduce(0) {
      $0 + (rings[$1]?.byteCount ?? 0)
    }
    if blob.residentByteCount != ringBytes + (blob.inlineBytes?.count ?? 0) {
      return "\(blob.residentByteCount) resident bytes of \(ringBytes)"
    }
    let handles = sessions.values.compactMap { $0.handles[generation] }
    if blob.extents.contains(where: { blob.spooled.contains($0.index) }) {
      return "an extent in memory and on disk"
    }
    if blob.spoolByteCount < blob.persistReserve ?? 0 {
      return "\(blob.spoolByteCount) bytes on disk of \(blob.persistReserve ?? 0) set aside"
    }
    if let wrong = patchworkInconsistency(of: blob) { return wrong }
    let wanting = blob.demands.askers.values.reduce(blob.demands.endAskers) { $0 + $1 }
    if blob.demands.askerCount != wanting.count { return "\(wanting.count) wait for bytes" }
    if blob.demands.askerCounts != Dictionary(wanting.map { ($0.session, 1) }, uniquingKeysWith: +)
    {
      return "who waits for bytes"
    }
    if blob.readerCount != handles.reduce(0, { $0 + $1.readers.count }) { return "readers" }
    if blob.observerCount != handles.reduce(0, { $0 + $1.observers.count }) { return "observers" }
    for session in blob.writers.keys where sessions[session]?.writes.contains(generation) != true {
      return "\(session) may write it and does not know"
    }
    for extent in blob.extents where pool.resting[extent.ring] != nil {
      return "its ring \(extent.ring) is in the pool"
    }
    if handles.count(where: \.publishes) != blob.publishers.count { return "publishers" }
    if blob.publishers.count > 1, !blob.isJoinable { return "several publishers" }
    if !blob.claims.isEmpty, !blob.state.isLive { return "claims of a blob that has ended" }
    if (blob.suspensionEnd != nil) != (blob.state == .suspended && blob.isBorn) {
      return "idle end"
    }
    if blob.state == .suspended, blob.isBorn,
      !blob.isAwaited || !blob.isNamed && !blob.isProduced || blob.slot == nil
    {
      return "suspended for ever"
    }
    if blob.ghostCount != sessions.values.count(where: { $0.haunted.contains(generation) }) {
      return "ghosts"
    }
    if (blob.state == .open) != !blob.publishers.isEmpty { return "open without a publisher" }
    if blob.waitsForReaders, !blob.isNamed, !blob.hasReaders, blob.succeeds == nil {
      return "its publisher waits for readers, and none can come"
    }
    if blob.isBorn, blob.isNamed, watching.log.standings[generation]?.blobState != blob.state {
      return "watchers were not told that it is \(blob.state)"
    }
    if blob.holdsFile, blob.origin.file == nil || blob.residentByteCount > 0 {
      return "holds a file and is none"
    }
    if blob.isIdle, blob.isPinned || blob.holdsFile { return "idle, and must stay" }
    let isQueued = blob.isQueued || blob.isQueuedOnDisk
    return blob.isIdle && !isQueued ? "idle but not queued" : nil
  }

  private func patchworkInconsistency(of blob: Blob) -> String? {
    let patchwork = blob.patchwork
    let inMemory = Set(blob.extents.map(\.index))
    let inScratch = Set(patchwork.scratch.keys)
    if !inScratch.isDisjoint(with: inMemory) || !inScratch.isDisjoint(with: blob.spooled) {
      return "an extent in a scratch file and elsewhere"
    }
    if !inMemory.isSuperset(of: patchwork.rests.keys) { return "rests that are not in memory" }
    if !inMemory.isSuperset(of: patchwork.holders.keys) { return "holders of what is not there" }
    let holders = Set(patchwork.holders.values.flatMap(\.keys))
    if !holders.isSubset(of: blob.writers.keys) { return "holders that may not write it" }
    if !blob.isPatchwork, !holders.isEmpty || !inScratch.isEmpty { return "patchwork of none" }
    let byteCount = patchwork.scratch.values.reduce(0) { $0 + $1.standing.fileByteCount }
    return byteCount == patchwork.scratchByteCount ? nil : "scratch bytes"
  }

  /// The first blob of which the next broker would not find, in its last record, what is known here.
  func inconsistency(with written: [Generation: BlobRecord]) -> String? {
    for generation in written.keys where blobs[generation]?.isBorn != true {
      return "blob \(generation) is gone and has a record"
    }
    for (generation, blob) in blobs where blob.isBorn {
      guard let record = written[generation] else { return "blob \(generation) has no record" }
      if let field = outdated(record, blob) {
        return "the record of blob \(generation) has another \(field) than it"
      }
    }
    return nil
  }

  private func outdated(_ record: BlobRecord, _ blob: Blob) -> String? {
    let publishers = blob.publishers.map { publisher in
      RecordedPublisher(
        clientID: sessions[publisher.session]?.clientID ?? 0, number: publisher.number)
    }
    let subscribers = Set(blob.subscriptions.map(\.subscription.clientID))
    let scratch = Dictionary(uniqueKeysWithValues: record.scratch.map { ($0.index, $0) })
    let fields = [
      ("key", record.info.key == blob.key), ("name", record.isNamed == blob.isNamed),
      ("state", record.info.state == blob.state), ("epoch", record.epoch == blob.epoch),
      ("length", record.info.byteCount == blob.byteCount),
      ("pin", record.info.isPinned == blob.isPinned),
      ("cause", record.info.causeCode == blob.causeCode),
      ("digest", record.info.digest == blob.digest), ("slot", record.slot == blob.slot),
      ("extents", record.extents == blob.extents),
      ("spooled extents", Set(record.spooled.joined()) == blob.spooled),
      ("scratch files", scratch == blob.patchwork.scratch),
      // One that is being begun holds nothing yet, and is not missed.
      ("container", record.hasContainer == blob.hasContainer || blob.spooled.isEmpty),
      ("name of its container", record.isPersisted == blob.isPersisted),
      ("publishers", record.publishers == publishers),
      ("subscribers", Set(record.subscribers) == subscribers),
      ("inline bytes", record.inlineBytes == blob.inlineBytes),
      ("file", record.file == blob.origin.file),
      ("end", record.ended == blob.lifetime.ended),
      (
        "last use",
        record.used == blob.lifetime.used || blob.state != .sealed
          || blob.origin.terms.lifetime.idleExpiry == nil
      ),
      ("admission", record.isAdmitted == blob.isAdmitted),
      ("pause", record.info.isPaused == (blob.isPaused && blob.state == .open)),
      ("readership", record.isRead == blob.isRead),
      ("succession", record.isSuccessor == (blob.succeeds != nil)),
    ]
    return fields.first { !$0.1 }?.0
  }

  /// Whether nothing is left of any blob or client but the last.
  var isBare: Bool {
    blobs.isEmpty && owners.isEmpty && rings.isEmpty && inspections.isEmpty && copies.isEmpty
      && watching.watchers.isEmpty && watching.congested.isEmpty && watching.log.open.isEmpty
      && parkedOpens.isEmpty && successors.isEmpty && sessions.count == 1 && ghosts.isEmpty
      && connectionCount == 1
      && accounts.count == 1 && digestLooks.count == 0
      && accessClasses.values.allSatisfy { $0.waiting.isEmpty && $0.pendingBoard == nil }
  }
}

extension Blob {
  /// Whether its publisher does, or may come to do, only what somebody reads.
  fileprivate var waitsForReaders: Bool {
    let pauses = isProduced && origin.terms.production.whenUnread == .pause
    return state == .open && isBorn && !isReturning && (pauses || demandPiece != nil)
  }
}
