// One client, many threads: what they share must hold for each of them.

import Patchbay
import PatchbayTestSupport
import Synchronization
import Testing

/// Runs a closure in so many threads at once; the codes of what they threw.
private func inThreads(
  _ count: Int, _ body: @escaping @Sendable (Int) throws -> Void
) -> [String] {
  let errors = Errors()
  let threads = (0..<count).map { index in
    TestThread {
      do { try body(index) } catch { errors.add(error) }
    }
  }
  for thread in threads { thread.join() }
  return errors.all
}

private final class Errors: Sendable {
  private let list = Mutex<[String]>([])
  func add(_ error: any Error) {
    let text = (error as? PatchbayError).map { "\($0.code)" } ?? "\(error)"
    list.withLock { $0.append(text) }
  }
  var all: [String] { list.withLock { $0 } }
}

@Suite struct ManyThreadsTests {
  @Test func `threads that meet in a new extent all write into it`() throws {
    try withBroker { _, client in
      for round in 0..<60 {
        let key = try BlobKey("k\(round)")
        var options = BlobOptions()
        options.firstExtentByteCount = 4096
        options.extentByteLimit = 65536
        let publisher = try client.publisher(key, options)
        let starts = [0, 4096, 12_288, 28_672]
        let errors = inThreads(8) { index in
          for start in starts {
            let at = start + index * 512
            try publisher.write(pattern(at..<at + 512), at: at)
          }
        }
        #expect(errors == [])
        let reader = try client.open(key)
        for start in starts {
          let bytes = try reader.readFully(start..<start + 4096, deadline: .after(.seconds(20)))
          #expect(bytes == pattern(start..<start + 4096), "round \(round), extent at \(start)")
        }
        publisher.close()
        try client.remove(key)
      }
    }
  }

  @Test func `a hundred threads may need the same extent at once`() throws {
    try withBroker { _, client in
      var options = BlobOptions()
      options.firstExtentByteCount = 64 << 20
      options.extentByteLimit = 64 << 20
      let publisher = try client.publisher("k", options)
      #expect(inThreads(100) { try publisher.write([1], at: 64 << 20 + $0) } == [])
    }
  }

  @Test func `an answer that meets its caller's deadline leaks nothing`() throws {
    try withBroker { _, client in
      try client.publish(pattern(0..<20_000), as: "k")
      let errors = inThreads(4) { index in
        for round in 0..<2000 {
          let span = Duration.microseconds(20 + (round * 7 + index) % 150)
          let code = code { try client.open("k", waitUntil: .after(span)).close() }
          if code != nil && code != .timedOut { throw HarnessError("\(code as Any)") }
        }
      }
      #expect(errors == [])
      try eventually("what came too late is given back") {
        try client.info("k").subscriberCount == 0
      }
    }
  }

  @Test func `many handles may be closed in a row`() throws {
    try withBroker { _, client in
      try client.publish(pattern(0..<20_000), as: "k")
      let publisher = try client.publisher("open")
      let readers = try (0..<1500).map { _ in try client.open("k") }
      for reader in readers { reader.close() }
      try client.ping()
      #expect(try client.info("k").subscriberCount == 0)
      try publisher.seal()
    }
  }

  @Test func `of seals at once one seals, and none opens the blob again`() throws {
    try withBroker { _, client in
      for round in 0..<50 {
        let key = try BlobKey("k\(round)")
        let publisher = try client.publisher(key)
        try publisher.write(pattern(0..<10_000), at: 0)
        let errors = inThreads(4) { _ in try publisher.seal() }
        #expect(errors == ["closed", "closed", "closed"])
        #expect(code { try publisher.write([1], at: 10_000) } == .closed)
        #expect(code { try publisher.append([1]) } == .closed)
        #expect(try client.info(key).byteCount == 10_000)
      }
    }
  }

  @Test func `of a seal and a failure at once the blob is one of both, and written no more`() throws
  {
    try withBroker { _, client in
      for round in 0..<50 {
        let key = try BlobKey("k\(round)")
        let publisher = try client.publisher(key, BlobOptions(byteCount: 20_000))
        try publisher.write(pattern(0..<10_000), at: 0)
        // The hole makes the broker refuse the seal: that must not undo the failure.
        _ = inThreads(2) { index in
          if index == 0 { try publisher.seal() } else { try publisher.fail("no good") }
        }
        #expect(try client.info(key).state == .failed)
        #expect(code { try publisher.write([1], at: 15_000) } == .closed)
      }
    }
  }

  @Test(arguments: WriteOrder.allCases)
  func `appends of several threads never mix, long and short ones`(order: WriteOrder) throws {
    try withBroker { _, client in
      var options = BlobOptions(order: order)
      options.firstExtentByteCount = 65_536
      options.extentByteLimit = 1 << 20
      let publisher = try client.publisher("k", options)
      // Each append is of one value, which no other has.
      let sizes = [900_000, 10, 300_000, 70_000]
      let errors = inThreads(sizes.count) { index in
        for round in 0..<6 {
          try publisher.append([UInt8](repeating: UInt8(index * 6 + round), count: sizes[index]))
        }
      }
      #expect(errors == [])
      try publisher.seal()
      let total = sizes.reduce(0) { $0 + 6 * $1 }
      let bytes = try client.open("k").readFully(0..<total)
      let runs = bytes.indices.count { $0 == 0 || bytes[$0] != bytes[$0 - 1] }
      #expect(publisher.position == total && runs == 24)
    }
  }
}
