// The oracle for tests that move many bytes: as fast as memory, in a debug build too. A blob's bytes
// repeat after a prime number of them, so no two places that are a power of two apart look alike: a
// byte that stands at another extent's place, in another segment or in another life is found.

import Glibc

/// The content of one generation, made once.
package struct PeriodicOracle: Sendable {
  /// A prime: no multiple of it is a distance at which storage is cut or reused.
  package static let period = 65_521
  /// The most bytes of one piece.
  package static let longest = 1 << 20

  private let table: [UInt8]

  package init(_ generation: UInt64) {
    let once = oracleBytes(generation, 0..<Self.period)
    var table: [UInt8] = []
    table.reserveCapacity(Self.period + Self.longest)
    while table.count < Self.period + Self.longest { table += once }
    self.table = table
  }

  /// The bytes of a range of at most `longest` positions.
  package func bytes(_ range: Range<Int>) -> [UInt8] {
    let start = range.lowerBound % Self.period
    return Array(table[start..<start + range.count])
  }

  /// The position of the first byte that differs, nil when all are right.
  package func firstWrong(_ bytes: Span<UInt8>, at position: Int) -> Int? {
    var done = 0
    while done < bytes.count {
      let piece = bytes.extracting(done..<min(bytes.count, done + Self.longest))
      if let wrong = firstWrong(piece: piece, at: position + done) { return wrong }
      done += piece.count
    }
    return nil
  }

  private func firstWrong(piece: Span<UInt8>, at position: Int) -> Int? {
    let start = position % Self.period
    let isRight = unsafe piece.withUnsafeBufferPointer { read in
      unsafe table.withUnsafeBufferPointer { right in
        guard let read = read.baseAddress, let right = right.baseAddress else { return true }
        return unsafe memcmp(read, right + start, piece.count) == 0
      }
    }
    guard !isRight else { return nil }
    return piece.indices.first { piece[$0] != table[start + $0] }.map { position + $0 }
  }
}
