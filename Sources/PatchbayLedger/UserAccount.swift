// What each user has. The broker's own user and root are bounded by the broker's limits alone: they own
// its memory, and could read it and end the broker anyway. Everybody else has limits of its own as
// well, so that no user can take what the others need.

import PatchbayTypes
import PatchbayWire

struct UserAccount: Sendable {
  /// Its connections.
  var sessions: Set<SessionID> = []
  /// Blobs of every state, removed ones that somebody still holds included.
  var blobCount = 0
  /// Bytes of its rings and inline blobs, and what the journal keeps of its blobs.
  var byteCount = 0
  /// Of them, what eviction could free.
  var idleByteCount = 0
  /// Bytes of disk of its blobs, and of them, what eviction could free.
  var diskByteCount = 0
  var idleDiskByteCount = 0
  /// Containers of its blobs that are being completed.
  var persistCount = 0
  /// Blobs that may go; and of those that have bytes on disk.
  var idleBlobs = EvictionQueue()
  var idleOnDisk = EvictionQueue()

  var isEmpty: Bool { sessions.isEmpty && blobCount == 0 && byteCount == 0 }
}

extension Ledger {
  /// Whether a user may do everything that a blob's owner may.
  func isTrusted(_ uid: UInt32) -> Bool { uid == brokerUser || uid == 0 }

  mutating func charge(_ uid: UInt32, _ byteCount: Int) {
    accounts[uid, default: UserAccount()].byteCount += byteCount
    if byteCount < 0 { spilling.isRelieved = true }
    forgetIfEmpty(uid)
  }

  /// Takes a new blob in; what it holds is charged as it comes.
  mutating func keep(_ blob: Blob) {
    blobs[blob.origin.generation] = blob
    let uid = blob.origin.access.uid
    accounts[uid, default: UserAccount()].blobCount += 1
    charge(uid, blob.origin.recordByteCount)
  }

  /// Forgets a blob.
  mutating func drop(_ blob: Blob) {
    blobs[blob.origin.generation] = nil
    let uid = blob.origin.access.uid
    accounts[uid]?.blobCount -= 1
    charge(uid, -blob.origin.recordByteCount)
  }

  mutating func forgetIfEmpty(_ uid: UInt32) {
    guard accounts[uid]?.isEmpty == true else { return }
    accounts[uid] = nil
    spilling.candidates[.user(uid)] = nil
  }

  // MARK: Limits

  /// - Throws: `noSpaceMemory` if a user would not be within its limit: not even when its own blobs were
  ///   evicted, or before some have left for the disk.
  mutating func checkShare(
    of uid: UInt32, _ byteCount: Int, for what: String
  ) throws(PatchbayError) {
    guard !isTrusted(uid) else { return }
    let account = accounts[uid] ?? UserAccount()
    let held = account.byteCount - (canSpill(in: .user(uid)) ? 0 : account.idleByteCount)
    let (needed, overflow) = held.addingReportingOverflow(byteCount)
    guard overflow || needed > limits.memoryPerOtherUser else { return }
    if byteCount <= limits.memoryPerOtherUser { shortage = .user(uid) }
    throw .noShare(
      for: what, byteCount: byteCount, uid: uid, used: account.byteCount,
      limit: limits.memoryPerOtherUser, held: account.byteCount - account.idleByteCount)
  }

  /// Evicts blobs of a user until so much more fits its limit; with a spool only when nothing of its can
  /// leave memory.
  mutating func makeShare(
    of uid: UInt32, _ byteCount: Int, for what: String
  ) throws(PatchbayError) {
    try checkShare(of: uid, byteCount, for: what)
    guard !isTrusted(uid) else { return }
    while accounts[uid]?.byteCount ?? 0 > limits.memoryPerOtherUser - byteCount {
      guard evictOne(of: uid) || evictOne(of: uid, for: .place) else {
        return try checkShare(of: uid, byteCount, for: what)
      }
    }
  }

  /// - Throws: `limitReached` when the user's connections have as many blobs open as they may.
  func checkHandles(ofUser uid: UInt32) throws(PatchbayError) {
    guard !isTrusted(uid) else { return }
    let count = sum(of: uid) { $0.handleCount }
    guard count >= limits.handlesPerOtherUser else { return }
    throw .userLimit(uid, "has \(count) blobs open", limit: limits.handlesPerOtherUser)
  }

