// Reading without holding a thread: the calls of `Subscriber` for tasks. What they find and when they
// are done is decided by the same steps; here they only wait differently.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

extension Subscriber {
  // MARK: Waiting

  /// Waits on the class of a position until `look` finds something.
  /// - Parameter look: called on a thread that serves many: it must not wait.
  func wait<Found: Sendable>(
    at position: Int, deadline: Deadline,
    _ look: @escaping @Sendable () throws(PatchbayError) -> Found?
  ) async throws(PatchbayError) -> Found {
    guard let bell = handle.bell else { throw Self.closed }
    // sequentially consistent (both): as in `close`. CLOSE.
    waiterCount.add(1, ordering: .sequentiallyConsistent)
    // sequentially consistent: as above. CLOSE.
    defer { waiterCount.subtract(1, ordering: .sequentiallyConsistent) }
    let found = try await handle.session.wait(
      at: bell, for: handle.grant.wakeClasses.bit(of: position), until: MonotonicTime(deadline),
      cancelled: { cancelled(position) }, look)
    guard let found else { throw timedOut(position) }
    return found
  }

  private func cancelled(_ position: Int) -> PatchbayError {
    PatchbayError(
      .cancelled,
      "The task was cancelled while it waited for byte \(position) of the blob \(key).")
  }

  /// Ends work of a cancelled task that goes on without ever having to wait.
  func checkNotCancelled(_ position: Int) throws(PatchbayError) {
    guard !Task.isCancelled else { throw cancelled(position) }
  }

  /// Waits until something stands at a position.
  /// - Throws: `timedOut`, `cancelled`, `noBroker`, and as `look`.
  func find(
    at position: Int, count: Int, deadline: Deadline
  ) async throws(PatchbayError) -> Found {
    try checkPosition(position)
    while true {
      switch try await lookOrWait(at: position, count: count, deadline: deadline) {
      case .found(let found): return found
      case .needsExtent(let index): try await attach(index, deadline)
      case .needsSegment(let place):
        let segment = try await FileThreads.shared.run { [handle] () throws(PatchbayError) in
          try handle.spooled.load(place)
        }
        return found(segment, count: count, at: position)
      case .nothingYet: continue
      }
    }
  }

  private func lookOrWait(
    at position: Int, count: Int, deadline: Deadline
  ) async throws(PatchbayError) -> Look {
    let look = try look(at: position, count: count)
    guard case .nothingYet = look else { return look }
    let want = want(at: position, count: count)
    // What it waited for may be there before the rest that is fetched with it.
    defer { want?.cancel() }
    return try await wait(at: position, deadline: deadline) { [self] () throws(PatchbayError) in
      let look = try self.look(at: position, count: count)
      guard case .nothingYet = look else { return look }
      try want?.check()
      return nil
    }
  }

  // MARK: In sequence

  /// As the blocking `join`.
  func join(
    _ place: SequentialPlace?, at position: Int, deadline: Deadline
  ) async throws(PatchbayError) {
    guard let place, let request = try place.prepare(at: position) else { return }
    try await handle.session.perform(request, deadline: deadline.atLeast(.seconds(1)))
    try place.joined(at: position)
  }

  /// The position that a starting point stands for now; as the blocking `position(of:)`.
  /// - Throws: as the blocking `position(of:)`; `cancelled`.
  public func position(
    of start: StartPoint, deadline: Deadline = .standard
  ) async throws(PatchbayError) -> Int {
    while true {
      switch try look(for: start) {
      case .position(let position): return position
      case .needsExtent(let index): try await attach(index, deadline)
      }
    }
  }

  /// A cursor at a point that moves.
  /// - Throws: as `position(of:)`.
  public func cursor(
    from start: StartPoint, deadline: Deadline = .standard
  ) async throws(PatchbayError) -> SubscriberCursor {
    SubscriberCursor(self, try await position(of: start, deadline: deadline))
  }

