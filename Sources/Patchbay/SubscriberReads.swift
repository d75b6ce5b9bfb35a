// Reading at a position: some bytes, all bytes of a range, or only what is there now.

import Glibc
import PatchbayRing
import PatchbaySystem
import PatchbayTypes

/// What a read that does not wait has found.
public enum ReadOutcome: Sendable, Hashable {
  /// So many bytes were read, at least one unless none was asked for.
  case read(Int)
  /// Nothing is there yet.
  case wouldBlock
  /// The blob is sealed and the position is at or behind its end.
  case endOfBlob
}

extension Subscriber {
  /// Reads what is there at a position, waiting until at least one byte is.
  /// - Parameters:
  ///   - output: takes at most its free capacity.
  ///   - position: of the first byte wanted.
  ///   - deadline: when to give up waiting.
  /// - Returns: how many bytes were added, at least 1 unless there was no room; nil if and only if
  ///   the blob is sealed and `position` is at or behind its end.
  /// - Throws: `timedOut`; `blobFailed` or `abandoned` (with the cause) for bytes that will never
  ///   come; `closed`, `noBroker`, `rangeOutOfBounds` for a negative position.
  @available(*, noasync)
  public func read(
    into output: inout OutputSpan<UInt8>, at position: Int, deadline: Deadline = .never
  ) throws(PatchbayError) -> Int? {
    guard output.freeCapacity > 0 else { return 0 }
    while true {
      let found = try find(at: position, count: output.freeCapacity, deadline: deadline)
      guard let count = try take(found, at: position, into: &output) else { continue }
      return count < 0 ? nil : count
    }
  }

  /// Reads at most so many bytes at a position, and at most 64 MiB; as the other `read`.
  /// - Returns: the bytes; nil at the end of the blob.
  /// - Throws: as the other `read`.
  @available(*, noasync)
  public func read(
    upTo byteCount: Int, at position: Int, deadline: Deadline = .never
  ) throws(PatchbayError) -> [UInt8]? {
    var atEnd = false
    let capacity = min(max(0, byteCount), Self.readLimit)
    let bytes = try [UInt8](capacity: capacity) { (output) throws(PatchbayError) in
      atEnd = try read(into: &output, at: position, deadline: deadline) == nil
    }
    return atEnd ? nil : bytes
  }

  /// The most bytes of one array that a partial read makes.
  static let readLimit = 64 << 20

  /// Reads what is there at a position and never waits for bytes. Asks the broker when they are the
  /// first from an extent; `timedOut` when that takes it over a second.
  /// - Throws: as `read`.
  @available(*, noasync)
  public func tryRead(
    into output: inout OutputSpan<UInt8>, at position: Int
  ) throws(PatchbayError) -> ReadOutcome {
    guard output.freeCapacity > 0 else { return .read(0) }
    try checkPosition(position)
    while true {
      // The deadline is over at once: the broker is asked where an extent is, and that is all.
      guard
        let found = try look(at: position, count: output.freeCapacity, deadline: .after(.zero))
      else { return .wouldBlock }
      guard let count = try take(found, at: position, into: &output) else { continue }
      return count < 0 ? .endOfBlob : .read(count)
    }
  }

  /// Reads a whole range, waiting for these bytes and no others.
  /// - Returns: exactly the bytes of the range.
  /// - Throws: `rangeOutOfBounds` when the blob ends inside the range; else as `read`.
  @available(*, noasync)
  public func readFully(
    _ range: Range<Int>, deadline: Deadline = .never
  ) throws(PatchbayError) -> [UInt8] {
    try checkPosition(range.lowerBound)
    // The caller's number sizes nothing before the bytes are there: the array grows with them.
    var bytes: [UInt8] = []
    while bytes.count < range.count {
      let position = range.lowerBound + bytes.count
      if let byteCount, range.upperBound > byteCount { throw outOfBounds(range) }
      var isEnd = false
      try bytes.append(addingCapacity: min(range.count - bytes.count, Self.readLimit)) {
        (output) throws(PatchbayError) in
        isEnd = try read(into: &output, at: position, deadline: deadline) == nil
      }
      if isEnd { throw outOfBounds(range) }
    }
    return bytes
  }

  func outOfBounds(_ range: Range<Int>) -> PatchbayError {
    PatchbayError(
      .rangeOutOfBounds,
      "The range \(range.lowerBound)..<\(range.upperBound) was asked for, but the blob \(key) "
        + "has \(byteCount ?? 0) bytes.")
  }

