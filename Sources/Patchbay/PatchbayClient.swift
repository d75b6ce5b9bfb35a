// The door of the library: one connection to a broker, from which publishers and subscribers come.

import Glibc
import PatchbayLayout
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

/// A connection to a broker. All methods may be called from any thread at once.
///
/// Handles made by a client keep its connection; it ends with the last of them. When the process
/// ends, however it ends, the broker takes back everything it held, and blobs it had not sealed
/// fail.
public final class PatchbayClient: Sendable {
  let session: Session

  /// Connects to a broker and shakes hands. Blocks until then.
  /// - Parameters:
  ///   - socketPath: nil: `$PATCHBAY_SOCKET`, else `$XDG_RUNTIME_DIR/patchbay/control.sock`, else
  ///     `/tmp/patchbay-<uid>/control.sock`.
  ///   - name: what this client is called in the broker's messages; at most 64 bytes are kept.
  ///   - reconnectLimit: how long another broker is waited for when this one goes without a word: the
  ///     client comes back to it by itself. Zero: not at all. What is said of `noBroker` for every call
  ///     holds then at once, else when nobody has come for so long.
  ///   - deadline: when to give up.
  /// - Throws: `noBroker`, `notPermitted` (a socket directory that others could replace),
  ///   `versionMismatch`, `limitReached`, `timedOut`.
  @available(*, noasync)
  public init(
    socketPath: String? = nil, name: String? = nil, reconnectLimit: Duration = .seconds(10),
    deadline: Deadline = .standard
  ) throws(PatchbayError) {
    session = try Session(
      SocketPath(socketPath), name: Self.clientName(name), reconnectLimit: reconnectLimit,
      deadline: deadline)
  }

  /// Connects to a broker and shakes hands, as the blocking `init` does.
  /// - Throws: as the blocking `init`; `cancelled`.
  public init(
    socketPath: String? = nil, name: String? = nil, reconnectLimit: Duration = .seconds(10),
    deadline: Deadline = .standard
  ) async throws(PatchbayError) {
    session = try await Session.connected(
      to: SocketPath(socketPath), name: Self.clientName(name), reconnectLimit: reconnectLimit,
      deadline: deadline)
  }

  private static func clientName(_ name: String?) -> String {
    (name ?? programName).cut(toUTF8Count: 64)
  }

  static var programName: String {
    CommandLine.arguments.first?.split(separator: "/").last.map(String.init) ?? "client"
  }

  /// The socket this client is connected to.
  public var socketPath: String { session.connection.path }

  /// The broker's process number; of the last one, while another is waited for.
  public var brokerProcess: Int32 { session.welcome.brokerProcess }

  // MARK: Publishing

  /// Creates a blob and gives its publisher, to be sealed or failed by the caller. The blob is
  /// visible at once. Blocks for the broker's answer.
  /// - Throws: `keyExists`, `noSpaceMemory`, `limitReached`, `noBroker`, `timedOut`.
  @available(*, noasync)
  public func publisher(
    _ key: BlobKey, _ options: BlobOptions = BlobOptions(),
    deadline: Deadline = .standard
  ) throws(PatchbayError) -> Publisher {
    let delivery = try session.connection.call(createRequest(key, options), deadline: deadline)
    let grant = try delivery.created
    do throws(PatchbayError) {
      let handle = try BlobHandle(
        session, key: key, grant: grant, delivery, isWritable: true, deadline: deadline)
      let publisher = Publisher(handle, options)
      if options.resumes { publisher.appendsFrom(try publisher.writtenEnd()) }
      return publisher
    } catch {
      session.connection.post(.abandon(grant.blob))
      throw error
    }
  }

  // Disfavoured: async code whose body happens not to wait must not resolve to the blocking one.

  /// Creates a blob, lets `body` write it, and seals it when `body` returns. When `body` throws,
  /// or the seal is refused, the blob has failed with that as its cause.
  /// - Returns: what `body` returned; the blob is sealed then.
  /// - Throws: what `body` threw, or as `publisher` and `Publisher.seal`.
  @_disfavoredOverload
  @available(*, noasync)
  public func withPublisher<Result>(
    _ key: BlobKey, _ options: BlobOptions = BlobOptions(),
    deadline: Deadline = .standard, _ body: (Publisher) throws -> Result
  ) throws -> Result {
    let publisher = try publisher(key, options, deadline: deadline)
    do {
      let result = try body(publisher)
      if !publisher.isEnded { try publisher.seal(deadline: options.sealDeadline) }
      return result
    } catch {
      if !publisher.isEnded { try? publisher.fail("\(error)") }
      throw error
    }
  }

