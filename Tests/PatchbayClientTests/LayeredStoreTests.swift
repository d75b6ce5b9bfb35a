// Caches over the store that keeps: what is read where, what is copied, and what never looks complete.

import Glibc
import PatchbayBroker
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import Patchbay

/// A store over another one, each a client of a broker of its own.
struct Layers {
  let upper: PatchbayClient
  let lower: PatchbayClient
  let brokers: [Broker]
  var store: LayeredStore { LayeredStore(upper, over: lower) }
}

func withLayers(
  upperMemory: Int = 64 << 20, _ body: (Layers) async throws -> Void
) async throws {
  try await withBroker(memory: upperMemory) { (above, upper) async throws in
    try await withBroker(memory: 64 << 20) { (below, lower) async throws in
      try await body(Layers(upper: upper, lower: lower, brokers: [above, below]))
    }
  }
}

/// For blobs whose bytes come in order.
func inOrder(_ byteCount: Int?) -> BlobOptions {
  BlobOptions(byteCount: byteCount, order: .appendOnly)
}

@Suite struct LayeredStoreTests {
  // MARK: Copies

  @Test(arguments: [0, 1, 16_384, 1_000_003])
  func `a blob found below is copied above with all that travels with it`(
    length: Int
  ) async throws {
    try await withLayers { layers in
      var options = BlobOptions(
        mode: 0o644, type: "image/png", labels: [BlobInfo.Label(name: "a", value: "b")])
      options.digest = .sha256
      try await layers.lower.publish(pattern(0..<length), as: "k", options)
      let reader = try await layers.store.open("k")
      #expect(try await reader.waitUntilSealed() == length)
      #expect(try await reader.readFully(0..<length) == pattern(0..<length))
      let (copy, original) = (try await layers.upper.info("k"), try await layers.lower.info("k"))
      #expect(copy.state == .sealed && copy.byteCount == length && copy.isCache)
      #expect(copy.type == "image/png" && copy.labels == original.labels)
      #expect(copy.access.mode == 0o644 && copy.digest == original.digest && copy.digest != nil)
      try await layers.lower.remove("k")
      let again = try await layers.store.open("k")
      #expect(try await again.readFully(0..<length) == pattern(0..<length))
    }
  }

  @Test func `a copy is read while the blob below is still written`() async throws {
    try await withLayers { layers in
      let publisher = try await layers.lower.publisher("k", inOrder(1_000_000))
      try await publisher.append(pattern(0..<1000))
      let reader = try await layers.store.open("k")
      #expect(try await reader.readFully(0..<1000) == pattern(0..<1000))
      let copy = try await layers.upper.info("k")
      #expect(copy.state == .open && copy.generation == reader.generation)
      try await publisher.append(pattern(1000..<1_000_000))
      #expect(try await reader.readFully(0..<1_000_000) == pattern(0..<1_000_000))
      #expect(reader.state == .open)
      try await publisher.seal()
      #expect(try await reader.waitUntilSealed() == 1_000_000)
    }
  }

  @Test func `of many that open a blob at once one copies it`() async throws {
    try await withLayers { layers in
      let publisher = try await layers.lower.publisher("k", inOrder(100_000))
      try await publisher.append(pattern(0..<1000))
      let readers = try await withThrowingTaskGroup { group in
        for _ in 0..<5 {
          let upper = try await layers.brokers[0].makeClient()
          let lower = try await layers.brokers[1].makeClient()
          for _ in 0..<4 { group.addTask { try await LayeredStore(upper, over: lower).open("k") } }
        }
        return try await group.reduce(into: []) { $0.append($1) }
      }
      #expect(readers.count == 20)
      #expect(try await layers.upper.info("k").publisherCount == 1)
      try await publisher.append(pattern(1000..<100_000))
      try await publisher.seal()
      for reader in readers {
        #expect(try await reader.waitUntilSealed() == 100_000)
        #expect(try await reader.readFully(0..<100_000) == pattern(0..<100_000))
      }
      let copy = try await layers.upper.info("k").generation
      #expect(readers.allSatisfy { $0.generation == copy })
    }
  }

  @Test func `layers of layers are layers, and a blob is copied into all above it`() async throws {
    try await withBroker { (_, archive) async throws in
      try await withLayers { layers in
        let store = LayeredStore(layers.upper, over: LayeredStore(layers.lower, over: archive))
        #expect(store.layers.count == 3)
        let left = LayeredStore(LayeredStore(layers.upper, over: layers.lower), over: archive)
        #expect(left.layers.count == 3)
        try await archive.publish(pattern(0..<300_000), as: "k")
        let reader = try await store.open("k")
        #expect(try await reader.waitUntilSealed() == 300_000)
        for layer in [layers.upper, layers.lower] {
          let copy = try await layer.open("k")
          #expect(try await copy.readFully(0..<300_000) == pattern(0..<300_000))
        }
      }
    }
  }