  /// Copies what was found; nil when the ring was taken meanwhile and the copy forgotten, -1 at the
  /// end of the blob.
  func take(
    _ found: Found, at position: Int, into output: inout OutputSpan<UInt8>
  ) throws(PatchbayError) -> Int? {
    switch found {
    case .endOfBlob: return -1
    case .inline(let bytes):
      let end = min(bytes.count, position + output.freeCapacity)
      for index in position..<end { output.append(bytes[index]) }
      return end - position
    case .spooled(let segment, let end):
      let count = end - position
      return unsafe segment.bytes.withUnsafeBytes { source in
        unsafe output.withUnsafeMutableBufferPointer { place, filled in
          guard let target = place.baseAddress, let from = source.baseAddress else { return nil }
          unsafe memcpy(target + filled, from + (position - segment.start), count)
          filled += count
          return count
        }
      }
    case .bytes(let extent, let end):
      let count = end - position
      return unsafe output.withUnsafeMutableBufferPointer { place, filled in
        let source = unsafe extent.bytes(position..<end)
        guard let target = place.baseAddress, let from = source.baseAddress else {
          return nil
        }
        unsafe memcpy(target + filled, from, count)
        guard extent.isStillCurrent, isHolding else { return nil }
        filled += count
        return count
      }
    case .passing(let window, let end): return takePassing(window, position..<end, into: &output)
    case .foreign(let ring, let end): return try takeForeign(ring, position..<end, into: &output)
    }
  }

  /// Copies bytes of another user's ring, as many as stand in a row; nil when they went meanwhile.
  private func takeForeign(
    _ ring: ForeignRing, _ range: Range<Int>, into output: inout OutputSpan<UInt8>
  ) throws(PatchbayError) -> Int? {
    let count = try unsafe output.withUnsafeMutableBufferPointer {
      (place, filled) throws(PatchbayError) -> Int in
      let free = unsafe UnsafeMutableBufferPointer(rebasing: place[filled...])
      let target = UnsafeMutableRawBufferPointer(free)
      let count = try looking { () throws(PatchbayError) in
        try unsafe ring.copy(range, into: target)
      }
      filled += count
      return count
    }
    return count > 0 ? count : nil
  }

  /// Copies bytes of a window, up to where its ring ends; nil when they went meanwhile.
  private func takePassing(
    _ window: Window, _ range: Range<Int>, into output: inout OutputSpan<UInt8>
  ) -> Int? {
    unsafe output.withUnsafeMutableBufferPointer { place, filled in
      let source = unsafe window.bytes(from: range.lowerBound, limit: range.upperBound)
      guard let target = place.baseAddress, let from = source.baseAddress else { return nil }
      unsafe memcpy(target + filled, from, source.count)
      guard window.wasThere(range.lowerBound), isHolding else { return nil }
      filled += source.count
      return source.count
    }
  }

  // MARK: To descriptors

  /// Writes the blob to a file descriptor as it comes, until its end. Blocks as both do.
  /// - Parameters:
  ///   - descriptor: is written to; it may block or not.
  ///   - position: where to start; covered bytes before it are passed over.
  ///   - byteCount: ends after so many bytes; nil: at the end of the blob.
  ///   - deadline: when to give up waiting for bytes.
  ///   - onProgress: called after each piece with the bytes written so far.
  /// - Returns: how many bytes were written.
  /// - Throws: `inputOutput` for the descriptor; `limitReached` when this client holds as many leases as
  ///   it can; else as `read`, with everything before written.
  @available(*, noasync)
  @discardableResult
  public func copy(
    to descriptor: Int32, from position: Int = 0, byteCount: Int? = nil,
    deadline: Deadline = .never, onProgress: (Int) -> Void = { _ in }
  ) throws(PatchbayError) -> Int {
    let stop = Self.copyEnd(position, byteCount)
    var at = position
    let place = SequentialPlace(self)
    while at < stop {
      let count = min(stop - at, Self.copyPiece)
      try join(place, at: at, deadline: deadline)
      switch try find(at: at, count: count, deadline: deadline) {
      case .endOfBlob: return at - position
      case .inline(let bytes):
        let end = min(bytes.count, stop)
        try Self.writeAll(end - at, to: descriptor) { (from, limit) throws(PatchbayError) in
          try Self.writeSome(bytes, at + from, limit, to: descriptor)
        }
        at = end
      case .spooled(let segment, let end):
        let start = at - segment.start
        try Self.writeAll(end - at, to: descriptor) { (from, limit) throws(PatchbayError) in
          try Self.writeSome(segment.bytes, start + from, limit, to: descriptor)
        }
        at = end
      case .bytes(let extent, let end):
        at += try copyOut(extent, at..<end, to: descriptor)
      case .passing(let window, let end):
        // Not from the ring itself: the descriptor may be slow, and the bytes are passing.
        guard let bytes = copyOut(window, at..<min(end, at + Self.step)) else { continue }
        at += bytes.count
        place?.advance(to: at)
        try Self.writeAll(bytes.count, to: descriptor) { (from, limit) throws(PatchbayError) in
          try Self.writeSome(bytes, from, limit, to: descriptor)
        }
      case .foreign(let ring, let end):
        guard let bytes = try copyOut(ring, at..<min(end, at + Self.step)) else { continue }
        at += bytes.count
        place?.advance(to: at)
        try Self.writeAll(bytes.count, to: descriptor) { (from, limit) throws(PatchbayError) in
          try Self.writeSome(bytes, from, limit, to: descriptor)
        }
      }
      onProgress(at - position)
    }
    return at - position
  }

