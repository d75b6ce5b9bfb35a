// The two ways of `put` to write: in order, straight from the descriptor into lent memory, or block
// by block in a random order. Both stop at a signal. What is passed on besides is copied once more.

import Glibc
import Patchbay

/// One input on its way into one blob.
struct PutTransfer: ~Copyable {
  private let publisher: Publisher
  private let source: PutSource
  private var pace: Pace
  private var passedOn: PassedOn?
  private let marksLines: Bool
  var progress: Progress
  private(set) var byteCount = 0

  /// Bytes that become readable together; small enough to stay in the cache for a close reader.
  private static let piece = 256 * 1024

  init(
    _ publisher: Publisher, _ source: consuming PutSource, rate: Int?, passesOn: Bool,
    marksLines: Bool, progress: Progress
  ) {
    self.marksLines = marksLines
    passedOn = passesOn ? PassedOn() : nil
    self.publisher = publisher
    self.source = source
    self.progress = progress
    pace = Pace(rate)
  }

  mutating func appendAll() throws {
    if marksLines { try publisher.mark() }
    while source.byteCount.map({ byteCount < $0 }) ?? true {
      try Interruption.check()
      let count = try appendPiece()
      guard count > 0 else { break }
      byteCount += count
      progress.update(byteCount, of: source.byteCount)
      try pace.wait(after: byteCount)
    }
    if let announced = source.byteCount, byteCount < announced {
      // How its maker ended says more than that something is missing.
      try source.expectSuccess(for: publisher.key)
      throw source.shrunk(to: byteCount)
    }
    try source.expectEnd()
    try source.expectSuccess(for: publisher.key)
  }

  /// Nothing of the input is wanted any more.
  borrowing func stop() { source.stop() }

  private mutating func appendPiece() throws -> Int {
    passedOn == nil && !marksLines ? try appendLent() : try appendCopied()
  }

  /// Reads the next piece into memory of our own, publishes it, and passes it on if that is asked
  /// for.
  private mutating func appendCopied() throws -> Int {
    let limit = min(pace.limit(Self.piece), source.byteCount.map { $0 - byteCount } ?? .max)
    var count = 0
    let piece = try unsafe [UInt8](unsafeUninitializedCapacity: limit) { place, filled in
      count = try unsafe source.read(into: UnsafeMutableRawBufferPointer(place))
      filled = count
    }
    if marksLines, let newline = piece.lastIndex(of: UInt8(ascii: "\n")) {
      try publisher.append(piece.span.extracting(0...newline))
      try publisher.mark()
      try publisher.append(piece.span.extracting(newline + 1..<piece.count))
    } else {
      try publisher.append(piece)
    }
    try passedOn?.write(piece)
    return count
  }

  /// Reads the next piece straight into shared memory.
  private borrowing func appendLent() throws -> Int {
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

/// What `put --tee` passes on: the same bytes, to standard output, as long as somebody reads there.
struct PassedOn {
  private var hasReader = true
  private let isPipe: Bool

  /// A pipe that takes anything at all takes so much at once.
  private static let pipeByteCount = 4096

  init() {
    var facts = stat()
    isPipe = unsafe fstat(STDOUT_FILENO, &facts) == 0 && facts.st_mode & S_IFMT == S_IFIFO
  }

  /// Writes everything, waiting for the reader but not beyond a signal. That the reader has gone is
  /// no failure: the blob has readers of its own.
  /// - Throws: `inputOutput`, `Interrupted`.
  mutating func write(_ bytes: [UInt8]) throws {
    var rest = bytes[...]
    while hasReader, !rest.isEmpty {
      try Interruption.waitWritable(STDOUT_FILENO)
      let limit = isPipe ? Self.pipeByteCount : rest.count
      let count = unsafe rest.withUnsafeBytes {
        unsafe Glibc.write(STDOUT_FILENO, $0.baseAddress, min($0.count, limit))
      }
      if count >= 0 {
        rest = rest.dropFirst(count)
      } else if errno == EPIPE {
        hasReader = false
      } else if errno != EINTR && errno != EAGAIN {
        throw PatchbayError.system("Writing to standard output", errno: errno)
          .ofOutput("standard output")
      }
    }
  }
}
