// The views a client holds and the positions it has reached, where others can see them. A view is
// announced before the tag is checked, so whoever wants to reuse a ring either sees the view or has
// invalidated the tag in time for the check to fail. A position says which bytes of a windowed blob
// are still wanted; its publisher reads it. A dead client's table goes with the client.

import CPatchbayLayout
import PatchbaySystem
import PatchbayTypes
import Synchronization

/// A client's own table.
package final class ClientTable: Sendable {
  private let words: SharedWords
  /// Which entries are free; the shared words themselves would do, but a scan per view would not.
  private let free: Mutex<[Int]>
  private let freePositions: Mutex<[Int]>

  package static let viewCount = Int(PB_TABLE_VIEW_COUNT)
  package static let positionCount = Int(PB_TABLE_POSITION_COUNT)

  /// A new table, for the broker to hand out.
  package static func create(clientID: UInt64) throws(PatchbayError) -> Descriptor {
    let object = try SharedObject.sealedMemfd(
      name: "patchbay-client", byteCount: Int(PB_TABLE_BYTES))
    try SharedObject.write(object, at: 0, ObjectHeader.clientTable(clientID: clientID))
    return object
  }

  package static var byteCount: Int { Int(PB_TABLE_BYTES) }

  /// Maps a table.
  package init(_ descriptor: borrowing Descriptor) throws(PatchbayError) {
    words = SharedWords(
      try SharedMapping(
        descriptor, byteCount: Int(PB_TABLE_BYTES), isWritable: true, what: "the client table"))
    free = Mutex(Array((0..<Self.viewCount).reversed()))
    freePositions = Mutex(Array((0..<Self.positionCount).reversed()))
  }

  /// Announces a view of a ring's use. The caller checks the ring's tag afterwards, and ends the
  /// view with `end` whatever it finds.
  /// - Throws: `limitReached` when this client holds as many views as a table has entries.
  package func announce(ringID: UInt64, useNumber: UInt32) throws(PatchbayError) -> Int {
    // Under the lock: what is stored before another table takes the place of this one is copied there.
    let entry = try free.withLock { (free) throws(PatchbayError) in
      guard let entry = free.popLast() else {
        throw PatchbayError(
          .limitReached,
          "This client holds \(Self.viewCount) leases, the most it can. End some before taking more."
        )
      }
      // relaxed (both): the fence below makes them visible.
      unsafe word(entry, Int(PB_VIEW_USE_NUMBER_AT)).pointee.store(
        UInt64(useNumber), ordering: .relaxed)
      // relaxed: as above.
      unsafe word(entry, Int(PB_VIEW_RING_ID_AT)).pointee.store(ringID, ordering: .relaxed)
      return entry
    }
    // sequentially consistent (fence): the view is visible before the tag is checked. VIEW, pairs
    // with TAG-END. If the client dies here, its table dies with it.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    return entry
  }

  /// Ends a view; the bytes must not be touched afterwards.
  package func end(_ entry: Int) {
    free.withLock { free in
      // releasing: the last loads of the view's bytes come before. VIEW.
      unsafe word(entry, Int(PB_VIEW_RING_ID_AT)).pointee.store(0, ordering: .releasing)
      free.append(entry)
    }
  }

  // MARK: Another table

  /// Puts another table, of a broker that has taken the place of another, in the place of this one, with
  /// all views and positions of this one. Nothing is announced, moved or ended meanwhile, so nothing
  /// that is announced is missing there once this returns; the broker looks at it only after it was told
  /// so. Who still looks at the old table sees it stand still: views that have ended, positions that
  /// have been passed, which holds up and harms nobody.
  package func replace(with descriptor: borrowing Descriptor) throws(PatchbayError) {
    let what = "the client table"
    let next = SharedWords(
      try SharedMapping(
        descriptor, byteCount: Int(PB_TABLE_BYTES), isWritable: true, what: what))
    try free.withLock { (_) throws(PatchbayError) in
      try freePositions.withLock { (_) throws(PatchbayError) in
        copy(to: next)
        try words.mapping.replace(with: descriptor, what: what)
      }
    }
  }

  private func copy(to next: SharedWords) {
    let views = Int(PB_TABLE_VIEWS_AT)
    let positions = Int(PB_TABLE_POSITIONS_AT)
    copy(to: next, views..<views + Self.viewCount * Int(PB_VIEW_BYTES))
    copy(to: next, positions..<positions + Self.positionCount * Int(PB_POSITION_BYTES))
  }

  private func copy(to next: SharedWords, _ range: Range<Int>) {
    for offset in stride(from: range.lowerBound, to: range.upperBound, by: 8) {
      // relaxed (both): this process alone writes, under the locks; the message that the broker waits
      // for comes after.
      let word = unsafe words.word64(offset).pointee.load(ordering: .relaxed)
      // relaxed: as above.
      unsafe next.word64(offset).pointee.store(word, ordering: .relaxed)
    }
  }

  // MARK: Positions

  /// Takes a free entry for a blob that will be read in sequence. Nobody is held up before the broker
  /// has told its publisher of the entry.
  /// - Throws: `limitReached` when all are taken.
  package func takePosition(
    of generation: Generation, at position: Int
  ) throws(PatchbayError) -> Int {
    try freePositions.withLock { (free) throws(PatchbayError) in
      guard let entry = free.popLast() else {
        throw PatchbayError(
          .limitReached,
          "This client reads \(Self.positionCount) windowed blobs in sequence, the most it can. End "
            + "one, or connect another client.")
      }
      store(entry, position)
      // releasing: the position. POSITION.
      unsafe words.word64(Self.offset(ofPosition: entry) + Int(PB_POSITION_GENERATION_AT)).pointee
        .store(generation.rawValue, ordering: .releasing)
      return entry
    }
  }

  /// Says that nothing below a position is wanted any more.
  package func movePosition(_ entry: Int, to position: Int) {
    // Under the lock, as in `announce`.
    freePositions.withLock { _ in store(entry, position) }
  }

  private func store(_ entry: Int, _ position: Int) {
    // releasing: the loads of the bytes below it come before. POSITION. If the client dies here its
    // table dies with it.
    unsafe words.word64(Self.offset(ofPosition: entry) + Int(PB_POSITION_POSITION_AT)).pointee
      .store(UInt64(position), ordering: .releasing)
  }

  /// Gives an entry back, after the broker has forgotten it.
  package func endPosition(_ entry: Int) {
    freePositions.withLock { free in
      // releasing: the loads of all bytes come before. POSITION.
      unsafe words.word64(Self.offset(ofPosition: entry) + Int(PB_POSITION_GENERATION_AT)).pointee
        .store(0, ordering: .releasing)
      free.append(entry)
    }
  }

  /// How many entries are taken by readers in sequence.
  package var positionCount: Int { Self.positionCount - freePositions.withLock { $0.count } }

  static func offset(ofPosition entry: Int) -> Int {
    precondition((0..<positionCount).contains(entry))
    return Int(PB_TABLE_POSITIONS_AT) + entry * Int(PB_POSITION_BYTES)
  }

  /// How many views are announced in a table: for whoever holds its descriptor.
  package static func announcedCount(
    in descriptor: borrowing Descriptor
  ) throws(PatchbayError) -> Int {
    var views = [UInt8](repeating: 0, count: viewCount * Int(PB_VIEW_BYTES))
    try SharedObject.read(descriptor, at: Int(PB_TABLE_VIEWS_AT), into: &views)
    return (0..<viewCount).count { entry in
      let at = entry * Int(PB_VIEW_BYTES) + Int(PB_VIEW_RING_ID_AT)
      return views[at..<at + 8].contains { $0 != 0 }
    }
  }

  /// Whether a view of a ring is announced in a table: for whoever holds its descriptor, after the
  /// ring's tag was taken away.
  package static func announces(
    _ ringID: UInt64, in descriptor: borrowing Descriptor
  ) throws(PatchbayError) -> Bool {
    var views = [UInt8](repeating: 0, count: viewCount * Int(PB_VIEW_BYTES))
    try SharedObject.read(descriptor, at: Int(PB_TABLE_VIEWS_AT), into: &views)
    return (0..<viewCount).contains { entry in
      let at = entry * Int(PB_VIEW_BYTES) + Int(PB_VIEW_RING_ID_AT)
      return (0..<8).allSatisfy { views[at + $0] == UInt8(truncatingIfNeeded: ringID >> (8 * $0)) }
    }
  }

  @unsafe private func word(_ entry: Int, _ field: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
    unsafe words.word64(Int(PB_TABLE_VIEWS_AT) + entry * Int(PB_VIEW_BYTES) + field)
  }
}

