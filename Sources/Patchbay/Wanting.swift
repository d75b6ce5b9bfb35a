// A reader of a blob that is fetched on demand says what it waits for. The answer comes when that is there,
// or cannot be had; the bytes themselves it finds as every reader does, often before.

import PatchbayRing
import PatchbayTypes
import PatchbayWire
import Synchronization

/// One demand of one reader: its failure, if that is what the answer was.
final class Want: Sendable {
  private let failure = Mutex<PatchbayError?>(nil)
  private let task = Mutex<Task<Void, Never>?>(nil)

  /// Asks without waiting. Nil: nobody fetches this blob on demand, or it has ended.
  init?(_ handle: BlobHandle, _ range: Range<Int>) {
    guard handle.grant.demandPiece != nil, [.open, .suspended].contains(handle.state),
      let bell = handle.bell
    else { return nil }
    let connection = handle.session.connection
    let request = Request.demand(DemandRequest(generation: handle.generation, range: range))
    let asking = Task.detached { [weak self] in
      do throws(PatchbayError) {
        _ = try await connection.call(request, deadline: .never)
      } catch {
        self?.fail(error)
        // Whoever waits looks again.
        bell.ringAll()
      }
    }
    task.withLock { $0 = asking }
  }

  private func fail(_ error: PatchbayError) { failure.withLock { $0 = error } }

  /// - Throws: why what was wanted cannot be had.
  func check() throws(PatchbayError) {
    if let failure = failure.withLock({ $0 }) { throw failure }
  }

  /// Whoever wanted it has it, or has given up.
  func cancel() { task.withLock { $0?.cancel() } }
}

extension Subscriber {
  /// What a reader wants that waits at a position: no more than there is, and at most so many bytes; at the
  /// end the end, which comes when all is there.
  func want(at position: Int, count: Int) -> Want? {
    guard handle.grant.demandPiece != nil, let end = byteCount, position <= end else { return nil }
    return Want(handle, position..<position + min(count, end - position))
  }

  /// What a reader wants that waits for the end: all that is not there.
  func wantEnd() -> Want? { byteCount.flatMap { want(at: $0, count: 0) } }
}
