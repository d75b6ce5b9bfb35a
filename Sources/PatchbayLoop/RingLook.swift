// Looks into a blob's rings. What a ring says is believed for its own blob only and bounded by what
// the ledger knows: never an index, a size or the bound of a loop.

import PatchbayLayout
import PatchbayLedger
import PatchbayRing
import PatchbaySpool
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

/// An extent, and where its ring is: nil when it is gone.
struct PlacedExtent: Sendable {
  let extent: ExtentRecord
  let place: RingPlace?
}

/// A scratch file that was open when it was known to be there.
final class ScratchFile: Sendable {
  private let file: Descriptor
  private let shape: ScratchShape

  init(_ file: consuming Descriptor, _ record: ScratchRecord) {
    self.file = file
    shape = ScratchShape(
      generation: record.writer, index: record.index, dataByteCount: record.dataByteCount)
  }

  /// What its map says of the first bytes of its extent.
  func coverage(
    upTo byteCount: Int
  ) throws(PatchbayError) -> (coveredByteCount: Int, missing: [Range<Int>]) {
    try OpenScratch(file.duplicate(), shape).map.coverage(
      upTo: byteCount, missingLimit: WireLimit.missing)
  }
}

/// The scratch files of a blob: what is known of each, and some of them to look into, the first ones
/// and the last.
struct PlacedScratch: Sendable {
  let records: [ScratchRecord]
  var files: [Int: Result<ScratchFile, PatchbayError>] = [:]
}

/// Where the extents of a blob are.
struct PlacedBlob: Sendable {
  let plan: ExtentPlan
  let extents: [PlacedExtent]
  /// Indices of those that stand in the container, whole.
  let spooled: [Int]
  var scratch = PlacedScratch(records: [])

  /// Where one is.
  enum Place {
    case ring(PlacedExtent)
    case container
    case scratch(ScratchRecord)
  }

  /// All of them by their indices, in order.
  var inOrder: [(index: Int, place: Place)] {
    var all: [(index: Int, place: Place)] = extents.map { ($0.extent.index, .ring($0)) }
    all += spooled.map { ($0, .container) }
    all += scratch.records.map { ($0.index, .scratch($0)) }
    return all.sorted { $0.index < $1.index }
  }
}

/// A ring to fill from another, and where they are.
struct PlacedCopy: Sendable {
  let pair: ExtentCopy
  let source: RingPlace?
  let target: RingPlace?
}

enum RingLook {
  /// Fills fresh rings with what others have covered; nil when all is there.
  /// - Parameter retracting: takes the tag of each source away before: what is marked there afterwards is
  ///   not copied, and no reader has seen it.
  static func copy(_ copies: [PlacedCopy], retracting: Bool) -> PatchbayError? {
    do throws(PatchbayError) {
      for copy in copies {
        guard let source = copy.source, let target = copy.target else {
          throw PatchbayError(
            .inputOutput, "A ring of extent \(copy.pair.source.index) is gone.")
        }
        if retracting { try RingUse.end(source.open(isWritable: true)) }
        try RingCopy.fill(
          target.open(isWritable: true), from: source.open(isWritable: false), source.geometry)
      }
      return nil
    } catch {
      return error
    }
  }

  /// The indices of extents that are covered throughout.
  static func complete(
    _ extents: [PlacedExtent], _ plan: ExtentPlan, byteCount: Int?
  ) -> Result<Set<Int>, PatchbayError> {
    var complete: Set<Int> = []
    do throws(PatchbayError) {
      for placed in extents {
        guard let place = placed.place else {
          throw PatchbayError(.inputOutput, "The ring of extent \(placed.extent.index) is gone.")
        }
        let start = plan.range(of: placed.extent.index).lowerBound
        let end = min(placed.extent.dataByteCount, (byteCount ?? .max) - start)
        let found = try RingInspector.coverage(
          place.open(isWritable: false), place.geometry, upTo: end, missingLimit: 1)
        if found.coveredByteCount == end { complete.insert(placed.extent.index) }
      }
      return .success(complete)
    } catch {
      return .failure(error)
    }
  }

  /// How much of [0, byteCount) is covered, from private copies of maps or frontiers.
  static func coverage(
    _ blob: PlacedBlob, isWindow: Bool, byteCount: Int
  ) -> Result<Coverage, PatchbayError> {
    if isWindow { return windowCoverage(blob.extents.first, byteCount: byteCount) }
    var covered = 0
    var gaps = GapList()
    var reached = 0
    for (index, place) in blob.inOrder {
      let range = blob.plan.range(of: index)
      guard range.lowerBound < byteCount else { break }
      guard range.lowerBound >= reached else { continue }
      gaps.add(reached..<range.lowerBound)
      let end = min(range.upperBound, byteCount)
      reached = end
      do throws(PatchbayError) {
        let found = try coverage(place, upTo: end - range.lowerBound, blob)
        covered += found.coveredByteCount
        for gap in found.missing {
          gaps.add(range.lowerBound + gap.lowerBound..<range.lowerBound + gap.upperBound)
        }
      } catch {
        return .failure(error)
      }
    }
    gaps.add(reached..<max(reached, byteCount))
    return .success(Coverage(coveredByteCount: covered, missing: gaps.ranges))
  }

