// Opening a blob or creating it, in one question: of all callers in all processes one creates it, and gets
// its publisher and a reader of it; the others get readers of the same life of the key.

import PatchbayTypes
import PatchbayWire

/// What `openOrCreate` found or made.
public enum OpenedBlob: Sendable {
  /// The key had a blob; somebody else writes it, or has written it.
  case existing(Subscriber)
  /// This caller, alone among all processes, created it and has to write it.
  case created(Publisher, Subscriber)
}

extension PatchbayClient {
  /// Opens the blob with this key, or creates it: of all callers in all processes exactly one
  /// creates it, and the others get its readers. A blob that has failed counts as none. Blocks for
  /// the broker's answer, never for data.
  /// - Throws: `noSpaceMemory`, `limitReached`, `noBroker`, `timedOut`.
  @available(*, noasync)
  public func openOrCreate(
    _ key: BlobKey, _ options: BlobOptions = BlobOptions(), deadline: Deadline = .standard
  ) throws(PatchbayError) -> OpenedBlob {
    try openOrCreate(openOrCreateRequest(key, options), options, deadline)
  }

  /// Opens the blob with this key, or creates it; as the blocking `openOrCreate`.
  /// - Throws: as the blocking `openOrCreate`; `cancelled`.
  public func openOrCreate(
    _ key: BlobKey, _ options: BlobOptions = BlobOptions(), deadline: Deadline = .standard
  ) async throws(PatchbayError) -> OpenedBlob {
    try await openOrCreate(openOrCreateRequest(key, options), options, deadline)
  }

  private func openOrCreateRequest(
    _ key: BlobKey, _ options: BlobOptions
  ) -> OpenOrCreateRequest {
    OpenOrCreateRequest(
      create: creation(of: key, options), terms: terms(of: options), standsBy: false)
  }

  /// What a blob is created as in the place of none.
  func creation(of key: BlobKey, _ options: BlobOptions) -> CreateRequest {
    var create = request(key, options)
    create.replaces = false
    return create
  }

  // MARK: Handles

  /// - Parameter options: what its publisher is made with.
  func openOrCreate(
    _ request: OpenOrCreateRequest, _ options: BlobOptions, _ deadline: Deadline
  ) throws(PatchbayError) -> OpenedBlob {
    let delivery = try session.connection.call(.openOrCreate(request), deadline: deadline)
    let found = try Opened(delivery)
    do throws(PatchbayError) {
      let reader = try found.readersDelivery()
      let subscriber = Subscriber(
        try BlobHandle(
          session, key: request.create.key, grant: found.grant.reading, reader,
          isWritable: false, deadline: deadline))
      guard found.isCreated else { return .existing(subscriber) }
      let handle = try BlobHandle(
        session, key: request.create.key, grant: found.grant, delivery, isWritable: true,
        deadline: deadline)
      let publisher = Publisher(handle, options)
      if options.resumes { publisher.appendsFrom(try publisher.writtenEnd()) }
      return .created(publisher, subscriber)
    } catch {
      giveBack(found)
      throw error
    }
  }

  /// As the blocking one.
  func openOrCreate(
    _ request: OpenOrCreateRequest, _ options: BlobOptions, _ deadline: Deadline
  ) async throws(PatchbayError) -> OpenedBlob {
    let delivery = try await session.connection.call(.openOrCreate(request), deadline: deadline)
    let found = try Opened(delivery)
    do throws(PatchbayError) {
      let reader = try found.readersDelivery()
      let subscriber = Subscriber(
        try await BlobHandle.made(
          session, key: request.create.key, grant: found.grant.reading, reader,
          isWritable: false, deadline: deadline))
      guard found.isCreated else { return .existing(subscriber) }
      let handle = try await BlobHandle.made(
        session, key: request.create.key, grant: found.grant, delivery, isWritable: true,
        deadline: deadline)
      let publisher = Publisher(handle, options)
      if options.resumes { publisher.appendsFrom(try await publisher.writtenEnd()) }
      return .created(publisher, subscriber)
    } catch {
      giveBack(found)
      throw error
    }
  }

  /// Ending what has ended already is harmless.
  private func giveBack(_ found: Opened) {
    if found.isCreated { session.connection.post(.abandon(found.grant.blob)) }
    session.connection.post(
      .close(CloseRequest(blob: found.grant.reader, opened: found.delivery.number)))
  }
}

/// The answer to an `openOrCreate`.
private struct Opened {
  let delivery: Delivery
  let grant: BlobGrant
  let isCreated: Bool

  init(_ delivery: Delivery) throws(PatchbayError) {
    self.delivery = delivery
    switch delivery.reply {
    case .opened(let grant): (self.grant, isCreated) = (grant, false)
    case .created(let grant): (self.grant, isCreated) = (grant, true)
    default: throw Session.unexpected(delivery.reply)
    }
  }

  /// A reader beside a publisher needs the ring's descriptor, too.
  func readersDelivery() throws(PatchbayError) -> Delivery {
    isCreated ? try delivery.duplicate() : delivery
  }
}
