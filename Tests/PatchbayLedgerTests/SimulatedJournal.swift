// What the next broker would find in the journal, as the simulation knows it: the last record of each
// blob, and whether they stand before anybody is told of what they say.

import PatchbayTypes

@testable import PatchbayLedger

struct SimulatedJournal: Sendable {
  /// The last record of each blob that has one.
  private(set) var written: [Generation: BlobRecord] = [:]

  /// The records of one event, all before its other actions.
  static func records(_ actions: [LedgerAction]) -> [BlobRecord] {
    actions.compactMap { action in
      if case .recordBlob(let record) = action { record } else { nil }
    }
  }

  /// Takes the records of an event in their order. Whenever the broker dies between two of them a key
  /// that goes from one blob to another leads to one at least.
  mutating func write(_ actions: [LedgerAction]) -> String? {
    let records = Self.records(actions)
    let isFirst = actions.prefix(records.count).allSatisfy { action in
      if case .recordBlob = action { true } else { false }
    }
    guard isFirst else { return "a record is written behind what it is about" }
    guard Set(records.map(\.info.generation)).count == records.count else {
      return "a record is written twice in one event"
    }
    var lost: Set<BlobKey> = []
    for record in records {
      let generation = record.info.generation
      if record.isNamed, lost.contains(record.info.key) {
        return "\(record.info.key) led to nothing before it led to \(generation)"
      }
      if written[generation]?.isNamed == true, !record.isNamed { lost.insert(record.info.key) }
      written[generation] = record
    }
    return nil
  }

  mutating func erase(_ generation: Generation) -> String? {
    written.removeValue(forKey: generation) == nil ? "\(generation) has no record to erase" : nil
  }

  /// Whether a record of a blob names this ring.
  func names(_ ring: RingID, of generation: Generation) -> Bool {
    written[generation]?.extents.contains { $0.ring == ring } == true
  }
}
