// Many small records, readable together: the end of the blob is lent to one batch, so an append is a
// comparison and a copy, with no lock and nothing shared touched in between.

import PatchbayRing
import PatchbayTypes

/// The end of a blob, while one caller appends many pieces to it.
///
/// What is appended becomes readable when the batch ends, or when the place it has is full: a segment
/// of a blob that keeps its last bytes only, else an extent or 64 KiB.
@safe public struct Batch: ~Copyable {
  private let publisher: Publisher
  private var lent: Publisher.LentPlace?
  /// Where the next byte goes, and how many have room there.
  @unsafe private var next: UnsafeMutableRawPointer?
  private var room = 0

  init(_ publisher: Publisher) {
    self.publisher = publisher
    unsafe next = nil
  }

  deinit { if let lent { publisher.endLoan(lent, committed: lent.range.count - room) } }

  /// Bytes that are lent at once where the place does not end before.
  private static let stretch = 64 * 1024

  /// The position of the next byte.
  public var position: Int {
    lent.map { $0.range.upperBound - room } ?? publisher.position
  }

  /// Adds bytes at the end. Blocks as `Publisher.append` does, once the place is full.
  /// - Throws: as `Publisher.append`; what was appended before stays.
  @available(*, noasync)
  public mutating func append(_ bytes: Span<UInt8>) throws(PatchbayError) {
    guard bytes.count > room else { return copy(bytes) }
    try appendInPieces(bytes)
  }

  @inline(never)
  private mutating func appendInPieces(_ bytes: Span<UInt8>) throws(PatchbayError) {
    var done = 0
    while done < bytes.count {
      if room == 0 {
        flush()
        take(try publisher.lend(max(bytes.count - done, Self.stretch)))
      }
      let count = min(room, bytes.count - done)
      copy(bytes.extracting(done..<done + count))
      done += count
    }
  }

  /// Adds an array at the end; as the other `append`.
  /// - Throws: as the other `append`.
  @available(*, noasync)
  public mutating func append(_ bytes: [UInt8]) throws(PatchbayError) { try append(bytes.span) }

  /// As the blocking `append`.
  /// - Throws: as the blocking `append`; `cancelled`, when it had to wait.
  public mutating func append(_ bytes: [UInt8]) async throws(PatchbayError) {
    guard bytes.count > room else { return copy(bytes.span) }
    var done = 0
    while done < bytes.count {
      if room == 0 {
        flush()
        take(try await publisher.lend(max(bytes.count - done, Self.stretch)))
      }
      let count = min(room, bytes.count - done)
      copy(bytes.span.extracting(done..<done + count))
      done += count
    }
  }

  /// Says that a record begins at the next byte, as `Publisher.mark`.
  /// - Returns: the position that was marked.
  /// - Throws: as `Publisher.mark`.
  @discardableResult
  public func mark() throws(PatchbayError) -> Int { try publisher.mark(at: position) }

  /// Makes what was appended so far readable, and lets others append until the next `append`.
  public mutating func flush() {
    guard let full = lent else { return }
    publisher.endLoan(full, committed: full.range.count - room)
    (lent, room) = (nil, 0)
  }

  private mutating func take(_ place: Publisher.LentPlace) {
    lent = place
    room = place.range.count
    unsafe next = place.ring.writableBytes(place.range).baseAddress
  }

  @inline(__always)
  private mutating func copy(_ bytes: Span<UInt8>) {
    guard let place = unsafe next, bytes.count > 0 else { return }
    unsafe bytes.withUnsafeBytes {
      unsafe UnsafeMutableRawBufferPointer(start: place, count: $0.count).copyMemory(from: $0)
    }
    unsafe next = place + bytes.count
    room -= bytes.count
  }
}

extension Publisher {
  // Disfavoured: async code whose body happens not to wait must not resolve to the blocking one.

  /// Lends the end of the blob for many appends, which become readable together, with one wake-up: at
  /// its end, or where the place it has is full, as `Batch` says. Other appends are refused meanwhile,
  /// as during a loan. Also when `body` throws: what it appended stays appended.
  /// - Throws: what `body` throws.
  @_disfavoredOverload
  @available(*, noasync)
  public func withBatch<Result>(_ body: (inout Batch) throws -> Result) throws -> Result {
    var batch = Batch(self)
    return try body(&batch)
  }

  /// As the blocking `withBatch`.
  /// - Throws: what `body` throws.
  public func withBatch<Result>(
    _ body: (inout Batch) async throws -> Result
  ) async throws -> Result {
    var batch = Batch(self)
    return try await body(&batch)
  }
}
