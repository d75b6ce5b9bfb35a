// Saying where records begin, for readers that come late or have lost their place.

import PatchbayTypes

extension Publisher {
  /// Says that a record begins at the end: a reader that starts at the live end, or goes on after an
  /// overrun, begins here or at a later mark. The last 128 marks are kept. Never waits.
  /// - Returns: the position that was marked.
  /// - Throws: `rangeOutOfBounds` for a blob that is not appended to only; `closed`.
  @discardableResult
  public func mark() throws(PatchbayError) -> Int { try mark(at: nil) }

  /// - Parameter position: where the record begins; nil: at the end.
  func mark(at position: Int?) throws(PatchbayError) -> Int {
    guard handle.grant.order == .appendOnly else {
      throw PatchbayError(
        .rangeOutOfBounds,
        "The blob \(key) was created for writes at any position, where no record follows another. "
          + "Create it with the order .appendOnly to mark where records begin.")
    }
    return try appending.withLock { (state) throws(PatchbayError) in
      if let refusal = state.refusal { throw refusal }
      let position = position ?? state.end
      (windowWriter?.window.marks ?? handle.mappedExtents(in: 0..<1).first?.marks)?.add(position)
      return position
    }
  }
}
