// The calls of blobs that several processes write, for tasks. Each asks what the blocking one asks
// and makes of the answer what that makes of it.

import PatchbayTypes
import PatchbayWire

extension PatchbayClient {
  /// Creates a blob that no process owns; as the blocking `create`.
  /// - Throws: as the blocking `create`; `cancelled`.
  @discardableResult
  public func create(
    _ key: BlobKey, _ options: BlobOptions = BlobOptions(), deadline: Deadline = .standard
  ) async throws(PatchbayError) -> Generation {
    try await session.connection.call(ownerlessRequest(key, options), deadline: deadline)
      .created.blob.generation
  }

  /// Becomes one more publisher of a joinable blob; as the blocking `join`.
  /// - Throws: as the blocking `join`; `cancelled`.
  public func join(
    _ key: BlobKey, generation: Generation? = nil, deadline: Deadline = .standard
  ) async throws(PatchbayError) -> Publisher {
    let delivery = try await session.connection.call(
      .join(JoinRequest(key: key, generation: generation)), deadline: deadline)
    let grant = try delivery.joined
    do throws(PatchbayError) {
      let handle = try await BlobHandle.made(
        session, key: key, grant: grant, delivery, isWritable: true, deadline: deadline)
      return Publisher(handle, Self.joined)
    } catch {
      session.connection.post(.leave(grant.blob))
      throw error
    }
  }
}

extension Publisher {
  /// Claims a range of a joinable blob; as the blocking `claim`.
  /// - Throws: as the blocking `claim`; `cancelled`.
  public func claim(
    _ range: Range<Int>, deadline: Deadline = .standard
  ) async throws(PatchbayError) -> RangeClaim {
    let delivery = try await handle.session.connection.call(
      try claimRequest(range), deadline: deadline)
    return keep(RangeClaim(handle.session, try delivery.claimed))
  }

  /// As the blocking `ownClaim`.
  func ownClaim(_ range: Range<Int>) async throws(PatchbayError) -> RangeClaim {
    let delivery = try await handle.session.connection.call(
      try claimRequest(range), deadline: .standard)
    return RangeClaim(handle.session, try delivery.claimed)
  }

  /// Goes from a joinable blob without ending it; as the blocking `leave`.
  /// - Throws: as the blocking `leave`; `cancelled`: then the broker may have been told or not, and
  ///   nothing can be written.
  public func leave(deadline: Deadline = .standard) async throws(PatchbayError) {
    let seal = try beginSealing()
    do throws(PatchbayError) {
      try await stopAppending(deadline: deadline)
      try await inFlight.close(Self.sealing, deadline: deadline)
      try await handle.session.perform(seal.leaveRequest(of: self), deadline: deadline)
    } catch {
      sealRefused(seal, error)
      throw error
    }
    endQuiescent()
  }

  /// The ranges nobody has written yet; as the blocking `missing`.
  /// - Throws: as the blocking `missing`; `cancelled`.
  public func missing(
    inPiecesOf size: Int? = nil
  ) async throws(PatchbayError) -> [Range<Int>] {
    guard looksAround || handle.isLimited else { return cut(try checked(ownMissing), size) }
    return cut(gaps(in: try checked(try await lookout().writtenRanges(limit: .max))), size)
  }

  /// The written parts of a range; as the blocking `writtenRanges`.
  /// - Throws: as the blocking `writtenRanges`; `cancelled`.
  public func writtenRanges(in range: Range<Int>) async throws(PatchbayError) -> [Range<Int>] {
    let written =
      if let windowRange { [windowRange] } else {
        try await lookout().writtenRanges(limit: .max)
      }
    return try checked(written).map { $0.clamped(to: range) }.filter { !$0.isEmpty }
  }

  /// As the blocking `writtenEnd`.
  func writtenEnd() async throws(PatchbayError) -> Int? {
    guard needsWrittenEnd else { return nil }
    return wholeEnd(try await lookout().writtenRanges(limit: .max))
  }
}
