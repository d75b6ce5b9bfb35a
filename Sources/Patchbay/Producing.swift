// Getting a blob, or producing it. The producer's task belongs to the client, not to the caller: who
// stops waiting, or closes its reader, ends nothing that others wait for. A caller that finds somebody else
// producing stands by with its own producer until the blob has ended.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

extension PatchbayClient {
  /// Opens the blob with this key, or has it produced: of all callers in all processes one runs its
  /// closure, and all read the same blob from its first byte on, while it is written. Returns as soon as
  /// there is something to read from; it does not wait for data.
  ///
  /// When the process that produces dies, or covers nothing new for `options.stallTimeout`, the closure of
  /// a caller runs that still has its subscriber open; readers stay attached. What the closure throws is
  /// the cause of the failure that every reader gets, and the next caller begins anew, after
  /// `options.failureLifetime`.
  ///
  /// A blob whose time is over and that has a grace is returned as it is, and the closure of one caller
  /// makes its successor meanwhile.
  /// - Parameters:
  ///   - key: the blob's name.
  ///   - options: what is created, and how.
  ///   - deadline: when to give up waiting for the broker's answer.
  ///   - produce: may run now, later, again, or never, in a task of its own. It is cancelled when the blob
  ///     has been taken from it.
  /// - Throws: `noSpaceMemory`, `limitReached`, `noBroker`, `timedOut`; `cancelled`: the closure may run
  ///   all the same.
  public func get(
    _ key: BlobKey, _ options: ProductionOptions = ProductionOptions(),
    deadline: Deadline = .standard,
    orProduce produce: @escaping @Sendable (Production) async throws -> Void
  ) async throws(PatchbayError) -> Subscriber {
    let cancelled = PatchbayError(
      .cancelled,
      "The task was cancelled while it waited for the blob \(key) to be opened or created.")
    guard !Task.isCancelled else { throw cancelled }
    let request = producedRequest(key, options)
    let producer = Producer(session: session, options: options, produce: produce)
    let opening = Awaited<Subscriber>()
    // What is created here others may read at once: it is produced, whatever becomes of the caller.
    Task.detached { [self] in
      do throws(PatchbayError) {
        let opened = try await openOrCreate(request, options.publisherOptions, deadline)
        let subscriber = begin(opened, request, producer)
        if !opening.finish(.success(subscriber)) { subscriber.close() }
      } catch {
        opening.finish(.failure(error))
      }
    }
    return try await opening.outcome { opening.finish(.failure(cancelled)) }.get()
  }

  // Disfavoured: async code whose closure happens not to wait must not resolve to the blocking one.

  /// Opens the blob with this key, or has it produced; as the other `get`, for threads. The closure runs on
  /// a thread of its own, which nobody can stop: where the blob has been taken from it, its calls throw
  /// `fenced` or write what nobody sees.
  /// - Throws: as the other `get`.
  @_disfavoredOverload
  @available(*, noasync)
  public func get(
    _ key: BlobKey, _ options: ProductionOptions = ProductionOptions(),
    deadline: Deadline = .standard,
    orProduce produce: @escaping @Sendable (Production) throws -> Void
  ) throws(PatchbayError) -> Subscriber {
    let request = producedRequest(key, options)
    let opened = try openOrCreate(request, options.publisherOptions, deadline)
    let producer = Producer(session: session, options: options) { job in
      try await ownThread { try produce(job) }
    }
    return begin(opened, request, producer)
  }

  private func producedRequest(
    _ key: BlobKey, _ options: ProductionOptions
  ) -> OpenOrCreateRequest {
    OpenOrCreateRequest(
      create: creation(of: key, options.publisherOptions), terms: options.terms, standsBy: true)
  }

  private func begin(
    _ opened: OpenedBlob, _ request: OpenOrCreateRequest, _ producer: Producer
  ) -> Subscriber {
    // No task holds the subscriber: who drops it, and does not close it, reads no more either.
    switch opened {
    case .existing(let subscriber) where subscriber.handle.grant.isStale:
      session.productions.begin()
      let (key, generation) = (subscriber.key, subscriber.generation)
      Task.detached { await producer.refresh(key, generation, request) }
      return subscriber
    case .existing(let subscriber):
      guard let place = StandByRequest(subscriber) else { return subscriber }
      let key = subscriber.key
      Task.detached { await producer.standBy(place, key) }
      return subscriber
    case .created(let publisher, let subscriber):
      let place = StandByRequest(subscriber)
      session.productions.begin()
      Task.detached {
        let isTakenOver = await producer.run(publisher)
        producer.session.productions.end()
        guard isTakenOver, let place else { return }
        await producer.standBy(place, publisher.key)
      }
      return subscriber
    }
  }
}

extension StandByRequest {
  /// For as long as a reader is open; nil where nobody can go on with anything.
  fileprivate init?(_ subscriber: Subscriber) {
    guard let opened = subscriber.handle.readerNumber,
      [.open, .suspended].contains(subscriber.state)
    else { return nil }
    self.init(generation: subscriber.generation, opened: opened)
  }
}

