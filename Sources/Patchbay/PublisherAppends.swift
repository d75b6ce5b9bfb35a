// Writing at the end: appends, batches, loans, and descriptors read straight into shared memory.
//
// Appends take turns under one lock, which nobody holds while it waits, or for longer than it takes
// to copy one step. A longer append takes the turn out of the lock and the others stand in line. A
// loan takes the cursor itself: while it is out every other append is refused.

import Glibc
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import Synchronization

/// Where the next append goes, and what holds the cursor.
struct AppendState {
  var end = 0
  /// Of a window: where the segment ends that has been entered.
  var enteredEnd = 0
  /// The last position at which a record was said to begin.
  var lastMark = 0
  /// Where the bytes begin that a batch has copied and not yet covered; nil outside a batch.
  var batchStart: Int?
  /// Where the covered bytes end that are being appended again, to be compared.
  var repeatedEnd: Int?
  /// When the broker is next told that this goes on.
  var nextRenewal = MonotonicTime(nanoseconds: 0)
  var isLent = false
  /// A long append copies its bytes; whoever comes meanwhile stands in line.
  var isTaken = false
  var line = WaitingLine()
  /// Nothing is appended any more: a seal is under way, or the blob has ended.
  var refusal: PatchbayError? {
    didSet { isRefused = refusal != nil }
  }
  /// The same as a plain word, for the short way.
  private(set) var isRefused = false

  /// Whether an append may go on at once, and is readable at once.
  var isFree: Bool {
    !isRefused && !isTaken && !isLent && batchStart == nil && repeatedEnd == nil
  }
}

extension Publisher {
  /// Where the next append will go.
  public var position: Int { appendEnd }

  var appendEnd: Int { appending.withLock { $0.end } }

  /// Refuses appends from now on, for a seal.
  /// - Returns: false when a long append has the turn; the caller stands in line then.
  /// - Throws: `rangeOverlap` while a loan or a batch is out; nothing has changed then.
  func tryStopAppending(
    _ stand: (inout WaitingLine) -> Void
  ) throws(PatchbayError) -> Bool {
    try appending.withLock { (state) throws(PatchbayError) in
      guard !state.isLent, state.batchStart == nil else {
        throw PatchbayError(
          .rangeOverlap,
          "A \(state.isLent ? "loan" : "batch") of the blob \(key) is out; end it first.")
      }
      guard !state.isTaken else {
        stand(&state.line)
        return false
      }
      state.refusal = Self.sealing
      return true
    }
  }

  /// Refuses appends from now on, once the one that has the turn is done.
  func stopAppending(until: MonotonicTime) throws(PatchbayError) {
    while true {
      let before = turns.now
      if try tryStopAppending({ $0.addThread() }) { return }
      try sleepForTurn(since: before, until: until)
    }
  }

  func refuseAppends(_ refusal: PatchbayError) { appending.withLock { $0.refusal = refusal } }

  func resumeAppending() { appending.withLock { $0.refusal = nil } }

  static let turnTimedOut = PatchbayError(
    .timedOut, "Another append to the same blob had not ended when the deadline came.")

  /// Sleeps until the turn is free. The caller stands in line as a thread, and leaves it here.
  private func sleepForTurn(since before: UInt32, until: MonotonicTime) throws(PatchbayError) {
    defer { appending.withLock { $0.line.removeThread() } }
    guard turns.sleep(since: before, until: until) else { throw Self.turnTimedOut }
  }

  /// Adds bytes at the end. They are readable on return, except within a batch.
  /// - Parameters:
  ///   - bytes: what to add.
  ///   - expected: the position the bytes must land on; nil: wherever the end is.
  /// - Throws: `rangeOverlap` or `rangeOutOfBounds` with `resumePosition`, the true end, when that
  ///   is before or behind `expected`; `rangeOutOfBounds` beyond the announced length (nothing is
  ///   written then); `noSpaceMemory` (the same), `notPermitted` for a blob that others may join,
  ///   `closed`, `fenced`, `noBroker`. Of a blob with the policy `backpressure` this waits for the
  ///   slowest subscriber, and an append over more extents than a publisher may have of a blob longer
  ///   than memory goes step by step; what was appended when it throws stays: `position` tells.
  @available(*, noasync)
  public func append(
    _ bytes: Span<UInt8>, expecting expected: Int? = nil
  ) throws(PatchbayError) {
    if let windowWriter, expected == nil, appendShortly(windowWriter, bytes) { return }
    try waitForReader()
    while true {
      let (turn, departure) = (turns.now, inFlight.now)
      switch try startAppending(bytes, expected, { $0.addThread() }) {
      case .begun(let rest): return try appendRest(bytes, rest)
      case .needsExtents(let range): try obtain(range)
      case .waitsForSpace(let obstacle): try overcome(obstacle)
      case .repeats(let range):
        try compare(bytes.extracting(0..<range.count), range)
        return try append(bytes.extracting(range.count..<bytes.count))
      case .waitsForTurn: try sleepForTurn(since: turn, until: MonotonicTime(Deadline.standard))
      case .waitsForWrite:
        try inFlight.sleep(since: departure, until: MonotonicTime(Deadline.standard))
      }
    }
  }