  /// Of the first bytes of an extent.
  private static func coverage(
    _ place: PlacedBlob.Place, upTo byteCount: Int, _ blob: PlacedBlob
  ) throws(PatchbayError) -> (coveredByteCount: Int, missing: [Range<Int>]) {
    switch place {
    case .container: return (byteCount, [])
    case .ring(let ring):
      guard let place = ring.place else {
        throw PatchbayError(.inputOutput, "The ring of extent \(ring.extent.index) is gone.")
      }
      return try RingInspector.coverage(
        place.open(isWritable: false), place.geometry, upTo: byteCount,
        missingLimit: WireLimit.missing)
    case .scratch(let record):
      guard let file = blob.scratch.files[record.index] else {
        // It is full, or the files before it have more gaps than are asked for.
        return (record.standing.coveredByteCount, [])
      }
      return try file.get().coverage(upTo: byteCount)
    }
  }

  /// Of a window: what it ever held counts, though most of it has gone.
  private static func windowCoverage(
    _ placed: PlacedExtent?, byteCount: Int
  ) -> Result<Coverage, PatchbayError> {
    do throws(PatchbayError) {
      guard let place = placed?.place else {
        throw PatchbayError(.inputOutput, "The ring of the window is gone.")
      }
      let frontier = try RingInspector.hints(
        place.open(isWritable: false), limit: byteCount
      ).frontier
      return .success(
        Coverage(
          coveredByteCount: frontier,
          missing: frontier < byteCount ? [frontier..<byteCount] : []))
    } catch {
      return .failure(error)
    }
  }

  /// A blob's description with the figures that only its rings know; zeros where they cannot be
  /// had, because a ring has left the blob since this was asked for.
  static func fill(_ report: BlobReport, _ extents: [PlacedExtent]) -> BlobInfo {
    var info = report.info
    guard !extents.isEmpty || !report.spooled.isEmpty || !report.scratch.isEmpty else {
      return info
    }
    info.frontier = 0
    info.coveredByteCount = 0
    var nextIndex = 0
    let blob = PlacedBlob(
      plan: report.plan, extents: extents, spooled: report.spooled,
      scratch: PlacedScratch(records: report.scratch))
    let inOrder = blob.inOrder
    for (index, place) in inOrder {
      let range = report.plan.range(of: index)
      // What is appended to leaves a ring only when it has filled that.
      let whole = info.order == .appendOnly && index != inOrder.last?.index ? range.count : nil
      guard
        let hints = hints(place, range.count, isWindow: report.isWindow)
          ?? whole.map({ ($0, $0) })
      else { continue }
      info.coveredByteCount += hints.coveredByteCount
      guard index == nextIndex else { continue }
      info.frontier = range.lowerBound + hints.frontier
      nextIndex = hints.frontier >= range.count ? nextIndex + 1 : -1
    }
    let limit = info.byteCount ?? ExtentPlan.positionLimit
    info.frontier = min(info.frontier, limit)
    // The count of covered bytes is added up after the frontier has moved.
    info.coveredByteCount = min(max(info.coveredByteCount, info.frontier), limit)
    return info
  }

  private static func hints(
    _ place: PlacedBlob.Place, _ byteCount: Int, isWindow: Bool
  ) -> (frontier: Int, coveredByteCount: Int)? {
    switch place {
    case .ring(let ring): hints(ring, isWindow: isWindow)
    case .container: (byteCount, byteCount)
    case .scratch(let record): (record.standing.frontier, record.standing.coveredByteCount)
    }
  }

  private static func hints(
    _ placed: PlacedExtent, isWindow: Bool
  ) -> (frontier: Int, coveredByteCount: Int)? {
    guard let place = placed.place, let descriptor = try? place.open(isWritable: false) else {
      return nil
    }
    let limit = isWindow ? ExtentPlan.positionLimit : place.geometry.dataByteCount
    let use = RingUse(number: placed.extent.useNumber, index: placed.extent.index)
    return (try? RingInspector.hints(descriptor, limit: limit, of: use)) ?? nil
  }
}

/// The first gaps of a blob, neighbours joined.
private struct GapList {
  private(set) var ranges: [Range<Int>] = []

  mutating func add(_ gap: Range<Int>) {
    guard !gap.isEmpty else { return }
    if let last = ranges.last, last.upperBound == gap.lowerBound {
      ranges[ranges.count - 1] = last.lowerBound..<gap.upperBound
    } else if ranges.count < WireLimit.missing {
      ranges.append(gap)
    }
  }
}
