// Appending to a window: segment by segment, each entered before its first byte is written. Under
// `backpressure` that waits for the slowest subscriber, and detaches one that takes too long.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

extension Publisher {
  // MARK: Steps that do not wait

  /// The short way of an append: into the segment that has been entered, with nothing in the way.
  /// Never waits.
  /// - Returns: false: nothing was appended, the long way tells why.
  func appendShortly(_ writer: WindowWriter, _ bytes: Span<UInt8>) -> Bool {
    let start = appending.withLock { state in
      let start = state.end
      guard state.isFree, bytes.count <= min(state.enteredEnd, writer.limit) - start else {
        return -1
      }
      writer.window.append(bytes, at: start)
      state.end = start + bytes.count
      return start
    }
    guard start >= 0 else { return false }
    if writer.bell.hasWaiters { ring(start..<start + bytes.count) }
    return true
  }

  /// Enters the first segment; appends at once what is short and fits, else takes the turn.
  func startInWindow(
    _ writer: WindowWriter, _ bytes: Span<UInt8>, _ range: Range<Int>, _ state: inout AppendState
  ) -> AppendStart<LongAppend?> {
    if let obstacle = enter(writer, &state) { return .waitsForSpace(obstacle) }
    if range.count <= Self.step, range.upperBound <= state.enteredEnd {
      copy(writer, bytes, range, &state)
      return .begun(nil)
    }
    state.isTaken = true
    return .begun(LongAppend(range: range, isBatched: state.batchStart != nil))
  }

  /// Appends what is left of a long append, as far as it goes without waiting.
  /// - Parameter at: where it goes on; moved by what was appended.
  /// - Returns: what stands in the way; nil: all is appended.
  func appendToWindow(
    _ writer: WindowWriter, _ bytes: Span<UInt8>, _ range: Range<Int>, _ at: inout Int
  ) throws(PatchbayError) -> WindowWriter.Obstacle? {
    while at < range.upperBound {
      let obstacle = try appending.withLock { (state) throws(PatchbayError) in
        if let refusal = state.refusal { throw refusal }
        if let obstacle = enter(writer, &state) { return WindowWriter.Obstacle?.some(obstacle) }
        let end = min(range.upperBound, state.enteredEnd, at + Self.step)
        copy(
          writer, bytes.extracting(at - range.lowerBound..<end - range.lowerBound), at..<end,
          &state)
        at = end
        return nil
      }
      if let obstacle { return obstacle }
    }
    return nil
  }

  /// Lends a place within the segment.
  func lendInWindow(
    _ writer: WindowWriter, _ range: Range<Int>, _ state: inout AppendState
  ) -> AppendStart<LentPlace> {
    if let obstacle = enter(writer, &state) { return .waitsForSpace(obstacle) }
    state.isLent = true
    let lent = range.lowerBound..<min(range.upperBound, state.enteredEnd)
    return .begun(LentPlace(ring: .window(writer.window), range: lent))
  }

  /// Enters the segment of the end, if it has not been.
  private func enter(
    _ writer: WindowWriter, _ state: inout AppendState
  ) -> WindowWriter.Obstacle? {
    guard state.end >= state.enteredEnd else { return nil }
    // A batch becomes readable at the latest with the segment: whoever is waited for may wait for it.
    if let start = state.batchStart, start < state.end {
      writer.window.publish(to: state.end)
      ring(start..<state.end)
      state.batchStart = state.end
    }
    if let obstacle = writer.enter(segmentOf: state.end) { return obstacle }
    state.enteredEnd = writer.window.shape.segmentEnd(of: state.end)
    return nil
  }

  private func copy(
    _ writer: WindowWriter, _ bytes: Span<UInt8>, _ range: Range<Int>, _ state: inout AppendState
  ) {
    writer.window.copyIn(bytes, at: range.lowerBound)
    state.end = range.upperBound
    guard state.batchStart == nil else { return }
    writer.window.publish(to: range.upperBound)
    ring(range)
  }

  /// Whether the wait for subscribers is over.
  /// - Throws: `closed` when the publisher ends meanwhile.
  func isOver(_ hold: WindowWriter.Hold, _ writer: WindowWriter) throws(PatchbayError) -> Bool? {
    if let refusal = appending.withLock({ $0.refusal }) { throw refusal }
    return writer.isOver(hold.wanted) ? true : nil
  }

  // MARK: Waiting

  /// Asks who the subscribers are, or waits for them; the caller looks again afterwards.
  func overcome(_ obstacle: WindowWriter.Obstacle) throws(PatchbayError) {
    guard let windowWriter else { return }
    do throws(PatchbayError) {
      switch obstacle {
      case .unknownSubscribers: try learnSubscribers(windowWriter)
      case .held(let hold): try waitForSpace(hold, windowWriter)
      }
    } catch {
      throw refusal(or: error)
    }
  }

  /// Why an append ends that the broker has refused: a publisher that ended meanwhile asked in vain.
  func refusal(or error: PatchbayError) -> PatchbayError {
    appending.withLock { $0.refusal } ?? error
  }

  private func learnSubscribers(_ writer: WindowWriter) throws(PatchbayError) {
    let connection = handle.session.connection
    let takeOverCount = handle.session.takeOverCount
    let delivery = try connection.call(.subscriptions(handle.grant.blob), deadline: .standard)
    for client in writer.adopt(try delivery.subscriptions, takeOverCount) {
      do throws(PatchbayError) {
        let delivery = try connection.call(tableRequest(client), deadline: .standard)
        try writer.add(PeerTable(delivery.takeDescriptor()), of: client, takeOverCount)
      } catch  where error.code == .closed {
        // It went in between; the board says so, and the next look asks again.
      }
    }
  }

  func tableRequest(_ client: UInt64) -> Request {
    .attachTable(TableRequest(blob: handle.grant.blob, clientID: client))
  }

  private func waitForSpace(
    _ hold: WindowWriter.Hold, _ writer: WindowWriter
  ) throws(PatchbayError) {
    guard let spaceBell = handle.spaceBell else { return }
    let life = handle.session.connection.connectedLife
    let isOver = try spaceBell.wait(
      for: writer.spaceClass(of: hold.wanted),
      until: MonotonicTime.now.advanced(by: slowestLimit), patience: spacePatience,
      onBound: { () throws(PatchbayError) in try handle.session.connection.checkAlive() }
    ) { () throws(PatchbayError) in try self.isOver(hold, writer) }
    guard isOver == nil, judges(life) else { return }
    for request in detachRequests(hold, writer) {
      try handle.session.perform(request, deadline: .standard)
    }
  }

  /// Whether who held the publisher during a wait can be said to have done so. While there is no broker,
  /// and after another one has come, what is read may be the table of one that is gone: it stands still,
  /// and the wait begins anew.
  /// - Parameter life: the connection's before the wait.
  func judges(_ life: Int?) -> Bool {
    life != nil && handle.session.connection.connectedLife == life
  }

  /// What lets go of those that have held the publisher for too long.
  func detachRequests(_ hold: WindowWriter.Hold, _ writer: WindowWriter) -> [Request] {
    writer.laggards(below: hold.next).map {
      .detach(DetachRequest(blob: handle.grant.blob, subscription: $0))
    }
  }
}
