// What a journal holds, and where it stands: what the ledger goes on with, and what the journal's
// next writer must know so that it neither loses nor brings back anything.

import PatchbayLedger
import PatchbayTypes

/// What a record is of. At most one record stands under a name.
package enum JournalName: Sendable, Hashable {
  case broker
  case client(UInt64)
  case blob(Generation)
}

/// One of the records of a chunk.
package struct JournalPlace: Sendable, Hashable {
  package var chunk: Int
  package var slot: Int
}

/// Where the body of a record stands.
package struct JournalBody: Sendable, Hashable {
  package var chunk: Int
  package var granules: Range<Int>
}

/// A record that counts.
package struct StandingRecord: Sendable, Hashable {
  package var name: JournalName
  package var place: JournalPlace
  /// The copy that counts.
  package var newestCopy: Int
  package var sequence: UInt64
  package var body: JournalBody?
  /// The bytes of that copy, when the other one is of a higher sequence and names a body that is
  /// damaged. They are to be written over it: other bytes in that place must not revive it.
  package var overruling: [UInt8]?
}

/// A record of which a copy might come to count, though nothing stands in it: an erasure was cut
/// short, or its bodies are damaged, or another record has its name or its granules.
package struct DiscardedRecord: Sendable, Hashable {
  package var place: JournalPlace
  /// The copy that is to be erased last.
  package var newestCopy: Int
}

/// What a journal holds.
package struct JournalContents: Sendable, Hashable {
  package var instance: UInt64
  /// Above all numbers that were given out.
  package var numbers = JournalNumbers()
  /// By generation.
  package var blobs: [JournaledBlob] = []
  /// By client number.
  package var clients: [JournaledClient] = []
  /// Copies that were neither whole nor fresh: cut short by a death, or damaged.
  package var damagedCopyCount = 0

  // MARK: For the next writer

  /// By sequence, the highest first.
  package var standing: [StandingRecord] = []
  package var discarded: [DiscardedRecord] = []
  /// The highest of any copy, whether it counts or not.
  package var sequence: UInt64 = 0
  /// Whether the broker's own record says what `numbers` are.
  package var hasNumbers = false
  /// Chunks that are there, by number.
  package var wholeChunks: [Int] = []
  /// Chunks whose maker died before their heads stood, by number.
  package var unbornChunks: [Int] = []

  init(instance: UInt64) { self.instance = instance }
}

extension JournalContents {
  /// So many numbers are left out when the broker's record is lost: more than it can have given out
  /// beyond those that the other records name.
  private static let lostNumbers: UInt64 = 1 << 40

  /// Settles `numbers` once all records are known.
  mutating func settle(_ recorded: JournalNumbers?) {
    var least = JournalNumbers()
    for blob in blobs {
      least.generation = max(least.generation, blob.record.info.generation.rawValue + 1)
      for extent in blob.record.extents { least.ring = max(least.ring, extent.ring.rawValue + 1) }
      for scratch in blob.record.scratch {
        least.generation = max(least.generation, scratch.writer.rawValue + 1)
      }
    }
    for client in clients { least.client = max(least.client, client.record.clientID + 1) }
    numbers = recorded ?? JournalNumbers()
    if recorded == nil, least != JournalNumbers() { least.add(Self.lostNumbers) }
    numbers.raise(to: least)
    hasNumbers = numbers == recorded
  }
}