/// Runs a closure on a thread of its own, without holding the task's.
private func ownThread(_ body: @escaping @Sendable () throws -> Void) async throws {
  let outcome = Awaited<Result<Void, any Error>>()
  try SystemThread.detached("a producer") {
    outcome.finish(.success(Result { try body() }))
  }
  try await outcome.outcome {}.get().get()
}

/// One caller's readiness to produce a blob.
struct Producer: Sendable {
  let session: Session
  let options: ProductionOptions
  let produce: @Sendable (Production) async throws -> Void

  /// Waits for the right to produce, again and again, until the blob has ended or the reader has.
  func standBy(_ place: StandByRequest, _ key: BlobKey) async {
    while let publisher = await nextRight(place, key) {
      session.productions.begin()
      let isTakenOver = await run(publisher, takesOver: true)
      session.productions.end()
      guard isTakenOver else { return }
    }
  }

  private func nextRight(_ place: StandByRequest, _ key: BlobKey) async -> Publisher? {
    // Whatever is refused here the reader meets, too.
    guard
      let delivery = try? await session.connection.call(.standBy(place), deadline: .never),
      case .joined(let grant) = delivery.reply
    else { return nil }
    do throws(PatchbayError) {
      let publisher = Publisher(
        try await BlobHandle.made(
          session, key: key, grant: grant, delivery, isWritable: true, deadline: .standard),
        options.publisherOptions)
      publisher.appendsFrom(try await publisher.writtenEnd())
      return publisher
    } catch {
      session.connection.post(.quiesced(grant.blob))
      session.connection.post(.leave(grant.blob))
      return nil
    }
  }

  /// Produces the blob and ends it.
  /// - Parameter takesOver: somebody else has begun it.
  /// - Returns: whether it was taken over by somebody else, so that there may be something to do again.
  func run(_ publisher: Publisher, takesOver: Bool = false) async -> Bool {
    let most = max(1, options.attempts)
    for attempt in 1...most {
      do {
        try await attemptOnce(publisher, attempt, takesOver)
        return false
      } catch {
        guard !publisher.isTakenOver else {
          publisher.endTakenOver()
          return true
        }
        // What has ended needs no other run, whoever has ended it.
        guard !publisher.isEnded, publisher.isAlive else { return false }
        if attempt == most { try? await publisher.fail("\(error)") }
      }
    }
    return false
  }

  private func attemptOnce(
    _ publisher: Publisher, _ attempt: Int, _ takesOver: Bool
  ) async throws {
    if options.start == .fromZero { publisher.repeatsFromZero() }
    let job = Production(
      publisher: publisher, missing: try await missing(of: publisher), attempt: attempt,
      isTakenOver: takesOver)
    try await withThrowingTaskGroup(of: Bool.self) { group in
      group.addTask {
        try await produce(job)
        return true
      }
      group.addTask {
        try await publisher.untilLost()
        return false
      }
      defer { group.cancelAll() }
      // A closure that has ended the blob itself may have other things to do.
      while try await group.next() == false {}
    }
    if !publisher.isEnded { try await publisher.seal(deadline: options.blob.sealDeadline) }
  }

  private func missing(of publisher: Publisher) async throws(PatchbayError) -> [Range<Int>] {
    guard options.start == .fromZero else { return try await publisher.missing() }
    return publisher.byteCount.map { $0 > 0 ? [0..<$0] : [] } ?? []
  }
}

extension Publisher {
  /// Whether somebody else publishes the blob now, or will.
  var isTakenOver: Bool {
    guard let status = handle.entry?.status, let state = status.state(of: generation) else {
      return false
    }
    return status.epoch != handle.grant.blob.epoch && (state == .open || state == .suspended)
  }

  /// Whether the blob has not ended.
  fileprivate var isAlive: Bool {
    let state = handle.entry?.status.state(of: generation)
    return state == .open || state == .suspended
  }

  /// Whether the blob is open, and this publisher's.
  var isCurrent: Bool {
    guard let status = handle.entry?.status else { return false }
    return status.state(of: generation) == .open && status.epoch == handle.grant.blob.epoch
  }

  /// Waits until nothing that this publisher writes can be seen any more, because the blob has ended
  /// otherwise than by its doing, or was taken over; returns when it ends the blob itself.
  /// - Throws: what became of the blob; `cancelled`.
  func untilLost() async throws(PatchbayError) {
    guard let bell = handle.spaceBell, let entry = handle.entry else { return }
    let (generation, epoch) = (generation, handle.grant.blob.epoch)
    let isLost = try await handle.session.wait(
      at: bell, for: 1, until: .distantFuture,
      cancelled: { PatchbayError(.cancelled, "The production has ended.") }
    ) {
      let status = entry.status
      return status.state(of: generation) == .open && status.epoch == epoch ? nil : true
    }
    guard isLost == true else { return }
    if isTakenOver { throw takenOver }
    guard !isEnding else { return }
    throw handle.failure()
  }

  private var takenOver: PatchbayError {
    PatchbayError(
      .fenced,
      "Another process goes on producing the blob \(key): this one was taken for dead, or had covered "
        + "nothing new for too long. Nothing it writes can be seen.")
  }
}
