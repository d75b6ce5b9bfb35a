// How far open blobs are, for watchers: looked up in their rings now and then, by turns, and only
// while somebody wants to know. Writers are not asked and send nothing. A value that changed twice
// between two looks is told once; the last one is not lost, for the seal brings the length.

import PatchbayTypes

/// When to look next, and where to go on.
struct Sampling: Sendable {
  /// Between the beginnings of two rounds over all open blobs.
  static let roundInterval = Duration.milliseconds(100)
  /// Between two looks of one round.
  static let stepInterval = Duration.milliseconds(10)
  /// In one look: so many blobs, and no more extents unless it is one blob that has them.
  static let blobsPerLook = 64
  static let extentsPerLook = 256

  /// The look that is under way.
  var isLooking = false
  /// The blob that was looked at last in this round.
  var reached = Generation(rawValue: 0)
  var roundBegan: Int64 = .min
  var next: Int64 = 0
}

/// How far a blob was seen to be.
package struct BlobSample: Sendable, Hashable {
  package var generation: Generation
  package var frontier: Int
  package var coveredByteCount: Int
  package init(generation: Generation, frontier: Int, coveredByteCount: Int) {
    self.generation = generation
    self.frontier = frontier
    self.coveredByteCount = coveredByteCount
  }
}

extension Ledger {
  /// When the next look is due; nil while nobody wants to know, or one is under way.
  var nextSample: Int64? {
    guard !watching.sampling.isLooking, !watching.log.open.isEmpty,
      watching.watchers.contains(where: \.wantsProgress)
    else { return nil }
    return watching.sampling.next
  }

  mutating func sampleIfDue() {
    guard let due = nextSample, due <= now.monotonicNanoseconds else { return }
    if watching.sampling.reached.rawValue == 0 {
      watching.sampling.roundBegan = now.monotonicNanoseconds
    }
    let reports = nextReports()
    let isRoundOver = watching.log.openBlobs(after: watching.sampling.reached).isEmpty
    let step = now.monotonicNanoseconds.addingClamped(Sampling.stepInterval.wholeNanoseconds)
    let round = watching.sampling.roundBegan.addingClamped(
      Sampling.roundInterval.wholeNanoseconds)
    watching.sampling.next = isRoundOver ? max(step, round) : step
    if isRoundOver { watching.sampling.reached = Generation(rawValue: 0) }
    guard !reports.isEmpty else { return }
    watching.sampling.isLooking = true
    actions.append(.sample(reports))
  }

  /// The next blobs of the round that somebody wants to know about.
  private mutating func nextReports() -> [BlobReport] {
    let watchers = watching.watchers.filter(\.wantsProgress)
    var reports: [BlobReport] = []
    var extentCount = 0
    for generation in watching.log.openBlobs(after: watching.sampling.reached)
      .prefix(Sampling.blobsPerLook)
    {
      guard let blob = blobs[generation] else { continue }
      extentCount += blob.extents.count
      guard reports.isEmpty || extentCount <= Sampling.extentsPerLook else { break }
      watching.sampling.reached = generation
      let isWatched = watchers.contains {
        $0.concerns(blob.key) && mayRead($0.session, blob.origin.access)
      }
      if isWatched { reports.append(blob.report) }
    }
    return reports
  }

  mutating func sampled(_ samples: [BlobSample]) {
    watching.sampling.isLooking = false
    for sample in samples {
      watching.log.note(
        sample.generation, frontier: sample.frontier, coveredByteCount: sample.coveredByteCount,
        at: now.wall)
    }
  }
}