  /// Publishes bytes that are all there; up to 16 KiB travel in one message. Sealed afterwards.
  /// - Throws: as `publisher` and `Publisher.seal`.
  @available(*, noasync)
  @discardableResult
  public func publish(
    _ bytes: [UInt8], as key: BlobKey, _ options: BlobOptions = BlobOptions(),
    deadline: Deadline = .standard
  ) throws(PatchbayError) -> Generation {
    try Self.checkWhole(key, options)
    guard bytes.count <= Frame.inlineByteLimit, options.isInlinable else {
      return try publishWhole(byteCount: bytes.count, key, options, deadline: deadline) {
        (publisher) throws(PatchbayError) in try publisher.append(bytes)
      }
    }
    return try session.connection.call(inlineRequest(bytes, key, options), deadline: deadline)
      .created.blob.generation
  }

  /// A blob whose bytes travel with its creation.
  func inlineRequest(_ bytes: [UInt8], _ key: BlobKey, _ options: BlobOptions) -> Request {
    var request = request(key, options)
    request.byteCount = bytes.count
    request.inlineBytes = bytes
    var terms = CreateTerms.plain(digest: options.digestWish)
    terms.lifetime = options.lifetime
    return terms == .plain ? .create(request) : .createWith(request, terms)
  }

  /// Publishes a file and announces its length. Sealed afterwards. Blocks as the file does; the
  /// deadline is for the broker's answer at the beginning.
  /// - Throws: `inputOutput` for the file, `lengthMismatch` or `rangeOutOfBounds` when it turns out
  ///   shorter or longer than when it was opened; else as `publisher` and `Publisher.seal`. The blob
  ///   has failed then.
  @available(*, noasync)
  @discardableResult
  public func publish(
    contentsOf path: String, as key: BlobKey, _ options: BlobOptions = BlobOptions(),
    deadline: Deadline = .standard
  ) throws(PatchbayError) -> Generation {
    try Self.checkWhole(key, options)
    let file = try InputFile(path)
    if let byteCount = file.byteCount, byteCount <= Frame.inlineByteLimit, options.isInlinable {
      return try publish(try file.readAll(byteCount), as: key, options, deadline: deadline)
    }
    return try publishWhole(byteCount: file.byteCount, key, options, deadline: deadline) {
      (publisher) throws(PatchbayError) in
      try publisher.append(from: file.descriptor.rawValue)
    }
  }

  private func publishWhole(
    byteCount: Int?, _ key: BlobKey, _ options: BlobOptions, deadline: Deadline,
    _ write: (Publisher) throws(PatchbayError) -> Void
  ) throws(PatchbayError) -> Generation {
    let publisher = try publisher(
      key, options.appended(byteCount: byteCount), deadline: deadline)
    do throws(PatchbayError) {
      try write(publisher)
      // The source may have taken its time: the deadline is the creation's, the seal has its own.
      try publisher.seal(deadline: options.sealDeadline)
      return publisher.generation
    } catch {
      try? publisher.fail("\(error)")
      throw error
    }
  }

  /// A whole blob has one source, which begins at 0.
  static func checkWhole(
    _ key: BlobKey, _ options: BlobOptions
  ) throws(PatchbayError) {
    guard options.isJoinable || options.resumes else { return }
    throw PatchbayError(
      .notPermitted,
      "The blob \(key) cannot be published whole and be joinable or resumed; take a publisher and "
        + "write what is missing.")
  }

  func request(_ key: BlobKey, _ options: BlobOptions) -> CreateRequest {
    var request = CreateRequest(key: key)
    request.byteCount = options.byteCount
    request.order = options.policy == .keep ? options.order : .appendOnly
    request.policy = options.policy
    request.mode = options.mode
    request.replaces = options.replaces
    request.firstExtent =
      (options.policy == .keep ? options.firstExtentByteCount : options.ringByteCount) ?? 0
    request.segment = options.segmentByteCount ?? 0
    request.extentLimit = options.extentByteLimit ?? 0
    request.type = options.type
    request.labels = options.labels
    request.acknowledgement = options.acknowledgement
    request.isCache = options.isCache
    return request
  }

  // MARK: Subscribing

  /// Opens a blob for reading, complete or not. Blocks for the broker's answer and, with
  /// `waitUntil`, until the key exists.
  /// - Parameters:
  ///   - key: the blob's name.
  ///   - waitUntil: when to give up waiting for the key; nil: it must exist now. A key whose blob
  ///     has failed is not waited for.
  /// - Throws: `noSuchKey`, `timedOut`, `blobFailed` or `abandoned` (with their cause), `noBroker`.
  @available(*, noasync)
  public func open(
    _ key: BlobKey, waitUntil: Deadline? = nil
  ) throws(PatchbayError) -> Subscriber {
    do throws(PatchbayError) {
      return Subscriber(
        try openHandle(
          OpenRequest(key: key, waits: waitUntil != nil, observes: false),
          deadline: waitUntil ?? .standard))
    } catch  where error.code == .timedOut && waitUntil != nil {
      throw Self.neverAppeared(key)
    }
  }

