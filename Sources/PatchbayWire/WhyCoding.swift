// Why nothing happens to a key: who has it open and who waits.

import PatchbayTypes

package struct WhyRequest: Sendable, Hashable {
  package var key: BlobKey
  package init(key: BlobKey) { self.key = key }
}

extension BlobSituation {
  func encode(_ writer: inout WireWriter) {
    writer.put(info != nil)
    if let info { writer.put(info) }
    writer.put(list: Array(publishers.prefix(WireLimit.parties)), Self.encode)
    writer.put(list: Array(subscribers.prefix(WireLimit.parties)), Self.encode)
    writer.put(list: Array(waits.prefix(WireLimit.parties))) { writer, wait in
      writer.put(wait.want.rawValue)
      writer.put(wait.process)
      writer.put(wait.name.cut(toUTF8Count: WireLimit.name))
      writer.put(wait.since.rawValue)
    }
    writer.put(UInt32(clamping: waitCount))
    writer.put(wakeClassShift)
    writer.put(sleepingClasses)
  }

  private static func encode(_ writer: inout WireWriter, _ party: Party) {
    writer.put(party.process)
    writer.put(party.name.cut(toUTF8Count: WireLimit.name))
    writer.put(UInt32(clamping: party.handleCount))
    writer.put(party.since.rawValue)
    writer.put(optional: party.position)
  }

  init(from reader: inout WireReader) throws(PatchbayError) {
    self.init()
    info = try reader.takeFlag() ? reader.takeInfo() : nil
    publishers = try Self.takeParties(&reader)
    subscribers = try Self.takeParties(&reader)
    waits = try reader.takeList(atMost: WireLimit.parties, "the waits") {
      (reader) throws(PatchbayError) -> Wait in
      Wait(
        want: try reader.takeCase("what is waited for"), process: try reader.take(),
        name: try reader.takeText(atMost: WireLimit.name, "a client's name"),
        since: WallTime(rawValue: try reader.take()))
    }
    waitCount = Int(try reader.take(UInt32.self))
    wakeClassShift = try reader.take()
    sleepingClasses = try reader.take()
  }

  private static func takeParties(_ reader: inout WireReader) throws(PatchbayError) -> [Party] {
    try reader.takeList(atMost: WireLimit.parties, "the parties") {
      (reader) throws(PatchbayError) -> Party in
      Party(
        process: try reader.take(),
        name: try reader.takeText(atMost: WireLimit.name, "a client's name"),
        handleCount: Int(try reader.take(UInt32.self)),
        since: WallTime(rawValue: try reader.take()),
        position: try reader.takeOptionalPosition("a reader's position"))
    }
  }
}
