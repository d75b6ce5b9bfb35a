// The broker as a library: what `patchbay serve` runs, for programs that bring their own.

import Logging
import Patchbay
import PatchbayLoop
import PatchbaySystem
import PatchbayTypes

/// Where a broker puts what does not fit in memory.
public struct SpoolConfiguration: Sendable, Hashable {
  /// A directory of the broker's user into which nobody else may write; made if it is not there. One
  /// broker at a time has it.
  public var directory: String
  /// Bytes of disk that blobs may take; nil: half of what is free when the broker starts.
  public var byteLimit: Int?
  /// Whether bytes are compressed on disk, unless a blob's options say otherwise.
  public var compression: SpoolCompression
  /// Bytes of that disk that are left to others: nothing is written when fewer would be free. Nil: a
  /// thirty-second of the disk, at most 1 GiB.
  public var freeByteFloor: Int?

  /// A spool in a directory.
  public static func directory(
    _ path: String, byteLimit: Int? = nil, compression: SpoolCompression = .none,
    freeByteFloor: Int? = nil
  ) -> SpoolConfiguration {
    SpoolConfiguration(
      directory: path, byteLimit: byteLimit, compression: compression,
      freeByteFloor: freeByteFloor)
  }
}

/// What a broker is told when it starts.
public struct BrokerConfiguration: Sendable {
  /// Where it listens; nil: by the rules of the command (`$PATCHBAY_SOCKET`, the runtime directory,
  /// `/tmp`).
  public var socketPath: String?
  /// Bytes of shared memory it may hold, its own tables included; nil: a quarter of what is free.
  public var memoryLimit: Int?
  /// Where what does not fit in memory goes; nil: nowhere, and a writer that finds no room is told so.
  public var spool: SpoolConfiguration?
  /// How long open blobs may take to finish when the broker drains.
  public var drainLimit: Duration = .seconds(30)
  /// Ends by itself, as `requestStop` would, when there has been no client and no open blob for so
  /// long; its sealed blobs go with it. Nil: never.
  public var idleLimit: Duration?
  /// A listening socket (`AF_UNIX`, `SOCK_SEQPACKET`) that this process was given, by a service
  /// manager for one; nil: the broker makes its own. The broker closes it, leaves its name where it
  /// is, and serves on its path: `socketPath` is nil then.
  public var listeningDescriptor: Int32?
  /// Whether users other than its own may connect. What they may read is what each blob's owner, group
  /// and mode say; see the article "Other users" of the module Patchbay. Needs a socket directory that
  /// its group or others can pass.
  public var isShared = false
  /// Bytes of memory that the blobs of one other user may take; nil: half of `memoryLimit`.
  public var userMemoryLimit: Int?
  /// Bytes of memory that the blobs which one client writes at the same time may take; nil: all of
  /// `memoryLimit`. At least 2 MiB. With a spool a stream may be longer: what is complete of it leaves
  /// memory. What is sealed does not count.
  public var clientMemoryLimit: Int?
  /// Bytes of memory that complete and failed blobs may take which nobody uses and which may go; nil: as
  /// many as there is room for. Beyond that those leave whose last use is longest ago.
  public var cacheByteLimit: Int?
  /// How many complete blobs are kept that nobody uses and that may go; nil: as many as there is room for.
  public var cacheBlobLimit: Int?
  /// How many ranges may be fetched on demand at the same time, of all blobs; nil: as many as their sources
  /// take. What readers wait for comes first.
  public var transferLimit: Int?
  /// What is to become of a complete blob that may go when its last user has gone; asked on the broker's
  /// thread, which waits for the answer, so it must not block. Nil: what the limits say.
  public var cachePolicy: (@Sendable (BlobInfo) -> CacheDecision)?
  /// Where its own lines go.
  public var logger: Logger
  /// How long memory that nobody uses is kept for the next blob; nil: ten seconds. For tests that wait for it
  /// to be given back.
  package var poolRest: Duration?
  /// For tests that count system calls: whatever has a thread of its own otherwise runs on the broker's.
  package var runsWorkersInline = false

  /// A configuration with defaults for everything.
  public init(
    socketPath: String? = nil, memoryLimit: Int? = nil, spool: SpoolConfiguration? = nil,
    logger: Logger = Logger(label: "patchbay.broker")
  ) {
    self.socketPath = socketPath
    self.memoryLimit = memoryLimit
    self.spool = spool
    self.logger = logger
  }
}

/// A running broker: owns shared memory, and tells clients where bytes are.
///
/// It serves on a thread of its own from `init` on, until it is drained or stopped, or its last
/// reference goes, which stops it. Any thread may call any method.
public final class Broker: Sendable {
  private let loop: BrokerLoop
  private let drainLimit: Duration

  /// Where it listens.
  public var socketPath: String { loop.socketPath }

  /// Bytes of shared memory it may hold.
  public var memoryLimit: Int { loop.memoryLimit }

