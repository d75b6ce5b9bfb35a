// Shares of memory: how much of it one publisher may use, and what a client pays for. A client pays for
// the blobs that it writes, from their birth to their end; what is sealed is cache, which can leave, and
// is charged to its user alone. Who comes second to a blob that is shared pays when the first has left.

import PatchbayTypes

extension Ledger {
  /// The memory that blobs of a client may use while they are written.
  func budget(of session: SessionID) -> Int {
    let uid = sessions[session]?.peer.uid ?? brokerUser
    let share = isTrusted(uid) ? limits.memoryByteCount : limits.memoryPerOtherUser
    return min(limits.memoryByteCount, share, limits.memoryPerClient ?? .max)
  }

  /// - Throws: `noSpaceMemory` if the blobs that a client writes would have more in memory than they may.
  mutating func checkShare(
    ofClient session: SessionID?, _ byteCount: Int, for what: String
  ) throws(PatchbayError) {
    guard let limit = limits.memoryPerClient, let session, let client = sessions[session] else {
      return
    }
    let (needed, overflow) = client.paidByteCount.addingReportingOverflow(byteCount)
    guard overflow || needed > limit else { return }
    if byteCount <= limit { shortage = .client(session) }
    throw .noClientShare(
      for: what, byteCount: byteCount, process: client.peer.process, used: client.paidByteCount,
      limit: limit)
  }

  // MARK: Paying

  /// Counts bytes that a blob has got or lost in memory.
  mutating func changeResident(_ generation: Generation, by byteCount: Int) {
    blobs[generation]?.residentByteCount += byteCount
    guard let payer = blobs[generation]?.payer else { return }
    sessions[payer]?.paidByteCount += byteCount
    if byteCount < 0 { spilling.isRelieved = true }
  }

  /// Changes who writes a blob, and with it who pays for it.
  mutating func changePublishers(
    of generation: Generation, _ change: (inout [BlobPublisher]) -> Void
  ) {
    guard let before = blobs[generation] else { return }
    var publishers = before.publishers
    change(&publishers)
    blobs[generation]?.publishers = publishers
    record(generation)
    guard let blob = blobs[generation], blob.payer != before.payer else { return }
    if let payer = before.payer {
      sessions[payer]?.paidByteCount -= blob.residentByteCount
      spilling.isRelieved = true
    }
    if let payer = blob.payer { sessions[payer]?.paidByteCount += blob.residentByteCount }
    blobs[generation]?.offered.remove(.client)
    offerToSpill(generation)
  }

  // MARK: Nearly used up

  /// Whether so much of a share is used that spilling begins before somebody waits.
  func isNearlyUsed(_ scope: RoomScope) -> Bool {
    let (used, limit) = figures(of: scope)
    return used > limit / 4 * 3
  }

  private func figures(of scope: RoomScope) -> (used: Int, limit: Int) {
    switch scope {
    // What is in the pool is free.
    case .broker: (usedByteCount - pool.byteCount, limits.memoryByteCount)
    case .user(let uid): (accounts[uid]?.byteCount ?? 0, limits.memoryPerOtherUser)
    case .client(let session):
      (sessions[session]?.paidByteCount ?? 0, limits.memoryPerClient ?? .max)
    }
  }

  /// Takes note of the shares that are nearly used up by a blob that was just given memory.
  mutating func notePressure(of blob: Blob) {
    guard limits.spool != nil else { return }
    let uid = blob.origin.access.uid
    if !isTrusted(uid) { notePressure(in: .user(uid)) }
    if limits.memoryPerClient != nil, let payer = blob.payer { notePressure(in: .client(payer)) }
  }

  private mutating func notePressure(in scope: RoomScope) {
    guard isNearlyUsed(scope), !spilling.pressed.contains(scope) else { return }
    spilling.pressed.append(scope)
  }
}

extension PatchbayError {
  static func noClientShare(
    for what: String, byteCount: Int, process: Int32, used: Int, limit: Int
  ) -> PatchbayError {
    PatchbayError(
      .noSpaceMemory,
      "\(byteCount) bytes are needed for \(what), but the blobs that process \(process) writes use "
        + "\(used) of the \(limit) bytes of memory that this broker gives one client, and too little of "
        + "that can leave. Seal or close some, or have the broker's --client-memory raised.")
  }
}