  private func appendRest(
    _ bytes: Span<UInt8>, _ append: LongAppend?
  ) throws(PatchbayError) {
    guard let append else { return }
    defer { giveTurnBack() }
    var at = append.range.lowerBound
    while true {
      let departure = inFlight.now
      switch try goOnAppending(bytes, append, &at, { $0.addThread() }) {
      case nil: return
      case .space(let obstacle): try overcome(obstacle)
      case .extents(let range): try obtain(range)
      case .write: try inFlight.sleep(since: departure, until: MonotonicTime(Deadline.standard))
      }
    }
  }

  /// Adds an array at the end; as the other `append`.
  /// - Throws: as the other `append`.
  @available(*, noasync)
  public func append(
    _ bytes: [UInt8], expecting expected: Int? = nil
  ) throws(PatchbayError) {
    try append(bytes.span, expecting: expected)
  }

  /// Adds raw bytes at the end; as the other `append`.
  /// - Throws: as the other `append`.
  @available(*, noasync)
  public func append(
    _ bytes: RawSpan, expecting expected: Int? = nil
  ) throws(PatchbayError) {
    try unsafe bytes.withUnsafeBytes { (raw) throws(PatchbayError) in
      let typed = unsafe raw.bindMemory(to: UInt8.self)
      try unsafe append(typed.span, expecting: expected)
    }
  }

  private func check(_ state: AppendState, _ expected: Int?) throws(PatchbayError) {
    if let refusal = state.refusal { throw refusal }
    guard !isShared else {
      throw PatchbayError(
        .notPermitted,
        "The blob \(key) may have several publishers, so it has no one end to append to. Write at "
          + "a position, or append from one with `appending(from:)`.")
    }
    guard !state.isLent else {
      throw PatchbayError(
        .rangeOverlap, "The end of the blob \(key) is lent; commit or drop the loan first.")
    }
    guard let expected, expected != state.end else { return }
    throw PatchbayError(
      expected < state.end ? .rangeOverlap : .rangeOutOfBounds,
      "An append to the blob \(key) expected to land on \(expected), but its end is \(state.end).",
      resumePosition: state.end)
  }

  // MARK: Steps that do not wait

  /// What becomes of an append, or of a loan, that wants to begin.
  enum AppendStart<Begun> {
    case begun(Begun)
    /// These extents have to be mapped first.
    case needsExtents(Range<Int>)
    /// The window has no room: subscribers have not read what stands there.
    case waitsForSpace(WindowWriter.Obstacle)
    /// These bytes are covered, and to be compared; the caller has the turn.
    case repeats(Range<Int>)
    /// A long append has the turn; the caller stands in line.
    case waitsForTurn
    /// A write at a position overlaps the place; the caller stands in that line.
    case waitsForWrite
  }

  /// A long append that has the turn.
  struct LongAppend {
    let range: Range<Int>
    /// Begun within a batch.
    let isBatched: Bool
  }

