// A cache of streams as its users see it, and Patchbay as one: what is checked of it is checked of models
// that have the bugs such caches have had, too. Every check gives a list of what is wrong.

import Glibc
import Patchbay
import PatchbayTestSupport

/// How reading on came to an end.
enum Ending: Equatable {
  case whole
  case failed
  /// Nothing that is left could ever continue it.
  case waitsForEver
}

/// What a reader got that read on to an end.
struct Reading: Equatable {
  var bytes: [UInt8]
  var ending: Ending
}

/// A call that nothing could ever end; a model throws it instead of waiting.
struct WaitsForEver: Error {}

protocol StreamCache: AnyObject {
  func create(_ key: String, byteCount: Int?) throws -> any StreamWriter
  /// Nil: there is none, or none that could be read to its end.
  func open(_ key: String) throws -> (any StreamReader)?
  func remove(_ key: String) throws
}

protocol StreamWriter {
  func append(_ bytes: [UInt8]) throws
  /// Its source has come to its end.
  func finish() throws
  /// Its source has broken.
  func breakOff() throws
  /// Its process is killed.
  func die() throws
}

protocol StreamReader {
  /// Reads from the first byte until there is an end.
  func rest() -> Reading
  func close()
}

/// A cache that survives a crash of everything, its writers included.
protocol RestartedCache: StreamCache {
  func crashAndStart() throws
  /// Files of blobs that nobody can have any more.
  var leftovers: [String] { get throws }
}

// MARK: Patchbay

/// Blobs of a broker, through the client library.
final class PatchbayCache: StreamCache {
  let client: PatchbayClient
  private let socket: String
  /// Of `patchbay put`, which then writes in a process of its own; nil: this process writes.
  private let command: [String]?

  init(_ socket: String, writtenByCommand command: [String]? = nil) throws {
    self.socket = socket
    self.command = command
    client = try PatchbayClient(socketPath: socket)
  }

  func create(_ key: String, byteCount: Int?) throws -> any StreamWriter {
    guard let command else {
      return LibraryWriter(
        publisher: try client.publisher(
          try BlobKey(key), BlobOptions(byteCount: byteCount, order: .appendOnly)))
    }
    let process = try ChildProcess(
      try program("patchbay"), ["put", key, "--socket", socket, "-q"] + command)
    try eventually("\(key) is there") { try client.exists(try BlobKey(key)) }
    return CommandWriter(process: process, client: client, key: try BlobKey(key))
  }

  func open(_ key: String) throws -> (any StreamReader)? {
    do throws(PatchbayError) {
      return LibraryReader(subscriber: try client.open(try BlobKey(key)))
    } catch {
      guard [.noSuchKey, .blobFailed, .abandoned].contains(error.code) else { throw error }
      return nil
    }
  }

  func remove(_ key: String) throws { try client.remove(try BlobKey(key)) }
}

private struct LibraryWriter: StreamWriter {
  let publisher: Publisher

  func append(_ bytes: [UInt8]) throws { try publisher.append(bytes) }

  func finish() throws {
    do throws(PatchbayError) {
      try publisher.seal()
    } catch {
      try? publisher.fail("\(error)")
    }
  }

  func breakOff() throws { try publisher.fail("its source broke") }
  func die() throws { throw HarnessError("this process has to go on") }
}

/// Its content is text.
private struct CommandWriter: StreamWriter {
  let process: ChildProcess
  let client: PatchbayClient
  let key: BlobKey

  /// What is told to have been written has been written.
  func append(_ bytes: [UInt8]) throws {
    let end = try client.info(key).coveredByteCount + bytes.count
    try process.send(String(decoding: bytes, as: UTF8.self))
    try eventually("\(end) bytes are there") { try client.info(key).coveredByteCount == end }
  }

  func finish() throws {
    process.closeInput()
    _ = try process.waitForExit()
  }

  func breakOff() throws { try end(SIGTERM) }
  func die() throws { try end(SIGKILL) }

  private func end(_ signal: Int32) throws {
    process.kill(signal)
    _ = try process.waitForExit()
  }
}

private struct LibraryReader: StreamReader {
  let subscriber: Subscriber

  func rest() -> Reading { subscriber.reading() }
  func close() { subscriber.close() }
}

extension Subscriber {
  /// The whole of it; what has not ended when the watchdog does is taken to wait for ever.
  func reading() -> Reading {
    var cursor = cursor()
    var bytes: [UInt8] = []
    do throws(PatchbayError) {
      while let more = try cursor.read(upTo: 1 << 20, deadline: .after(.seconds(60))) {
        bytes += more
      }
      return Reading(bytes: bytes, ending: .whole)
    } catch {
      return Reading(bytes: bytes, ending: error.code == .timedOut ? .waitsForEver : .failed)
    }
  }
}

/// Brokers that follow one another on a spool, as after a power cut when they lose their memory, too.
final class PatchbayBetweenCrashes: RestartedCache {
  private let brokers: Succession
  private let memoryIsLost: Bool
  private var cache: PatchbayCache
  private var writers: [any StreamWriter] = []

  init(_ brokers: Succession, memoryIsLost: Bool = true) throws {
    self.brokers = brokers
    self.memoryIsLost = memoryIsLost
    cache = try Self.cache(brokers)
  }

  private static func cache(_ brokers: Succession) throws -> PatchbayCache {
    try PatchbayCache(brokers.socket, writtenByCommand: ["--ack", "retained"])
  }

  func create(_ key: String, byteCount: Int?) throws -> any StreamWriter {
    let writer = try cache.create(key, byteCount: byteCount)
    writers.append(writer)
    return writer
  }

  func open(_ key: String) throws -> (any StreamReader)? { try cache.open(key) }
  func remove(_ key: String) throws { try cache.remove(key) }

  var leftovers: [String] {
    names(in: brokers.spool).filter { $0 != "broker.lock" && !$0.hasSuffix(".blob") }
  }

  func crashAndStart() throws {
    try eventually("something of it is on disk") { !leftovers.isEmpty }
    try brokers.kill()
    for writer in writers { try writer.die() }
    if memoryIsLost { brokers.removeObjects() }
    try brokers.start()
    cache = try Self.cache(brokers)
  }
}