  private func attach(_ index: Int, _ deadline: Deadline) async throws(PatchbayError) {
    try await handle.attach(index, deadline: deadline) { [self] () throws(PatchbayError) in
      try checkNotClosed()
    }
  }

  // MARK: Reading

  /// Reads what is there at a position, at most so many bytes and at most 64 MiB, waiting until at
  /// least one byte is.
  /// - Returns: the bytes; nil if and only if the blob is sealed and `position` is at or behind its
  ///   end.
  /// - Throws: as the blocking `read`; `cancelled`.
  public func read(
    upTo byteCount: Int, at position: Int, deadline: Deadline = .never
  ) async throws(PatchbayError) -> [UInt8]? {
    let capacity = min(max(0, byteCount), Self.readLimit)
    guard capacity > 0 else { return [] }
    while true {
      let found = try await find(at: position, count: capacity, deadline: deadline)
      if case .endOfBlob = found { return nil }
      var count: Int?
      let bytes = try [UInt8](capacity: found.count(at: position, limit: capacity)) {
        (output) throws(PatchbayError) in
        count = try take(found, at: position, into: &output)
      }
      if count != nil { return bytes }
    }
  }

  /// Reads a whole range, waiting for these bytes and no others.
  /// - Returns: exactly the bytes of the range.
  /// - Throws: as the blocking `readFully`; `cancelled`.
  public func readFully(
    _ range: Range<Int>, deadline: Deadline = .never
  ) async throws(PatchbayError) -> [UInt8] {
    try checkPosition(range.lowerBound)
    // The caller's number sizes nothing before the bytes are there: the array grows with them.
    var bytes: [UInt8] = []
    while bytes.count < range.count {
      let position = range.lowerBound + bytes.count
      if let byteCount, range.upperBound > byteCount { throw outOfBounds(range) }
      let left = min(range.count - bytes.count, Self.readLimit)
      let found = try await find(at: position, count: left, deadline: deadline)
      if case .endOfBlob = found { throw outOfBounds(range) }
      try bytes.append(addingCapacity: found.count(at: position, limit: left)) {
        (output) throws(PatchbayError) in
        _ = try take(found, at: position, into: &output)
      }
    }
    return bytes
  }

  /// Waits until a range is covered and gives it in place, without a copy; as the blocking `lease`.
  /// - Throws: as the blocking `lease`; `cancelled`.
  public func lease(
    _ range: Range<Int>, deadline: Deadline = .never
  ) async throws(PatchbayError) -> Lease {
    try countLease()
    do throws(PatchbayError) {
      var at = range.lowerBound
      while true {
        let found = try await find(
          at: at, count: max(range.upperBound - at, 1), deadline: deadline)
        switch try takeLease(range, at: at, found) {
        case .lease(let lease): return lease
        case .goOn(let next): at = next
        case .copies:
          let bytes = try await readFully(range, deadline: deadline)
          return Lease(self, range, copy: bytes, start: range.lowerBound)
        }
      }
    } catch {
      leaseEnded()
      throw error
    }
  }

  /// Waits as `waitUntilSealed` does and gives the whole blob as one contiguous range; as the blocking one.
  /// - Throws: as the blocking `withWholeBlob`; `cancelled`.
  public func withWholeBlob<Result>(
    deadline: Deadline = .never, _ body: (Span<UInt8>) throws -> Result
  ) async throws -> Result {
    let byteCount = try await waitUntilSealed(deadline: deadline)
    if isCopiedWhole {
      let bytes = try await readFully(0..<byteCount, deadline: deadline)
      return try body(bytes.span)
    }
    guard let last = lastExtent(byteCount) else {
      return try await lease(0..<byteCount, deadline: deadline).withBytes(body)
    }
    try beginUse()
    defer { endUse() }
    let mapping = try reserve(byteCount)
    let views = HeldViews(handle.session.table)
    defer { views.end() }
    for index in 0...last {
      let attachment = try await handle.attach(index, deadline: deadline)
      guard hold(attachment, views) else {
        let bytes = try await readFully(0..<byteCount, deadline: deadline)
        return try body(bytes.span)
      }
      let answer = try await handle.session.connection.call(
        placeRequest(index), deadline: deadline)
      guard try place(index, in: mapping, answer) else {
        let bytes = try await readFully(0..<byteCount, deadline: deadline)
        return try body(bytes.span)
      }
    }
    return try withBytes(of: mapping, byteCount, body)
  }

