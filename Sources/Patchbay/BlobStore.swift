// What a store of blobs offers, whatever is behind it: one broker, layers of them, partitions of them.
// Only what all of these can do is asked of them. What follows from it by itself is given to all alike,
// and none of it takes the place of a call that a store has of its own.

import PatchbaySystem
import PatchbayTypes
import PatchbayWire

/// A store of blobs: a `PatchbayClient`, or several stores that are used as one, `LayeredStore` and
/// `PartitionedStore`. They nest. All methods may be called from any task at once.
///
/// Publishers and subscribers are always those of a broker: a store decides which broker, and the bytes
/// go no other way than they do without it. Every call here has a form without a deadline, which waits
/// as long as the client's own calls do by default.
public protocol BlobStore: Sendable {
  /// Opens a blob for reading, complete or not, and with `waitUntil` waits until the key exists.
  /// - Parameters:
  ///   - key: the blob's name.
  ///   - waitUntil: when to give up waiting for the key; nil: it must exist now.
  /// - Throws: `noSuchKey`, `timedOut`, `blobFailed` or `abandoned` (with their cause), `noBroker`,
  ///   `cancelled`.
  func open(_ key: BlobKey, waitUntil: Deadline?) async throws(PatchbayError) -> Subscriber

  /// Creates a blob and gives its publisher, to be sealed or failed by the caller.
  /// - Throws: `keyExists`, `noSpaceMemory`, `limitReached`, `noBroker`, `timedOut`, `cancelled`.
  func publisher(
    _ key: BlobKey, _ options: BlobOptions, deadline: Deadline
  ) async throws(PatchbayError) -> Publisher

  /// Publishes bytes that are all there. Sealed afterwards. A store that has no better way creates the
  /// blob, appends and seals.
  /// - Returns: the blob's generation, in the broker that it went to.
  /// - Throws: as `publisher` and `Publisher.seal`.
  @discardableResult
  func publish(
    _ bytes: [UInt8], as key: BlobKey, _ options: BlobOptions, deadline: Deadline
  ) async throws(PatchbayError) -> Generation

  /// Opens the blob with this key, or has it produced: of all callers in all processes one runs its
  /// closure, and all read the same blob while it is written. As `PatchbayClient.get`.
  /// - Parameters:
  ///   - key: the blob's name.
  ///   - options: what is created, and how.
  ///   - deadline: when to give up waiting for the broker's answer.
  ///   - produce: may run now, later, again, or never, in a task of its own.
  /// - Throws: `noSpaceMemory`, `limitReached`, `noBroker`, `timedOut`, `cancelled`.
  func get(
    _ key: BlobKey, _ options: ProductionOptions, deadline: Deadline,
    orProduce produce: @escaping @Sendable (Production) async throws -> Void
  ) async throws(PatchbayError) -> Subscriber

  /// What is known of a blob.
  /// - Throws: `noSuchKey`, `noBroker`, `timedOut`, `cancelled`.
  func info(_ key: BlobKey, deadline: Deadline) async throws(PatchbayError) -> BlobInfo

  /// One page of blobs in the byte order of their keys, each key once.
  /// - Parameters:
  ///   - prefix: only keys that begin with these bytes.
  ///   - after: only keys behind this one: the last of the page before.
  ///   - limit: at most so many; a page may have fewer and still not be the last, but only the last one
  ///     may have none.
  ///   - deadline: when to give up.
  /// - Throws: `noBroker`, `timedOut`, `cancelled`.
  func list(
    prefix: [UInt8], after: BlobKey?, limit: Int, deadline: Deadline
  ) async throws(PatchbayError) -> BlobPage

  /// Takes a blob's key away. Whoever has it open finishes with it.
  /// - Throws: `noSuchKey`, `notPermitted`, `noBroker`, `timedOut`, `cancelled`.
  func remove(_ key: BlobKey, deadline: Deadline) async throws(PatchbayError)
}

extension PatchbayClient: BlobStore {
  // Disfavoured: a call of the client's own means the one that can name a generation.

  /// Takes a blob's key away at once, whichever generation it is; as the other `remove`.
  /// - Throws: as the other `remove`.
  @_disfavoredOverload
  public func remove(_ key: BlobKey, deadline: Deadline) async throws(PatchbayError) {
    try await remove(key, generation: nil, deadline: deadline)
  }
}

// MARK: Without a deadline

// All disfavoured: a store that has the same call keeps it.
extension BlobStore {
  /// Opens a blob that must exist now.
  /// - Throws: as the other `open`.
  @_disfavoredOverload
  public func open(_ key: BlobKey) async throws(PatchbayError) -> Subscriber {
    try await open(key, waitUntil: nil)
  }

  /// Creates a blob and gives its publisher.
  /// - Throws: as the other `publisher`.
  @_disfavoredOverload
  public func publisher(
    _ key: BlobKey, _ options: BlobOptions = BlobOptions()
  ) async throws(PatchbayError) -> Publisher {
    try await publisher(key, options, deadline: .standard)
  }

  /// Publishes bytes that are all there.
  /// - Returns: the blob's generation, in the broker that it went to.
  /// - Throws: as the other `publish`.
  @_disfavoredOverload
  @discardableResult
  public func publish(
    _ bytes: [UInt8], as key: BlobKey, _ options: BlobOptions = BlobOptions()
  ) async throws(PatchbayError) -> Generation {
    try await publish(bytes, as: key, options, deadline: .standard)
  }

