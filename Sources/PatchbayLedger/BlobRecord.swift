// What the journal keeps of a blob: enough for the next broker to go on with it, together with the
// rings and files that it names. A record stands before anybody is told of what it says, so whatever
// was acknowledged is in it; of what nobody was told it may say nothing.

import PatchbayTypes
import PatchbayWire

package struct BlobRecord: Sendable, Hashable {
  package var info: BlobInfo
  /// What its creator asked for, but for bytes that came along.
  package var request: CreateRequest
  package var terms: CreateTerms
  package var epoch: UInt32
  package var plan: ExtentPlan
  /// Bytes of a windowed blob's segment; 0 for `keep`.
  package var segment: Int
  /// The most extents that one publisher may have for writing; 0: any number.
  package var heldExtentLimit: Int
  /// Whether its key leads to it; false once removed or replaced.
  package var isNamed = true
  /// Where its entry and its bell are, while it has them.
  package var slot: BoardSlot?
  package var extentVersion: UInt32 = 0
  package var claimedEnd = 0
  /// Those in memory.
  package var extents: [ExtentRecord]
  /// Indices of those in its container, in order.
  package var spooled: [Range<Int>] = []
  package var scratch: [ScratchRecord] = []
  /// Whether it may have a container, and whether that holds all of it under its last name.
  package var hasContainer = false
  package var isPersisted = false
  package var inlineBytes: [UInt8]?
  /// Who writes it, in the order of coming.
  package var publishers: [RecordedPublisher] = []
  /// Clients that its publisher waits for.
  package var subscribers: [UInt64] = []
  /// When it ended, and was last opened, by the monotonic clock; nil: it has not.
  package var ended: Int64?
  package var used: Int64?
  /// Whether it is to succeed the stale blob that its terms name.
  package var isSuccessor = false
  package var isAdmitted = false
  package var isRead = false
  /// The client that sealed it; 0: none is known.
  package var sealer: UInt64 = 0
  /// The file that it is, as it was when it was imported.
  package var file: FileStamp?
  /// Who created it, and by which request: a repeated create finds its own work.
  package var token: Token
  package var number: UInt64

  package init(
    info: BlobInfo, request: CreateRequest, terms: CreateTerms, epoch: UInt32, plan: ExtentPlan,
    segment: Int, heldExtentLimit: Int, extents: [ExtentRecord], inlineBytes: [UInt8]?,
    token: Token, number: UInt64
  ) {
    self.info = info
    self.request = request
    self.terms = terms
    self.epoch = epoch
    self.plan = plan
    self.segment = segment
    self.heldExtentLimit = heldExtentLimit
    self.extents = extents
    self.inlineBytes = inlineBytes
    self.token = token
    self.number = number
  }
}

/// A client that writes a blob, and the request that made it a publisher.
package struct RecordedPublisher: Sendable, Hashable {
  package var clientID: UInt64
  package var number: UInt64
  package init(clientID: UInt64, number: UInt64) {
    self.clientID = clientID
    self.number = number
  }
}

extension Ledger {
  /// Writes the blob's journal record, once after each event and before anything else that the event
  /// leads to; see `handle`.
  mutating func record(_ generation: Generation) {
    guard blobs[generation]?.isBorn == true else { return }
    unrecorded.append(generation)
  }

  /// Takes note of a blob that has lost its key, and is perhaps gone before the event is over. While its
  /// container still has the name by which a broker finds it, the record must say that it has no key.
  mutating func recordUnnamed(_ generation: Generation) {
    record(generation)
    guard let blob = blobs[generation], blob.isBorn,
      blob.isPersisted || blob.persistReserve != nil
    else { return }
    unnamed[generation] = record(of: blob)
  }

  /// A blob is gone. Its record goes before its rings can serve another blob: what nothing names is swept
  /// by the next broker.
  mutating func erase(_ generation: Generation) {
    // After the name of its container.
    guard unnamed[generation] == nil else { return actions.append(.eraseBlob(generation)) }
    unrecorded.append(generation)
  }

  /// What the event at hand has to write into the journal, in the order in which it came about.
  func recordsToWrite() -> [LedgerAction] {
    var seen: Set<Generation> = []
    return unrecorded.compactMap { generation in
      guard seen.insert(generation).inserted else { return nil }
      if let blob = blobs[generation] { return .recordBlob(record(of: blob)) }
      return unnamed[generation].map { .recordBlob($0) } ?? .eraseBlob(generation)
    }
  }

  private func record(of blob: Blob) -> BlobRecord {
    let origin = blob.origin
    var record = BlobRecord(
      info: blob.info, request: origin.request, terms: origin.terms, epoch: blob.epoch,
      plan: origin.plan, segment: origin.window?.segmentByteCount ?? 0,
      heldExtentLimit: origin.heldExtentLimit, extents: blob.extents,
      inlineBytes: blob.inlineBytes, token: origin.token, number: origin.creator.number)
    record.isNamed = blob.isNamed
    record.slot = blob.slot
    record.extentVersion = blob.extentVersion
    record.claimedEnd = blob.claimedEnd
    record.spooled = Self.ranges(blob.spooled)
    record.scratch = blob.patchwork.scratchRecords
    record.hasContainer = blob.hasContainer
    record.isPersisted = blob.isPersisted
    record.publishers = blob.publishers.compactMap { publisher in
      sessions[publisher.session].map {
        RecordedPublisher(clientID: $0.clientID, number: publisher.number)
      }
    }
    record.subscribers = Set(blob.subscriptions.map(\.subscription.clientID)).sorted()
    record.sealer = blob.sealer.flatMap { sessions[$0]?.clientID } ?? 0
    record.file = origin.file
    record.isSuccessor = blob.succeeds != nil
    record.isAdmitted = blob.isAdmitted
    record.isRead = blob.isRead
    record.ended = blob.lifetime.ended
    record.used = blob.lifetime.used
    return record
  }

  private static func ranges(_ indices: Set<Int>) -> [Range<Int>] {
    var ranges: [Range<Int>] = []
    for index in indices.sorted() {
      if let last = ranges.last, last.upperBound == index {
        ranges[ranges.count - 1] = last.lowerBound..<index + 1
      } else {
        ranges.append(index..<index + 1)
      }
    }
    return ranges
  }
}