  @Test func `what would not come in order is read where it is until it is complete`() async throws
  {
    try await withLayers { layers in
      var ring = BlobOptions(policy: .dropOldest)
      ring.ringByteCount = 1 << 20
      let source = RangeSource { range, publisher in
        try await publisher.write(pattern(range), at: range.lowerBound)
      }
      let fetched = try await layers.lower.publisher(
        "fetched", BlobOptions(byteCount: 10_000), fetching: source)
      let open = [
        try await layers.lower.publisher("any", BlobOptions(byteCount: 10_000)),
        try await layers.lower.publisher("unknown", inOrder(nil)),
        try await layers.lower.publisher("ring", ring), fetched,
      ]
      for publisher in open {
        let reader = try await layers.store.open(publisher.key)
        #expect(reader.generation == publisher.generation)
        #expect(try await !layers.upper.exists(publisher.key), "\(publisher.key)")
        if publisher !== fetched { try await publisher.append(pattern(0..<10_000)) }
      }
      try await fetched.write(pattern(0..<10_000), at: 0)
      for publisher in open {
        try await publisher.seal()
        _ = try await layers.store.open(publisher.key)
        #expect(try await layers.upper.exists(publisher.key) == (publisher.key != "ring"))
      }
    }
  }

  @Test func `a copy has no more time than the blob below`() async throws {
    try await withLayers { layers in
      var options = inOrder(5)
      options.timeToLive = .seconds(3600)
      try await layers.lower.publish([1, 2, 3, 4, 5], as: "complete", options)
      #expect(try await layers.store.open("complete").waitUntilSealed() == 5)
      let left = try #require(try await layers.upper.info("complete").expires)
      let original = try #require(try await layers.lower.info("complete").expires)
      #expect(left.rawValue - original.rawValue < 1_800_000_000_000)

      // Of a blob that is being written nobody knows: its copy goes when it turns out to have a time.
      let publisher = try await layers.lower.publisher("open", options)
      let reader = try await layers.store.open("open")
      #expect(try await layers.upper.exists("open"))
      try await publisher.append([1, 2, 3, 4, 5])
      try await publisher.seal()
      #expect(try await reader.waitUntilSealed() == 5)
      #expect(try await !layers.upper.exists("open"))
    }
  }

  // MARK: Failures

