// What the broker tells everybody about open blobs without being asked: one entry per blob, written
// by the broker alone. An entry's status word says whose it is and how it stands; it is stored last,
// so who has loaded it sees everything else of the entry as it was then or later.

import CPatchbayLayout
import PatchbaySystem
import PatchbayTypes
import Synchronization

/// A status word, taken apart.
package struct BoardStatus: Sendable, Hashable {
  let word: UInt64

  init(word: UInt64) { self.word = word }

  init(generation: Generation, state: BlobState, epoch: UInt32) {
    word =
      UInt64(state.rawValue) | UInt64(epoch & 0xff_ffff) << 8
      | UInt64(UInt32(truncatingIfNeeded: generation.rawValue)) << 32
  }

  /// The state, if the entry is this generation's; nil when another blob has the entry now.
  package func state(of generation: Generation) -> BlobState? {
    guard UInt32(truncatingIfNeeded: word >> 32) == UInt32(truncatingIfNeeded: generation.rawValue)
    else { return nil }
    return BlobState(rawValue: UInt8(truncatingIfNeeded: word))
  }

  package var epoch: UInt32 { UInt32(truncatingIfNeeded: word >> 8) & 0xff_ffff }
}

/// Clients' view of a board.
package final class Board: Sendable {
  private let words: SharedWords
  package let entryCount: Int
  private let bells: DoorbellSet
  /// Entries whose bells somebody of this process may have.
  private let used = Mutex<Set<Int>>([])

  /// Maps a board and its doorbells.
  package init(
    _ board: borrowing Descriptor, doorbells: borrowing Descriptor, entryCount: Int
  ) throws(PatchbayError) {
    guard (1...1 << 20).contains(entryCount) else {
      throw PatchbayError(.protocolViolation, "A board has \(entryCount) entries.")
    }
    self.entryCount = entryCount
    words = SharedWords(
      try SharedMapping(
        board, byteCount: BoardWriter.byteCount(entryCount), isWritable: false, what: "the board"))
    bells = try DoorbellSet(doorbells, count: entryCount)
  }

  /// Puts the board and the bells of a broker that has taken the place of another in the place of these.
  /// Entries and bells that were given out are those of the new one from then on. Everybody who sleeps
  /// at one of these bells, the old one or the new one, is woken. One thread at a time.
  ///
  /// The order of steps is the argument: (1) the board is replaced, then (2) the bells; (3) the new bells
  /// are rung, each `seq` moved far from the old one; (4) the old ones are rung through a second mapping.
  ///
  /// - Whoever is woken looks at the new board, by (1).
  /// - A thread that sleeps on an old word is woken by (4).
  /// - One that read an old `seq` and is late to sleep finds the new word: from (3) on it holds no such
  ///   value, and before it the thread sleeps on the new word and is woken by (3).
  /// - One that is inside the system call at (2) may be put in the queue of the old word by what it finds
  ///   in the new one: the kernel finds out which word it is before it reads it. If it reads after (3)
  ///   it does not sleep. If it reads before, (4) wakes it: the kernel reads and queues under the lock of
  ///   the queue, which (4) takes. Were the old bells rung first, it could read in between.
  /// - (3) wakes those of other processes, too, which have had the new bells for longer: a mark of this
  ///   process that found no bit in the old word was made before the old word was out of sight, so
  ///   before the new one is rung.
  /// - Throws: `protocolViolation` for a board of another size; what mapping throws. Then nothing can be
  ///   said of the bells, and whoever waits there is helped by the bound alone.
  package func replace(
    with board: borrowing Descriptor, doorbells: borrowing Descriptor, entryCount: Int
  ) throws(PatchbayError) {
    guard entryCount == self.entryCount else {
      throw PatchbayError(
        .protocolViolation,
        "A board of \(self.entryCount) entries came back with \(entryCount).")
    }
    let before = try bells.again()
    try words.mapping.replace(with: board, what: "the board")
    try bells.replace(with: doorbells)
    // Asked here: who is given one from now on has never seen those that were there before.
    bells.ring(used.withLock { $0 }, inPlaceOf: before)
  }

  /// Makes all entries nobody's, for whoever still has one of them, and wakes everybody.
  package func clear() throws(PatchbayError) {
    try words.mapping.clear()
    bells.ring(used.withLock { $0 })
  }

  /// The bell of an entry's bytes; the entry's number was checked when it was granted.
  package func bell(_ entry: Int) -> Doorbell {
    _ = used.withLock { $0.insert(entry) }
    return bells.bell(entry)
  }

  /// The bell on which a windowed blob's publisher waits for space.
  package func spaceBell(_ entry: Int) -> Doorbell {
    _ = used.withLock { $0.insert(entry) }
    return bells.spaceBell(entry)
  }

  /// One blob's entry.
  package func entry(_ index: Int) -> BoardEntry {
    precondition((0..<entryCount).contains(index))
    return BoardEntry(
      words: words, offset: Int(PB_BOARD_HEADER_BYTES) + index * Int(PB_ENTRY_BYTES))
  }
}

