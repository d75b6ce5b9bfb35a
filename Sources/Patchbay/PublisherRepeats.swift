// A producer that can only begin at 0 goes on with what another has left: what it appends over covered
// bytes is compared with them and not written. Where they are the same readers notice nothing; the first
// difference fails the blob, since what they have read would be the beginning of something else.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

extension Publisher {
  /// From now on appends begin at 0 again, and repeat what is covered.
  func repeatsFromZero() {
    appending.withLock { state in
      let end = max(state.end, state.repeatedEnd ?? 0)
      state.repeatedEnd = end > 0 ? end : nil
      state.end = 0
    }
  }

  /// Whether appends are compared at the moment.
  var isRepeating: Bool { looksAround && appending.withLock { $0.repeatedEnd != nil } }

  /// Compares bytes that an append repeats; the append has the turn, and gives it back here.
  /// - Throws: `contentDiverged`: the blob has failed.
  func compare(_ bytes: Span<UInt8>, _ range: Range<Int>) throws(PatchbayError) {
    defer { giveTurnBack() }
    let reader = Subscriber(try lookout())
    var at = range.lowerBound
    while at < range.upperBound {
      let part = at..<min(range.upperBound, at + Self.step)
      let found = try reader.readFully(part, deadline: .standard)
      let offset = at - range.lowerBound
      if let wrong = Self.firstDifference(bytes, offset, found) {
        let failure = try beginDiverging(at: at + wrong)
        try handle.session.perform(failure.request, deadline: .standard)
        endFailed()
        throw failure.error
      }
      at = part.upperBound
    }
    noteRepeated(range)
  }

  /// As the blocking `compare`.
  func compare(_ bytes: [UInt8], _ range: Range<Int>) async throws(PatchbayError) {
    defer { giveTurnBack() }
    let reader = Subscriber(try await lookout())
    var at = range.lowerBound
    while at < range.upperBound {
      let part = at..<min(range.upperBound, at + Self.step)
      let found = try await reader.readFully(part, deadline: .standard)
      let offset = at - range.lowerBound
      if let wrong = Self.firstDifference(bytes.span, offset, found) {
        let failure = try beginDiverging(at: at + wrong)
        try await handle.session.perform(failure.request, deadline: .standard)
        endFailed()
        throw failure.error
      }
      at = part.upperBound
    }
    noteRepeated(range)
  }

  /// A tenure is longer, or nobody could keep it.
  private static let renewalInterval = Duration.milliseconds(5)

  private func noteRepeated(_ range: Range<Int>) {
    let now = MonotonicTime.now
    let isDue = appending.withLock { state in
      state.end = range.upperBound
      // A batch has nothing to cover of it.
      if state.batchStart != nil { state.batchStart = range.upperBound }
      if state.end == state.repeatedEnd { state.repeatedEnd = nil }
      guard state.nextRenewal <= now else { return false }
      state.nextRenewal = now.advanced(by: Self.renewalInterval)
      return true
    }
    if isDue { handle.session.connection.post(.renew(handle.grant.blob)) }
  }

  private static func firstDifference(
    _ bytes: Span<UInt8>, _ offset: Int, _ found: [UInt8]
  ) -> Int? {
    found.indices.first { found[$0] != bytes[offset + $0] }
  }

  // MARK: A difference

  /// What fails the blob, and what its producer is told.
  struct Divergence {
    let request: Request
    let error: PatchbayError
  }

  private func beginDiverging(at position: Int) throws(PatchbayError) -> Divergence {
    try beginDiverging(
      "its producer began again from 0, and byte \(position) is another one than before")
  }

  /// - Returns: nil when all that was covered has been repeated.
  func shortfall() throws(PatchbayError) -> Divergence? {
    guard looksAround else { return nil }
    let (end, repeatedEnd) = appending.withLock { ($0.end, $0.repeatedEnd) }
    guard let repeatedEnd else { return nil }
    return try beginDiverging(
      "its producer began again from 0, and ended after \(end) of the \(repeatedEnd) bytes that were "
        + "there before")
  }

  private func beginDiverging(_ cause: String) throws(PatchbayError) -> Divergence {
    Divergence(
      request: try beginFailing(cause, .contentDiverged),
      error: PatchbayError(
        .contentDiverged,
        "The blob \(key) (generation \(generation)) was produced twice with different contents, and has "
          + "failed.", cause: cause))
  }
}
