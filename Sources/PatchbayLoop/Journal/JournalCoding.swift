// What a journal record says, to bytes and back: fixed fields in the record itself, everything of
// variable length in the body. Reading back treats both as input: whatever does not make sense is
// an error, never a trap and never a guess.

import CPatchbayLayout
import PatchbayLedger
import PatchbayTypes
import PatchbayWire

/// A blob as the journal keeps it: the record, and the inode of each extent's ring, in their order.
package struct JournaledBlob: Sendable, Hashable {
  package var record: BlobRecord
  package var inodes: [UInt64]
  package init(record: BlobRecord, inodes: [UInt64]) {
    self.record = record
    self.inodes = inodes
  }
}

/// A client as the journal keeps it: its start time tells it from a later process of its number.
package struct JournaledClient: Sendable, Hashable {
  package var record: ClientRecord
  package var startTime: UInt64
  package init(record: ClientRecord, startTime: UInt64) {
    self.record = record
    self.startTime = startTime
  }
}

/// Numbers that were never given out: these and all above.
package struct JournalNumbers: Sendable, Hashable {
  package var generation: UInt64 = 1
  package var ring: UInt64 = 1
  package var client: UInt64 = 1
  package init() {}
}

enum JournalCoding {
  /// Extents of one blob: 16384 extents of the default largest size are a tebibyte.
  static let extentLimit = 16384
  private static let extentByteCount = 4 + 8 + 4 + 8 + 8
  private static let flagCache: UInt32 = 1
  private static let flagPinned: UInt32 = 2
  private static let flagImported: UInt32 = 4

  /// No body that is written has more bytes.
  static let bodyLimit =
    4 * 8 + 2 * 4 + (4 + BlobKey.byteLimit) + (4 + WireLimit.type)
    + (4 + WireLimit.labelCount * 2 * (4 + WireLimit.labelPart))
    + (4 + extentLimit * extentByteCount) + (1 + 4 + Frame.inlineByteLimit)
    + (2 + 1 + 4 + WireLimit.cause) + (1 + 8) + 2 * (1 + 4 + WireLimit.digest)

  static func record(_ blob: JournaledBlob) -> pb_journal_record {
    let info = blob.record.info
    var record = pb_journal_record()
    record.kind = UInt32(PB_RECORD_BLOB)
    record.identity = info.generation.rawValue
    record.state = info.state.rawValue
    record.policy = info.policy.rawValue
    record.acknowledgement = info.acknowledgement.rawValue
    record.order = info.order.rawValue
    record.flags =
      (info.isCache ? flagCache : 0) | (info.isPinned ? flagPinned : 0)
      | (info.isImported ? flagImported : 0)
    record.uid = info.access.uid
    record.gid = info.access.gid
    record.mode = UInt32(info.access.mode)
    record.epoch = blob.record.epoch
    record.byte_count = Int64(info.byteCount ?? -1)
    record.first_extent = Int64(blob.record.plan.first)
    record.extent_limit = Int64(blob.record.plan.limit)
    record.segment = Int64(blob.record.segment)
    record.created = stamp(info.created)
    record.modified = stamp(info.modified)
    record.last_read = info.lastRead.map(stamp) ?? 0
    record.token = (blob.record.token.high, blob.record.token.low)
    record.request = blob.record.request
    return record
  }

  static func record(_ client: JournaledClient) -> pb_journal_record {
    var record = pb_journal_record()
    record.kind = UInt32(PB_RECORD_CLIENT)
    record.identity = client.record.clientID
    record.uid = client.record.peer.uid
    record.gid = client.record.peer.gid
    record.pid = client.record.peer.process
    record.token = (client.record.token.high, client.record.token.low)
    record.start_time = client.startTime
    return record
  }

  static func record(_ numbers: JournalNumbers, instance: UInt64) -> pb_journal_record {
    var record = pb_journal_record()
    record.kind = UInt32(PB_RECORD_BROKER)
    record.identity = instance
    record.next_generation = numbers.generation
    record.next_ring = numbers.ring
    record.next_client = numbers.client
    return record
  }

  static func body(_ blob: JournaledBlob) -> [UInt8] {
    let info = blob.record.info
    var writer = WireWriter()
    for count in [
      info.frontier, info.coveredByteCount, info.residentByteCount, info.spilledByteCount,
    ] { writer.put(Int64(count)) }
    writer.put(UInt32(clamping: info.publisherCount))
    writer.put(UInt32(clamping: info.subscriberCount))
    writer.put(info.key)
    writer.put(info.type)
    writer.put(labels: info.labels)
    writer.put(list: Array(zip(blob.record.extents, blob.inodes))) { writer, pair in
      writer.put(UInt32(clamping: pair.0.index))
      writer.put(pair.0.ring.rawValue)
      writer.put(pair.0.useNumber)
      writer.put(Int64(pair.0.dataByteCount))
      writer.put(pair.1)
    }
    writer.put(blob.record.inlineBytes != nil)
    if let inlineBytes = blob.record.inlineBytes { writer.put(inlineBytes) }
    writer.put(info.causeCode?.rawValue ?? 0)
    writer.put(info.cause != nil)
    if let cause = info.cause { writer.put(cause.cut(toUTF8Count: WireLimit.cause)) }
    writer.put(blob.record.ownership.rawValue)
    writer.put(blob.record.idleLimit?.wholeNanoseconds ?? 0)
    writer.put(blob.record.digest)
    writer.put(info.digest)
    return writer.bytes
  }