  static func neverAppeared(_ key: BlobKey) -> PatchbayError {
    PatchbayError(.timedOut, "No blob with the key \(key) appeared before the deadline.")
  }

  /// Looks at what is written of a blob without being one of its readers. Failed blobs too.
  /// - Throws: `noSuchKey`, `noBroker`, `timedOut`.
  @available(*, noasync)
  public func observe(
    _ key: BlobKey, deadline: Deadline = .standard
  ) throws(PatchbayError) -> BlobObserver {
    BlobObserver(
      try openHandle(
        OpenRequest(key: key, waits: false, observes: true), deadline: deadline))
  }

  private func openHandle(
    _ request: OpenRequest, deadline: Deadline
  ) throws(PatchbayError) -> BlobHandle {
    let delivery = try session.connection.call(.open(request), deadline: deadline)
    let grant = try delivery.opened
    do throws(PatchbayError) {
      return try BlobHandle(
        session, key: request.key, grant: grant, delivery, isWritable: false,
        deadline: .standard)
    } catch {
      session.connection.post(
        .close(CloseRequest(blob: grant.blob, opened: delivery.number)))
      throw error
    }
  }

  // MARK: Looking and removing

  /// What the broker knows of a blob. Blocks for its answer.
  /// - Throws: `noSuchKey`, `noBroker`, `timedOut`.
  @available(*, noasync)
  public func info(
    _ key: BlobKey, deadline: Deadline = .standard
  ) throws(PatchbayError) -> BlobInfo {
    try session.connection.call(.info(InfoRequest(key: key)), deadline: deadline).info
  }

  /// Whether a blob has this key, in any state. Blocks for the broker's answer.
  /// - Throws: `noBroker`, `timedOut`.
  @available(*, noasync)
  public func exists(
    _ key: BlobKey, deadline: Deadline = .standard
  ) throws(PatchbayError) -> Bool {
    do throws(PatchbayError) {
      _ = try info(key, deadline: deadline)
      return true
    } catch  where error.code == .noSuchKey {
      return false
    }
  }

  /// One page of blobs in the byte order of their keys. Blocks for the broker's answer.
  /// - Parameters:
  ///   - prefix: only keys that begin with these bytes.
  ///   - after: only keys behind this one: the last of the page before.
  ///   - limit: at most so many, 1 to 480; a page may have fewer and still not be the last.
  ///   - deadline: when to give up.
  /// - Throws: `noBroker`, `timedOut`.
  @available(*, noasync)
  public func list(
    prefix: [UInt8] = [], after: BlobKey? = nil, limit: Int = 480,
    deadline: Deadline = .standard
  ) throws(PatchbayError) -> BlobPage {
    try session.connection.call(listRequest(prefix, after, limit), deadline: deadline).page
  }

  func listRequest(_ prefix: [UInt8], _ after: BlobKey?, _ limit: Int) -> Request {
    .list(
      ListRequest(
        prefix: prefix, after: after?.bytes ?? [],
        limit: min(max(limit, 1), WireLimit.pageEntries)))
  }

  /// Takes a blob's key away at once. Whoever has it open finishes with it; its memory goes with
  /// the last of them. The key can be used again at once.
  /// - Parameters:
  ///   - key: the blob's name.
  ///   - generation: only this life of the key; nil: whichever it is.
  ///   - deadline: when to give up.
  /// - Throws: `noSuchKey`, `notPermitted`, `noBroker`, `timedOut`.
  @available(*, noasync)
  public func remove(
    _ key: BlobKey, generation: Generation? = nil,
    deadline: Deadline = .standard
  ) throws(PatchbayError) {
    try session.perform(
      .remove(RemoveRequest(key: key, generation: generation)), deadline: deadline)
  }

  /// The broker's counters. Blocks for its answer.
  /// - Throws: `noBroker`, `timedOut`.
  @available(*, noasync)
  public func statistics(
    deadline: Deadline = .standard
  ) throws(PatchbayError) -> BrokerStatistics {
    try session.connection.call(.statistics, deadline: deadline).statistics
  }

  /// Asks the broker for a sign of life. Blocks for it.
  /// - Throws: `noBroker`, `timedOut`.
  @available(*, noasync)
  public func ping(deadline: Deadline = .standard) throws(PatchbayError) {
    try session.connection.call(.ping, deadline: deadline).checkPong()
  }
}

/// Some blobs of a listing.
public struct BlobPage: Sendable, Hashable {
  /// In the byte order of their keys.
  public var blobs: [BlobInfo]
  /// Whether more follow behind the last one.
  public var hasMore: Bool

  /// A page, for stores that make one of several.
  public init(blobs: [BlobInfo], hasMore: Bool) {
    self.blobs = blobs
    self.hasMore = hasMore
  }
}
