// A journal in plain memory that remembers each write, so that a test can stop at any of them, and
// records with every field filled in.

import CPatchbayLayout
import PatchbayLedger
import PatchbayLoop
import PatchbayTypes
import PatchbayWire

final class RecordingStorage: JournalStorage {
  enum Step {
    case write([UInt8], chunk: Int, offset: Int)
    case add(Int, byteCount: Int)
    case remove(Int)
  }

  private(set) var chunks: [Int: [UInt8]] = [:]
  private(set) var steps: [Step] = []
  private let chunkLimit: Int

  /// What a dead broker has left may be there from the start.
  init(_ chunks: [Int: [UInt8]] = [:], chunkLimit: Int = .max) {
    self.chunks = chunks
    self.chunkLimit = chunkLimit
  }

  func addChunk(_ chunk: Int, header: [UInt8], byteCount: Int) throws(PatchbayError) {
    guard chunks.count < chunkLimit else {
      throw PatchbayError(.noSpaceMemory, "No more chunks.")
    }
    perform(.add(chunk, byteCount: byteCount))
    write(header, chunk: chunk, at: 0)
  }

  func removeChunk(_ chunk: Int) throws(PatchbayError) { perform(.remove(chunk)) }

  func write(_ bytes: [UInt8], chunk: Int, at offset: Int) {
    perform(.write(bytes, chunk: chunk, offset: offset))
  }

  private func perform(_ step: Step) {
    steps.append(step)
    chunks.apply(step)
  }

  func forgetSteps() { steps = [] }

  /// How often chunks were made or given back.
  var chunkChangeCount: Int {
    steps.count { if case .write = $0 { false } else { true } }
  }
}

extension [Int: [UInt8]] {
  mutating func apply(_ step: RecordingStorage.Step) {
    switch step {
    case .write(let bytes, let chunk, let offset):
      self[chunk]?.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    case .add(let chunk, let byteCount):
      precondition(self[chunk] == nil, "chunk \(chunk) is there already")
      self[chunk] = [UInt8](repeating: 0, count: byteCount)
    case .remove(let chunk):
      precondition(self[chunk] != nil, "chunk \(chunk) is not there")
      self[chunk] = nil
    }
  }
}

/// The bytes of a record, changed so that they look as if they were meant so.
func forge(
  _ chunk: inout [UInt8], slot: Int, copy: Int, _ shape: JournalShape,
  _ change: (inout pb_journal_record) -> Void
) {
  let at = shape.recordAt(slot: slot, copy: copy)
  let range = at..<at + JournalShape.recordByteCount
  var record = unsafe chunk[range].withUnsafeBytes {
    unsafe $0.loadUnaligned(as: pb_journal_record.self)
  }
  change(&record)
  let sum = unsafe withUnsafeBytes(of: record) {
    RecordChecksum.of(unsafe Array($0)[Int(PB_RECORD_SEQUENCE_AT)...])
  }
  record.checksum = sum
  chunk.replaceSubrange(range, with: unsafe withUnsafeBytes(of: record) { unsafe Array($0) })
}

enum Sample {
  static let instance: UInt64 = 0x1234_5678_9abc_def0
  /// Small enough that every bit of it can be tried.
  static let shape = JournalShape(chunkByteCount: 64 * 1024, recordCount: 8)
  /// So small that chunks come and go with every few changes.
  static let tinyShape = JournalShape(chunkByteCount: 24 * 1024, recordCount: 16)
  /// Few records, but room for the longest bodies there can be: such chunks come and go quickly.
  static let roomyShape = JournalShape(chunkByteCount: 2 * 1024 * 1024, recordCount: 48)

