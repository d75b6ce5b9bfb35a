// Boards with their doorbells, by number.

import PatchbayLedger
import PatchbayRing
import PatchbaySystem
import PatchbayTypes

struct BoardStore {
  private struct Pair {
    let board: BoardWriter
    let bells: DoorbellWriter
  }

  let instance: UInt64
  private var boards: [UInt32: Pair] = [:]

  init(instance: UInt64) { self.instance = instance }

  var byteCount: Int { boards.values.reduce(0) { $0 + $1.board.byteCount + $1.bells.byteCount } }

  /// - Throws: `noSpaceMemory`, `limitReached`, `inputOutput`.
  mutating func create(_ number: UInt32) throws(PatchbayError) {
    boards[number] = Pair(
      board: try BoardWriter(instance: instance, board: number),
      bells: try DoorbellWriter(instance: instance, board: number))
  }

  private func pair(_ number: UInt32) throws(PatchbayError) -> Pair {
    guard let pair = boards[number] else {
      throw PatchbayError(.inputOutput, "The board \(number) does not exist.")
    }
    return pair
  }

  func boardDescriptor(_ number: UInt32) throws(PatchbayError) -> Descriptor {
    try pair(number).board.readOnlyDescriptor()
  }

  func bellsDescriptor(_ number: UInt32) throws(PatchbayError) -> Descriptor {
    try pair(number).bells.descriptor()
  }

  func post(_ slot: BoardSlot, _ post: BoardPost) {
    boards[slot.board]?.board.post(
      entry: Int(slot.entry), generation: post.generation, state: post.state, epoch: post.epoch,
      byteCount: post.byteCount, extentVersion: post.extentVersion,
      subscriptionVersion: post.subscriptionVersion, causeCode: post.causeCode, cause: post.cause,
      isPaused: post.isPaused)
  }

  func clear(_ slot: BoardSlot) { boards[slot.board]?.board.clear(entry: Int(slot.entry)) }

  /// Wakes everybody who waits on an entry: for bytes and for space.
  func ring(_ slot: BoardSlot) {
    guard let bells = boards[slot.board]?.bells else { return }
    bells.bell(Int(slot.entry)).ringAll()
    bells.spaceBell(Int(slot.entry)).ringAll()
  }

  /// The classes that somebody has gone to sleep for since they were last rung.
  func sleepingClasses(_ slot: BoardSlot) -> UInt32 {
    boards[slot.board]?.bells.bell(Int(slot.entry)).waitingClasses ?? 0
  }

  /// Adds what all bells have counted.
  func addCounts(to statistics: inout BrokerStatistics) {
    for pair in boards.values {
      let counts = pair.bells.counts()
      statistics.wakeCount &+= counts.wakes
      statistics.needlessWakeCount &+= counts.needlessWakes
      statistics.rescuedWaitCount &+= counts.rescuedWaits
    }
  }
}
