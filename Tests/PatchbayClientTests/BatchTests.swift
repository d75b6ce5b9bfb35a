// Batches that have the end of a blob to themselves.

import Patchbay
import PatchbayTestSupport
import Testing

@Suite struct BatchTests {
  private struct Stop: Error {}

  private static let kinds: [(name: String, options: BlobOptions)] = [
    ("appended", BlobOptions(order: .appendOnly)), ("any order", BlobOptions()),
    ("window", BlobOptions(policy: .backpressure)),
  ]

  @Test func `records of a batch are readable together, when it ends`() throws {
    try withBroker { _, client in
      for (name, options) in Self.kinds {
        let publisher = try client.publisher(BlobKey(name), options)
        let subscriber = try client.open(BlobKey(name))
        try publisher.withBatch { (batch: inout Batch) in
          for index in 0..<50 {
            #expect(batch.position == index * 100)
            try batch.append(oracleBytes(1, index * 100..<(index + 1) * 100))
          }
          #expect(
            code { _ = try subscriber.read(upTo: 1, at: 0, deadline: .after(.zero)) } == .timedOut)
        }
        #expect(try subscriber.readFully(0..<5000) == oracleBytes(1, 0..<5000), "\(name)")
        #expect(publisher.position == 5000)
        try publisher.seal()
      }
    }
  }

  @Test func `a batch goes on over the edges of extents and segments, byte by byte right`() throws {
    try withBroker { _, client in
      for (name, options) in Self.kinds {
        var options = options
        options.firstExtentByteCount = 8192
        options.ringByteCount = 1 << 20
        let publisher = try client.publisher(BlobKey(name), options)
        var random = SeededRandom(seed: 5)
        var at = 0
        try publisher.withBatch { (batch: inout Batch) in
          while at < 900_000 {
            let end = at + Int.random(in: 0...30_000, using: &random)
            try batch.append(oracleBytes(1, at..<end))
            at = end
          }
        }
        let bytes = try client.open(BlobKey(name)).readFully(0..<at)
        #expect(firstWrong(bytes.span, 1, at: 0) == nil, "\(name)")
        try publisher.seal()
      }
    }
  }

  @Test func `what a batch appended before it failed stays, and the end is free again`() throws {
    try withBroker { _, client in
      for (name, options) in Self.kinds {
        let publisher = try client.publisher(BlobKey(name), options)
        #expect(throws: Stop.self) {
          try publisher.withBatch { (batch: inout Batch) in
            try batch.append([1, 2, 3])
            throw Stop()
          }
        }
        try publisher.append([4])
        #expect(try client.open(BlobKey(name)).readFully(0..<4) == [1, 2, 3, 4])
        try publisher.seal()
      }
    }
  }

  @Test func `while a batch has the end others are refused, and let in when it is flushed`() throws
  {
    try withBroker { _, client in
      let publisher = try client.publisher("k", BlobOptions(order: .appendOnly))
      try publisher.withBatch { (batch: inout Batch) in
        try batch.append([1])
        #expect(code { try publisher.append([9]) } == .rangeOverlap)
        #expect(code { try publisher.seal() } == .rangeOverlap)
        batch.flush()
        try publisher.append([2])
        #expect(batch.position == 2)
        try batch.append([3])
      }
      #expect(try client.open("k").readFully(0..<3) == [1, 2, 3])
      try publisher.seal()
    }
  }

  @Test func `a batch does not append beyond the announced length`() throws {
    try withBroker { _, client in
      let publisher = try client.publisher("k", BlobOptions(byteCount: 10, order: .appendOnly))
      #expect(
        code {
          try publisher.withBatch { (batch: inout Batch) in
            try batch.append([UInt8](repeating: 7, count: 10))
            try batch.append([8])
          }
        } == .rangeOutOfBounds)
      try publisher.seal()
      #expect(try client.open("k").readFully(0..<10) == [UInt8](repeating: 7, count: 10))
    }
  }

  @Test func `marks of a batch stand where its records begin`() throws {
    try withBroker { _, client in
      let publisher = try client.publisher("k", BlobOptions(policy: .dropOldest))
      try publisher.withBatch { (batch: inout Batch) in
        for record in 0..<3 {
          #expect(try batch.mark() == record * 7)
          try batch.append([UInt8](repeating: UInt8(record), count: 7))
        }
      }
      var live = try client.open("k").cursor(from: .live)
      #expect(live.position == 14)
      #expect(try live.read(upTo: 7) == [UInt8](repeating: 2, count: 7))
      try publisher.seal()
    }
  }

  @Test func `a task's batch waits for the slowest reader without a thread`() async throws {
    try await withBroker { _, client in
      var options = BlobOptions(policy: .backpressure)
      options.ringByteCount = 64 << 10
      let publisher = try await client.publisher("k", options)
      let subscriber = try await client.open("k")
      let cursor = subscriber.cursor()
      try await cursor.attach()
      async let seen: [UInt8] = {
        var (cursor, all) = (cursor, [UInt8]())
        while let bytes = try await cursor.read(upTo: 5000) { all += bytes }
        return all
      }()
      try await publisher.withBatch { (batch: inout Batch) async throws in
        for index in 0..<500 {
          try await batch.append(oracleBytes(1, index * 1000..<(index + 1) * 1000))
        }
      }
      try await publisher.seal()
      let bytes = try await seen
      #expect(firstWrong(bytes.span, 1, at: 0) == nil && bytes.count == 500_000)
    }
  }
}
