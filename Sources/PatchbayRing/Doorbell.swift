// Waking exactly those who wait for what was written, without a call when nobody does.
//
// Two words per bell. `waiting` has a bit per wake class; `seq` is the futex word. They are hints in
// memory that all clients of an access class may write: a killed, stopped or hostile process can
// spoil a bell, so every wait is bounded and looks at the truth (map, frontier, board) each time.
//
//   subscriber                               whoever rings
//   1 look at the truth                      1 store the truth (mark, status)
//   2 s = seq                                2 fence
//   3 waiting |= my bit                      3 hit = waiting & mask; none: done
//   4 look at the truth again                4 waiting &= ~hit
//   5 sleep while seq == s, for my bit       5 seq += 1
//                                            6 wake sleepers with a bit of hit
//
// Between 3 and 4 on the left and 1 and 3 on the right lies a fence on both sides, so either the
// subscriber sees the truth or the ringer sees the bit. If the ringer has seen the bit, seq changes
// after the subscriber read it: the sleep does not begin or is ended. A model with explicit store
// buffers checks this and that a single flag, the mask as futex word, a missing fence, and reading
// seq after arming all lose wake-ups. A ringer that dies between 4 and 6 leaves sleepers to the
// broker, which rings everything on a death, and to the bound.

import CPatchbayLayout
import PatchbaySystem
import PatchbayTypes
import Synchronization

