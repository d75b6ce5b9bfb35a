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
    try session.connection.call(ownerlessRequest(key, options), deadline: deadline)
      .created.blob.generation
  }

  func ownerlessRequest(_ key: BlobKey, _ options: BlobOptions) -> Request {
    .createWith(
      request(key, options),
      CreateTerms(
        ownership: .ownerless, idleLimit: options.idleLimit, resumes: options.resumes,
        compression: options.compression, digest: options.digestWish))
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
    let grant = try delivery.joined
    do throws(PatchbayError) {
      let handle = try BlobHandle(
        session, key: key, grant: grant, delivery, isWritable: true, deadline: deadline)
      return Publisher(handle, Self.joined)
    } catch {
      session.connection.post(.leave(grant.blob))
      throw error
    }
  }

  /// What a publisher that joins has in common with one that created the blob as joinable.
  static let joined: BlobOptions = {
    var options = BlobOptions()
    options.isJoinable = true
    return options
  }()

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
      guard deadline.remaining != .zero else { throw Self.neitherOpenedNorCreated(key) }
      do throws(PatchbayError) {
        let publisher = try publisher(key, options, deadline: deadline)
        return .created(publisher, try reader(of: publisher))
      } catch  where error.code == .keyExists {
        look = deadline.atMost(Self.birthTime)
      }
    }
  }

  /// It may be being created at this moment: then it is waited for, a while at a time, since that
  /// may come to nothing.
  static let birthTime = Duration.milliseconds(100)

  /// A reader of the key's blob; nil when there is none that is worth reading.
  private func existing(
    _ key: BlobKey, waitUntil: Deadline?
  ) throws(PatchbayError) -> Subscriber? {
    do throws(PatchbayError) {
      return try open(key, waitUntil: waitUntil)
    } catch {
      guard Self.isNothingToRead(error.code, waits: waitUntil != nil) else { throw error }
      return nil
    }
  }

  static func neitherOpenedNorCreated(_ key: BlobKey) -> PatchbayError {
    PatchbayError(
      .timedOut, "The key \(key) was neither opened nor created before the deadline.")
  }

  /// Whether an open that ended so means that the key is free, or was not taken in time.
  static func isNothingToRead(_ code: PatchbayError.Code, waits: Bool) -> Bool {
    switch code {
    case .noSuchKey, .blobFailed, .abandoned, .removed, .contentDiverged, .digestMismatch: true
    default: waits && code == .timedOut
    }
  }

  /// A reader of what was just created.
  private func reader(of publisher: Publisher) throws(PatchbayError) -> Subscriber {
    try Self.check(try open(publisher.key), of: publisher)
  }

  static func check(
    _ subscriber: Subscriber, of publisher: Publisher
  ) throws(PatchbayError) -> Subscriber {
    guard subscriber.generation == publisher.generation else {
      throw PatchbayError(
        .removed, "The blob \(publisher.key) was replaced as soon as it was created.")
    }
    return subscriber
  }

  func createRequest(_ key: BlobKey, _ options: BlobOptions) -> Request {
    let terms = CreateTerms(
      ownership: options.isJoinable ? .joinable : .exclusive, idleLimit: options.idleLimit,
      resumes: options.resumes, compression: options.compression,
      digest: options.digestWish)
    let create = request(key, options)
    return terms == .plain ? .create(create) : .createWith(create, terms)
  }
}