  /// Appends at once what is short and has its place mapped; for anything else takes the turn.
  /// - Parameter stand: puts the caller in line when it has to wait.
  /// - Returns: begun: what is left to do with the turn, nil when all is appended.
  func startAppending(
    _ bytes: Span<UInt8>, _ expected: Int?, _ stand: (inout WaitingLine) -> Void
  ) throws(PatchbayError) -> AppendStart<LongAppend?> {
    try appending.withLock { (state) throws(PatchbayError) in
      guard try takesTurn(&state, expected, stand) else { return .waitsForTurn }
      let range = try checkedRange(at: state.end, bytes.count)
      guard !range.isEmpty else { return .begun(nil) }
      if let repeatedEnd = state.repeatedEnd {
        state.isTaken = true
        return .repeats(range.clamped(to: range.lowerBound..<repeatedEnd))
      }
      if let windowWriter { return startInWindow(windowWriter, bytes, range, &state) }
      let isOrdered = handle.grant.order == .appendOnly
      if isOrdered, range.count <= Self.step,
        let extent = handle.mappedExtent(at: range.lowerBound),
        range.upperBound <= extent.range.upperBound
      {
        append(bytes, range, to: extent, &state)
        return .begun(nil)
      }
      let first = handle.stretch(of: range)
      guard handle.firstUnmapped(in: first) == nil else { return .needsExtents(first) }
      if !isOrdered {
        switch try enters(first, stand) {
        case .begun: break
        case .needsExtents: return .needsExtents(first)
        case .waits, .needsClaim: return .waitsForWrite
        }
      }
      state.isTaken = true
      return .begun(LongAppend(range: range, isBatched: state.batchStart != nil))
    }
  }

  /// Puts a range in flight. A shared blob is not appended to, so no claim is needed.
  private func enters(
    _ range: Range<Int>, _ stand: (inout WaitingLine) -> Void
  ) throws(PatchbayError) -> WriteStart {
    try startWriting(range, skippingCovered: false, under: nil, stand)
  }

  /// Whether the turn is free; if it is not the caller stands in line.
  private func takesTurn(
    _ state: inout AppendState, _ expected: Int?, _ stand: (inout WaitingLine) -> Void
  ) throws(PatchbayError) -> Bool {
    if let refusal = state.refusal { throw refusal }
    if state.isTaken {
      stand(&state.line)
      return false
    }
    try check(state, expected)
    return true
  }

  /// What stands in the way of an append that has the turn.
  enum AppendObstacle {
    case space(WindowWriter.Obstacle)
    /// These extents have to be mapped first.
    case extents(Range<Int>)
    /// A write at a position overlaps the place; the caller stands in that line.
    case write
  }

  /// Copies the bytes of an append that has the turn and covers them, as far as that goes without
  /// waiting. The caller gives the turn back.
  /// - Parameters:
  ///   - at: where it goes on; moved by what was appended.
  ///   - stand: puts the caller in line when it has to wait for a write.
  /// - Returns: what stands in the way; nil: all is appended.
  func goOnAppending(
    _ bytes: Span<UInt8>, _ append: LongAppend, _ at: inout Int,
    _ stand: (inout WaitingLine) -> Void
  ) throws(PatchbayError) -> AppendObstacle? {
    let range = append.range
    if let windowWriter {
      return try appendToWindow(windowWriter, bytes, range, &at).map { .space($0) }
    }
    while at < range.upperBound {
      let part = handle.stretch(of: at..<range.upperBound)
      // The first one was entered when the turn was taken.
      if at > range.lowerBound, let obstacle = try obstacle(before: part, stand) {
        return obstacle
      }
      try appendPart(
        bytes.extracting(at - range.lowerBound..<part.upperBound - range.lowerBound), part,
        isBatched: append.isBatched)
      at = part.upperBound
    }
    return nil
  }

  private func obstacle(
    before part: Range<Int>, _ stand: (inout WaitingLine) -> Void
  ) throws(PatchbayError) -> AppendObstacle? {
    guard handle.firstUnmapped(in: part) == nil else { return .extents(part) }
    guard handle.grant.order == .any else { return nil }
    switch try enters(part, stand) {
    case .begun: return nil
    case .needsExtents: return .extents(part)
    case .waits, .needsClaim: return .write
    }
  }

  /// A part of a long append, whose extents are mapped and, of a blob with a map, whose range is in
  /// flight.
  private func appendPart(
    _ bytes: Span<UInt8>, _ part: Range<Int>, isBatched: Bool
  ) throws(PatchbayError) {
    if handle.grant.order == .appendOnly {
      try appendInSteps(bytes, part)
    } else if isBatched {
      try appendBatched(bytes, part)
    } else {
      _ = try finishWriting(bytes, RangeWrite(range: part, pieces: [part], claim: nil))
      appending.withLock { $0.end = part.upperBound }
    }
  }

