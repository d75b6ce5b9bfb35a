// Blobs that several processes write: created for nobody, and joined.

import PatchbayTypes
import PatchbayWire

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
    var terms = terms(of: options)
    terms.ownership = .ownerless
    return .createWith(request(key, options), terms)
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

  func createRequest(_ key: BlobKey, _ options: BlobOptions) -> Request {
    let terms = terms(of: options)
    let create = request(key, options)
    return terms == .plain ? .create(create) : .createWith(create, terms)
  }

  func terms(of options: BlobOptions) -> CreateTerms {
    var terms = CreateTerms(
      ownership: options.isJoinable ? .joinable : .exclusive, idleLimit: options.idleLimit,
      resumes: options.resumes, compression: options.compression,
      digest: options.digestWish)
    terms.lifetime = options.lifetime
    terms.demand = options.demand
    return terms
  }
}
