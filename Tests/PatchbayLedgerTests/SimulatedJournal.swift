// What the next broker would find in the journal, as the simulation knows it: the last record of each
// blob. Each check gives what is wrong, nil if nothing is.

import PatchbayTypes

@testable import PatchbayLedger

struct SimulatedJournal: Sendable {
  /// The last record of each blob that has one.
  private(set) var written: [Generation: BlobRecord] = [:]

  /// The records of one event.
  static func records(_ actions: [LedgerAction]) -> [BlobRecord] {
    actions.compactMap { action in
      if case .recordBlob(let record) = action { record } else { nil }
    }
  }

  /// Takes an action in its turn: whenever the broker dies between two of them, a key leads to one blob
  /// at most.
  mutating func take(_ action: LedgerAction) -> String? {
    switch action {
    case .recordBlob(let record): return write(record)
    case .eraseBlob(let generation):
      guard written.removeValue(forKey: generation) != nil else {
        return "\(generation) has no record to erase"
      }
      return nil
    default: return nil
    }
  }

  private mutating func write(_ record: BlobRecord) -> String? {
    let generation = record.info.generation
    if let before = written[generation] {
      if record.isNamed, !before.isNamed, !before.isSuccessor {
        return "\(generation) has a key again"
      }
    } else if !record.isNamed, !record.isSuccessor {
      return "\(generation) has a record and never had a key"
    }
    written[generation] = record
    guard record.isNamed else { return nil }
    let others = written.values.filter { $0.isNamed && $0.info.key == record.info.key }
    return others.count == 1 ? nil : "\(record.info.key) leads to \(others.count) blobs"
  }

  /// Records stand before all else that an event leads to, but for what a record relies on.
  static func comesLate(_ actions: [LedgerAction]) -> Bool {
    let last = actions.lastIndex { action in
      if case .recordBlob = action { true } else { false }
    }
    guard let last else { return false }
    return !actions[...last].allSatisfy { action in
      switch action {
      case .recordBlob, .eraseBlob, .keepFile: true
      default: false
      }
    }
  }

  /// Whether a record of a blob names this ring.
  func names(_ ring: RingID, of generation: Generation) -> Bool {
    written[generation]?.extents.contains { $0.ring == ring } == true
  }
}
