// The interface as its users write it, compiled as their programs are: in Swift 6 mode under strict
// memory safety, with warnings as errors.

import Patchbay
import PatchbayBroker
import PatchbayTestSupport
import Testing

@Suite struct ExampleTests {
  /// A broker as a program embeds it, and a client of it.
  private func withClient(_ body: (PatchbayClient, Broker) async throws -> Void) async throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("control.sock")
    try await Broker.withBroker(
      BrokerConfiguration(socketPath: path, memoryLimit: 256 << 20)
    ) { broker in
      let client = try await broker.makeClient()
      try await body(client, broker)
    }
  }

  private func pieces(of bytes: [UInt8], _ count: Int) -> AsyncStream<[UInt8]> {
    AsyncStream { continuation in
      for start in stride(from: 0, to: bytes.count, by: count) {
        continuation.yield(Array(bytes[start..<min(start + count, bytes.count)]))
      }
      continuation.finish()
    }
  }

  @Test func `a file is published and read from another client`() async throws {
    try await withClient { client, broker in
      let directory = try TemporaryDirectory()
      let path = directory.file("weights")
      let content = oracleBytes(1, 0..<100_000)
      try writeFile(path, content)

      try await client.publish(contentsOf: path, as: "models/v7")

      let other = try await PatchbayClient(socketPath: broker.socketPath)
      let blob = try await other.open("models/v7")
      let header = try await blob.readFully(0..<512)
      #expect(header.elementsEqual(content[..<512]))
    }
  }

  @Test func `pieces are appended as they come, and read live`() async throws {
    try await withClient { client, _ in
      let content = oracleBytes(1, 0..<50_000)
      let size = content.count
      let pieces = pieces(of: content, 777)
      async let seen: [UInt8] = {
        var all: [UInt8] = []
        func show(_ bytes: Span<UInt8>) {
          for index in bytes.indices { all.append(bytes[index]) }
        }
        let blob = try await client.open("log", waitUntil: .after(.seconds(30)))
        for try await chunk in blob.chunks(from: .start) {
          chunk.withBytes { (bytes: Span<UInt8>) in show(bytes) }
        }
        return all
      }()
      try await client.withPublisher("log", BlobOptions(byteCount: size)) { blob in
        for try await piece in pieces { try await blob.append(piece) }
      }
      #expect(try await seen == content)
    }
  }

  @Test func `a group of tasks fills a blob piece by piece`() async throws {
    try await withClient { client, _ in
      let size = 3_000_000
      @Sendable func fetch(_ range: Range<Int>) async throws -> [UInt8] { oracleBytes(1, range) }

      try await client.withPublisher("layer", BlobOptions(byteCount: size)) { blob in
        try await withThrowingTaskGroup { group in
          for range in try await blob.missing(inPiecesOf: 1 << 18) {
            group.addTask { try await blob.write(try await fetch(range), at: range.lowerBound) }
          }
          try await group.waitForAll()
        }
      }

      let isRight = try await client.open("layer").withWholeBlob { bytes in
        bytes.count == size && firstWrong(bytes, 1, at: 0) == nil
      }
      #expect(isRight)
    }
  }

  /// The same names block where nothing can wait: in code that is not asynchronous.
  @Test func `threads write the same program without await`() throws {
    let directory = try TemporaryDirectory()
    let configuration = BrokerConfiguration(
      socketPath: directory.file("control.sock"), memoryLimit: 64 << 20)
    try Broker.withBroker(configuration) { broker in
      let client = try broker.makeClient()
      try client.withPublisher("layer", BlobOptions(byteCount: 10_000)) { blob in
        for range in try blob.missing(inPiecesOf: 1000).shuffled() {
          try blob.write(oracleBytes(1, range), at: range.lowerBound)
        }
      }
      let header = try client.open("layer").readFully(0..<512)
      #expect(header == oracleBytes(1, 0..<512))
    }
  }
}
