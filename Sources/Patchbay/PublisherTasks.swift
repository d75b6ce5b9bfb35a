// Writing without holding a thread: the calls of `Publisher` for tasks. Bytes are copied by the same
// steps, on the task's own thread; only what a step needs is waited for differently. They take arrays,
// since a span cannot be kept while a task waits; `loan` is the way without a copy.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import Synchronization

extension Publisher {
  // MARK: At a position

  /// Writes bytes at a position and covers them; as the blocking `write`.
  /// - Returns: how many bytes were covered by this call.
  /// - Throws: as the blocking `write`; `cancelled`, when it had to wait.
  @discardableResult
  public func write(
    _ bytes: [UInt8], at position: Int, skippingCovered: Bool = false
  ) async throws(PatchbayError) -> Int {
    let range = try writableRange(at: position, bytes.count)
    guard !range.isEmpty else { return 0 }
    try await waitForReader()
    var claim: RangeClaim?
    do throws(PatchbayError) {
      let count = try await write(bytes, range, skippingCovered: skippingCovered, &claim)
      await claim?.end()
      return count
    } catch {
      await claim?.end()
      throw error
    }
  }

  /// - Parameter claim: what this write had to claim; for the caller to end.
  private func write(
    _ bytes: [UInt8], _ range: Range<Int>, skippingCovered: Bool, _ claim: inout RangeClaim?
  ) async throws(PatchbayError) -> Int {
    var (at, count) = (range.lowerBound, 0)
    while at < range.upperBound {
      let part = handle.stretch(of: at..<range.upperBound)
      var wait: Awaited<Void>?
      switch try startWriting(
        part, skippingCovered: skippingCovered, under: claim, { $0.add(&wait) })
      {
      case .begun(let write):
        count += try finishWriting(
          bytes.span.extracting(at - range.lowerBound..<part.upperBound - range.lowerBound), write)
        at = part.upperBound
      case .needsClaim: claim = try await ownClaim(range)
      case .needsExtents: try await obtain(part)
      case .waits: if let wait { try await inFlight.wait(wait, deadline: .standard) }
      }
    }
    return count
  }

  // MARK: At the end

  /// Adds bytes at the end. They are readable on return, except within a batch; as the blocking
  /// `append`.
  /// - Throws: as the blocking `append`; `cancelled`, when it had to wait.
  public func append(
    _ bytes: [UInt8], expecting expected: Int? = nil
  ) async throws(PatchbayError) {
    try await waitForReader()
    while true {
      var wait: Awaited<Void>?
      switch try startAppending(bytes.span, expected, { $0.add(&wait) }) {
      case .begun(let rest): return try await appendRest(bytes, rest)
      case .needsExtents(let range): try await obtain(range)
      case .waitsForSpace(let obstacle): try await overcome(obstacle)
      case .repeats(let range):
        try await compare(Array(bytes.prefix(range.count)), range)
        return try await append(Array(bytes.dropFirst(range.count)))
      case .waitsForTurn: if let wait { try await waitForTurn(wait, deadline: .standard) }
      case .waitsForWrite: if let wait { try await inFlight.wait(wait, deadline: .standard) }
      }
    }
  }

  private func appendRest(
    _ bytes: [UInt8], _ append: LongAppend?
  ) async throws(PatchbayError) {
    guard let append else { return }
    defer { giveTurnBack() }
    var at = append.range.lowerBound
    while true {
      var wait: Awaited<Void>?
      switch try goOnAppending(bytes.span, append, &at, { $0.add(&wait) }) {
      case nil: return
      case .space(let obstacle): try await overcome(obstacle)
      case .extents(let range): try await obtain(range)
      case .write: if let wait { try await inFlight.wait(wait, deadline: .standard) }
      }
    }
  }

  /// Lends the place of the next bytes, to be filled without a copy; as the blocking `loan`.
  /// - Throws: as the blocking `loan`; `cancelled`, when it had to wait.
  public func loan(byteCount: Int) async throws(PatchbayError) -> Loan {
    Loan(self, try await lend(byteCount))
  }

  /// As the blocking `lend`.
  func lend(_ byteCount: Int) async throws(PatchbayError) -> LentPlace {
    try await waitForReader()
    while true {
      var wait: Awaited<Void>?
      switch try startLending(byteCount, { $0.add(&wait) }) {
      case .begun(let place): return place
      case .needsExtents(let range): try await obtain(range)
      case .waitsForSpace(let obstacle): try await overcome(obstacle)
      case .repeats: throw onlyAppended
      case .waitsForTurn: if let wait { try await waitForTurn(wait, deadline: .standard) }
      case .waitsForWrite: if let wait { try await inFlight.wait(wait, deadline: .standard) }
      }
    }
  }