  static func blob(
    _ record: pb_journal_record, _ body: ArraySlice<UInt8>
  ) throws(PatchbayError) -> JournaledBlob {
    guard record.flags & ~(flagCache | flagPinned | flagImported) == 0, record.byte_count >= -1,
      record.byte_count <= Int64(ExtentPlan.positionLimit), record.identity != 0,
      (0...Int64(WindowShape.segmentRange.upperBound)).contains(record.segment),
      let mode = UInt16(exactly: record.mode)
    else {
      throw PatchbayError(.corrupt, "A journal record of a blob has fields out of range.")
    }
    var reader = WireReader(body)
    var counts: [Int] = []
    for _ in 0..<4 { counts.append(try reader.takePosition("a count of bytes")) }
    let publisherCount = Int(try reader.take(UInt32.self))
    let subscriberCount = Int(try reader.take(UInt32.self))
    let key = try reader.takeKey()
    let type = try reader.takeText(atMost: WireLimit.type, "a media type")
    let labels = try reader.takeLabels()
    let (extents, inodes) = try takeExtents(&reader)
    let inlineBytes =
      try reader.takeFlag()
      ? reader.takeBlock(atMost: Frame.inlineByteLimit, "an inline blob") : nil
    let causeCode = try reader.take(UInt16.self)
    let cause =
      try reader.takeFlag() ? reader.takeText(atMost: WireLimit.cause, "a cause") : nil
    let ownership: Ownership = try reader.takeCase("an ownership")
    let idleLimit = try reader.take(Int64.self)
    let wish = try reader.takeDigestWish()
    let digest = try reader.takeDigest()
    try reader.finish()
    let info = BlobInfo(
      key: key, generation: Generation(rawValue: record.identity),
      state: try term(record.state),
      byteCount: record.byte_count < 0 ? nil : Int(record.byte_count),
      frontier: counts[0], coveredByteCount: counts[1], residentByteCount: counts[2],
      spilledByteCount: counts[3], order: try term(record.order), policy: try term(record.policy),
      acknowledgement: try term(record.acknowledgement), publisherCount: publisherCount,
      subscriberCount: subscriberCount, type: type, labels: labels,
      created: moment(record.created), modified: moment(record.modified),
      lastRead: record.last_read == 0 ? nil : moment(record.last_read),
      isCache: record.flags & flagCache != 0, isPinned: record.flags & flagPinned != 0,
      isImported: record.flags & flagImported != 0,
      access: Access(uid: record.uid, gid: record.gid, mode: mode),
      causeCode: causeCode == 0 ? nil : PatchbayError.Code(rawValue: causeCode), cause: cause,
      digest: digest)
    return JournaledBlob(
      record: BlobRecord(
        info: info, epoch: record.epoch,
        plan: try ExtentPlan(first: Int(record.first_extent), limit: Int(record.extent_limit)),
        segment: Int(record.segment), extents: extents, inlineBytes: inlineBytes,
        ownership: ownership, idleLimit: idleLimit > 0 ? .nanoseconds(idleLimit) : nil,
        digest: wish, token: Token(high: record.token.0, low: record.token.1),
        request: record.request),
      inodes: inodes)
  }

  static func client(
    _ record: pb_journal_record, _ body: ArraySlice<UInt8>
  ) throws(PatchbayError) -> JournaledClient {
    guard body.isEmpty else {
      throw PatchbayError(.corrupt, "A journal record of a client has a body.")
    }
    return JournaledClient(
      record: ClientRecord(
        clientID: record.identity, token: Token(high: record.token.0, low: record.token.1),
        peer: Peer(process: record.pid, uid: record.uid, gid: record.gid)),
      startTime: record.start_time)
  }

  static func numbers(_ record: pb_journal_record) -> JournalNumbers {
    var numbers = JournalNumbers()
    numbers.generation = record.next_generation
    numbers.ring = record.next_ring
    numbers.client = record.next_client
    return numbers
  }

  private static func term<Term: RawRepresentable>(
    _ number: UInt8
  ) throws(PatchbayError) -> Term where Term.RawValue == UInt8 {
    guard let term = Term(rawValue: number) else {
      throw PatchbayError(.corrupt, "A journal record holds the unknown number \(number).")
    }
    return term
  }

  private static func takeExtents(
    _ reader: inout WireReader
  ) throws(PatchbayError) -> ([ExtentRecord], [UInt64]) {
    var inodes: [UInt64] = []
    let extents = try reader.takeList(atMost: extentLimit, "the extents") {
      (reader) throws(PatchbayError) -> ExtentRecord in
      let extent = ExtentRecord(
        index: Int(try reader.take(UInt32.self)), ring: RingID(rawValue: try reader.take()),
        useNumber: try reader.take(), dataByteCount: try reader.takePosition("an extent's size"))
      inodes.append(try reader.take())
      return extent
    }
    return (extents, inodes)
  }

  /// Seconds in the upper 34 bits, nanoseconds in the lower 30.
  private static func stamp(_ time: WallTime) -> UInt64 {
    let (seconds, nanoseconds) = max(0, time.rawValue).quotientAndRemainder(
      dividingBy: 1_000_000_000)
    return UInt64(seconds) << 30 | UInt64(nanoseconds)
  }

  private static func moment(_ stamp: UInt64) -> WallTime {
    let seconds = stamp >> 30
    let nanoseconds = stamp & (1 << 30 - 1)
    let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
    guard !overflow, let whole = Int64(exactly: product),
      case let (sum, sumOverflow) = whole.addingReportingOverflow(Int64(nanoseconds)), !sumOverflow
    else { return WallTime(rawValue: .max) }
    return WallTime(rawValue: sum)
  }
}
