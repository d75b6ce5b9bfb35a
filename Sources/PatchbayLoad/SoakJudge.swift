// What a soak takes for right. Whatever a call may come to is a right result, "not yet", or one of the
// errors that are listed here for it; everything else is a violation. Some errors are right only after
// something that the director alone knows of: they are excuses, which it looks at.

import Glibc
import PatchbayTypes

/// What a worker does with the library, as far as the errors differ.
enum SoakDeed: String, CaseIterable {
  case open, read, demand, lease, create, get, join, write, claim, seal, leave, remove, look, watch
}

/// What an error means where it came up.
enum SoakVerdict: Equatable {
  case plausible
  /// Only if the worker was stopped, or the broker was told to end.
  case needsExcuse
  case wrong
}

enum SoakJudge {
  /// Of the publishers' deeds: the blob has another owner, or the broker has taken it from a process
  /// that did not come back in time.
  private static let takenAway: Set<PatchbayError.Code> = [.fenced, .closed, .abandoned]
  private static let noRoom: Set<PatchbayError.Code> = [.noSpaceMemory, .noSpaceSpool]
  private static let ended: Set<PatchbayError.Code> = [.abandoned, .blobFailed, .removed]

  /// - Parameter isShared: whether others write the blob, too, and may end it at any moment.
  static func verdict(
    on code: PatchbayError.Code, in deed: SoakDeed, isShared: Bool = false
  ) -> SoakVerdict {
    if code == .noBroker { return .needsExcuse }
    if plausible(deed, isShared).contains(code) { return .plausible }
    let mayBeTaken: Set<SoakDeed> = [.write, .claim, .seal, .leave]
    return mayBeTaken.contains(deed) && takenAway.contains(code) ? .needsExcuse : .wrong
  }

  private static func plausible(
    _ deed: SoakDeed, _ isShared: Bool
  ) -> Set<PatchbayError.Code> {
    let ofOthers: Set<PatchbayError.Code> =
      isShared ? ended.union([.closed, .rangeOverlap]) : []
    return switch deed {
    case .open: ended.union([.noSuchKey])
    case .read, .lease: ended.union([.overrun])
    case .demand: ended.union([.inputOutput])
    // A failure is told for a while, and so is that whoever made it was killed.
    case .get: noRoom.union([.blobFailed, .abandoned])
    case .create: noRoom.union([.keyExists])
    case .join: ended.union([.noSuchKey, .closed])
    case .write: noRoom.union(ofOthers)
    case .claim, .leave: ofOthers
    case .seal: noRoom.union(ofOthers).union(isShared ? [.holesAtSeal] : [])
    case .remove, .look: [.noSuchKey]
    case .watch: [.timedOut]
    }
  }

  /// What is wrong with the end of a process that nobody has killed; nil: nothing.
  /// - Parameters:
  ///   - status: as the system tells it.
  ///   - isExpected: whether it was asked to end.
  static func complaint(aboutEnd status: Int32, isExpected: Bool) -> String? {
    let signal = status & 0x7f
    guard signal == 0 else { return "was ended by signal \(signal), which the soak did not send" }
    let code = status >> 8 & 0xff
    guard code == 0 else { return "ended with exit code \(code)" }
    return isExpected ? nil : "ended, though nobody had asked it to"
  }
}

/// What the director remembers of its deeds, to tell an excuse from a lie. Moments are nanoseconds of
/// the monotonic clock, which all processes share.
struct SoakHistory {
  private var lastChange = Int64.min
  private var lastDrainEnd = Int64.min
  private var isDraining = false
  private var stops: [Int32: (isStopped: Bool, end: Int64)] = [:]

  /// A broker has gone, in whatever way.
  mutating func noteChange(at moment: Int64) {
    lastChange = moment
    if isDraining { lastDrainEnd = moment }
    isDraining = false
  }

  /// The broker was told to end, with all that is not kept.
  mutating func noteDrain() { isDraining = true }

  mutating func noteStop(of process: Int32) { stops[process] = (true, .min) }
  mutating func noteContinue(of process: Int32, at moment: Int64) {
    stops[process] = (false, moment)
  }
  mutating func forget(_ process: Int32) { stops[process] = nil }

  /// Whether an error may be that a process has met in what it has had since a moment.
  func excuses(_ process: Int32, since moment: Int64) -> Bool {
    let wasDrained = isDraining || lastDrainEnd >= moment
    let wasStopped = stops[process].map { $0.isStopped || $0.end >= moment } ?? false
    return wasDrained || wasStopped && lastChange >= moment
  }
}

/// What was promised: blobs that must be there, whatever has died since their seals were answered.
struct SoakPromises {
  struct Promise: Hashable {
    let key: String
    let generation: UInt64
    let byteCount: Int
  }

  private var standing: [String: Promise] = [:]
  private(set) var madeCount = 0
  private(set) var checkedCount = 0

  var all: [Promise] { standing.values.sorted { $0.key < $1.key } }

  mutating func make(_ promise: Promise) {
    standing[promise.key] = promise
    madeCount += 1
  }

  /// Its owner is about to remove or replace it.
  mutating func forget(_ key: String) { standing[key] = nil }

  mutating func noteChecked() { checkedCount += 1 }

  /// Whether a blob that somebody has looked for in vain was to be there.
  func isBroken(_ key: String, _ generation: UInt64) -> Bool {
    standing[key]?.generation == generation
  }
}
