// The client's calls for tasks. Each asks what the blocking one asks and makes of the answer what
// that makes of it.

import PatchbaySystem
import PatchbayTypes
import PatchbayWire

extension PatchbayClient {
  // MARK: Publishing

  /// Creates a blob and gives its publisher, to be sealed or failed by the caller; as the blocking
  /// `publisher`.
  /// - Throws: as the blocking `publisher`; `cancelled`.
  public func publisher(
    _ key: BlobKey, _ options: BlobOptions = BlobOptions(), deadline: Deadline = .standard
  ) async throws(PatchbayError) -> Publisher {
    let delivery = try await session.connection.call(
      createRequest(key, options), deadline: deadline)
    let grant = try delivery.created
    do throws(PatchbayError) {
      let handle = try await BlobHandle.made(
        session, key: key, grant: grant, delivery, isWritable: true, deadline: deadline)
      let publisher = Publisher(handle, options)
      if options.resumes { publisher.appendsFrom(try await publisher.writtenEnd()) }
      return publisher
    } catch {
      session.connection.post(.abandon(grant.blob))
      throw error
    }
  }

  /// Creates a blob, lets `body` write it, and seals it when `body` returns. When `body` throws,
  /// or the seal is refused, the blob has failed with that as its cause; when the task is cancelled,
  /// the broker has been told so.
  /// - Returns: what `body` returned; the blob is sealed then.
  /// - Throws: what `body` threw, or as `publisher` and `Publisher.seal`.
  public func withPublisher<Result>(
    _ key: BlobKey, _ options: BlobOptions = BlobOptions(), deadline: Deadline = .standard,
    _ body: (Publisher) async throws -> Result
  ) async throws -> Result {
    let publisher = try await publisher(key, options, deadline: deadline)
    do {
      let result = try await body(publisher)
      if !publisher.isEnded { try await publisher.seal(deadline: options.sealDeadline) }
      return result
    } catch {
      if !publisher.isEnded { try? await publisher.fail("\(error)") }
      throw error
    }
  }

  /// Publishes bytes that are all there; up to 16 KiB travel in one message. Sealed afterwards.
  /// - Throws: as `publisher` and `Publisher.seal`.
  @discardableResult
  public func publish(
    _ bytes: [UInt8], as key: BlobKey, _ options: BlobOptions = BlobOptions(),
    deadline: Deadline = .standard
  ) async throws(PatchbayError) -> Generation {
    try Self.checkWhole(key, options)
    guard bytes.count <= Frame.inlineByteLimit, options.isInlinable else {
      return try await publishWhole(byteCount: bytes.count, key, options, deadline: deadline) {
        (publisher) async throws(PatchbayError) in try await publisher.append(bytes)
      }
    }
    let delivery = try await session.connection.call(
      inlineRequest(bytes, key, options), deadline: deadline)
    return try delivery.created.blob.generation
  }

  // MARK: Subscribing

  /// Opens a blob for reading, complete or not; with `waitUntil` waits until the key exists. As the
  /// blocking `open`.
  /// - Throws: as the blocking `open`; `cancelled`.
  public func open(
    _ key: BlobKey, waitUntil: Deadline? = nil
  ) async throws(PatchbayError) -> Subscriber {
    do throws(PatchbayError) {
      return Subscriber(
        try await openHandle(
          OpenRequest(key: key, waits: waitUntil != nil, observes: false),
          deadline: waitUntil ?? .standard))
    } catch  where error.code == .timedOut && waitUntil != nil {
      throw Self.neverAppeared(key)
    }
  }

  /// Looks at what is written of a blob without being one of its readers. Failed blobs too.
  /// - Throws: `noSuchKey`, `noBroker`, `timedOut`, `cancelled`.
  public func observe(
    _ key: BlobKey, deadline: Deadline = .standard
  ) async throws(PatchbayError) -> BlobObserver {
    BlobObserver(
      try await openHandle(
        OpenRequest(key: key, waits: false, observes: true), deadline: deadline))
  }

  private func openHandle(
    _ request: OpenRequest, deadline: Deadline
  ) async throws(PatchbayError) -> BlobHandle {
    let delivery = try await session.connection.call(.open(request), deadline: deadline)
    let grant = try delivery.opened
    do throws(PatchbayError) {
      return try await BlobHandle.made(
        session, key: request.key, grant: grant, delivery, isWritable: false,
        deadline: .standard)
    } catch {
      session.connection.post(
        .close(CloseRequest(blob: grant.blob, opened: delivery.number)))
      throw error
    }
  }

  // MARK: Looking and removing

  /// What the broker knows of a blob.
  /// - Throws: `noSuchKey`, `noBroker`, `timedOut`, `cancelled`.
  public func info(
    _ key: BlobKey, deadline: Deadline = .standard
  ) async throws(PatchbayError) -> BlobInfo {
    try await session.connection.call(.info(InfoRequest(key: key)), deadline: deadline).info
  }

  /// Whether a blob has this key, in any state.
  /// - Throws: `noBroker`, `timedOut`, `cancelled`.
  public func exists(
    _ key: BlobKey, deadline: Deadline = .standard
  ) async throws(PatchbayError) -> Bool {
    do throws(PatchbayError) {
      _ = try await info(key, deadline: deadline)
      return true
    } catch  where error.code == .noSuchKey {
      return false
    }
  }

  /// One page of blobs in the byte order of their keys; as the blocking `list`.
  /// - Throws: `noBroker`, `timedOut`, `cancelled`.
  public func list(
    prefix: [UInt8] = [], after: BlobKey? = nil, limit: Int = 480,
    deadline: Deadline = .standard
  ) async throws(PatchbayError) -> BlobPage {
    try await session.connection.call(listRequest(prefix, after, limit), deadline: deadline).page
  }

  /// Takes a blob's key away at once; as the blocking `remove`.
  /// - Throws: `noSuchKey`, `notPermitted`, `noBroker`, `timedOut`, `cancelled`.
  public func remove(
    _ key: BlobKey, generation: Generation? = nil, deadline: Deadline = .standard
  ) async throws(PatchbayError) {
    try await session.perform(
      .remove(RemoveRequest(key: key, generation: generation)), deadline: deadline)
  }

  /// The broker's counters.
  /// - Throws: `noBroker`, `timedOut`, `cancelled`.
  public func statistics(
    deadline: Deadline = .standard
  ) async throws(PatchbayError) -> BrokerStatistics {
    try await session.connection.call(.statistics, deadline: deadline).statistics
  }

  /// Asks the broker for a sign of life.
  /// - Throws: `noBroker`, `timedOut`, `cancelled`.
  public func ping(deadline: Deadline = .standard) async throws(PatchbayError) {
    try await session.connection.call(.ping, deadline: deadline).checkPong()
  }
}