/// Another client's table, for the publisher of a blob that the client reads.
package final class PeerTable: Sendable {
  private let words: SharedWords

  /// Maps a table read-only.
  package init(_ descriptor: borrowing Descriptor) throws(PatchbayError) {
    words = SharedWords(
      try SharedMapping(
        descriptor, byteCount: Int(PB_TABLE_BYTES), isWritable: false, what: "a client table"))
  }

  /// The position below which the entry wants nothing; nil when it is about another blob, or none.
  /// - Parameter entry: one that the broker has named, 0 to 63.
  package func position(_ entry: Int, of generation: Generation) -> Int? {
    let offset = ClientTable.offset(ofPosition: entry)
    // acquiring: the position that the entry begins with. Pairs with POSITION.
    let owner = unsafe words.word64(offset + Int(PB_POSITION_GENERATION_AT)).pointee.load(
      ordering: .acquiring)
    guard owner == generation.rawValue else { return nil }
    // acquiring: what is overwritten next has been read. Pairs with POSITION.
    let position = unsafe words.word64(offset + Int(PB_POSITION_POSITION_AT)).pointee.load(
      ordering: .acquiring)
    return Int(min(position, UInt64(ExtentPlan.positionLimit)))
  }
}

extension ClientTable {
  /// The position that a table tells for a blob: for whoever holds its descriptor and wants a hint;
  /// nil when the entry is about another blob, or none.
  package static func position(
    _ entry: Int, of generation: Generation, in descriptor: borrowing Descriptor
  ) throws(PatchbayError) -> Int? {
    guard (0..<positionCount).contains(entry) else { return nil }
    var bytes = [UInt8](repeating: 0, count: 16)
    let offset = Int(PB_TABLE_POSITIONS_AT) + entry * Int(PB_POSITION_BYTES)
    try SharedObject.read(descriptor, at: offset, into: &bytes)
    func number(_ at: Int) -> UInt64 {
      bytes[at..<at + 8].reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }
    guard number(Int(PB_POSITION_GENERATION_AT)) == generation.rawValue else { return nil }
    let position = number(Int(PB_POSITION_POSITION_AT))
    return Int(min(position, UInt64(ExtentPlan.positionLimit)))
  }
}