  @Test func `a blob that fails while it is copied is complete nowhere, and all get its cause`()
    async throws
  {
    try await withBroker { (_, archive) async throws in
      try await withLayers { layers in
        let store = LayeredStore(layers.store, over: archive)
        let publisher = try await archive.publisher("k", inOrder(10_000))
        let reader = try await store.open("k")
        try await publisher.append(pattern(0..<5000))
        #expect(try await reader.readFully(0..<5000) == pattern(0..<5000))
        try await publisher.fail("the disk is on fire")
        let error = await #expect(throws: PatchbayError.self) {
          _ = try await reader.waitUntilSealed()
        }
        #expect(error?.code == .blobFailed && error?.cause == "the disk is on fire")
        for layer in [layers.upper, layers.lower, archive] {
          try await eventually("it has failed") { try await layer.info("k").state == .failed }
        }
        #expect(try await store.list().blobs.map(\.state) == [.failed])
        let next = await #expect(throws: PatchbayError.self) { _ = try await store.open("k") }
        #expect(next?.cause == "the disk is on fire")
        // What failed above counts as none, and hides nothing.
        try await archive.publish(pattern(0..<10_000), as: "k")
        let whole = try await store.open("k")
        #expect(try await whole.readFully(0..<10_000) == pattern(0..<10_000))
        #expect(try await store.info("k").state == .sealed)
      }
    }
  }

  @Test func `an upper layer that is full fails no read`() async throws {
    try await withLayers(upperMemory: 16 << 20) { layers in
      let length = 24 << 20
      try await layers.lower.publish(pattern(0..<length), as: "k")
      let reader = try await layers.store.open("k")
      #expect(try await reader.readFully(length - 5000..<length) == pattern(length - 5000..<length))
      #expect(try await reader.generation == layers.lower.info("k").generation)
      #expect(try await !layers.upper.exists("k"))
    }
  }

  @Test func `an upper layer that is gone fails no read, and is not passed over by a removal`()
    async throws
  {
    try await withBroker { (_, lower) async throws in
      let directory = try TemporaryDirectory()
      let path = directory.file("s")
      let upper = try await Broker.withBroker(
        BrokerConfiguration(socketPath: path, memoryLimit: 16 << 20)
      ) { _ in try await PatchbayClient(socketPath: path, reconnectLimit: .zero) }
      let store = LayeredStore(upper, over: lower)
      try await lower.publish(pattern(0..<9000), as: "k")
      #expect(try await store.open("k").readFully(0..<9000) == pattern(0..<9000))
      #expect(try await store.info("k").state == .sealed)
      #expect(try await store.list().blobs.map(\.key) == ["k"])
      #expect(await code { _ = try await store.publish([1], as: "new") } == .noBroker)
      #expect(await code { _ = try await store.open("new") } == .blobFailed)
      #expect(await code { try await store.remove("k") } == .noBroker)
      #expect(try await !lower.exists("k"))
    }
  }

  // MARK: What travels with a copy

  @Test func `a copy of another owner's blob is for others only where everybody might read it`() {
    let (uid, gid) = (geteuid(), getegid())
    #expect(Access(uid: uid, gid: gid, mode: 0o640).modeOfCopy == 0o640)
    for (mode, expected) in [
      (0o600, 0o600), (0o640, 0o600), (0o604, 0o600), (0o644, 0o644), (0o666, 0o666),
    ] as [(UInt16, UInt16)] {
      #expect(Access(uid: uid + 1, gid: gid, mode: mode).modeOfCopy == expected)
      #expect(Access(uid: uid, gid: gid + 1, mode: mode).modeOfCopy == expected)
    }
  }

  @Test func `a copy of what is to be wanted more often goes with its last reader, too`()
    async throws
  {
    try await withBroker { (_, top) async throws in
      try await withLayers { layers in
        var options = ProductionOptions(inOrder(9000), start: .fromZero)
        options.leastUses = 2
        let produced = try await layers.store.get("k", options) { job in
          try await job.publisher.append(pattern(0..<9000))
        }
        #expect(try await produced.waitUntilSealed() == 9000)
        #expect(try await produced.generation == layers.upper.info("k").generation)
        produced.close()
        try await eventually("the copy has gone") { try await !layers.upper.exists("k") }
        // Found in the middle, and copied from there.
        try await layers.upper.publish(pattern(0..<500), as: "middle")
        let store = LayeredStore(top, over: layers.store)
        let found = try await store.get("middle", options) { _ in }
        #expect(try await found.waitUntilSealed() == 500)
        #expect(try await found.generation == top.info("middle").generation)
        found.close()
        try await eventually("that copy has gone, too") { try await !top.exists("middle") }
      }
    }
  }

  @Test func `behind a copy that has failed the blob itself is read for a while`() async throws {
    try await withLayers { layers in
      let publisher = try await layers.lower.publisher("k", inOrder(5))
      try await publisher.append([1, 2])
      let reader = try await layers.store.open("k")
      #expect(try await reader.readFully(0..<2) == [1, 2])
      #expect(try await layers.upper.info("k").generation == reader.generation)
      try await publisher.fail("no")
      #expect(await code { _ = try await reader.waitUntilSealed() } == .blobFailed)
      try await layers.lower.publish([3, 4, 5], as: "k")
      #expect(try await layers.store.open("k").readFully(0..<3) == [3, 4, 5])
      #expect(try await layers.upper.info("k").state == .failed, "no other copy was begun")
    }
  }

  // MARK: Removing and replacing

  @Test func `a removal takes the key away in all layers, that of a copy under way, too`()
    async throws
  {
    try await withLayers { layers in
      let publisher = try await layers.lower.publisher("k", inOrder(10_000))
      let reader = try await layers.store.open("k")
      try await publisher.append(pattern(0..<4000))
      #expect(try await reader.readFully(0..<4000) == pattern(0..<4000))
      try await layers.store.remove("k")
      #expect(await code { _ = try await layers.store.open("k") } == .noSuchKey)
      // Who reads it finishes.
      try await publisher.append(pattern(4000..<10_000))
      try await publisher.seal()
      #expect(try await reader.waitUntilSealed() == 10_000)
      #expect(try await reader.readFully(0..<10_000) == pattern(0..<10_000))
      for layer in [layers.upper, layers.lower] { #expect(try await !layer.exists("k")) }
      #expect(await code { try await layers.store.remove("k") } == .noSuchKey)
    }
  }

  /// A layer in which something happens after it has first told of a blob, or removed one.
  private struct Eventful: BlobStore {
    enum Call { case info, remove }

    /// What happens, once.
    private final class Event: Sendable {
      private let body: @Sendable () async throws(PatchbayError) -> Void
      private let hasHappened = Mutex(false)

      init(_ body: @escaping @Sendable () async throws(PatchbayError) -> Void) { self.body = body }

      func happen() async throws(PatchbayError) {
        let isFirst = hasHappened.withLock { value in
          defer { value = true }
          return !value
        }
        if isFirst { try await body() }
      }
    }

    private let client: PatchbayClient
    private let call: Call
    private let event: Event

    init(
      _ client: PatchbayClient, after call: Call,
      _ body: @escaping @Sendable () async throws(PatchbayError) -> Void
    ) {
      self.client = client
      self.call = call
      event = Event(body)
    }

    func info(_ key: BlobKey, deadline: Deadline) async throws(PatchbayError) -> BlobInfo {
      let info = try await client.info(key, deadline: deadline)
      if call == .info { try await event.happen() }
      return info
    }

    func remove(_ key: BlobKey, deadline: Deadline) async throws(PatchbayError) {
      try await client.remove(key, deadline: deadline)
      if call == .remove { try await event.happen() }
    }

    func open(_ key: BlobKey, waitUntil: Deadline?) async throws(PatchbayError) -> Subscriber {
      try await client.open(key, waitUntil: waitUntil)
    }

    func publisher(
      _ key: BlobKey, _ options: BlobOptions, deadline: Deadline
    ) async throws(PatchbayError) -> Publisher {
      try await client.publisher(key, options, deadline: deadline)
    }

    func get(
      _ key: BlobKey, _ options: ProductionOptions, deadline: Deadline,
      orProduce produce:
        nonisolated(nonsending) @escaping @Sendable (Production) async throws -> Void
    ) async throws(PatchbayError) -> Subscriber {
      try await client.get(key, options, deadline: deadline, orProduce: produce)
    }

    func list(
      prefix: [UInt8], after: BlobKey?, limit: Int, deadline: Deadline
    ) async throws(PatchbayError) -> BlobPage {
      try await client.list(prefix: prefix, after: after, limit: limit, deadline: deadline)
    }
  }

  @Test func `a copy that is begun behind a removal does not bring the blob back`() async throws {
    try await withLayers { layers in
      try await layers.lower.publish(pattern(0..<9000), as: "k")
      let removing = layers.store
      let lower = Eventful(layers.lower, after: .info) { () async throws(PatchbayError) in
        try await removing.remove("k")
      }
      let reader = try await LayeredStore(layers.upper, over: lower).open("k")
      #expect(try await reader.generation != layers.lower.publish([1], as: "other"))
      #expect(try await reader.readFully(0..<9000) == pattern(0..<9000))
      #expect(try await !layers.upper.exists("k"))
      #expect(await code { _ = try await layers.store.open("k") } == .noSuchKey)
    }
  }

  @Test func `a blob that is read between the steps of its removal is gone after the last one`()
    async throws
  {
    try await withLayers { layers in
      try await layers.lower.publish(pattern(0..<9000), as: "k")
      #expect(try await layers.store.open("k").waitUntilSealed() == 9000)
      let reading = layers.store
      let read: @Sendable () async throws(PatchbayError) -> Void = {
        () async throws(PatchbayError) in
        #expect(try await reading.open("k").readFully(0..<9000) == pattern(0..<9000))
      }
      let store = LayeredStore(
        Eventful(layers.upper, after: .remove) { () async throws(PatchbayError) in
          let answer = await code { try await read() }
          #expect(answer == .noSuchKey)
        }, over: Eventful(layers.lower, after: .remove, read))
      try await store.remove("k")
      for layer in [layers.upper, layers.lower] { #expect(try await !layer.exists("k")) }
    }
  }

  @Test func `what is published anew is read at once, whatever was copied`() async throws {
    try await withLayers { layers in
      for round in 1...3 {
        let options = BlobOptions(replaces: true)
        try await layers.store.publish(
          [UInt8](repeating: UInt8(round), count: 99), as: "k", options)
        let reader = try await layers.store.open("k")
        #expect(try await reader.readFully(0..<1) == [UInt8(round)])
        #expect(try await reader.waitUntilSealed() == 99)
        #expect(try await layers.upper.info("k").state == .sealed)
      }
      #expect(await code { _ = try await layers.store.publish([1], as: "k") } == .keyExists)
    }
  }
}