  func giveTurnBack() {
    let call = appending.withLock { state in
      state.isTaken = false
      return state.line.call()
    }
    turns.wake(call)
    tellIfQuiescent()
  }

  /// Into a blob with a map, within a batch: covered at the batch's end.
  private func appendBatched(
    _ bytes: Span<UInt8>, _ range: Range<Int>
  ) throws(PatchbayError) {
    do throws(PatchbayError) {
      try copyOnly(bytes, range)
    } catch {
      inFlight.leave(range, coveredTo: range.lowerBound)
      throw error
    }
    let isBatchOver = appending.withLock { state in
      state.end = range.upperBound
      guard state.batchStart != nil else { return true }
      // Stays in flight, as one range with what the batch has copied before, until it is covered.
      batchedRange.withLock { batched in
        batched = batched.map { inFlight.join($0, range) } ?? range
      }
      return false
    }
    guard isBatchOver else { return }
    cover(range)
    ring(range)
  }

  private func copyOnly(_ bytes: Span<UInt8>, _ range: Range<Int>) throws(PatchbayError) {
    try forEachExtent(range) { (extent, part) throws(PatchbayError) in
      extent.copyIn(
        bytes.extracting(part.lowerBound - range.lowerBound..<part.upperBound - range.lowerBound),
        at: part.lowerBound)
    }
  }

  /// Into a blob without a map, step by step, so that the lock is never held for long.
  private func appendInSteps(
    _ bytes: Span<UInt8>, _ range: Range<Int>
  ) throws(PatchbayError) {
    for at in stride(from: range.lowerBound, to: range.upperBound, by: Self.step) {
      let step = at..<min(range.upperBound, at + Self.step)
      try appending.withLock { (state) throws(PatchbayError) in
        if let refusal = state.refusal { throw refusal }
        try appendBelowFrontier(
          bytes.extracting(at - range.lowerBound..<step.upperBound - range.lowerBound), step,
          &state)
      }
    }
  }

  /// At most a step, whose extents are mapped.
  private func appendBelowFrontier(
    _ bytes: Span<UInt8>, _ range: Range<Int>, _ state: inout AppendState
  ) throws(PatchbayError) {
    try forEachExtent(range) { (extent, part) throws(PatchbayError) in
      append(
        bytes.extracting(part.lowerBound - range.lowerBound..<part.upperBound - range.lowerBound),
        part, to: extent, &state)
    }
  }

  private func append(
    _ bytes: Span<UInt8>, _ range: Range<Int>, to extent: Extent, _ state: inout AppendState
  ) {
    extent.copyIn(bytes, at: range.lowerBound)
    state.end = range.upperBound
    guard state.batchStart == nil else { return }
    extent.coverPrefix(to: range.upperBound)
    ring(range)
  }

  // MARK: Batches

  // Disfavoured: async code whose body happens not to wait must not resolve to the blocking one.

  /// Makes everything appended by `body` readable at once, at its end, with one wake-up: for many
  /// small records. Also when `body` throws: what it appended stays appended. Of a blob in any order
  /// that may be longer than memory, what was appended is readable sooner when a further extent is needed.
  /// - Throws: what `body` throws; `rangeOverlap` inside another batch.
  @_disfavoredOverload
  @available(*, noasync)
  public func withBatch<Result>(_ body: () throws -> Result) throws -> Result {
    try beginBatch()
    defer { endBatch() }
    return try body()
  }

  func beginBatch() throws(PatchbayError) {
    try appending.withLock { (state) throws(PatchbayError) in
      try check(state, nil)
      guard state.batchStart == nil else {
        throw PatchbayError(.rangeOverlap, "A batch of the blob \(key) is under way already.")
      }
      state.batchStart = state.end
    }
  }

  /// Covers what a batch has copied; does nothing outside one.
  func endBatch() {
    appending.withLock { state in
      guard let start = state.batchStart else { return }
      state.batchStart = nil
      guard start < state.end else { return }
      if let windowWriter {
        windowWriter.window.publish(to: state.end)
      } else if handle.grant.order == .any {
        coverBatchedRange()
      } else {
        coverPrefix(start..<state.end)
      }
      ring(start..<state.end)
    }
  }