  /// - Throws: `limitReached` when the user's connections wait for as many keys as they may.
  func checkWaitingOpens(ofUser uid: UInt32) throws(PatchbayError) {
    guard !isTrusted(uid) else { return }
    let count = sum(of: uid) { $0.parked.count }
    guard count >= limits.waitingOpensPerOtherUser else { return }
    throw .userLimit(uid, "waits for \(count) keys", limit: limits.waitingOpensPerOtherUser)
  }

  /// Called with a request that waits for what others do, and was noted: nobody's memory is charged for it.
  /// - Throws: `limitReached` when as many requests of its session, or of its user, wait as may.
  func checkWaitingRequests(of session: SessionID) throws(PatchbayError) {
    let own = unanswered[session]?.count ?? 0
    guard own <= limits.handlesPerSession else {
      throw .tooManyWaitingRequests(limit: limits.handlesPerSession)
    }
    guard let uid = sessions[session]?.peer.uid, !isTrusted(uid) else { return }
    let count = (accounts[uid]?.sessions ?? []).reduce(0) { $0 + (unanswered[$1]?.count ?? 0) }
    guard count > limits.waitingOpensPerOtherUser else { return }
    throw .userLimit(
      uid, "waits for the answers to \(count - 1) requests", limit: limits.waitingOpensPerOtherUser)
  }

  private func sum(of uid: UInt32, _ figure: (Session) -> Int) -> Int {
    (accounts[uid]?.sessions ?? []).reduce(0) { $0 + (sessions[$1].map(figure) ?? 0) }
  }

  /// Makes room for one more blob of a user in the catalog.
  mutating func makeRoomInCatalog(of uid: UInt32) throws(PatchbayError) {
    while !isTrusted(uid), accounts[uid]?.blobCount ?? 0 >= limits.blobsPerOtherUser {
      guard evictOne(of: uid, for: .place) else {
        throw .userLimit(
          uid, "has \(limits.blobsPerOtherUser) blobs, all in use",
          limit: limits.blobsPerOtherUser)
      }
    }
    while blobs.count >= limits.blobCount {
      guard evictOne(for: .place) else { throw .tooManyBlobs(limit: limits.blobCount) }
    }
  }

  /// Boards are never taken down, and a client chooses modes as it likes: so there is a bound, and one
  /// for each user, or one of them could take all.
  func checkAccessClass(_ access: Access) throws(PatchbayError) {
    guard accessClasses[access] == nil else { return }
    guard accessClasses.count < limits.accessClassCount else {
      throw .tooManyAccessClasses(access, limit: limits.accessClassCount)
    }
    guard !isTrusted(access.uid) else { return }
    let count = accessClasses.keys.count { $0.uid == access.uid }
    guard count >= limits.accessClassesPerOtherUser else { return }
    throw .userLimit(
      access.uid, "has blobs of \(count) different groups and modes",
      limit: limits.accessClassesPerOtherUser)
  }
}

extension BlobOrigin {
  /// About what the journal keeps of the blob, beside its bytes and its extents.
  var recordByteCount: Int { Self.recordByteCount(of: request) }

  static func recordByteCount(of request: CreateRequest) -> Int {
    let labels = request.labels.reduce(0) { $0 + 8 + $1.name.utf8.count + $1.value.utf8.count }
    return fixedByteCount + request.key.bytes.count + request.type.utf8.count + labels
  }

  /// Two copies of a record, and a cause.
  private static let fixedByteCount = 2048
}

extension PatchbayError {
  static func noShare(
    for what: String, byteCount: Int, uid: UInt32, used: Int, limit: Int, held: Int
  ) -> PatchbayError {
    PatchbayError(
      .noSpaceMemory,
      "\(byteCount) bytes are needed for \(what), but user \(uid) uses \(used) of the \(limit) that "
        + "this broker gives one user, and \(held) of them are held by blobs that are open or still "
        + "mapped. Close or remove some, or have the broker's --user-memory raised.")
  }

  static func userLimit(_ uid: UInt32, _ has: String, limit: Int) -> PatchbayError {
    PatchbayError(
      .limitReached,
      "User \(uid) \(has), and this broker gives one user \(limit). Close or remove some.")
  }
}