  /// Waits until the turn to append is free. The caller has put the wait in line.
  private func waitForTurn(
    _ wait: Awaited<Void>, deadline: Deadline
  ) async throws(PatchbayError) {
    do throws(PatchbayError) {
      try await wait.value(
        until: deadline, timedOut: Self.turnTimedOut,
        cancelled: PatchbayError(
          .cancelled, "The task was cancelled while it waited for its turn to append."))
    } catch {
      appending.withLock { $0.line.remove(wait) }
      throw error
    }
  }

  /// As the blocking `stopAppending`.
  func stopAppending(deadline: Deadline) async throws(PatchbayError) {
    while true {
      var wait: Awaited<Void>?
      if try tryStopAppending({ $0.add(&wait) }) { return }
      if let wait { try await waitForTurn(wait, deadline: deadline) }
    }
  }

  /// Makes everything appended by `body` readable at once, at its end, with one wake-up; as the
  /// blocking `withBatch`. What other tasks append meanwhile is part of the batch.
  /// - Throws: what `body` throws; `rangeOverlap` inside another batch.
  public func withBatch<Result>(_ body: () async throws -> Result) async throws -> Result {
    try beginBatch()
    defer { endBatch() }
    return try await body()
  }

  // MARK: Windows

  /// As the blocking `overcome`.
  func overcome(_ obstacle: WindowWriter.Obstacle) async throws(PatchbayError) {
    guard let windowWriter else { return }
    do throws(PatchbayError) {
      switch obstacle {
      case .unknownSubscribers: try await learnSubscribers(windowWriter)
      case .held(let hold): try await waitForSpace(hold, windowWriter)
      }
    } catch {
      throw refusal(or: error)
    }
  }

  private func learnSubscribers(_ writer: WindowWriter) async throws(PatchbayError) {
    let connection = handle.session.connection
    let takeOverCount = handle.session.takeOverCount
    let delivery = try await connection.call(
      .subscriptions(handle.grant.blob), deadline: .standard)
    for client in writer.adopt(try delivery.subscriptions, takeOverCount) {
      do throws(PatchbayError) {
        let delivery = try await connection.call(tableRequest(client), deadline: .standard)
        try writer.add(PeerTable(delivery.takeDescriptor()), of: client, takeOverCount)
      } catch  where error.code == .closed {
        // It went in between; the board says so, and the next look asks again.
      }
    }
  }

  private func waitForSpace(
    _ hold: WindowWriter.Hold, _ writer: WindowWriter
  ) async throws(PatchbayError) {
    guard let spaceBell = handle.spaceBell else { return }
    let life = handle.session.connection.connectedLife
    let isOver = try await handle.session.wait(
      at: spaceBell, for: writer.spaceClass(of: hold.wanted),
      until: MonotonicTime.now.advanced(by: slowestLimit),
      cancelled: {
        PatchbayError(
          .cancelled,
          "The task was cancelled while its append to the blob \(key) waited for subscribers.")
      }
    ) { [self] () throws(PatchbayError) in try self.isOver(hold, writer) }
    guard isOver == nil, judges(life) else { return }
    for request in detachRequests(hold, writer) {
      try await handle.session.perform(request, deadline: .standard)
    }
  }

  // MARK: From descriptors

  /// Appends everything a file descriptor still gives, read straight into shared memory, until its
  /// end; as the blocking `append(from:)`. The reads are made by threads that do nothing else.
  /// - Returns: how many bytes were appended.
  /// - Throws: as the blocking `append(from:)`; `cancelled`, with everything before appended.
  @discardableResult
  public func append(from descriptor: Int32) async throws(PatchbayError) -> Int {
    let file = TaskFile(descriptor)
    var total = 0
    while true {
      guard !Task.isCancelled else {
        throw PatchbayError(
          .cancelled, "The task was cancelled after it had appended \(total) bytes of its source.")
      }
      if let byteCount, appendEnd == byteCount {
        try await expectEnd(of: file, byteCount)
        return total
      }
      if isRepeating {
        let piece = try await file.read { () throws(PatchbayError) in
          try Self.piece(of: descriptor)
        }
        guard !piece.isEmpty else { return total }
        try await append(piece)
        total += piece.count
        continue
      }
      let loan = try await loan(byteCount: Self.step)
      let place = loan.place
      let count = try await file.read { () throws(PatchbayError) in
        try place.fill(from: descriptor)
      }
      loan.commit(byteCount: count)
      guard count > 0 else { return total }
      total += count
    }
  }

  private func expectEnd(of file: TaskFile, _ byteCount: Int) async throws(PatchbayError) {
    let descriptor = file.descriptor
    let count = try await file.read { () throws(PatchbayError) in
      try Self.readByte(of: descriptor)
    }
    guard count == 0 else { throw longerThanAnnounced(byteCount) }
  }
}

extension PublisherCursor {
  /// Writes bytes at the cursor's place and moves behind them. They are readable on return.
  /// - Throws: as `Publisher.write`; the cursor stays then.
  public mutating func append(_ bytes: [UInt8]) async throws(PatchbayError) {
    try await publisher.write(bytes, at: position)
    position += bytes.count
  }
}
