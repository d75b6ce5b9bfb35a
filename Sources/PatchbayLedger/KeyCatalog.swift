// The keys in byte order, for listings. Chunks of bounded length keep an insertion from moving all
// that follow, and a page from touching more than it shows. Invariant: no chunk is empty, keys
// ascend within chunks and from chunk to chunk.

import PatchbayTypes

struct KeyCatalog: Sendable {
  private var chunks: [[BlobKey]] = []
  private(set) var count = 0
  private static let chunkLimit = 256

  /// The first chunk whose last key is not before this one; `chunks.count` if there is none.
  private func chunkIndex(for key: BlobKey) -> Int {
    var low = 0
    var high = chunks.count
    while low < high {
      let middle = (low + high) / 2
      if let last = chunks[middle].last, last < key { low = middle + 1 } else { high = middle }
    }
    return low
  }

  private static func place(of key: BlobKey, in chunk: [BlobKey]) -> Int {
    var low = 0
    var high = chunk.count
    while low < high {
      let middle = (low + high) / 2
      if chunk[middle] < key { low = middle + 1 } else { high = middle }
    }
    return low
  }

  mutating func insert(_ key: BlobKey) {
    guard !chunks.isEmpty else {
      chunks = [[key]]
      count = 1
      return
    }
    let index = min(chunkIndex(for: key), chunks.count - 1)
    let place = Self.place(of: key, in: chunks[index])
    if place < chunks[index].count, chunks[index][place] == key { return }
    chunks[index].insert(key, at: place)
    count += 1
    if chunks[index].count > Self.chunkLimit { split(index) }
  }

  private mutating func split(_ index: Int) {
    let middle = chunks[index].count / 2
    let rest = Array(chunks[index][middle...])
    chunks[index].removeSubrange(middle...)
    chunks.insert(rest, at: index + 1)
  }

  mutating func remove(_ key: BlobKey) {
    let index = chunkIndex(for: key)
    guard index < chunks.count else { return }
    let place = Self.place(of: key, in: chunks[index])
    guard place < chunks[index].count, chunks[index][place] == key else { return }
    chunks[index].remove(at: place)
    count -= 1
    if chunks[index].isEmpty { chunks.remove(at: index) }
  }

  /// Visits, in order, the keys that begin with a prefix and come after another key, until `visit`
  /// returns false. Empty `after` means from the first.
  func visit(prefix: [UInt8], after: [UInt8], _ visit: (BlobKey) -> Bool) {
    guard prefix.count <= BlobKey.byteLimit else { return }
    let skipsEqual = !after.isEmpty && !after.lexicographicallyPrecedes(prefix)
    // No key is longer than the limit, so cutting there changes no comparison.
    let start = skipsEqual ? Array(after.prefix(BlobKey.byteLimit)) : prefix
    // No key is empty either: an empty start, which makes no key, stands before all of them.
    guard let startKey = try? BlobKey(start) else {
      _ = chunks.allSatisfy { $0.allSatisfy(visit) }
      return
    }
    var index = chunkIndex(for: startKey)
    guard index < chunks.count else { return }
    var place = Self.place(of: startKey, in: chunks[index])
    while index < chunks.count {
      for key in chunks[index][place...] where !(skipsEqual && key == startKey) {
        guard key.bytes.starts(with: prefix), visit(key) else { return }
      }
      index += 1
      place = 0
    }
  }
}