  /// Covers what a batch has copied so far: while it is in flight its extents cannot be given back.
  func coverBatchSoFar() {
    appending.withLock { state in
      guard let start = state.batchStart, start < state.end else { return }
      state.batchStart = state.end
      coverBatchedRange()
      ring(start..<state.end)
    }
  }

  private func coverBatchedRange() {
    let batched = batchedRange.withLock { batched in
      defer { batched = nil }
      return batched
    }
    if let batched { cover(batched) }
  }

  /// Covers a range in flight whose bytes have been copied, and takes it out.
  private func cover(_ range: Range<Int>) {
    forEachMappedExtent(range) { $0.cover($1) }
    inFlight.leave(range, coveredTo: range.upperBound)
  }

  private func coverPrefix(_ range: Range<Int>) {
    forEachMappedExtent(range) { extent, part in extent.coverPrefix(to: part.upperBound) }
  }

  /// As `forEachExtent`, over extents that were mapped when the bytes were copied.
  private func forEachMappedExtent(_ range: Range<Int>, _ body: (Extent, Range<Int>) -> Void) {
    for extent in handle.mappedExtents(in: range) {
      body(extent, extent.range.clamped(to: range))
    }
  }

  // MARK: Loans

  /// Lends the place of the next bytes, to be filled without a copy: up to `byteCount` contiguous
  /// bytes at the end, fewer where an extent or the announced length ends. Other appends are
  /// refused until the loan is committed or dropped.
  /// - Throws: `rangeOutOfBounds` at the announced end, `rangeOverlap` while another loan or a
  ///   batch is out, `noSpaceMemory`, `closed`, `noBroker`.
  @available(*, noasync)
  public func loan(byteCount: Int) throws(PatchbayError) -> Loan {
    Loan(self, try lend(byteCount))
  }

  /// The place of a loan, which the caller ends by `endLoan`.
  @available(*, noasync)
  func lend(_ byteCount: Int) throws(PatchbayError) -> LentPlace {
    try waitForReader()
    while true {
      let (turn, departure) = (turns.now, inFlight.now)
      switch try startLending(byteCount, { $0.addThread() }) {
      case .begun(let place): return place
      case .needsExtents(let range): try obtain(range)
      case .waitsForSpace(let obstacle): try overcome(obstacle)
      case .repeats: throw onlyAppended
      case .waitsForTurn: try sleepForTurn(since: turn, until: MonotonicTime(Deadline.standard))
      case .waitsForWrite:
        try inFlight.sleep(since: departure, until: MonotonicTime(Deadline.standard))
      }
    }
  }

  /// What repeats covered bytes has no place to lend.
  var onlyAppended: PatchbayError {
    PatchbayError(
      .notPermitted,
      "The production of the blob \(key) begins again from 0: what is covered is compared with what is "
        + "appended. Append arrays or descriptors, without loans and without writes at positions.")
  }

  /// The place that a loan lends.
  struct LentPlace: Sendable {
    let ring: LentRing
    let range: Range<Int>

    /// One read of a descriptor into the place; how many bytes came, 0 at its end.
    func fill(from descriptor: Int32) throws(PatchbayError) -> Int {
      try unsafe Publisher.read(descriptor, into: ring.writableBytes(range))
    }
  }

  /// The ring that holds a lent place.
  enum LentRing: Sendable {
    case extent(Extent)
    case window(Window)

    @unsafe func writableBytes(_ range: Range<Int>) -> UnsafeMutableRawBufferPointer {
      switch self {
      case .extent(let extent): unsafe extent.writableBytes(range)
      case .window(let window): unsafe window.writableBytes(range)
      }
    }
  }