  /// Starts a broker. Clients can connect when this returns. Does not block for long: removing what
  /// a killed broker has left at this path takes milliseconds.
  ///
  /// - Throws: `limitReached` when another broker serves the path, `notPermitted` when the path or
  ///   its directory belongs to somebody else, `noSpaceMemory` when there is too little of it,
  ///   `inputOutput` for what the system refuses.
  public init(_ configuration: BrokerConfiguration = BrokerConfiguration()) throws(PatchbayError) {
    let listener = configuration.listeningDescriptor
    precondition(
      listener == nil || configuration.socketPath == nil, "a listening socket has a path already")
    let path: SocketPath
    if let listener {
      path = try SocketPath(ofListener: listener)
    } else {
      path = try SocketPath(configuration.socketPath)
    }
    var inner = LoopConfiguration(socketPath: path, logger: configuration.logger)
    inner.listener = listener
    inner.idleLimit = configuration.idleLimit
    inner.memoryLimit = configuration.memoryLimit
    inner.drainLimit = configuration.drainLimit
    inner.isShared = configuration.isShared
    inner.userMemoryLimit = configuration.userMemoryLimit
    inner.clientMemoryLimit = configuration.clientMemoryLimit
    inner.cacheByteLimit = configuration.cacheByteLimit
    inner.cacheBlobLimit = configuration.cacheBlobLimit
    inner.transferLimit = configuration.transferLimit
    inner.poolRest = configuration.poolRest
    inner.cachePolicy = configuration.cachePolicy
    inner.runsWorkersInline = configuration.runsWorkersInline
    inner.spool = configuration.spool.map {
      SpoolPlace(
        directory: $0.directory, byteLimit: $0.byteLimit, compression: $0.compression,
        floor: $0.freeByteFloor)
    }
    drainLimit = configuration.drainLimit
    loop = try BrokerLoop(inner)
    try loop.start()
  }

  // Disfavoured: async code whose body happens not to wait must not resolve to the blocking one.

  /// Runs `body` with a broker; leaving the scope, either way, drains it. Blocks while the body
  /// runs and until the broker has ended: afterwards its socket and its shared memory are gone.
  ///
  /// - Throws: what `init` and the body throw.
  @_disfavoredOverload
  @available(*, noasync)
  public static func withBroker<Result>(
    _ configuration: BrokerConfiguration = BrokerConfiguration(),
    _ body: (Broker) throws -> Result
  ) throws -> Result {
    let broker = try Broker(configuration)
    defer { broker.drain() }
    return try body(broker)
  }

  /// Runs `body` with a broker; leaving the scope, either way, drains it. Returns when the broker
  /// has ended: afterwards its socket and its shared memory are gone. Blocks no thread; cancelling
  /// the task is for the body to notice.
  ///
  /// - Throws: what `init` and the body throw.
  public nonisolated(nonsending) static func withBroker<Result>(
    _ configuration: BrokerConfiguration = BrokerConfiguration(),
    _ body: (Broker) async throws -> Result
  ) async throws -> Result {
    let broker = try Broker(configuration)
    do {
      let result = try await body(broker)
      await broker.drain()
      return result
    } catch {
      await broker.drain()
      throw error
    }
  }

  /// Connects a new client to this broker. Blocks until they have shaken hands.
  ///
  /// - Throws: `noBroker` when it has ended, `limitReached`, `timedOut`.
  @available(*, noasync)
  public func makeClient() throws(PatchbayError) -> PatchbayClient {
    try PatchbayClient(socketPath: socketPath)
  }

  /// Connects a new client to this broker.
  ///
  /// - Throws: `noBroker` when it has ended, `limitReached`, `timedOut`, `cancelled`.
  public func makeClient() async throws(PatchbayError) -> PatchbayClient {
    try await PatchbayClient(socketPath: socketPath)
  }

  /// Takes no new blobs and readers, lets what is open finish, at most for the configured time, and
  /// ends. Blocks until then; afterwards nothing of the broker is left. A second call returns when
  /// the first does.
  @available(*, noasync)
  public func drain() { loop.drain(timeout: drainLimit) }

  /// As the blocking `drain`, without holding a thread.
  public func drain() async { await loop.drain(timeout: drainLimit) }

  /// Asks for `drain` and returns at once. May be called from a signal handler.
  public func requestDrain() { loop.requestDrain() }

  /// Asks for the end and leaves everything in shared memory and on disk to the next broker on the same
  /// path, which may be of a later version: clients wait for it, and go on. Returns at once. May be
  /// called from a signal handler.
  public func requestHandOver() { loop.requestHandOver() }

  /// Asks for the end without waiting for anything open, and returns at once. May be called from a
  /// signal handler.
  public func requestStop() { loop.requestStop() }

  /// Blocks until the broker has ended, for whatever reason.
  @available(*, noasync)
  public func waitUntilEnded() { loop.waitUntilEnded() }
}
