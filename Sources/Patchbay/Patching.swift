// Blobs that several processes write: created for nobody, joined, opened or created.

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
  /// Creates a blob that no process owns: it waits for publishers to join, and when the last of them
  /// has gone, however it went, for the next, until it is sealed, failed, or nobody has published it
  /// for `options.idleLimit` (ten minutes if that is nil). Blocks for the broker's answer. The same
  /// call again, by whomever, finds the same blob as long as it is neither.
  /// - Returns: which life of the key it is.
  /// - Throws: `keyExists` when the key has another blob, or one of other options; `notPermitted` for
  ///   a blob that is appended to; `noSpaceMemory`, `limitReached`, `noBroker`, `timedOut`; with
  ///   `options.resumes` as `publisher`.
  @available(*, noasync)
  @discardableResult
  public func create(
    _ key: BlobKey, _ options: BlobOptions = BlobOptions(), deadline: Deadline = .standard
  ) throws(PatchbayError) -> Generation {
    let terms = CreateTerms(
      ownership: .ownerless, idleLimit: options.idleLimit, resumes: options.resumes)
    let delivery = try session.connection.call(
      .createWith(Self.request(key, options), terms), deadline: deadline)
    guard case .created(let grant) = delivery.reply else {
      throw Session.unexpected(delivery.reply)
    }
    return grant.blob.generation
  }

  /// Becomes one more publisher of a joinable blob. Blocks for the broker's answer. A client
  /// publishes a blob once at a time.
  /// - Parameters:
  ///   - key: the blob's name.
  ///   - generation: only this life of the key; nil: whichever it is.
  ///   - deadline: when to give up.
  /// - Throws: `noSuchKey`, `notPermitted` (only its creator writes it, or it is another user's),
  ///   `closed` (it is sealed), the blob's failure, `limitReached`, `noBroker`, `timedOut`.
  @available(*, noasync)
  public func join(
    _ key: BlobKey, generation: Generation? = nil, deadline: Deadline = .standard
  ) throws(PatchbayError) -> Publisher {
    let delivery = try session.connection.call(
      .join(JoinRequest(key: key, generation: generation)), deadline: deadline)
    guard case .joined(let grant) = delivery.reply else { throw Session.unexpected(delivery.reply) }
    do throws(PatchbayError) {
      let handle = try BlobHandle(
        session, key: key, grant: grant, delivery, isWritable: true, deadline: deadline)
      // No window is joined: the limit of its slowest subscriber is never looked at.
      return Publisher(
        handle, slowestLimit: BlobOptions().slowestLimit, isShared: true, looksAround: true)
    } catch {
      session.connection.post(.leave(grant.blob))
      throw error
    }
  }

  /// Opens the blob with this key, or creates it: of all callers in all processes exactly one
  /// creates it, and the others get its readers. A blob that has failed counts as none. Blocks for
  /// the broker's answers, never for data.
  ///
  /// The broker decides: it lets one creation of a key through, and tells the others that the key
  /// exists; who is told so opens it. Only if it is gone again by then does a caller start over.
  /// - Throws: `removed` when the blob was replaced while it was opened by its creator, whose
  ///   publisher has ended then; `noSpaceMemory`, `limitReached`, `noBroker`, `timedOut`.
  @available(*, noasync)
  public func openOrCreate(
    _ key: BlobKey, _ options: BlobOptions = BlobOptions(), deadline: Deadline = .standard
  ) throws(PatchbayError) -> OpenedBlob {
    var options = options
    options.replaces = false
    var look: Deadline?
    while true {
      if let subscriber = try existing(key, waitUntil: look) { return .existing(subscriber) }
      guard deadline.remaining != .zero else {
        throw PatchbayError(
          .timedOut, "The key \(key) was neither opened nor created before the deadline.")
      }
      do throws(PatchbayError) {
        let publisher = try publisher(key, options, deadline: deadline)
        return .created(publisher, try reader(of: publisher))
      } catch  where error.code == .keyExists {
        // It may be being created at this moment: then it is waited for, a while at a time, since
        // that may come to nothing.
        look = deadline.atMost(.milliseconds(100))
      }
    }
  }

  /// A reader of the key's blob; nil when there is none that is worth reading.
  private func existing(
    _ key: BlobKey, waitUntil: Deadline?
  ) throws(PatchbayError) -> Subscriber? {
    do throws(PatchbayError) {
      return try open(key, waitUntil: waitUntil)
    } catch {
      switch error.code {
      case .noSuchKey, .blobFailed, .abandoned, .removed, .contentDiverged, .digestMismatch:
        return nil
      case .timedOut where waitUntil != nil: return nil
      default: throw error
      }
    }
  }

  /// A reader of what was just created.
  private func reader(of publisher: Publisher) throws(PatchbayError) -> Subscriber {
    let subscriber = try open(publisher.key)
    guard subscriber.generation == publisher.generation else {
      throw PatchbayError(
        .removed, "The blob \(publisher.key) was replaced as soon as it was created.")
    }
    return subscriber
  }

  static func createRequest(_ key: BlobKey, _ options: BlobOptions) -> Request {
    let terms = CreateTerms(
      ownership: options.isJoinable ? .joinable : .exclusive, idleLimit: options.idleLimit,
      resumes: options.resumes)
    let create = request(key, options)
    return terms == .plain ? .create(create) : .createWith(create, terms)
  }
}

extension Publisher {
  /// Sets the end for appending behind what was taken over.
  func goOnAppending() throws(PatchbayError) {
    guard handle.grant.order == .appendOnly else { return }
    let end = try lookout().writtenRanges(limit: .max).last?.upperBound ?? 0
    appending.withLock { $0.end = end }
  }
}
