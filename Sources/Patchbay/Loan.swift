// A place in shared memory, lent to be filled: the copy-free way to append.

import PatchbayRing
import PatchbayTypes

/// Bytes at the end of a blob that only the holder may write, until it commits or drops them.
///
/// Dropped without a commit, the loan is abandoned: nothing was appended.
@safe public struct Loan: ~Copyable {
  private let publisher: Publisher
  let place: Publisher.LentPlace
  private var committed = 0

  init(_ publisher: Publisher, _ place: Publisher.LentPlace) {
    self.publisher = publisher
    self.place = place
  }

  deinit { publisher.endLoan(place, committed: committed) }

  private var range: Range<Int> { place.range }

  /// The position in the blob of the first lent byte.
  public var position: Int { range.lowerBound }
  /// How many bytes are lent.
  public var byteCount: Int { range.count }

  /// Gives the place to write into. What it holds at first is unspecified.
  public mutating func withBytes<Result, Failure>(
    _ body: (inout MutableSpan<UInt8>) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    let place = unsafe place.ring.writableBytes(range).bindMemory(to: UInt8.self)
    var span = unsafe place.mutableSpan
    return try body(&span)
  }

  /// Appends the first bytes of the loan; they are readable on return. The rest go back.
  /// - Parameter byteCount: 0 to the loan's own; anything else is a mistake of the program and traps.
  public consuming func commit(byteCount: Int) {
    precondition(
      (0...range.count).contains(byteCount),
      "a loan of \(range.count) bytes cannot commit \(byteCount)")
    committed = byteCount
  }
}