/// One bell of a mapped set.
@safe package struct Doorbell: Sendable {
  private let words: SharedWords
  private let offset: Int

  /// No sleep lasts longer without a look at the truth.
  package static let bound = Duration.milliseconds(500)

  init(_ words: SharedWords, offset: Int) {
    self.words = words
    self.offset = offset
  }

  @inline(__always) private var waiting: UnsafeMutablePointer<Atomic<UInt32>> {
    unsafe words.word32(offset + Int(PB_BELL_WAITING_AT))
  }

  @inline(__always) private var seq: UnsafeMutablePointer<Atomic<UInt32>> {
    unsafe words.word32(offset + Int(PB_BELL_SEQ_AT))
  }

  /// The classes that somebody has armed since they were last rung: a hint, for people. Who armed
  /// one may have given up since.
  package var waitingClasses: UInt32 {
    // relaxed: nothing is decided by it.
    unsafe waiting.pointee.load(ordering: .relaxed)
  }

  /// Wakes whoever waits for one of these classes, after the truth has been stored. Without a
  /// waiter: a fence and a load.
  @inline(__always)
  package func ring(_ mask: UInt32) {
    // sequentially consistent (fence): the truth stored before is visible to whoever armed the
    // bell too late to be seen by the load below. BELL-RING, pairs with BELL-ARM.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    // relaxed: the fence above orders it.
    let hit = unsafe waiting.pointee.load(ordering: .relaxed) & mask
    if hit != 0 { wake(hit) }
  }

  /// Whether anybody may have to be woken, after the truth has been stored: whoever asks rings then.
  /// A fence and a load.
  package var hasWaiters: Bool {
    // sequentially consistent (fence): as in `ring`. BELL-RING, pairs with BELL-ARM.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    // relaxed: the fence above orders it.
    return unsafe waiting.pointee.load(ordering: .relaxed) != 0
  }

  /// Wakes everybody who waits on this bell, whatever the hints say: for changes of state.
  package func ringAll() {
    // sequentially consistent (fence): as in `ring`. BELL-RING, pairs with BELL-ARM.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    wake(.max)
  }

  /// Wakes everybody who waits on this bell, which has taken the place of another one at the same
  /// address, and sees to it that `seq` is far from what the other one's was: a thread of this process
  /// may have read that, and be about to sleep on this one for as long as it holds the same.
  func ringAll(inPlaceOf before: Doorbell) {
    // sequentially consistent (fence): as in `ring`. BELL-RING, pairs with BELL-ARM.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    // relaxed: as in `wake`.
    unsafe waiting.pointee.store(0, ordering: .relaxed)
    let old = before.sequence
    // relaxed: the exchange below tells if it was another.
    var current = unsafe seq.pointee.load(ordering: .relaxed)
    while true {
      let isNear = Int32(bitPattern: current &+ 1 &- old).magnitude < Self.farApart
      // releasing: as in `wake`. BELL-SEQ.
      let (isDone, found) = unsafe seq.pointee.weakCompareExchange(
        expected: current, desired: current &+ 1 &+ (isNear ? 1 << 31 : 0), ordering: .releasing)
      if isDone { break }
      current = found
    }
    _ = unsafe Futex.wake(seq, mask: .max)
  }

  /// No thread takes longer to fall asleep than a bell to be rung so often.
  private static let farApart: UInt32 = 1 << 29

  private func wake(_ hit: UInt32) {
    // relaxed: bits that are cleared here belong to subscribers that read seq before the add below.
    unsafe waiting.pointee.bitwiseAnd(~hit, ordering: .relaxed)
    // releasing: the cleared bits and the truth, for a subscriber that reads the new seq: it arms
    // after the clearing, never before it. BELL-SEQ.
    unsafe seq.pointee.wrappingAdd(1, ordering: .releasing)
    let woken = unsafe Futex.wake(seq, mask: hit)
    count(Int(PB_BELL_WAKES_AT), woken)
  }

  /// Waits until `look` returns something, at most until a moment.
  /// - Parameters:
  ///   - onBound: called when a sleep lasted its whole bound and nothing was found; may throw.
  ///   - look: asks the truth; called on this thread, again after every wake-up.
  /// - Returns: what `look` returned, nil when the moment came first.
  package func wait<Found>(
    for bits: UInt32, until: MonotonicTime, patience: SpinPatience,
    onBound: () throws(PatchbayError) -> Void,
    _ look: () throws(PatchbayError) -> Found?
  ) throws(PatchbayError) -> Found? {
    if let found = try patience.spin(look) { return found }
    while true {
      let before = sequence
      arm(bits)
      if let found = try look() { return found }
      let now = MonotonicTime.now
      guard now < until else { return nil }
      let outcome = unsafe Futex.wait(
        on: seq, expected: before, mask: bits, until: min(until, now.advanced(by: Self.bound)))
      let found = try look()
      note(outcome, found: found != nil)
      if let found { return found }
      if outcome == .timedOut { try onBound() }
    }
  }

  // MARK: Steps of a wait

  /// Which bell this is: the same for all that have it from one set.
  struct ID: Hashable {
    private let mapping: ObjectIdentifier
    private let offset: Int

    init(_ bell: Doorbell) {
      mapping = ObjectIdentifier(bell.words.mapping)
      offset = bell.offset
    }
  }

  var id: ID { ID(self) }

  /// What `seq` holds: to be read before the bell is armed, and slept on.
  @inline(__always) var sequence: UInt32 {
    // acquiring: bits cleared before this value of seq. Pairs with BELL-SEQ.
    unsafe seq.pointee.load(ordering: .acquiring)
  }

  /// The word that holds it.
  @unsafe var sequenceWord: UnsafePointer<Atomic<UInt32>> { unsafe UnsafePointer(seq) }

  /// Announces a wait for some classes; the truth is looked at afterwards.
  @inline(__always) func arm(_ bits: UInt32) {
    // sequentially consistent: the bit is visible before the look that follows reads the truth.
    // BELL-ARM, pairs with BELL-RING. If this process dies here, one ring wakes nobody.
    unsafe waiting.pointee.bitwiseOr(bits, ordering: .sequentiallyConsistent)
    // sequentially consistent (fence): a read-modify-write alone does not keep the plain loads of
    // the look behind it on arm64. BELL-ARM, pairs with BELL-RING.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
  }

  /// Counts what a sleep came to.
  func note(_ outcome: Futex.Outcome, found: Bool) {
    switch outcome {
    case .woken where !found: count(Int(PB_BELL_NEEDLESS_WAKES_AT), 1)
    case .timedOut where found: count(Int(PB_BELL_RESCUED_WAITS_AT), 1)
    default: break
    }
  }

  private func count(_ field: Int, _ number: Int) {
    guard number > 0 else { return }
    // relaxed: figures for people.
    unsafe words.word64(offset + field).pointee.wrappingAdd(UInt64(number), ordering: .relaxed)
  }

  /// The classes somebody has announced to wait for.
  package var armed: UInt32 {
    // relaxed: for people and tests.
    unsafe waiting.pointee.load(ordering: .relaxed)
  }

  var counts: DoorbellCounts {
    DoorbellCounts(
      wakes: read(Int(PB_BELL_WAKES_AT)), needlessWakes: read(Int(PB_BELL_NEEDLESS_WAKES_AT)),
      rescuedWaits: read(Int(PB_BELL_RESCUED_WAITS_AT)))
  }

  private func read(_ field: Int) -> UInt64 {
    // relaxed: figures for people.
    unsafe words.word64(offset + field).pointee.load(ordering: .relaxed)
  }
}

