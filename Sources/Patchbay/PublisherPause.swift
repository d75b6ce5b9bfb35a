// A producer whose blob nobody reads may have to wait until somebody does. The broker says so in the
// blob's entry on the board; a publisher looks there when it begins to write, so nothing is asked while
// somebody reads, and what it has begun it ends. The wait ends with the blob, too, and with the publisher.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes

extension Publisher {
  /// Whether it has to wait before it writes more.
  private var isPaused: Bool {
    guard handle.grant.pausesUnread, let entry = handle.entry, entry.isPaused else { return false }
    let status = entry.status
    return status.state(of: generation) == .open && status.epoch == handle.grant.blob.epoch
  }

  /// Whether the wait is over.
  /// - Throws: `closed` when the publisher ends meanwhile.
  private func mayGoOn() throws(PatchbayError) -> Bool? {
    if let refusal = appending.withLock({ $0.refusal }) { throw refusal }
    return isPaused ? nil : true
  }

  /// Waits while nobody reads, if that is what its blob's creator wanted.
  func waitForReader() throws(PatchbayError) {
    guard isPaused, let bell = handle.spaceBell else { return }
    _ = try bell.wait(
      for: 1, until: .distantFuture, patience: spacePatience,
      onBound: { () throws(PatchbayError) in try handle.session.connection.checkAlive() }
    ) { () throws(PatchbayError) in try mayGoOn() }
  }

  /// As the blocking `waitForReader`.
  func waitForReader() async throws(PatchbayError) {
    guard isPaused, let bell = handle.spaceBell else { return }
    _ = try await handle.session.wait(
      at: bell, for: 1, until: .distantFuture,
      cancelled: {
        PatchbayError(.cancelled, "The task was cancelled while it waited for somebody to read.")
      }
    ) { () throws(PatchbayError) in try self.mayGoOn() }
  }
}