  /// A blob with no field at its default.
  static func blob(
    _ generation: UInt64, key: String = "models/v7", state: BlobState = .sealed,
    inlineBytes: [UInt8]? = Array("a whole blob".utf8), extentCount: Int = 3,
    labels: [BlobInfo.Label] = [BlobInfo.Label(name: "colour", value: "grün")]
  ) throws -> JournaledBlob {
    var request = CreateRequest(key: try BlobKey(key))
    request.byteCount = 123_456
    request.order = .appendOnly
    request.policy = .dropOldest
    request.acknowledgement = .durable
    request.mode = 0o640
    request.isCache = true
    request.firstExtent = 4096
    request.extentLimit = 65536
    request.segment = 8192
    request.type = "text/plain"
    request.labels = labels
    let stamp = FileStamp(device: 5, inode: 6, byteCount: 7, modified: -8, changed: 9)
    let info = BlobInfo(
      key: request.key, generation: Generation(rawValue: generation), state: state,
      byteCount: 123_456, frontier: 0, coveredByteCount: 0, residentByteCount: 0,
      spilledByteCount: 0, order: .appendOnly, policy: .dropOldest, acknowledgement: .durable,
      publisherCount: 0, subscriberCount: 0, type: "text/plain", labels: labels,
      created: WallTime(rawValue: 1_700_000_000_123_456_789),
      modified: WallTime(rawValue: 1_700_000_001_999_999_999),
      lastRead: WallTime(rawValue: 1_700_000_002_000_000_001), isCache: true, isPinned: true,
      isImported: true, access: Access(uid: 1001, gid: 1002, mode: 0o640), causeCode: .abandoned,
      cause: "it went away", digest: try ContentDigest(.sha384, Array(1...48)))
    let extents = (0..<extentCount).map {
      ExtentRecord(
        index: $0 * 2, ring: RingID(rawValue: 77 + UInt64($0)), useNumber: 5 + UInt32($0),
        dataByteCount: 4096 << $0)
    }
    var record = BlobRecord(
      info: info, request: request,
      terms: CreateTerms(
        ownership: .joinable, idleLimit: .nanoseconds(7), resumes: true, compression: .lz4,
        digest: DigestWish(.sha384)),
      epoch: 9, plan: try ExtentPlan(first: 4096, limit: 65536), segment: 8192,
      heldExtentLimit: 11, extents: extents, inlineBytes: inlineBytes,
      token: Token(high: .max, low: 1), number: 42)
    record.isNamed = false
    record.slot = BoardSlot(board: 3, entry: 4)
    record.extentVersion = 17
    record.claimedEnd = 1000
    record.spooled = [1..<2, 7..<9]
    record.scratch = [
      ScratchRecord(
        index: 5, writer: Generation(rawValue: 2), dataByteCount: 8192,
        standing: ScratchStanding(fileByteCount: 12288, coveredByteCount: 100, frontier: 50))
    ]
    record.hasContainer = true
    record.isPersisted = true
    record.publishers = [RecordedPublisher(clientID: 12, number: 13)]
    record.subscribers = [14, 15]
    record.sealer = 16
    record.file = stamp
    giveTimes(&record)
    return JournaledBlob(
      record: record, inodes: extents.indices.map { 9000 + UInt64($0) },
      filePath: "/tmp/a file")
  }

  /// What is settled and known of a production, of its time, and of who reads it.
  private static func giveTimes(_ record: inout BlobRecord) {
    record.terms.production.tenure = .nanoseconds(1)
    record.terms.production.whenUnread = .pause
    record.terms.production.failureLifetime = .nanoseconds(Int64.max)
    record.terms.production.leastUses = 3
    record.terms.lifetime.timeToLive = .nanoseconds(4)
    record.terms.lifetime.idleExpiry = .nanoseconds(5)
    record.terms.lifetime.grace = .nanoseconds(6)
    record.terms.succeeds = Generation(rawValue: 7)
    record.terms.demand = DemandTerms(pieceByteCount: 4096, readAhead: 8, fills: true)
    record.ended = -9
    record.used = .max
    record.isSuccessor = true
    record.isAdmitted = true
    record.info.isPaused = true
    record.isRead = true
  }

  static func client(_ clientID: UInt64) -> JournaledClient {
    JournaledClient(
      record: ClientRecord(
        clientID: clientID, token: Token(high: 3, low: .max - 1),
        peer: Peer(process: 4242, uid: 1001, gid: 1002), hasAsked: true),
      startTime: 987_654_321)
  }
}
