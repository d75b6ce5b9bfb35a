// Boards and their entries. A board belongs to one access class for good; entries are given to
// blobs while somebody has them open and taken back after. An entry belongs to one blob at a time,
// and is cleared before it is given to another. What needs an entry when all are taken waits for a
// new board; its memory is reserved until the board is there.

import CPatchbayLayout
import PatchbayTypes
import PatchbayWire

/// The boards of one access class.
struct AccessClass: Sendable {
  /// Entries that were used and cleared; the last cleared goes first, it is warm.
  var freeSlots: [BoardSlot] = []
  /// The newest board and how many of its entries have ever been given out.
  var newestBoard: UInt32?
  var givenCount = 0
  var pendingBoard: UInt32?
  /// Blobs that wait for an entry, first come first served.
  var waiting: [Generation] = []

  mutating func takeSlot(entryCount: Int) -> BoardSlot? {
    if let slot = freeSlots.popLast() { return slot }
    guard let board = newestBoard, givenCount < entryCount else { return nil }
    defer { givenCount += 1 }
    return BoardSlot(board: board, entry: UInt32(givenCount))
  }
}

extension Ledger {
  /// Bytes that a blob of this class will need for a new board.
  func boardNeed(_ access: Access) -> Int {
    guard let boards = accessClasses[access] else { return boardByteCount }
    let hasEntry =
      !boards.freeSlots.isEmpty || boards.pendingBoard != nil
      || (boards.newestBoard != nil && boards.givenCount < limits.entriesPerBoard)
    return hasEntry ? 0 : boardByteCount
  }

  /// Gives a blob an entry, at once or when a board has come. The caller has made room.
  mutating func seekSlot(_ generation: Generation) {
    guard let blob = blobs[generation], blob.slot == nil, !blob.waitsForSlot else { return }
    let access = blob.origin.access
    if let slot = takeSlot(access) {
      blobs[generation]?.slot = slot
      return
    }
    blobs[generation]?.waitsForSlot = true
    accessClasses[access]?.waiting.append(generation)
    if accessClasses[access]?.pendingBoard == nil { requestBoard(access) }
  }

  private mutating func takeSlot(_ access: Access) -> BoardSlot? {
    let entryCount = limits.entriesPerBoard
    return accessClasses[access, default: AccessClass()].takeSlot(entryCount: entryCount)
  }

  private mutating func requestBoard(_ access: Access) {
    lastBoard += 1
    boardAccess[lastBoard] = access
    accessClasses[access]?.pendingBoard = lastBoard
    reservedByteCount += boardByteCount
    actions.append(.createBoard(lastBoard, access))
  }

  /// Frees an entry that no session looks at any more. An unborn blob's was never written.
  mutating func clear(_ slot: BoardSlot, of generation: Generation) {
    guard let blob = blobs[generation] else { return }
    let access = blob.origin.access
    blobs[generation]?.slot = nil
    record(generation)
    if blob.isBorn { actions.append(.clearEntry(slot)) }
    accessClasses[access]?.freeSlots.append(slot)
    serveWaiting(access)
  }

  mutating func boardCreated(_ board: UInt32) {
    guard let access = boardAccess[board], accessClasses[access]?.pendingBoard == board else {
      return
    }
    accessClasses[access]?.pendingBoard = nil
    accessClasses[access]?.newestBoard = board
    accessClasses[access]?.givenCount = 0
    reservedByteCount -= boardByteCount
    serveWaiting(access)
  }

  /// Gives entries to those who wait. If more are needed than there are, one more board is asked
  /// for, when there is room for it.
  private mutating func serveWaiting(_ access: Access) {
    while let generation = accessClasses[access]?.waiting.first {
      if let blob = blobs[generation], blob.isHeld || !blob.isBorn {
        guard let slot = takeSlot(access) else { break }
        blobs[generation]?.slot = slot
      }
      accessClasses[access]?.waiting.removeFirst()
      blobs[generation]?.waitsForSlot = false
      slotArrived(generation)
    }
    guard let boards = accessClasses[access], !boards.waiting.isEmpty,
      boards.pendingBoard == nil
    else { return }
    do throws(PatchbayError) {
      try makeRoom(boardByteCount, for: "another board")
      requestBoard(access)
    } catch {
      refuseWaiting(access, error)
    }
  }

  mutating func boardRefused(_ board: UInt32, _ errno: Int32) {
    guard let access = boardAccess[board], accessClasses[access]?.pendingBoard == board else {
      return
    }
    boardAccess[board] = nil
    accessClasses[access]?.pendingBoard = nil
    reservedByteCount -= boardByteCount
    refuseWaiting(access, .systemRefused("a board for \(access.shown)", errno: errno))
  }

  private mutating func refuseWaiting(_ access: Access, _ error: PatchbayError) {
    guard let waiting = accessClasses[access]?.waiting else { return }
    accessClasses[access]?.waiting = []
    for generation in waiting {
      blobs[generation]?.waitsForSlot = false
      slotRefused(generation, error)
    }
  }

  private mutating func slotArrived(_ generation: Generation) {
    guard let blob = blobs[generation], let slot = blob.slot else { return }
    if blob.isBorn {
      record(generation)
      actions.append(.post(slot, blob.boardPost))
      answerAskers(generation)
    } else {
      bearIfReady(generation)
    }
  }

  private mutating func slotRefused(_ generation: Generation, _ error: PatchbayError) {
    guard let blob = blobs[generation] else { return }
    if blob.isBorn {
      refuseAskers(generation, error)
    } else {
      discardUnborn(generation, error)
    }
  }

  mutating func attachBoard(
    _ session: SessionID, _ number: UInt64, _ request: BoardRequest
  ) throws(PatchbayError) {
    let board = request.board
    guard let access = boardAccess[board], accessClasses[access]?.pendingBoard != board else {
      throw .noSuchBoard(board)
    }
    guard mayRead(session, access) else { throw .foreignBoard(board) }
    reply(
      session, number, .board(BoardGrant(board: board, entryCount: limits.entriesPerBoard)),
      [.board(board), .doorbells(board)])
  }

  /// Writes what a blob's entry should say; nothing if it has none.
  mutating func post(_ generation: Generation) {
    guard let blob = blobs[generation], let slot = blob.slot else { return }
    actions.append(.post(slot, blob.boardPost))
  }

  mutating func ring(_ generation: Generation) {
    if let slot = blobs[generation]?.slot { actions.append(.ring(slot)) }
  }
}

extension Blob {
  var boardPost: BoardPost {
    BoardPost(
      generation: origin.generation, state: state, epoch: epoch, byteCount: byteCount,
      extentVersion: extentVersion, subscriptionVersion: subscriptionVersion, causeCode: causeCode,
      cause: (cause ?? "").cut(toUTF8Count: Int(PB_BOARD_CAUSE_LIMIT)), isPaused: isPaused)
  }
}
