// A task's wait at a doorbell: looked after by the threads of `BellWaiters`, ended by what it waits
// for, by its moment, by its task's cancellation, or by the end of its connection.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes

private final class TaskWait<Found: Sendable>: BellWait {
  let bell: Doorbell
  let bits: UInt32
  let until: MonotonicTime
  /// Nil: the moment came first.
  let awaited = Awaited<Found?>()
  private let session: Session
  private let find: @Sendable () throws(PatchbayError) -> Found?

  init(
    _ session: Session, _ bell: Doorbell, for bits: UInt32, until: MonotonicTime,
    _ find: @escaping @Sendable () throws(PatchbayError) -> Found?
  ) {
    self.session = session
    self.bell = bell
    self.bits = bits
    self.until = until
    self.find = find
  }

  var company: ObjectIdentifier { ObjectIdentifier(session) }

  func look() -> BellLook {
    guard !awaited.isOver else { return .over }
    do throws(PatchbayError) {
      guard let found = try find() else { return .nothing }
      awaited.finish(.success(found))
    } catch {
      awaited.finish(.failure(error))
    }
    return .found
  }

  func timeOut() { awaited.finish(.success(nil)) }
  func checkPeer() throws(PatchbayError) { try session.connection.checkAlive() }
  func fail(_ error: PatchbayError) { awaited.finish(.failure(error)) }
}

extension Session {
  /// Waits at a bell until `look` returns something, at most until a moment, without holding a
  /// thread.
  /// - Parameters:
  ///   - cancelled: what is thrown when the task is cancelled.
  ///   - look: asks the truth; called on a thread that serves many, so it must not wait.
  /// - Returns: what `look` returned, nil when the moment came first.
  func wait<Found: Sendable>(
    at bell: Doorbell, for bits: UInt32, until: MonotonicTime,
    cancelled: @Sendable () -> PatchbayError,
    _ look: @escaping @Sendable () throws(PatchbayError) -> Found?
  ) async throws(PatchbayError) -> Found? {
    guard !Task.isCancelled else { throw cancelled() }
    guard MonotonicTime.now < until else { return nil }
    let wait = TaskWait(self, bell, for: bits, until: until, look)
    try BellWaiters.shared.add(wait)
    return try await wait.awaited.outcome {
      if wait.awaited.finish(.failure(cancelled())) { BellWaiters.shared.ended(wait) }
    }.get()
  }
}
