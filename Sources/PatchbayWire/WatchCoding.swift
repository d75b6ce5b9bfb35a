// Watching: the request, and the message that answers it again and again until it is cancelled.

import PatchbayTypes

/// Asks to be told what becomes of blobs.
package struct WatchRequest: Sendable, Hashable {
  /// What the keys begin with; empty for all.
  package var prefix: [UInt8]
  /// Where to go on; nil: from now.
  package var after: EventPosition?
  /// Whether to be told how far open blobs are.
  package var wantsProgress: Bool
  package init(prefix: [UInt8], after: EventPosition?, wantsProgress: Bool) {
    self.prefix = prefix
    self.after = after
    self.wantsProgress = wantsProgress
  }

  func encode(_ writer: inout WireWriter) {
    writer.put(prefix)
    writer.put(after != nil)
    if let after { writer.put(after) }
    writer.put(wantsProgress)
  }

  init(from reader: inout WireReader) throws(PatchbayError) {
    self.init(
      prefix: try reader.takeBlock(atMost: BlobKey.byteLimit, "a prefix"),
      after: try reader.takeFlag() ? reader.takeEventPosition() : nil,
      wantsProgress: try reader.takeFlag())
  }
}

/// One message of events.
package struct EventPage: Sendable, Hashable {
  /// Changes were forgotten before these: all that exists is told again.
  package var hasGap: Bool
  /// Where to go on behind this message. The changes carry numbers of the same instance.
  package var position: EventPosition
  package var changes: [BlobChange]
  package init(hasGap: Bool, position: EventPosition, changes: [BlobChange]) {
    self.hasGap = hasGap
    self.position = position
    self.changes = changes
  }

  func encode(_ writer: inout WireWriter) {
    writer.put(hasGap)
    writer.put(position)
    writer.put(list: changes) { writer, change in writer.put(change) }
  }

  init(from reader: inout WireReader) throws(PatchbayError) {
    let hasGap = try reader.takeFlag()
    let position = try reader.takeEventPosition()
    let changes = try reader.takeList(atMost: WireLimit.pageChanges, "a page of changes") {
      (reader) throws(PatchbayError) -> BlobChange in try reader.takeChange(position.instance)
    }
    self.init(hasGap: hasGap, position: position, changes: changes)
  }
}

extension BlobChange {
  /// Its bytes in a message.
  package var encodedByteCount: Int {
    1 + 4 + key.bytes.count + 6 * 8 + 2 + 4
      + (cause ?? "").cut(toUTF8Count: WireLimit.cause).utf8.count
  }
}

extension WireWriter {
  mutating func put(_ position: EventPosition) {
    put(position.instance)
    put(position.number)
  }

  mutating func put(_ change: BlobChange) {
    put(change.kind.rawValue)
    put(change.key)
    put(change.generation.rawValue)
    put(change.position.number)
    put(change.time.rawValue)
    put(optional: change.byteCount)
    put(Int64(change.frontier))
    put(Int64(change.coveredByteCount))
    put(change.causeCode?.rawValue ?? 0)
    put((change.cause ?? "").cut(toUTF8Count: WireLimit.cause))
  }
}

extension WireReader {
  mutating func takeEventPosition() throws(PatchbayError) -> EventPosition {
    EventPosition(instance: try take(), number: try take())
  }

  mutating func takeChange(_ instance: UInt64) throws(PatchbayError) -> BlobChange {
    let kind: BlobChange.Kind = try takeCase("a kind of change")
    let key = try takeKey()
    let generation = Generation(rawValue: try take())
    let position = EventPosition(instance: instance, number: try take())
    let time = WallTime(rawValue: try take())
    let byteCount = try takeOptionalPosition("a length")
    let frontier = try takePosition("a frontier")
    let covered = try takePosition("a count of covered bytes")
    let causeCode = try take(UInt16.self)
    let cause = try takeText(atMost: WireLimit.cause, "a cause")
    return BlobChange(
      kind: kind, key: key, generation: generation, position: position, time: time,
      byteCount: byteCount, frontier: frontier, coveredByteCount: covered,
      causeCode: causeCode == 0 ? nil : PatchbayError.Code(rawValue: causeCode),
      cause: cause.isEmpty ? nil : cause)
  }
}