  /// Lends the place of the next bytes if it is mapped and nobody else's.
  func startLending(
    _ byteCount: Int, _ stand: (inout WaitingLine) -> Void
  ) throws(PatchbayError) -> AppendStart<LentPlace> {
    try appending.withLock { (state) throws(PatchbayError) in
      guard try takesTurn(&state, nil, stand) else { return .waitsForTurn }
      guard state.batchStart == nil else {
        throw PatchbayError(.rangeOverlap, "A batch of the blob \(key) is under way; end it first.")
      }
      guard state.repeatedEnd == nil else { throw onlyAppended }
      let left = (self.byteCount ?? ExtentPlan.positionLimit) - state.end
      let wanted = max(1, min(byteCount, left))
      let range = try checkedRange(at: state.end, wanted)
      if let windowWriter { return lendInWindow(windowWriter, range, &state) }
      guard let extent = handle.mappedExtent(at: range.lowerBound) else {
        guard !handle.isFull(handle.plan.index(of: range.lowerBound)) else {
          throw PatchbayError(
            .rangeOverlap,
            "\(range.count) bytes at \(range.lowerBound) of the blob \(key) were to be lent, and are "
              + "covered already. Write what is missing.", resumePosition: range.lowerBound)
        }
        return .needsExtents(range.lowerBound..<range.lowerBound + 1)
      }
      let lent = range.clamped(to: extent.range)
      if handle.grant.order == .any {
        switch try enters(lent, stand) {
        case .begun: break
        case .needsExtents: return .needsExtents(lent)
        case .waits, .needsClaim: return .waitsForWrite
        }
      }
      extent.touch(lent)
      state.isLent = true
      return .begun(LentPlace(ring: .extent(extent), range: lent))
    }
  }

  /// Ends a loan: its first bytes are appended, the rest stay uncovered.
  func endLoan(_ place: LentPlace, committed count: Int) {
    let lent = place.range
    appending.withLock { state in
      state.isLent = false
      let filled = lent.lowerBound..<lent.lowerBound + count
      switch place.ring {
      case .extent(let extent) where handle.grant.order == .any:
        extent.cover(filled)
        inFlight.leave(lent, coveredTo: filled.upperBound)
      case .extent(let extent): if count > 0 { extent.coverPrefix(to: filled.upperBound) }
      case .window(let window): if count > 0 { window.publish(to: filled.upperBound) }
      }
      state.end = filled.upperBound
      if count > 0 { ring(filled) }
    }
    tellIfQuiescent()
  }

  // MARK: From descriptors

  /// Appends everything a file descriptor still gives, read straight into shared memory, until its
  /// end. Blocks as the descriptor does. Each piece is readable at once.
  /// - Returns: how many bytes were appended.
  /// - Throws: `rangeOutOfBounds` when there are more than announced, `inputOutput`, else as `loan`.
  @available(*, noasync)
  @discardableResult
  public func append(from descriptor: Int32) throws(PatchbayError) -> Int {
    var total = 0
    while true {
      if let byteCount, appendEnd == byteCount {
        try expectEnd(of: descriptor, byteCount)
        return total
      }
      if isRepeating {
        let piece = try Self.piece(of: descriptor)
        guard !piece.isEmpty else { return total }
        try append(piece)
        total += piece.count
        continue
      }
      let loan = try loan(byteCount: Self.step)
      let count = try loan.place.fill(from: descriptor)
      loan.commit(byteCount: count)
      guard count > 0 else { return total }
      total += count
    }
  }

  private func expectEnd(of descriptor: Int32, _ byteCount: Int) throws(PatchbayError) {
    guard try Self.readByte(of: descriptor) == 0 else { throw longerThanAnnounced(byteCount) }
  }

  func longerThanAnnounced(_ byteCount: Int) -> PatchbayError {
    PatchbayError(
      .rangeOutOfBounds,
      "The source of the blob \(key) has more than the announced \(byteCount) bytes.")
  }

  /// Tries to read one byte, to see whether there is one.
  static func readByte(of descriptor: Int32) throws(PatchbayError) -> Int {
    var extra: UInt8 = 0
    return try unsafe withUnsafeMutableBytes(of: &extra) { (place) throws(PatchbayError) in
      try unsafe read(descriptor, into: place)
    }
  }

  /// Some bytes of a descriptor; none at its end.
  static func piece(of descriptor: Int32) throws(PatchbayError) -> [UInt8] {
    try [UInt8](capacity: step) { (output) throws(PatchbayError) in
      try unsafe output.withUnsafeMutableBufferPointer { (place, count) throws(PatchbayError) in
        count = try unsafe read(descriptor, into: UnsafeMutableRawBufferPointer(place))
      }
    }
  }

  /// One read of a descriptor; 0 at its end.
  static func read(
    _ descriptor: Int32, into place: UnsafeMutableRawBufferPointer
  ) throws(PatchbayError) -> Int {
    while true {
      let got = unsafe Glibc.read(descriptor, place.baseAddress, place.count)
      if got >= 0 { return got }
      guard errno == EINTR else { throw .system("Reading the source of a blob", errno: errno) }
    }
  }
}
