// Claims: what keeps the publishers of a joinable blob out of each other's way. The broker gives a
// range to one process at a time; within the process the list of writes in flight does the rest.

import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

/// A range of a joinable blob that no other process can write while this object lives.
///
/// Every write claims its range by itself, at the cost of two questions to the broker, and its claim
/// has ended when it returns; whoever makes many small writes claims the range that they all lie in
/// beforehand. The claim ends with the last reference, when what is being written under it is
/// covered, or with its publisher; the broker hears of it a moment later.
public final class RangeClaim: Sendable {
  /// The claimed range.
  public let range: Range<Int>
  private let session: Session
  private let grant: ClaimGrant
  private let isEnded = Atomic<Bool>(false)

  init(_ session: Session, _ grant: ClaimGrant) {
    range = grant.range
    self.session = session
    self.grant = grant
  }

  // Claims are known by the number of their request, which no other has: a release that comes after
  // the publisher's end releases nothing.
  deinit { if takesEnd() { session.connection.post(releaseRequest) } }

  private var releaseRequest: Request { Self.release(grant) }

  static func release(_ grant: ClaimGrant) -> Request {
    .release(ReleaseRequest(blob: grant.blob, claim: grant.claim))
  }

  /// True once.
  private func takesEnd() -> Bool {
    // relaxed: only its owner ends a claim before its last reference goes.
    !isEnded.exchange(true, ordering: .relaxed)
  }

  /// Ends a claim that one write alone has had, and waits until the broker knows: who is told that
  /// the bytes are there can write beside them, or seal. Of a broker that does not answer the
  /// session's end will tell.
  func end() {
    guard takesEnd() else { return }
    do throws(PatchbayError) {
      try session.perform(releaseRequest, deadline: .standard)
    } catch {
      // It may not have been sent; twice does no harm.
      session.connection.post(releaseRequest)
    }
  }

  /// As the blocking `end`.
  func end() async {
    guard takesEnd() else { return }
    do throws(PatchbayError) {
      try await session.perform(releaseRequest, deadline: .standard)
    } catch {
      session.connection.post(releaseRequest)
    }
  }
}

/// The claims of one publisher that its owner holds, for whatever it writes under them.
final class ClaimList: Sendable {
  private struct Entry {
    weak var claim: RangeClaim?
    let range: Range<Int>
  }

  private let entries = Mutex<[Entry]>([])

  /// A claim that holds the whole range; kept from ending by whoever has it.
  func holding(_ range: Range<Int>) -> RangeClaim? {
    entries.withLock { entries in
      for entry in entries where entry.range.clamped(to: range) == range {
        if let claim = entry.claim { return claim }
      }
      return nil
    }
  }

  func add(_ claim: RangeClaim) {
    entries.withLock { entries in
      entries.removeAll { $0.claim == nil }
      entries.append(Entry(claim: claim, range: claim.range))
    }
  }
}

extension Publisher {
  /// Claims a range of a joinable blob: until the claim ends, no other process writes there. Writes
  /// of this publisher within it need no claim of their own. Blocks for the broker's answer, not for
  /// another's claim to end.
  /// - Throws: `rangeOverlap` when another publisher has claimed a part of it; `resumePosition` is
  ///   where that part begins. `notPermitted` for a blob that only its creator writes.
  ///   `rangeOutOfBounds`, `limitReached`, `closed`, `fenced`, `noBroker`, `timedOut`.
  @available(*, noasync)
  public func claim(
    _ range: Range<Int>, deadline: Deadline = .standard
  ) throws(PatchbayError) -> RangeClaim {
    let delivery = try handle.session.connection.call(
      try claimRequest(range), deadline: deadline)
    return keep(RangeClaim(handle.session, try delivery.claimed))
  }

  /// From now on writes within it need no claim of their own.
  func keep(_ claim: RangeClaim) -> RangeClaim {
    claims.add(claim)
    return claim
  }

  /// A claim for one write alone, which ends it.
  func ownClaim(_ range: Range<Int>) throws(PatchbayError) -> RangeClaim {
    let delivery = try handle.session.connection.call(
      try claimRequest(range), deadline: .standard)
    return RangeClaim(handle.session, try delivery.claimed)
  }

  /// The question for a claim.
  func claimRequest(_ range: Range<Int>) throws(PatchbayError) -> Request {
    guard isShared else {
      throw PatchbayError(
        .notPermitted,
        "The blob \(key) has one publisher, which needs no claims; create it as joinable for more.")
    }
    guard range.lowerBound >= 0 else {
      throw PatchbayError(
        .rangeOutOfBounds,
        "A claim of the blob \(key) at \(range.lowerBound): positions begin at 0.")
    }
    _ = try checkedRange(at: range.lowerBound, range.count)
    return .claim(ClaimRequest(blob: handle.grant.blob, range: range))
  }
}