/// What the bells of a set have counted.
package struct DoorbellCounts: Sendable, Hashable {
  package var wakes: UInt64 = 0
  package var needlessWakes: UInt64 = 0
  package var rescuedWaits: UInt64 = 0
}

/// The doorbells of one access class: two for each board entry.
package final class DoorbellSet: Sendable {
  private let words: SharedWords
  private let count: Int

  private init(_ mapping: SharedMapping, count: Int) {
    words = SharedWords(mapping)
    self.count = count
  }

  /// Maps the bells behind a descriptor.
  package init(_ descriptor: borrowing Descriptor, count: Int) throws(PatchbayError) {
    self.count = count
    words = SharedWords(
      try SharedMapping(
        descriptor, byteCount: Self.byteCount(count), isWritable: true, what: "the doorbells"))
  }

  package static func byteCount(_ count: Int) -> Int {
    Int(PB_BOARD_HEADER_BYTES) + count * Int(PB_BELL_PAIR_BYTES)
  }

  /// The bell of an entry's bytes; the entry's number was checked when it was granted.
  package func bell(_ entry: Int) -> Doorbell { Doorbell(words, offset: offset(of: entry)) }

  /// The bell on which a windowed blob's publisher waits for space.
  package func spaceBell(_ entry: Int) -> Doorbell {
    Doorbell(words, offset: offset(of: entry) + Int(PB_BELL_SPACE_AT))
  }

  private func offset(of entry: Int) -> Int {
    precondition((0..<count).contains(entry))
    return Int(PB_BOARD_HEADER_BYTES) + entry * Int(PB_BELL_PAIR_BYTES)
  }

  /// The same bells, mapped elsewhere.
  func again() throws(PatchbayError) -> DoorbellSet {
    DoorbellSet(try words.mapping.again(), count: count)
  }

  /// Puts other bells in the place of these. Nobody is woken; see `Board.replace`.
  func replace(with descriptor: borrowing Descriptor) throws(PatchbayError) {
    try words.mapping.replace(with: descriptor, what: "the doorbells")
  }

  /// Wakes everybody who waits at the bells of these entries.
  func ring(_ entries: Set<Int>) {
    for entry in entries {
      bell(entry).ringAll()
      spaceBell(entry).ringAll()
    }
  }

  /// Wakes everybody who waits at the bells of these entries, and then at those that were here before:
  /// the order matters, see `Board.replace`.
  /// - Parameter before: what `again` gave before they were replaced.
  func ring(_ entries: Set<Int>, inPlaceOf before: DoorbellSet) {
    for entry in entries {
      bell(entry).ringAll(inPlaceOf: before.bell(entry))
      spaceBell(entry).ringAll(inPlaceOf: before.spaceBell(entry))
    }
    before.ring(entries)
  }

  /// The sum over all bells.
  package func counts() -> DoorbellCounts {
    (0..<count).reduce(into: DoorbellCounts()) { sum, entry in
      let counts = bell(entry).counts
      sum.wakes &+= counts.wakes
      sum.needlessWakes &+= counts.needlessWakes
      sum.rescuedWaits &+= counts.rescuedWaits
    }
  }
}
