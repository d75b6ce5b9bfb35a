// One listing made of several, in the byte order of keys. A page of one store that is not its last one
// says nothing of the keys behind its end: the merged page ends where the first of such pages does.

import PatchbayTypes

/// Pages of several stores on their way to be one.
struct MergedListing {
  private var blobs: [BlobKey: BlobInfo] = [:]
  /// The last key that is known for all stores; nil: all keys are.
  private var end: BlobKey?

  /// Takes a store's page in. Of a key that an earlier one had already, this one's blob counts only if
  /// the other has failed.
  /// - Parameter isWanted: which of the page's blobs are to be listed.
  mutating func add(_ page: BlobPage, where isWanted: (BlobKey) -> Bool = { _ in true }) {
    for blob in page.blobs where isWanted(blob.key) {
      if let known = blobs[blob.key], known.state != .failed { continue }
      blobs[blob.key] = blob
    }
    guard page.hasMore, let last = page.blobs.last?.key else { return }
    end = end.map { min($0, last) } ?? last
  }

  private func page(_ limit: Int) -> BlobPage {
    let known = blobs.values.filter { blob in end.map { blob.key <= $0 } ?? true }
      .sorted { $0.key < $1.key }
    let shown = Array(known.prefix(max(1, limit)))
    return BlobPage(blobs: shown, hasMore: end != nil || shown.count < known.count)
  }

  /// A page of several stores, which is empty only if nothing follows.
  /// - Parameter read: adds the page of each store behind a key.
  static func page(
    after: BlobKey?, limit: Int,
    _ read: (BlobKey?, inout MergedListing) async throws(PatchbayError) -> Void
  ) async throws(PatchbayError) -> BlobPage {
    var after = after
    while true {
      var listing = MergedListing()
      try await read(after, &listing)
      let page = listing.page(limit)
      guard page.blobs.isEmpty, let end = listing.end else { return page }
      after = end
    }
  }
}
