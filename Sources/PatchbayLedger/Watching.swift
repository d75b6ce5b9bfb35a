// Watchers: each is a place in the order of changes and nothing more. What it has not been told yet
// is what the log holds behind that place, one entry a blob, however long it does not read. It is
// given one message at a time, and none while its connection still holds one that was not taken.
//
// A watcher that is behind what the log has forgotten is told of a gap, and then of all that exists.

import PatchbayTypes
import PatchbayWire

/// One watch of one session.
struct Watcher: Sendable {
  let session: SessionID
  let number: UInt64
  let prefix: [UInt8]
  let wantsProgress: Bool
  /// Everything up to here has been told, or does not concern it.
  var cursor: UInt64
  /// Removals up to here are none of its business: it began behind them.
  var removalsFrom: UInt64
  var owesGap = false
  /// The first message says where it stands, even if there is nothing to tell.
  var owesStart = true

  func concerns(_ key: BlobKey) -> Bool { key.bytes.starts(with: prefix) }
}

/// Everything about watching that the ledger keeps.
struct Watching: Sendable {
  var log: ChangeLog
  /// In the order in which they began.
  var watchers: [Watcher] = []
  /// Sessions that have not taken what they were sent.
  var congested: Set<SessionID> = []
  /// The log's last number when all watchers were looked at.
  var pumped: UInt64 = 0
  /// Whether somebody who reads has not been told all.
  var hasMore = false
  var sampling = Sampling()
}

extension Ledger {
  /// The bytes of changes in one message: a packet less its header and the fields before them.
  private static let pageByteLimit = Frame.byteLimit - Frame.headerByteCount - 32
  /// Entries that are looked at for one message; what follows has its turn later.
  private static let looksPerMessage = 4096

  // MARK: Changes

  /// Called after a blob was born, and after each change of its state.
  mutating func changed(_ generation: Generation) {
    guard let blob = blobs[generation], blob.isBorn, blob.isNamed else { return }
    let byteCount = blob.state == .sealed ? blob.byteCount : nil
    watching.log.note(generation, blob.state, byteCount: byteCount, at: now.wall)
  }

  /// Called when a blob's key has been taken away.
  mutating func vanished(_ generation: Generation, as kind: BlobChange.Kind) {
    guard let blob = blobs[generation] else { return }
    watching.log.noteGone(
      generation, kind, key: blob.key, access: blob.origin.access, byteCount: blob.byteCount,
      at: now.wall)
  }

  // MARK: Watches

  mutating func watch(
    _ session: SessionID, _ number: UInt64, _ request: WatchRequest
  ) throws(PatchbayError) {
    let own = watching.watchers.filter { $0.session == session }
    guard !own.contains(where: { $0.number == number }) else { throw .numberInUse(number) }
    guard own.count < limits.watchesPerSession else {
      throw .tooManyWatches(limit: limits.watchesPerSession)
    }
    let log = watching.log
    var watcher = Watcher(
      session: session, number: number, prefix: request.prefix,
      wantsProgress: request.wantsProgress, cursor: log.last, removalsFrom: log.last)
    if let after = request.after {
      if after == .start {
        watcher.cursor = 0
      } else if after.instance == run, after.number <= log.last {
        watcher.cursor = after.number
        watcher.removalsFrom = after.number
      } else {
        beginAnew(&watcher)
      }
    }
    watching.watchers.append(watcher)
    watching.hasMore = true
  }

  private func beginAnew(_ watcher: inout Watcher) {
    watcher.cursor = 0
    watcher.removalsFrom = watching.log.last
    watcher.owesGap = true
  }

  /// Ends a watch by its number; false when there is none.
  mutating func endWatch(_ session: SessionID, _ number: UInt64) -> Bool {
    guard forgetWatch(session, number) else { return false }
    reply(session, number, .done)
    return true
  }

  /// Forgets a watch of which its client knows that it has ended.
  mutating func forgetWatch(_ session: SessionID, _ number: UInt64) -> Bool {
    guard
      let place = watching.watchers.firstIndex(where: {
        $0.session == session && $0.number == number
      })
    else { return false }
    watching.watchers.remove(at: place)
    return true
  }

