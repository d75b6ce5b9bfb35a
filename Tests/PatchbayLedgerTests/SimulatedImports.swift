// The model's view of descriptors that clients send: each is kept or dropped once, kept for as long
// as somebody may read the blob, and never more of them than may be.

import PatchbayLedger
import PatchbayTypes

struct SimulatedImports {
  private let limit: Int
  private var offers: Set<FileOffer> = []
  private(set) var files: Set<Generation> = []

  init(limit: Int) { self.limit = limit }

  /// - Returns: what is wrong with it; nil: nothing.
  mutating func offered(_ offer: FileOffer) -> String? {
    offers.insert(offer).inserted ? nil : "offer \(offer) repeats"
  }

  mutating func kept(_ generation: Generation, _ offer: FileOffer) -> String? {
    guard offers.remove(offer) != nil else { return "offer \(offer) was kept without one" }
    // While one is offered as many others may be held; whom it replaces goes after it.
    guard offers.count + files.count < limit + 1 else { return "more files than are let in" }
    return files.insert(generation).inserted ? nil : "\(generation) has two files"
  }

  mutating func dropped(_ offer: FileOffer) -> String? {
    offers.remove(offer) == nil ? "offer \(offer) was dropped without one" : nil
  }

  /// - Parameter isNeeded: whether somebody has the blob open, and it has not failed.
  mutating func released(_ generation: Generation, isNeeded: Bool) -> String? {
    guard files.remove(generation) != nil else { return "\(generation) has no file to release" }
    return isNeeded ? "the file of \(generation) went while it is open" : nil
  }

  /// After each event: nothing waits for an answer, and no more are held than may be.
  var settled: String? {
    if !offers.isEmpty { return "offers were forgotten: \(offers)" }
    return files.count > limit ? "\(files.count) files are held of \(limit)" : nil
  }
}