  // MARK: Length and seal

  /// Waits until the length is known: at once when it was announced, else until the seal.
  /// - Throws: as `read`.
  public func waitForByteCount(deadline: Deadline = .never) async throws(PatchbayError) -> Int {
    if let byteCount = try lookForByteCount() { return byteCount }
    return try await wait(at: 0, deadline: deadline) { [self] () throws(PatchbayError) in
      try lookForByteCount()
    }
  }

  /// Waits until the blob is sealed; its length. Of a blob that is fetched on demand all is fetched then.
  /// - Throws: as `read`.
  @discardableResult
  public func waitUntilSealed(deadline: Deadline = .never) async throws(PatchbayError) -> Int {
    if let length = try lookForSeal() { return length }
    let want = wantEnd()
    defer { want?.cancel() }
    return try await wait(at: 0, deadline: deadline) { [self] () throws(PatchbayError) in
      if let length = try lookForSeal() { return length }
      try want?.check()
      return nil
    }
  }

  // MARK: To descriptors

  /// Writes the blob to a file descriptor as it comes, until its end; as the blocking `copy`. The
  /// writes are made by threads that do nothing else.
  /// - Throws: as the blocking `copy`; `cancelled`, with everything before written.
  @discardableResult
  public func copy(
    to descriptor: Int32, from position: Int = 0, byteCount: Int? = nil,
    deadline: Deadline = .never, onProgress: (Int) -> Void = { _ in }
  ) async throws(PatchbayError) -> Int {
    let file = TaskFile(descriptor)
    let stop = Self.copyEnd(position, byteCount)
    var at = position
    let place = SequentialPlace(self)
    while at < stop {
      try checkNotCancelled(at)
      let count = min(stop - at, Self.copyPiece)
      try await join(place, at: at, deadline: deadline)
      switch try await find(at: at, count: count, deadline: deadline) {
      case .endOfBlob: return at - position
      case .inline(let bytes):
        let (start, end) = (at, min(bytes.count, stop))
        try await file.write(end - start) { (from, limit) throws(PatchbayError) in
          try Self.writeSome(bytes, start + from, limit, to: descriptor)
        }
        at = end
      case .spooled(let segment, let end):
        let start = at - segment.start
        try await file.write(end - at) { (from, limit) throws(PatchbayError) in
          try Self.writeSome(segment.bytes, start + from, limit, to: descriptor)
        }
        at = end
      case .bytes(let extent, let end):
        at += try await copyOut(extent, at..<end, to: file)
      case .passing(let window, let end):
        // Not from the ring itself: the descriptor may be slow, and the bytes are passing.
        guard let bytes = copyOut(window, at..<min(end, at + Self.step)) else { continue }
        at += bytes.count
        place?.advance(to: at)
        try await file.write(bytes.count) { (from, limit) throws(PatchbayError) in
          try Self.writeSome(bytes, from, limit, to: descriptor)
        }
      case .foreign(let ring, let end):
        guard let bytes = try copyOut(ring, at..<min(end, at + Self.step)) else { continue }
        at += bytes.count
        place?.advance(to: at)
        try await file.write(bytes.count) { (from, limit) throws(PatchbayError) in
          try Self.writeSome(bytes, from, limit, to: descriptor)
        }
      }
      onProgress(at - position)
    }
    return at - position
  }

