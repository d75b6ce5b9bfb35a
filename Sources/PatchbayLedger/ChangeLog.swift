// What has changed, in order, without a history: each blob stands in the order of changes once, by
// the number of its last one, so a watcher at any place can be told the latest of every blob that
// changed since. Blobs that are gone leave a mark behind; marks are bounded, and the log knows up to
// where they are forgotten. Nothing here grows with the number of watchers, or with how slow they
// are.

import PatchbayTypes

struct ChangeLog: Sendable {
  /// A blob that exists, as its watchers may know it.
  struct Standing: Sendable {
    var born: UInt64
    /// The number of its last change of state.
    var state: UInt64
    /// The number of its last change, progress included: its place in the order.
    var latest: UInt64
    var blobState: BlobState
    /// Of the change of state, or when the progress was seen.
    var time: WallTime
    var frontier = 0
    var coveredByteCount = 0
  }

  /// What a blob that is gone leaves behind.
  struct Removal: Sendable {
    let number: UInt64
    let kind: BlobChange.Kind
    let key: BlobKey
    let generation: Generation
    let access: Access
    let time: WallTime
    let byteCount: Int?
    let frontier: Int
    let coveredByteCount: Int
  }

  enum Item {
    case blob(Generation, Standing)
    case removal(Removal)
  }

  private struct Place: Sendable {
    let number: UInt64
    let generation: Generation
  }

  let removalLimit: Int
  /// The number of the latest change.
  private(set) var last: UInt64 = 0
  /// The latest removal whose mark was given up.
  private(set) var forgotten: UInt64 = 0
  private(set) var standings: [Generation: Standing] = [:]
  /// Ascending. A place is the blob's own only if it has its latest number.
  private var places: [Place] = []
  /// Ascending; those before `firstRemoval` are forgotten.
  private var removals: [Removal] = []
  private var firstRemoval = 0
  /// Blobs that are being written, ascending.
  private(set) var open: [Generation] = []
  /// Blobs that wait for a publisher.
  private(set) var suspendedCount = 0

  init(removalLimit: Int) { self.removalLimit = removalLimit }

  var placeCount: Int { places.count }
  var removalCount: Int { removals.count - firstRemoval }

  // MARK: Changes

  /// Notes that a blob was born or has changed its state.
  /// - Parameter byteCount: the length of a blob that is complete.
  mutating func note(
    _ generation: Generation, _ state: BlobState, byteCount: Int?, at time: WallTime
  ) {
    last += 1
    var standing =
      standings[generation]
      ?? Standing(born: last, state: last, latest: last, blobState: state, time: time)
    countSuspended(standings[generation]?.blobState, state)
    standing.state = last
    standing.latest = last
    standing.blobState = state
    standing.time = time
    if let byteCount {
      standing.frontier = byteCount
      standing.coveredByteCount = byteCount
    }
    standings[generation] = standing
    setOpen(generation, state == .open)
    append(generation)
  }

  /// Notes how far an open blob was seen to be, if it is elsewhere than before.
  mutating func note(
    _ generation: Generation, frontier: Int, coveredByteCount: Int, at time: WallTime
  ) {
    guard var standing = standings[generation], standing.blobState == .open,
      standing.frontier != frontier || standing.coveredByteCount != coveredByteCount
    else { return }
    last += 1
    standing.latest = last
    standing.time = time
    standing.frontier = frontier
    standing.coveredByteCount = coveredByteCount
    standings[generation] = standing
    append(generation)
  }

  /// Notes that a blob is gone.
  mutating func noteGone(
    _ generation: Generation, _ kind: BlobChange.Kind, key: BlobKey, access: Access,
    byteCount: Int?, at time: WallTime
  ) {
    guard let standing = standings.removeValue(forKey: generation) else { return }
    last += 1
    countSuspended(standing.blobState, nil)
    setOpen(generation, false)
    removals.append(
      Removal(
        number: last, kind: kind, key: key, generation: generation, access: access, time: time,
        byteCount: byteCount, frontier: standing.frontier,
        coveredByteCount: standing.coveredByteCount))
    guard removalCount > removalLimit else { return }
    forgotten = removals[firstRemoval].number
    firstRemoval += 1
    guard firstRemoval > removalLimit else { return }
    removals.removeFirst(firstRemoval)
    firstRemoval = 0
  }

  private mutating func append(_ generation: Generation) {
    places.append(Place(number: last, generation: generation))
    guard places.count > 2 * standings.count + 64 else { return }
    let standings = standings
    places.removeAll { standings[$0.generation]?.latest != $0.number }
  }

  private mutating func countSuspended(_ before: BlobState?, _ after: BlobState?) {
    suspendedCount += (after == .suspended ? 1 : 0) - (before == .suspended ? 1 : 0)
  }

  private mutating func setOpen(_ generation: Generation, _ isOpen: Bool) {
    let place = Self.first(in: open.count) { open[$0] >= generation }
    let isListed = place < open.count && open[place] == generation
    if isOpen, !isListed { open.insert(generation, at: place) }
    if !isOpen, isListed { open.remove(at: place) }
  }

  // MARK: Looking

  /// Visits the latest change of everything that changed after a number, in order, until `visit`
  /// returns false.
  func visit(after number: UInt64, _ visit: (UInt64, Item) -> Bool) {
    var place = Self.first(in: places.count) { places[$0].number > number }
    var removal = firstRemoval
    removal += Self.first(in: removalCount) { removals[removal + $0].number > number }
    while true {
      while place < places.count,
        standings[places[place].generation]?.latest != places[place].number
      {
        place += 1
      }
      let nextPlace = place < places.count ? places[place].number : .max
      let nextRemoval = removal < removals.count ? removals[removal].number : .max
      guard min(nextPlace, nextRemoval) < .max else { return }
      if nextRemoval < nextPlace {
        guard visit(nextRemoval, .removal(removals[removal])) else { return }
        removal += 1
      } else {
        let generation = places[place].generation
        guard let standing = standings[generation] else { return }
        guard visit(nextPlace, .blob(generation, standing)) else { return }
        place += 1
      }
    }
  }

  /// The open blobs behind this one, in order.
  func openBlobs(after generation: Generation) -> ArraySlice<Generation> {
    open[Self.first(in: open.count) { open[$0] > generation }...]
  }

  /// The first index below `count` that fits; all behind one that fits do, too.
  private static func first(in count: Int, _ fits: (Int) -> Bool) -> Int {
    var low = 0
    var high = count
    while low < high {
      let middle = (low + high) / 2
      if fits(middle) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
