// A broker inside the test's own process, and clients of it.

import Glibc
import Patchbay
import PatchbayBroker
import PatchbayTestSupport
import PatchbayTypes
import Testing

/// Runs a closure with an embedded broker and a client of it; the broker has drained afterwards.
@_disfavoredOverload
func withBroker(
  memory: Int = 256 << 20, _ body: (Broker, PatchbayClient) throws -> Void
) throws {
  let directory = try TemporaryDirectory()
  try Broker.withBroker(
    BrokerConfiguration(socketPath: directory.file("s"), memoryLimit: memory)
  ) { broker in
    try body(broker, try broker.makeClient())
  }
}

/// The same with a spool in a directory of its own.
@_disfavoredOverload
func withSpool(
  memory: Int = 24 << 20, limit: Int = 1 << 30, compression: SpoolCompression = .none,
  _ body: (Broker, PatchbayClient, String) throws -> Void
) throws {
  let directory = try TemporaryDirectory()
  let spool = directory.file("spool")
  try Broker.withBroker(
    BrokerConfiguration(
      socketPath: directory.file("s"), memoryLimit: memory,
      spool: .directory(spool, byteLimit: limit, compression: compression))
  ) { broker in
    try body(broker, try broker.makeClient(), spool)
  }
  #expect(names(in: spool) == ["broker.lock"])
}

/// The code of the `PatchbayError` that a closure throws; nil when it throws none.
@_disfavoredOverload
func code(of body: () throws -> Void) -> PatchbayError.Code? {
  do {
    try body()
    return nil
  } catch {
    return (error as? PatchbayError)?.code
  }
}

/// Bytes that differ from place to place.
func pattern(_ range: Range<Int>) -> [UInt8] { oracleBytes(1, range) }

// MARK: For tasks

/// Runs a closure with an embedded broker and a client of it; the broker has drained afterwards.
func withBroker(
  memory: Int = 256 << 20, _ body: (Broker, PatchbayClient) async throws -> Void
) async throws {
  let directory = try TemporaryDirectory()
  try await Broker.withBroker(
    BrokerConfiguration(socketPath: directory.file("s"), memoryLimit: memory)
  ) { broker in
    try await body(broker, try await broker.makeClient())
  }
}

/// The code of the `PatchbayError` that a closure throws; nil when it throws none.
func code(of body: () async throws -> Void) async -> PatchbayError.Code? {
  do {
    try await body()
    return nil
  } catch {
    return (error as? PatchbayError)?.code
  }
}