  mutating func forgetWatches(of session: SessionID) {
    watching.watchers.removeAll { $0.session == session }
    watching.congested.remove(session)
  }

  // MARK: Telling

  /// Gives each watcher that reads its next message, if there is anything to tell.
  mutating func tellWatchers() {
    guard watching.hasMore || watching.pumped != watching.log.last else { return }
    watching.pumped = watching.log.last
    watching.hasMore = false
    for place in watching.watchers.indices {
      guard !watching.congested.contains(watching.watchers[place].session) else { continue }
      tell(place)
    }
  }

  private mutating func tell(_ place: Int) {
    var watcher = watching.watchers[place]
    let log = watching.log
    if log.forgotten > max(watcher.cursor, watcher.removalsFrom) { beginAnew(&watcher) }
    let changes = nextChanges(&watcher)
    let position = EventPosition(instance: run, number: watcher.cursor)
    if !changes.isEmpty || watcher.owesGap || watcher.owesStart {
      reply(
        watcher.session, watcher.number,
        .events(EventPage(hasGap: watcher.owesGap, position: position, changes: changes)))
    }
    watcher.owesGap = false
    watcher.owesStart = false
    if watcher.cursor < log.last { watching.hasMore = true }
    watching.watchers[place] = watcher
  }

  /// What comes next for a watcher, as much as one message holds; its cursor moves behind it.
  private func nextChanges(_ watcher: inout Watcher) -> [BlobChange] {
    guard let peer = sessions[watcher.session]?.peer else { return [] }
    var changes: [BlobChange] = []
    var byteCount = 0
    var lookCount = 0
    var cursor = watcher.cursor
    let asked = watcher
    var isAtEnd = true
    watching.log.visit(after: cursor) { number, item in
      lookCount += 1
      if let change = change(item, number, for: asked, peer) {
        byteCount += change.encodedByteCount
        isAtEnd = changes.count < WireLimit.pageChanges && byteCount <= Self.pageByteLimit
        guard isAtEnd else { return false }
        changes.append(change)
      }
      cursor = number
      isAtEnd = lookCount < Self.looksPerMessage
      return isAtEnd
    }
    watcher.cursor = isAtEnd ? watching.log.last : cursor
    return changes
  }

  /// What an entry of the log means to a watcher; nil: nothing.
  private func change(
    _ item: ChangeLog.Item, _ number: UInt64, for watcher: Watcher, _ peer: Peer
  ) -> BlobChange? {
    switch item {
    case .blob(let generation, let standing):
      guard let blob = blobs[generation], watcher.concerns(blob.key),
        mayRead(peer, blob.origin.access),
        standing.state > watcher.cursor || watcher.wantsProgress
      else { return nil }
      return change(of: blob, standing, number, isNew: standing.born > watcher.cursor)
    case .removal(let removal):
      guard number > watcher.removalsFrom, watcher.concerns(removal.key),
        mayRead(peer, removal.access)
      else { return nil }
      return BlobChange(
        kind: removal.kind, key: removal.key, generation: removal.generation,
        position: EventPosition(instance: run, number: number), time: removal.time,
        byteCount: removal.byteCount, frontier: removal.frontier,
        coveredByteCount: removal.coveredByteCount)
    }
  }

  private func change(
    of blob: Blob, _ standing: ChangeLog.Standing, _ number: UInt64, isNew: Bool
  ) -> BlobChange {
    let kind: BlobChange.Kind =
      switch blob.state {
      case .open: isNew ? .created : .progress
      case .suspended: .suspended
      case .sealed: .sealed
      case .failed: .failed
      case .gone: .removed
      }
    return BlobChange(
      kind: kind, key: blob.key, generation: blob.origin.generation,
      position: EventPosition(instance: run, number: number), time: standing.time,
      byteCount: blob.byteCount, frontier: standing.frontier,
      coveredByteCount: standing.coveredByteCount, causeCode: blob.causeCode,
      cause: blob.cause)
  }

  mutating func congested(_ session: SessionID) {
    guard sessions[session] != nil else { return }
    watching.congested.insert(session)
  }

  mutating func relieved(_ session: SessionID) {
    watching.congested.remove(session)
    watching.hasMore = true
  }
}
