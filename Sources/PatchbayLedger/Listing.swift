// What people and tools ask: one blob, a page of blobs, the counters. Figures of a blob that is not
// sealed live in its rings' headers; the loop fills them in, as hints.

import PatchbayLayout
import PatchbayTypes
import PatchbayWire

extension Ledger {
  mutating func info(
    _ session: SessionID, _ number: UInt64, _ request: InfoRequest
  ) throws(PatchbayError) {
    guard let blob = visible(request.key, to: session) else { throw .noSuchKey(request.key) }
    if looksAtFile(of: blob, session, number, .info(request)) { return }
    actions.append(.report(session, number: number, .info, [blob.report]))
  }

  mutating func list(_ session: SessionID, _ number: UInt64, _ request: ListRequest) {
    let limit = min(max(request.limit, 1), WireLimit.pageEntries)
    var page: [BlobReport] = []
    var byteCount = Frame.headerByteCount + Self.pageHeadByteCount
    var hasMore = false
    catalog.visit(prefix: request.prefix, after: request.after) { key in
      guard let blob = visible(key, to: session) else { return true }
      let report = blob.report
      byteCount += report.info.encodedByteCount
      hasMore = page.count == limit || byteCount > Frame.byteLimit
      if !hasMore { page.append(report) }
      return !hasMore
    }
    actions.append(.report(session, number: number, .list(hasMore: hasMore), page))
  }

  /// The flag and the count before the entries.
  private static let pageHeadByteCount = 8

  func statistics(for session: SessionID) -> BrokerStatistics {
    var statistics = BrokerStatistics()
    if let uid = sessions[session]?.peer.uid {
      let limit = isTrusted(uid) ? limits.memoryByteCount : limits.memoryPerOtherUser
      statistics.userMemoryByteCount = UInt64(max(0, accounts[uid]?.byteCount ?? 0))
      statistics.userMemoryLimit = UInt64(max(0, limit))
    }
    statistics.clientMemoryByteCount = UInt64(max(0, sessions[session]?.paidByteCount ?? 0))
    statistics.clientMemoryLimit = UInt64(
      max(0, min(limits.memoryPerClient ?? .max, limits.memoryByteCount)))
    statistics.userCount = UInt64(accounts.count)
    statistics.blobCount = UInt64(catalog.count)
    statistics.memoryByteCount = UInt64(max(0, usedByteCount))
    statistics.memoryLimit = UInt64(max(0, limits.memoryByteCount))
    statistics.clientCount = UInt64(clientCount)
    statistics.ringCount = UInt64(rings.count)
    statistics.evictionCount = evictionCount
    statistics.poolByteCount = UInt64(pool.byteCount)
    statistics.reuseCount = reuseCount
    statistics.spoolByteCount = UInt64(max(0, spilling.byteCount))
    statistics.spoolLimit = UInt64(max(0, limits.spool?.byteCount ?? 0))
    statistics.spillCount = spilling.count
    statistics.restoreCount = restoreCount
    let elapsed = now.monotonicNanoseconds.subtractingReportingOverflow(
      started.monotonicNanoseconds)
    statistics.uptime = .nanoseconds(elapsed.overflow ? 0 : max(0, elapsed.partialValue))
    return statistics
  }
}

extension Blob {
  var info: BlobInfo {
    let request = origin.request
    let settled = state == .sealed ? byteCount ?? 0 : 0
    return BlobInfo(
      key: request.key, generation: origin.generation, state: state, byteCount: byteCount,
      frontier: settled, coveredByteCount: settled, residentByteCount: residentByteCount,
      spilledByteCount: spoolByteCount, order: request.order, policy: request.policy,
      acknowledgement: request.acknowledgement, publisherCount: publishers.count,
      subscriberCount: readerCount, type: request.type, labels: request.labels,
      created: origin.created, modified: modified, lastRead: lastRead, isCache: request.isCache,
      isPinned: isPinned, isImported: origin.file != nil,
      isPaused: isPaused && state == .open, access: origin.access,
      causeCode: causeCode, cause: cause, digest: digest,
      expires: lifetime.shownEnd)
  }

  /// A sealed blob's description is exact; any other's rings know more.
  var report: BlobReport {
    BlobReport(
      info: info, plan: origin.plan, isWindow: origin.window != nil,
      liveExtents: state == .sealed ? [] : extents,
      spooled: state == .sealed ? [] : spooled.sorted(),
      scratch: state == .sealed ? [] : patchwork.scratchRecords)
  }
}

extension BlobInfo {
  /// An upper bound of its bytes in a message: fields of fixed size, then the texts.
  var encodedByteCount: Int {
    let texts = key.bytes.count + type.utf8.count + min(cause?.utf8.count ?? 0, WireLimit.cause)
    let labelBytes = labels.reduce(0) { $0 + 8 + $1.name.utf8.count + $1.value.utf8.count }
    return 173 + WireLimit.digest + texts + labelBytes
  }
}

extension Access {
  /// As people write it.
  var shown: String { "user \(uid), group \(gid), mode 0\(String(mode, radix: 8))" }
}