/// One blob's lines of the board.
package struct BoardEntry: Sendable {
  let words: SharedWords
  let offset: Int

  package var status: BoardStatus {
    // acquiring: length, cause and everything covered before the state. Pairs with STATUS.
    BoardStatus(
      word: unsafe words.word64(offset + Int(PB_ENTRY_STATUS_AT)).pointee.load(
        ordering: .acquiring))
  }

  /// Nil while unknown.
  package var byteCount: Int? {
    // relaxed: a length is stored once, before the status that makes it final. Pairs with STATUS.
    let word = unsafe words.word64(offset + Int(PB_ENTRY_BYTE_COUNT_AT)).pointee.load(
      ordering: .relaxed)
    return word > UInt64(ExtentPlan.positionLimit) ? nil : Int(word)
  }

  /// Grows with each extent that is granted.
  package var extentVersion: UInt32 {
    // acquiring: the broker can answer for the extent from now on. Pairs with EXTENT-VERSION.
    unsafe words.word32(offset + Int(PB_ENTRY_EXTENT_VERSION_AT)).pointee.load(
      ordering: .acquiring)
  }

  /// Changes whenever a sequential subscriber of a windowed blob comes or goes.
  package var subscriptionVersion: UInt32 {
    // acquiring: the broker can tell who they are from now on. Pairs with SUBSCRIPTION-VERSION.
    unsafe words.word32(offset + Int(PB_ENTRY_SUBSCRIPTION_VERSION_AT)).pointee.load(
      ordering: .acquiring)
  }

  /// Whether the publisher is to wait because nobody reads.
  package var isPaused: Bool {
    // acquiring: the board as it was when the last reader had left, or the next had come. Pairs with
    // UNREAD.
    unsafe words.word32(offset + Int(PB_ENTRY_IS_PAUSED_AT)).pointee.load(ordering: .acquiring) != 0
  }

  /// Why the blob failed. Meaningful after a status that says so.
  package var cause: (code: PatchbayError.Code, text: String) {
    // relaxed: settled before the status. Pairs with STATUS.
    let word = unsafe words.word32(offset + Int(PB_ENTRY_CAUSE_CODE_AT)).pointee.load(
      ordering: .relaxed)
    let count = min(Int(word >> 16), Int(PB_BOARD_CAUSE_LIMIT))
    let bytes = unsafe words.bytes(offset + Int(PB_ENTRY_CAUSE_AT), count)
    return (
      PatchbayError.Code(rawValue: UInt16(truncatingIfNeeded: word)),
      unsafe String(decoding: bytes, as: UTF8.self)
    )
  }
}