  /// Opens the blob with this key, or has it produced.
  /// - Throws: as the other `get`.
  @_disfavoredOverload
  public func get(
    _ key: BlobKey, _ options: ProductionOptions = ProductionOptions(),
    orProduce produce: @escaping @Sendable (Production) async throws -> Void
  ) async throws(PatchbayError) -> Subscriber {
    try await get(key, options, deadline: .standard, orProduce: produce)
  }

  /// What is known of a blob.
  /// - Throws: as the other `info`.
  @_disfavoredOverload
  public func info(_ key: BlobKey) async throws(PatchbayError) -> BlobInfo {
    try await info(key, deadline: .standard)
  }

  /// One page of blobs in the byte order of their keys; as the other `list`.
  /// - Throws: as the other `list`.
  @_disfavoredOverload
  public func list(
    prefix: [UInt8] = [], after: BlobKey? = nil, limit: Int = 480
  ) async throws(PatchbayError) -> BlobPage {
    try await list(prefix: prefix, after: after, limit: limit, deadline: .standard)
  }

  /// Takes a blob's key away.
  /// - Throws: as the other `remove`.
  @_disfavoredOverload
  public func remove(_ key: BlobKey) async throws(PatchbayError) {
    try await remove(key, deadline: .standard)
  }
}

// MARK: What follows from these

extension BlobStore {
  /// Whether a blob has this key, in any state.
  /// - Throws: `noBroker`, `timedOut`, `cancelled`.
  @_disfavoredOverload
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

  /// Creates a blob, lets `body` write it, and seals it when `body` returns. When `body` throws, or the
  /// seal is refused, the blob has failed with that as its cause.
  /// - Returns: what `body` returned; the blob is sealed then.
  /// - Throws: what `body` threw, or as `publisher` and `Publisher.seal`.
  @_disfavoredOverload
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

  /// Publishes bytes that are all there. Sealed afterwards.
  /// - Returns: the blob's generation, in the broker that it went to.
  /// - Throws: as `publisher` and `Publisher.seal`.
  @_disfavoredOverload
  @discardableResult
  public func publish(
    _ bytes: [UInt8], as key: BlobKey, _ options: BlobOptions, deadline: Deadline
  ) async throws(PatchbayError) -> Generation {
    try PatchbayClient.checkWhole(key, options)
    return try await publishWhole(byteCount: bytes.count, key, options, deadline: deadline) {
      (publisher) async throws(PatchbayError) in try await publisher.append(bytes)
    }
  }

  /// Publishes a file and announces its length. Sealed afterwards. The file is opened and read by
  /// threads that do nothing else; the deadline is for the broker's answer at the beginning.
  /// - Returns: the blob's generation, in the broker that it went to.
  /// - Throws: `inputOutput` for the file, `lengthMismatch` or `rangeOutOfBounds` when it turns out
  ///   shorter or longer than when it was opened; else as `publisher` and `Publisher.seal`. The blob
  ///   has failed then.
  @discardableResult
  public func publish(
    contentsOf path: String, as key: BlobKey, _ options: BlobOptions = BlobOptions(),
    deadline: Deadline = .standard
  ) async throws(PatchbayError) -> Generation {
    try PatchbayClient.checkWhole(key, options)
    let file = try await FileThreads.shared.run { () throws(PatchbayError) in
      try OpenFile(path)
    }
    if let byteCount = file.byteCount, byteCount <= Frame.inlineByteLimit, options.isInlinable {
      let bytes = try await FileThreads.shared.run { () throws(PatchbayError) in
        try file.readAll(byteCount)
      }
      return try await publish(bytes, as: key, options, deadline: deadline)
    }
    return try await publishWhole(byteCount: file.byteCount, key, options, deadline: deadline) {
      (publisher) async throws(PatchbayError) in
      try await publisher.append(from: file.descriptor)
    }
  }

  /// A blob that `write` appends.
  func publishWhole(
    byteCount: Int?, _ key: BlobKey, _ options: BlobOptions, deadline: Deadline,
    _ write: (Publisher) async throws(PatchbayError) -> Void
  ) async throws(PatchbayError) -> Generation {
    let publisher = try await publisher(
      key, options.appended(byteCount: byteCount), deadline: deadline)
    do throws(PatchbayError) {
      try await write(publisher)
      // The source may have taken its time: the deadline is the creation's, the seal has its own.
      try await publisher.seal(deadline: options.sealDeadline)
      return publisher.generation
    } catch {
      try? await publisher.fail("\(error)")
      throw error
    }
  }
}

/// An input file that several jobs share.
private final class OpenFile: Sendable {
  private let file: InputFile

  /// Opens it without waiting for a pipe's other end: reading waits for that.
  init(_ path: String) throws(PatchbayError) { file = try InputFile(path, waits: false) }

  var byteCount: Int? { file.byteCount }
  var descriptor: Int32 { file.descriptor.rawValue }

  func readAll(_ byteCount: Int) throws(PatchbayError) -> [UInt8] {
    try file.readAll(byteCount)
  }
}
