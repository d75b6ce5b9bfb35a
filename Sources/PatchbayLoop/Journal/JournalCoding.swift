// What a journal record says, to bytes and back: fixed fields in the record itself, everything of
// variable length in the body. Reading back treats both as input: whatever does not make sense is
// an error, never a trap and never a guess.

import CPatchbayLayout
import PatchbayLedger
import PatchbayTypes
import PatchbayWire

/// A blob as the journal keeps it: the record, the inode of each extent's ring, in their order, and
/// of an import where its file was.
package struct JournaledBlob: Sendable, Hashable {
  package var record: BlobRecord
  package var inodes: [UInt64]
  package var filePath: String?
  package init(record: BlobRecord, inodes: [UInt64], filePath: String? = nil) {
    self.record = record
    self.inodes = inodes
    self.filePath = filePath
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

  mutating func raise(to least: JournalNumbers) {
    generation = max(generation, least.generation)
    ring = max(ring, least.ring)
    client = max(client, least.client)
  }

  mutating func add(_ count: UInt64) {
    generation += count
    ring += count
    client += count
  }
}

enum JournalCoding {
  /// Extents of one blob: 16384 extents of the default largest size are a tebibyte.
  static let extentLimit = 16384
  /// Above all numbers that a broker comes to: one that is not below it was never given out.
  static let numberLimit: UInt64 = 1 << 62
  private static let extentByteCount = 4 + 8 + 4 + 8 + 8
  private static let scratchByteCount = 4 + 8 + 4 * 8
  /// The most clients that write one blob, or that its publisher waits for.
  private static let clientLimit = WireLimit.subscriptions
  private static let pathLimit = 4096
  /// Extents of one blob on disk: of 64 KiB, a tebibyte.
  private static let spooledLimit = 1 << 24
  /// Above all boards that fit into memory.
  private static let boardLimit: UInt32 = 1 << 20
  /// Of a client.
  private static let flagAsked: UInt32 = 1
  /// Of a blob.
  private static let flagUnnamed: UInt32 = 1
  private static let flagPinned: UInt32 = 2
  private static let flagContainer: UInt32 = 4
  private static let flagPersisted: UInt32 = 8
  private static let flagSuccessor: UInt32 = 16
  private static let flagAdmitted: UInt32 = 32
  private static let flagPaused: UInt32 = 64
  private static let flagRead: UInt32 = 128
  private static let allFlags =
    flagUnnamed | flagPinned | flagContainer | flagPersisted | flagSuccessor | flagAdmitted
    | flagPaused | flagRead

  /// No body that is written has more bytes: what was asked for, bytes that came along, extents in
  /// memory or in scratch files, runs of them in the container, clients, how it ended, a file.
  static let bodyLimit =
    2 * Frame.inlineByteLimit + (4 + BlobKey.byteLimit) + (4 + WireLimit.type)
    + (4 + WireLimit.labelCount * 2 * (4 + WireLimit.labelPart))
    + 3 * 4 + extentLimit * (scratchByteCount + 16) + 2 * 4 + clientLimit * 24
    + (2 + 1 + 4 + WireLimit.cause) + 2 * (2 + 4 + WireLimit.digest) + (4 + pathLimit) + 256

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
      (blob.record.isNamed ? 0 : flagUnnamed) | (info.isPinned ? flagPinned : 0)
      | (blob.record.hasContainer ? flagContainer : 0)
      | (blob.record.isPersisted ? flagPersisted : 0)
      | (blob.record.isSuccessor ? flagSuccessor : 0)
      | (blob.record.isAdmitted ? flagAdmitted : 0) | (blob.record.info.isPaused ? flagPaused : 0)
      | (blob.record.isRead ? flagRead : 0)
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
    record.request = blob.record.number
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
    record.flags = client.record.hasAsked ? flagAsked : 0
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
    let record = blob.record
    let info = record.info
    var writer = WireWriter()
    record.request.encode(&writer)
    record.terms.encode(&writer)
    writer.put(record.inlineBytes != nil)
    if let inlineBytes = record.inlineBytes { writer.put(inlineBytes) }
    writer.put(list: Array(zip(record.extents, blob.inodes))) { writer, pair in
      writer.put(UInt32(clamping: pair.0.index))
      writer.put(pair.0.ring.rawValue)
      writer.put(pair.0.useNumber)
      writer.put(Int64(pair.0.dataByteCount))
      writer.put(pair.1)
    }
    writer.put(list: record.spooled) { writer, range in writer.put(range) }
    writer.put(list: record.scratch) { writer, scratch in put(scratch, &writer) }
    writer.put(UInt64(clamping: record.heldExtentLimit))
    writer.put(Int64(record.claimedEnd))
    writer.put(record.extentVersion)
    writer.put(record.slot != nil)
    writer.put(record.slot?.board ?? 0)
    writer.put(record.slot?.entry ?? 0)
    writer.put(list: record.publishers) { writer, publisher in
      writer.put(publisher.clientID)
      writer.put(publisher.number)
    }
    writer.put(list: record.subscribers) { writer, client in writer.put(client) }
    writer.put(record.sealer)
    writer.put(record.ended ?? never)
    writer.put(record.used ?? never)
    writer.put(info.causeCode?.rawValue ?? 0)
    writer.put(info.cause != nil)
    if let cause = info.cause { writer.put(cause.cut(toUTF8Count: WireLimit.cause)) }
    writer.put(info.digest)
    writer.put(record.file != nil)
    if let file = record.file { ImportGrant(stamp: file).encode(&writer) }
    writer.put(blob.filePath != nil)
    if let path = blob.filePath { writer.put(path.cut(toUTF8Count: pathLimit)) }
    return writer.bytes
  }

  private static func put(_ scratch: ScratchRecord, _ writer: inout WireWriter) {
    writer.put(UInt32(clamping: scratch.index))
    writer.put(scratch.writer.rawValue)
    for count in [
      scratch.dataByteCount, scratch.standing.fileByteCount, scratch.standing.coveredByteCount,
      scratch.standing.frontier,
    ] { writer.put(Int64(count)) }
  }

  static func blob(
    _ record: pb_journal_record, _ body: ArraySlice<UInt8>
  ) throws(PatchbayError) -> JournaledBlob {
    guard record.flags & ~allFlags == 0, record.byte_count >= -1,
      record.byte_count <= Int64(ExtentPlan.positionLimit),
      (1..<numberLimit).contains(record.identity),
      (0...Int64(WindowShape.segmentRange.upperBound)).contains(record.segment),
      let mode = UInt16(exactly: record.mode)
    else {
      throw PatchbayError(.corrupt, "A journal record of a blob has fields out of range.")
    }
    var reader = WireReader(body)
    let request = try CreateRequest(from: &reader)
    let terms = try CreateTerms(from: &reader)
    let inlineBytes =
      try reader.takeFlag()
      ? reader.takeBlock(atMost: Frame.inlineByteLimit, "an inline blob") : nil
    let (extents, inodes) = try takeExtents(&reader)
    var blob = JournaledBlob(
      record: BlobRecord(
        info: BlobInfo(
          key: request.key, generation: Generation(rawValue: record.identity),
          state: try term(record.state),
          byteCount: record.byte_count < 0 ? nil : Int(record.byte_count), frontier: 0,
          coveredByteCount: 0, residentByteCount: 0, spilledByteCount: 0, order: request.order,
          policy: request.policy, acknowledgement: request.acknowledgement, publisherCount: 0,
          subscriberCount: 0, type: request.type, labels: request.labels,
          created: moment(record.created), modified: moment(record.modified),
          lastRead: record.last_read == 0 ? nil : moment(record.last_read),
          isCache: request.isCache, isPinned: record.flags & flagPinned != 0,
          isImported: false, access: Access(uid: record.uid, gid: record.gid, mode: mode),
          causeCode: nil, cause: nil, digest: nil),
        request: request, terms: terms, epoch: record.epoch,
        plan: try ExtentPlan(first: Int(record.first_extent), limit: Int(record.extent_limit)),
        segment: Int(record.segment), heldExtentLimit: 0, extents: extents,
        inlineBytes: inlineBytes, token: Token(high: record.token.0, low: record.token.1),
        number: record.request),
      inodes: inodes)
    blob.record.isNamed = record.flags & flagUnnamed == 0
    blob.record.hasContainer = record.flags & flagContainer != 0
    blob.record.isPersisted = record.flags & flagPersisted != 0
    blob.record.isSuccessor = record.flags & flagSuccessor != 0
    blob.record.isAdmitted = record.flags & flagAdmitted != 0
    blob.record.info.isPaused = record.flags & flagPaused != 0
    blob.record.isRead = record.flags & flagRead != 0
    try takeRest(&blob, &reader)
    try reader.finish()
    try checkExtents(of: blob.record)
    return blob
  }

  /// Every extent once, and all of them where the plan can have some.
  private static func checkExtents(of record: BlobRecord) throws(PatchbayError) {
    let end = record.plan.index(of: ExtentPlan.positionLimit - 1) + 1
    let (extents, scratch) = (record.extents.map(\.index), record.scratch.map(\.index))
    let spooledCount = record.spooled.reduce(0) { $0 + min($1.count, spooledLimit + 1) }
    guard (extents + scratch).allSatisfy({ $0 < end }),
      Set(extents).count == extents.count, Set(scratch).count == scratch.count,
      record.spooled.allSatisfy({ $0.upperBound <= end }), spooledCount <= spooledLimit
    else {
      throw PatchbayError(
        .corrupt, "A journal record of a blob names extents that it cannot have, or one twice.")
    }
  }

  private static func takeRest(
    _ blob: inout JournaledBlob, _ reader: inout WireReader
  ) throws(PatchbayError) {
    blob.record.spooled = try reader.takeList(atMost: extentLimit, "the extents on disk") {
      (reader) throws(PatchbayError) in try reader.takeRange("extents on disk")
    }
    blob.record.scratch = try reader.takeList(atMost: extentLimit, "the scratch files") {
      (reader) throws(PatchbayError) in try takeScratch(&reader)
    }
    blob.record.heldExtentLimit = try reader.takePosition("a number of extents")
    blob.record.claimedEnd = try reader.takePosition("the end of claims")
    blob.record.extentVersion = try reader.take()
    let hasSlot = try reader.takeFlag()
    let slot = BoardSlot(board: try reader.take(), entry: try reader.take())
    guard slot.board < boardLimit, slot.entry < UInt32(PB_BOARD_ENTRY_COUNT) else {
      throw PatchbayError(
        .corrupt, "A journal record names the entry \(slot.entry) of board \(slot.board).")
    }
    blob.record.slot = hasSlot ? slot : nil
    blob.record.publishers = try reader.takeList(atMost: clientLimit, "the publishers") {
      (reader) throws(PatchbayError) in
      RecordedPublisher(clientID: try reader.take(), number: try reader.take())
    }
    blob.record.subscribers = try reader.takeList(atMost: clientLimit, "the subscribers") {
      (reader) throws(PatchbayError) in try reader.take(UInt64.self)
    }
    blob.record.sealer = try reader.take()
    blob.record.ended = onClock(try reader.take())
    blob.record.used = onClock(try reader.take())
    let causeCode = try reader.take(UInt16.self)
    blob.record.info.causeCode = causeCode == 0 ? nil : PatchbayError.Code(rawValue: causeCode)
    blob.record.info.cause =
      try reader.takeFlag() ? reader.takeText(atMost: WireLimit.cause, "a cause") : nil
    blob.record.info.digest = try reader.takeDigest()
    blob.record.file = try reader.takeFlag() ? ImportGrant(from: &reader).stamp : nil
    blob.record.info.isImported = blob.record.file != nil
    blob.filePath =
      try reader.takeFlag() ? reader.takeText(atMost: pathLimit, "a file's path") : nil
  }

  private static func takeScratch(
    _ reader: inout WireReader
  ) throws(PatchbayError) -> ScratchRecord {
    let scratch = ScratchRecord(
      index: Int(try reader.take(UInt32.self)), writer: Generation(rawValue: try reader.take()),
      dataByteCount: try reader.takePosition("an extent's size"),
      standing: ScratchStanding(
        fileByteCount: try reader.takePosition("a file's size"),
        coveredByteCount: try reader.takePosition("a count of bytes"),
        frontier: try reader.takePosition("a frontier")))
    guard scratch.writer.rawValue < numberLimit else {
      throw PatchbayError(.corrupt, "A journal record names the writer \(scratch.writer).")
    }
    return scratch
  }

  static func client(
    _ record: pb_journal_record, _ body: ArraySlice<UInt8>
  ) throws(PatchbayError) -> JournaledClient {
    guard body.isEmpty, record.identity < numberLimit, record.flags & ~flagAsked == 0 else {
      throw PatchbayError(
        .corrupt, "A journal record of a client has a body, or fields out of range.")
    }
    return JournaledClient(
      record: ClientRecord(
        clientID: record.identity, token: Token(high: record.token.0, low: record.token.1),
        peer: Peer(process: record.pid, uid: record.uid, gid: record.gid),
        hasAsked: record.flags & flagAsked != 0),
      startTime: record.start_time)
  }

  static func numbers(_ record: pb_journal_record) throws(PatchbayError) -> JournalNumbers {
    guard max(record.next_generation, record.next_ring, record.next_client) <= numberLimit else {
      throw PatchbayError(.corrupt, "The broker's journal record has numbers out of range.")
    }
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
      guard extent.ring.rawValue < numberLimit else {
        throw PatchbayError(.corrupt, "A journal record names the ring \(extent.ring.rawValue).")
      }
      return extent
    }
    return (extents, inodes)
  }

  /// No monotonic clock shows it.
  private static let never = Int64.min

  private static func onClock(_ nanoseconds: Int64) -> Int64? {
    nanoseconds == never ? nil : nanoseconds
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