  /// The position before which a copy ends.
  static func copyEnd(_ position: Int, _ byteCount: Int?) -> Int {
    let (end, overflow) = position.addingReportingOverflow(max(0, byteCount ?? .max))
    return overflow ? .max : end
  }

  static let copyPiece = 1024 * 1024
  /// Bytes of a window that are copied at once.
  static let step = 256 * 1024

  /// A copy of bytes of a window; nil when they went meanwhile.
  func copyOut(_ window: Window, _ range: Range<Int>) -> [UInt8]? {
    guard let bytes = window.copyOut(range), isHolding else { return nil }
    return bytes
  }

  /// The same of a ring of another user.
  func copyOut(_ ring: ForeignRing, _ range: Range<Int>) throws(PatchbayError) -> [UInt8]? {
    try looking { () throws(PatchbayError) in try ring.copyOut(range) }
  }

  /// Writes covered bytes in place; 0 when the ring is another blob's already.
  private func copyOut(
    _ extent: Extent, _ range: Range<Int>, to descriptor: Int32
  ) throws(PatchbayError) -> Int {
    try beginUse()
    defer { endUse() }
    let views = HeldViews(handle.session.table)
    defer { views.end() }
    guard try views.hold(extent) else { return 0 }
    try Self.writeAll(range.count, to: descriptor) { (from, limit) throws(PatchbayError) in
      try Self.writeSome(extent, range.lowerBound + from, limit, to: descriptor)
    }
    return range.count
  }

  private static func writeAll(
    _ count: Int, to descriptor: Int32, _ put: (Int, Int) throws(PatchbayError) -> Int
  ) throws(PatchbayError) {
    var done = 0
    while done < count {
      let written = try put(done, count - done)
      if written == 0 { try waitWritable(descriptor) }
      done += written
    }
  }

  /// One write of covered bytes; how many were taken, 0 when the descriptor takes none now.
  static func writeSome(
    _ extent: Extent, _ position: Int, _ count: Int, to descriptor: Int32
  ) throws(PatchbayError) -> Int {
    try unsafe write(extent.bytes(position..<position + count), to: descriptor)
  }

  /// The same from an array.
  static func writeSome(
    _ bytes: [UInt8], _ index: Int, _ count: Int, to descriptor: Int32
  ) throws(PatchbayError) -> Int {
    try unsafe bytes.span.extracting(index..<index + count).withUnsafeBytes {
      (raw) throws(PatchbayError) in try unsafe write(raw, to: descriptor)
    }
  }

  private static func write(
    _ bytes: UnsafeRawBufferPointer, to descriptor: Int32
  ) throws(PatchbayError) -> Int {
    while true {
      let put = unsafe Glibc.write(descriptor, bytes.baseAddress, bytes.count)
      if put >= 0 { return put }
      if errno == EAGAIN { return 0 }
      guard errno == EINTR else {
        // The caller's descriptor, not the broker's memory: a full disk here is no `noSpaceMemory`.
        throw PatchbayError(
          .inputOutput,
          "Writing \(bytes.count) bytes of a blob failed: \(systemReason(errno)).",
          systemErrno: errno)
      }
    }
  }
}