/// The broker's side of a board.
package final class BoardWriter: Sendable {
  private let words: SharedWords
  private let object: Descriptor
  package let entryCount: Int

  package static func byteCount(_ entryCount: Int) -> Int {
    Int(PB_BOARD_HEADER_BYTES) + entryCount * Int(PB_ENTRY_BYTES)
  }

  package var byteCount: Int { Self.byteCount(entryCount) }

  /// Reserves and maps a board.
  /// - Throws: `noSpaceMemory`, `limitReached`, `inputOutput`.
  package init(
    instance: UInt64, board: UInt32, entryCount: Int = Int(PB_BOARD_ENTRY_COUNT)
  ) throws(PatchbayError) {
    self.entryCount = entryCount
    let byteCount = Self.byteCount(entryCount)
    object = try SharedObject.sealedMemfd(name: "patchbay-board", byteCount: byteCount)
    try SharedObject.write(
      object, at: 0,
      ObjectHeader.board(magic: PB_BOARD_MAGIC, entryCount, instance: instance, board: board))
    words = SharedWords(
      try SharedMapping(object, byteCount: byteCount, isWritable: true, what: "the board"))
  }

  /// A descriptor for clients.
  package func readOnlyDescriptor() throws(PatchbayError) -> Descriptor {
    try SharedObject.readOnlyCopy(of: object)
  }

  /// Writes an entry: length, extents and cause first, the status last.
  package func post(
    entry index: Int, generation: Generation, state: BlobState, epoch: UInt32, byteCount: Int?,
    extentVersion: UInt32, subscriptionVersion: UInt32, causeCode: PatchbayError.Code?,
    cause: String, isPaused: Bool = false
  ) {
    let offset = self.offset(of: index)
    // relaxed: stored before the status. Pairs with STATUS.
    unsafe words.word64(offset + Int(PB_ENTRY_BYTE_COUNT_AT)).pointee.store(
      UInt64(bitPattern: Int64(byteCount ?? -1)), ordering: .relaxed)
    // releasing: the grant the broker has recorded. EXTENT-VERSION.
    unsafe words.word32(offset + Int(PB_ENTRY_EXTENT_VERSION_AT)).pointee.store(
      extentVersion, ordering: .releasing)
    // releasing: the coming or going that the broker has noted. SUBSCRIPTION-VERSION.
    unsafe words.word32(offset + Int(PB_ENTRY_SUBSCRIPTION_VERSION_AT)).pointee.store(
      subscriptionVersion, ordering: .releasing)
    // releasing: the reader's coming or going that the broker has noted. UNREAD.
    unsafe words.word32(offset + Int(PB_ENTRY_IS_PAUSED_AT)).pointee.store(
      isPaused ? 1 : 0, ordering: .releasing)
    let text = Array(cause.utf8.prefix(Int(PB_BOARD_CAUSE_LIMIT)))
    unsafe words.bytes(offset + Int(PB_ENTRY_CAUSE_AT), text.count).copyBytes(from: text)
    // relaxed: stored before the status. Pairs with STATUS.
    unsafe words.word32(offset + Int(PB_ENTRY_CAUSE_CODE_AT)).pointee.store(
      UInt32(causeCode?.rawValue ?? 0) | UInt32(text.count) << 16, ordering: .relaxed)
    // releasing: all of the above. STATUS. If the broker dies before this line the entry says what
    // it said.
    unsafe words.word64(offset + Int(PB_ENTRY_STATUS_AT)).pointee.store(
      BoardStatus(generation: generation, state: state, epoch: epoch).word, ordering: .releasing)
  }

  /// Frees an entry: whoever still looks at it finds that it is nobody's.
  package func clear(entry index: Int) {
    // releasing: nothing travels; the next owner's fields are stored after it. STATUS.
    unsafe words.word64(offset(of: index) + Int(PB_ENTRY_STATUS_AT)).pointee.store(
      0, ordering: .releasing)
    // sequentially consistent (fence): no field of the next owner is visible before the zero.
    // Pairs with STATUS.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
  }

  private func offset(of index: Int) -> Int {
    precondition((0..<entryCount).contains(index))
    return Int(PB_BOARD_HEADER_BYTES) + index * Int(PB_ENTRY_BYTES)
  }
}

/// The broker's side of a set of doorbells.
package final class DoorbellWriter: Sendable {
  private let object: Descriptor
  private let bells: DoorbellSet
  package let byteCount: Int

  /// Reserves and maps the bells of a board.
  /// - Throws: `noSpaceMemory`, `limitReached`, `inputOutput`.
  package init(
    instance: UInt64, board: UInt32, count: Int = Int(PB_BOARD_ENTRY_COUNT)
  ) throws(PatchbayError) {
    byteCount = DoorbellSet.byteCount(count)
    object = try SharedObject.sealedMemfd(name: "patchbay-doorbells", byteCount: byteCount)
    try SharedObject.write(
      object, at: 0,
      ObjectHeader.board(magic: PB_BELLS_MAGIC, count, instance: instance, board: board))
    bells = try DoorbellSet(object, count: count)
  }

  /// A read-write descriptor for clients.
  package func descriptor() throws(PatchbayError) -> Descriptor {
    try object.duplicate()
  }

  package func bell(_ entry: Int) -> Doorbell { bells.bell(entry) }
  package func spaceBell(_ entry: Int) -> Doorbell { bells.spaceBell(entry) }
  package func counts() -> DoorbellCounts { bells.counts() }
}