  /// As the blocking one.
  private func copyOut(
    _ extent: Extent, _ range: Range<Int>, to file: TaskFile
  ) async throws(PatchbayError) -> Int {
    try beginUse()
    defer { endUse() }
    let views = HeldViews(handle.session.table)
    defer { views.end() }
    guard try views.hold(extent) else { return 0 }
    try await file.write(range.count) { (from, limit) throws(PatchbayError) in
      try Self.writeSome(extent, range.lowerBound + from, limit, to: file.descriptor)
    }
    return range.count
  }

  // MARK: Written ranges

  /// The written ranges in order, apart from each other; as the blocking `writtenRanges`.
  /// - Throws: `closed`, `noBroker`, `timedOut`, `cancelled`.
  public func writtenRanges(limit: Int = .max) async throws(PatchbayError) -> [Range<Int>] {
    try checkNotClosed()
    let found: Result<[Range<Int>], PatchbayError>
    do throws(PatchbayError) {
      found = .success(try await handle.writtenRanges(limit: limit))
    } catch {
      found = .failure(error)
    }
    return try looking(found.get)
  }
}

extension Subscriber.Found {
  /// How many bytes were found at a position, at most so many.
  func count(at position: Int, limit: Int) -> Int {
    switch self {
    case .bytes(_, let end), .passing(_, let end), .foreign(_, let end),
      .spooled(_, let end):
      min(end - position, limit)
    case .inline(let bytes): min(bytes.count - position, limit)
    case .endOfBlob: 0
    }
  }
}

extension BlobHandle {
  /// As the blocking `writtenRanges`.
  func writtenRanges(limit: Int) async throws(PatchbayError) -> [Range<Int>] {
    var walk = try WrittenWalk(self, limit: limit)
    while let index = walk.next {
      try walk.take(try await attach(index, deadline: .standard))
    }
    return walk.ranges
  }
}

extension BlobObserver {
  /// The written ranges in order, apart from each other; as the blocking `writtenRanges`.
  /// - Throws: `noBroker`, `timedOut`, `cancelled`.
  public func writtenRanges(limit: Int = .max) async throws(PatchbayError) -> [Range<Int>] {
    try await handle.writtenRanges(limit: limit)
  }
}

extension SubscriberCursor {
  /// Lets a publisher with the policy `backpressure` wait for this cursor from now on; as the
  /// blocking `attach`.
  /// - Throws: as the blocking `attach`; `cancelled`.
  public func attach(deadline: Deadline = .standard) async throws(PatchbayError) {
    try await subscriber.join(place, at: position, deadline: deadline)
  }

  /// Reads at most so many bytes, waiting until at least one is there, and moves behind them. From
  /// the first read on a publisher with the policy `backpressure` waits for this cursor.
  /// - Returns: the bytes; nil at the end of the blob.
  /// - Throws: as `Subscriber.read`; the cursor stays then.
  public mutating func read(
    upTo byteCount: Int, deadline: Deadline = .never
  ) async throws(PatchbayError) -> [UInt8]? {
    try await subscriber.join(place, at: position, deadline: deadline)
    do throws(PatchbayError) {
      let bytes = try await subscriber.read(upTo: byteCount, at: position, deadline: deadline)
      move(by: bytes?.count ?? 0)
      return bytes
    } catch {
      place?.note(error)
      throw error
    }
  }

  /// Moves the cursor; it may stand behind the end. From `.end` it waits until the length is
  /// known: at once when it was announced, else at the seal.
  /// - Returns: the new position.
  /// - Throws: as the blocking `seek`; `cancelled`.
  @discardableResult
  public mutating func seek(
    to origin: SeekOrigin, offset: Int = 0, deadline: Deadline = .never
  ) async throws(PatchbayError) -> Int {
    let end = origin == .end ? try await subscriber.waitForByteCount(deadline: deadline) : 0
    return try move(from: origin, offset, end: end)
  }
}
