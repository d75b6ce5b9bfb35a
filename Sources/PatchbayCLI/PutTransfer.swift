// The two ways of `put` to write: in order, straight from the descriptor into lent memory, or block
// by block in a random order. Both stop at a signal.

import Patchbay

/// One input on its way into one blob.
struct PutTransfer: ~Copyable {
  private let publisher: Publisher
  private let source: PutSource
  private var pace: Pace
  var progress: Progress
  private(set) var byteCount = 0

  /// Bytes that become readable together; small enough to stay in the cache for a close reader.
  private static let piece = 256 * 1024

  init(_ publisher: Publisher, _ source: consuming PutSource, rate: Int?, progress: Progress) {
    self.publisher = publisher
    self.source = source
    self.progress = progress
    pace = Pace(rate)
  }

  mutating func appendAll() throws {
    while source.byteCount.map({ byteCount < $0 }) ?? true {
      try Interruption.check()
      let count = try appendPiece()
      guard count > 0 else { break }
      byteCount += count
      progress.update(byteCount, of: source.byteCount)
      try pace.wait(after: byteCount)
    }
    if let announced = source.byteCount, byteCount < announced {
      throw source.shrunk(to: byteCount)
    }
    try source.expectEnd()
  }

  /// Reads the next piece straight into shared memory.
  private borrowing func appendPiece() throws -> Int {
    var loan = try publisher.loan(byteCount: pace.limit(Self.piece))
    let count = try loan.withBytes { (span: inout MutableSpan<UInt8>) throws in
      try unsafe span.withUnsafeMutableBytes { (place) throws in
        try unsafe source.read(into: place)
      }
    }
    loan.commit(byteCount: count)
    return count
  }

  /// Writes the blocks at their positions, in an order that the seed decides.
  mutating func writeShuffled(seed: UInt64, blockByteCount: Int) throws {
    let whole = source.byteCount ?? 0
    var buffer = [UInt8](repeating: 0, count: min(blockByteCount, max(whole, 1)))
    for block in try BlockOrder(whole, blockByteCount, seed: seed).blocks {
      try Interruption.check()
      try source.read(block, into: &buffer)
      try publisher.write(buffer.span.extracting(0..<block.count), at: block.lowerBound)
      byteCount += block.count
      progress.update(byteCount, of: whole)
      try pace.wait(after: byteCount)
    }
    try source.expectSize(whole)
  }
}
