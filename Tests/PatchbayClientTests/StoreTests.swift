// What a store offers, whatever is behind it: waiting, producing, listing.

import Glibc
import PatchbayBroker
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import Patchbay

/// How often something has happened.
private final class Count: Sendable {
  private let count = Mutex(0)
  func add() { count.withLock { $0 += 1 } }
  var value: Int { count.withLock { $0 } }
}

@Suite struct StoreTests {
  @Test func `a client that is used as a store blocks no task`() async throws {
    try await withBroker { (_, client) async throws in
      let store: any BlobStore = client
      // More than there are threads for tasks.
      let count = 16 + 4 * Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))
      try await withThrowingTaskGroup { group in
        for index in 0..<count {
          group.addTask {
            let reader = try await store.open(
              try BlobKey("k\(index)"), waitUntil: .after(.seconds(20)))
            return try await reader.readFully(0..<1) == [7]
          }
        }
        try await eventually("all wait") { client.session.connection.pendingCount == count }
        for index in 0..<count { try await store.publish([7], as: try BlobKey("k\(index)")) }
        for try await isRight in group { #expect(isRight) }
      }
    }
  }

  /// One of each kind over brokers of their own, to be used alike.
  private func withStores(_ body: (any BlobStore) async throws -> Void) async throws {
    try await withLayers { layers in
      try await body(layers.upper)
      try await layers.upper.remove("k")
      try await body(layers.store)
      try await layers.store.remove("k")
      let partitions = try PartitionedStore([
        .init("left", layers.store), .init("right", weight: 2, layers.lower),
      ])
      try await body(partitions)
    }
  }

  @Test func `all stores publish, read, tell and remove`() async throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("source")
    try writeFile(path, pattern(0..<70_000))
    try await withStores { store in
      let length = try await store.withPublisher("k", inOrder(nil)) { blob in
        try await blob.append(pattern(0..<1000))
        return blob.position
      }
      #expect(length == 1000)
      #expect(try await store.open("k").readFully(0..<1000) == pattern(0..<1000))
      #expect(await code { _ = try await store.publisher("k") } == .keyExists)
      try await store.remove("k")
      #expect(try await !store.exists("k"))
      try await store.publish(contentsOf: path, as: "k")
      #expect(try await store.info("k").byteCount == 70_000)
      try await store.remove("k")
      try await store.publish([1, 2, 3], as: "k")
      #expect(try await store.open("k").waitUntilSealed() == 3)
      await #expect(throws: HarnessError.self) {
        try await store.withPublisher("failing") { _ in throw HarnessError("no") }
      }
      #expect(await code { _ = try await store.open("failing") } == .blobFailed)
      try await store.remove("failing")
    }
  }

  @Test func `all stores have a blob produced once, and fetched where it is read`() async throws {
    try await withStores { store in
      let runs = Count()
      let readers = try await withThrowingTaskGroup { group in
        for _ in 0..<8 {
          group.addTask {
            try await store.get("k", ProductionOptions(inOrder(20_000), start: .fromZero)) { job in
              runs.add()
              try await job.publisher.append(pattern(0..<20_000))
            }
          }
        }
        return try await group.reduce(into: []) { $0.append($1) }
      }
      for reader in readers {
        #expect(try await reader.readFully(0..<20_000) == pattern(0..<20_000))
        #expect(try await reader.waitUntilSealed() == 20_000)
      }
      #expect(runs.value == 1)
      let fetched = try await store.get(
        "fetched", ProductionOptions(BlobOptions(byteCount: 8 << 20)),
        orFetch: RangeSource { range, publisher in
          try await publisher.write(pattern(range), at: range.lowerBound)
        })
      #expect(
        try await fetched.readFully(5 << 20..<(5 << 20) + 9) == pattern(5 << 20..<(5 << 20) + 9))
      // One piece, of which the rest may still be on its way.
      #expect(try await store.info("fetched").coveredByteCount <= 1 << 20)
      #expect(try await fetched.readFully(0..<8 << 20) == pattern(0..<8 << 20))
      #expect(try await fetched.waitUntilSealed() == 8 << 20)
      try await store.remove("fetched")
    }
  }

  @Test func `what is produced in layers is produced in the lowest and read above`() async throws {
    try await withLayers { layers in
      let reader = try await layers.store.get(
        "k", ProductionOptions(inOrder(9000), start: .fromZero)
      ) { job in
        #expect(try await layers.lower.info("k").generation == job.publisher.generation)
        try await job.publisher.append(pattern(0..<9000))
      }
      #expect(try await reader.waitUntilSealed() == 9000)
      #expect(try await reader.generation == layers.upper.info("k").generation)
      // A copy under way is a reader, so a blob that would stop without any is not copied yet.
      var options = ProductionOptions(inOrder(9000), start: .fromZero)
      options.whenUnread = .stop
      let stopping = try await layers.store.get("stopping", options) { job in
        try await job.publisher.append([1])
        try await Task.sleep(for: .seconds(600))
      }
      #expect(try await stopping.readFully(0..<1) == [1])
      #expect(try await !layers.upper.exists("stopping"))
      stopping.close()
      try await eventually("it has stopped") {
        try await layers.lower.info("stopping").state == .failed
      }
    }
  }

  @Test(arguments: [0, 1])
  func `an open that waits gets the blob in whichever layer it comes`(layer: Int) async throws {
    try await withLayers { layers in
      async let reader = layers.store.open("k", waitUntil: .after(.seconds(20)))
      let clients = [layers.upper, layers.lower]
      try await eventually("all layers are waited for") {
        clients.allSatisfy { $0.session.connection.pendingCount == 1 }
      }
      try await clients[layer].publish(pattern(0..<500), as: "k")
      #expect(try await reader.readFully(0..<500) == pattern(0..<500))
      try await eventually("none is waited for any more") {
        clients.allSatisfy { $0.session.connection.pendingCount == 0 }
      }
      let never = await code {
        _ = try await layers.store.open("nothing", waitUntil: .after(.milliseconds(20)))
      }
      #expect(never == .timedOut)
    }
  }

  // MARK: Listing

  /// All that a store lists, page by page, and the size of each page.
  private func all(_ store: any BlobStore, limit: Int) async throws -> [BlobInfo] {
    var all: [BlobInfo] = []
    var page = BlobPage(blobs: [], hasMore: true)
    while page.hasMore {
      page = try await store.list(prefix: [107], after: all.last?.key, limit: limit)
      #expect(page.blobs.count <= limit && (!page.blobs.isEmpty || !page.hasMore))
      all += page.blobs
    }
    return all
  }

  @Test(arguments: [1, 3, 7, 480])
  func `layers list each key once, as the first one has it`(limit: Int) async throws {
    try await withLayers { layers in
      // Odd ones above, those that three divides below, and some are in both.
      for index in 10..<40 {
        let key = try BlobKey("k\(index)")
        if index % 2 == 1 { try await layers.upper.publish([1], as: key) }
        if index % 3 == 0 { try await layers.lower.publish([1, 2], as: key) }
      }
      try await layers.lower.publish([1], as: "another prefix")
      try await layers.upper.publisher("k12", BlobOptions()).fail("no")
      let found = try await all(layers.store, limit: limit)
      let expected = (10..<40).filter { $0 % 2 == 1 || $0 % 3 == 0 }
      #expect(found.map(\.key) == (try expected.map { try BlobKey("k\($0)") }))
      // What has failed above hides nothing below.
      #expect(found.map(\.byteCount) == expected.map { $0 % 2 == 1 ? 1 : 2 })
    }
  }

  @Test(arguments: [1, 3, 7, 480])
  func `partitions list all keys in order, and only where they belong`(limit: Int) async throws {
    try await withLayers { layers in
      let store = try PartitionedStore([
        .init("left", layers.upper), .init("right", layers.lower),
      ])
      let keys = try (100..<160).map { try BlobKey("k\($0)") }
      for key in keys.shuffled() { try await store.publish([1, 2, 3], as: key) }
      #expect(try await all(store, limit: limit).map(\.key) == keys)
      let (left, right) = (
        try await all(layers.upper, limit: 480), try await all(layers.lower, limit: 480)
      )
      #expect(left.count + right.count == keys.count && !left.isEmpty && !right.isEmpty)
      // What stands where it does not belong is not found, and not listed.
      for blob in right { try await layers.upper.publish([9], as: blob.key) }
      #expect(try await all(store, limit: limit).map(\.key) == keys)
      let missing = try #require(right.first?.key)
      try await layers.lower.remove(missing)
      #expect(await code { _ = try await store.open(missing) } == .noSuchKey)
      #expect(try await all(store, limit: limit).map(\.key) == keys.filter { $0 != missing })
    }
  }
}
