// Blobs that keep their last bytes only: who waits for whom, and who is told that it is too late.

import Glibc
import Patchbay
import PatchbayTestSupport
import Synchronization
import Testing

/// A window of so many segments of a page.
private func window(_ policy: FlowPolicy, segments: Int = 4) -> BlobOptions {
  var options = BlobOptions(policy: policy)
  options.ringByteCount = segments * 4096
  options.segmentByteCount = 4096
  return options
}

/// Reads to the end, in pieces; how many bytes, or what went wrong.
/// - Parameter joined: called when the publisher waits for this reader.
private func readAll(
  _ subscriber: Subscriber, piece: Int, pause: Int = 0, joined: () -> Void = {}
) -> String {
  var cursor = subscriber.cursor()
  do {
    try cursor.attach()
    joined()
    while let bytes = try cursor.read(upTo: piece, deadline: .after(.seconds(60))) {
      let at = cursor.position - bytes.count
      if let wrong = firstWrong(bytes.span, subscriber.generation.rawValue, at: at) {
        return "wrong at \(wrong)"
      }
      for _ in 0..<pause { _ = sched_yield() }
    }
  } catch {
    return "\(error)"
  }
  return "\(cursor.position)"
}

/// Whether a reader that may come too late did not.
private func attaches(_ cursor: SubscriberCursor) throws(PatchbayError) -> Bool {
  do throws(PatchbayError) {
    try cursor.attach()
    return true
  } catch {
    guard error.code == .overrun else { throw error }
    return false
  }
}

private final class Results: Sendable {
  private let list = Mutex<[String]>([])
  func add(_ text: String) { list.withLock { $0.append(text) } }
  var all: [String] { list.withLock { $0 } }
}

@Suite struct WindowTests {
  @Test(arguments: [1, 100, 4096, 5000, 20_000])
  func `backpressure loses no byte for readers of different speeds`(step: Int) throws {
    try withBroker { broker, client in
      let publisher = try client.publisher("k", window(.backpressure))
      let generation = publisher.generation.rawValue
      let total = step == 1 ? 40_000 : 1_000_000
      let (results, joined) = (Results(), Results())
      let readers = try (1...3).map { number in
        let reader = try (number == 1 ? client : try broker.makeClient()).open("k")
        return TestThread {
          results.add(
            readAll(reader, piece: 700 * number, pause: number) { joined.add("\(number)") })
        }
      }
      try eventually("all hold the publisher") { joined.all.count == 3 }
      for start in stride(from: 0, to: total, by: step) {
        try publisher.append(oracleBytes(generation, start..<min(total, start + step)))
      }
      try publisher.seal()
      for reader in readers { reader.join() }
      #expect(results.all == [String](repeating: "\(total)", count: 3))
    }
  }

  /// Who has attached loses nothing from there on, wherever it did: half of the readers attach at the
  /// very byte that the publisher gives up next.
  @Test func `backpressure loses no byte, whoever comes and goes`() throws {
    try withBroker { broker, client in
      let publisher = try client.publisher("k", window(.backpressure, segments: 3))
      let generation = publisher.generation.rawValue
      let (results, ended) = (Results(), Results())
      let clients = try (0..<3).map { _ in try broker.makeClient() }
      let readers = (0..<6).map { number in
        TestThread {
          var joins = 0
          while ended.all.isEmpty {
            do {
              let reader = try clients[number % 3].open("k")
              let base = try reader.writtenRanges().first?.lowerBound ?? 0
              var cursor = try reader.cursor(from: number % 2 == 0 ? .position(base) : .live)
              guard try attaches(cursor) else { continue }
              joins += 1
              for _ in 0..<20 {
                guard let bytes = try cursor.read(upTo: 2000) else { break }
                let at = cursor.position - bytes.count
                if firstWrong(bytes.span, generation, at: at) != nil { results.add("wrong byte") }
              }
            } catch { results.add("\(error)") }
          }
          if joins == 0 { results.add("never joined") }
        }
      }
      let limit = ContinuousClock.now + .milliseconds(isFullTier ? 20_000 : 1500)
      while ContinuousClock.now < limit {
        let end = publisher.position
        try publisher.append(oracleBytes(generation, end..<end + 3001))
      }
      ended.add("")
      try publisher.seal()
      for reader in readers { reader.join() }
      #expect(results.all == [])
    }
  }

  @Test func `a publisher under backpressure goes on when its reader has gone`() throws {
    try withBroker { broker, client in
      let publisher = try client.publisher("k", window(.backpressure))
      var cursor: SubscriberCursor? = try broker.makeClient().open("k").cursor()
      try publisher.append(pattern(0..<100))
      _ = try cursor?.read(upTo: 100)
      let results = Results()
      let thread = TestThread {
        try? publisher.append([UInt8](repeating: 1, count: 100_000))
        results.add("done")
      }
      try eventually("the window is full") { publisher.position == 4 * 4096 }
      #expect(results.all == [])
      cursor = nil
      thread.join()
      #expect(publisher.position == 100_100)
    }
  }

  @Test func `a reader that holds the publisher for too long is let go and told so`() throws {
    try withBroker { _, client in
      var options = window(.backpressure)
      // Afterwards it must not be too slow by chance.
      options.slowestLimit = .seconds(1)
      let publisher = try client.publisher("k", options)
      let reader = try client.open("k")
      var cursor = reader.cursor()
      try publisher.append(pattern(0..<10))
      _ = try cursor.read(upTo: 10)
      try publisher.append([UInt8](repeating: 1, count: 100_000))
      #expect(publisher.position == 100_010)
      let error = try #require(throws: PatchbayError.self) { try cursor.read(upTo: 10) }
      #expect(error.code == .overrun)
      let resume = try #require(error.resumePosition)
      #expect(resume > 10 && resume <= 100_010)
      // From there on it is waited for again.
      try cursor.seek(to: .start, offset: resume)
      var rest = try #require(try cursor.read(upTo: 1)).count
      let thread = TestThread { try? publisher.append([UInt8](repeating: 1, count: 50_000)) }
      while cursor.position < 150_010 { rest += try cursor.read(upTo: 1000)?.count ?? 0 }
      thread.join()
      #expect(rest == 150_010 - resume)
    }
  }

  @Test func `an append that waits ends with its publisher`() throws {
    try withBroker { _, client in
      for way in 0..<2 {
        let publisher = try client.publisher(try BlobKey("k\(way)"), window(.backpressure))
        var cursor = try client.open(try BlobKey("k\(way)")).cursor()
        try publisher.append([1])
        _ = try cursor.read(upTo: 1)
        let results = Results()
        let thread = TestThread {
          let code = code { try publisher.append([UInt8](repeating: 1, count: 100_000)) }
          results.add("\(code.map { "\($0)" } ?? "")")
        }
        try eventually("the window is full") { publisher.position == 4 * 4096 }
        if way == 0 { publisher.close() } else { try publisher.fail("enough") }
        thread.join()
        #expect(results.all == ["closed"])
        // What stood in the window can still be read, then comes the end of the story.
        var read = 1
        let end = code { while let bytes = try cursor.read(upTo: 5000) { read += bytes.count } }
        #expect(read == 4 * 4096 && end == (way == 0 ? .abandoned : .blobFailed))
      }
    }
  }

  @Test func `dropOldest waits for nobody and tells who came too late`() throws {
    try withBroker { _, client in
      let publisher = try client.publisher("k", window(.dropOldest))
      let reader = try client.open("k")
      var cursor = reader.cursor()
      try publisher.append(pattern(0..<50_000))
      let error = try #require(throws: PatchbayError.self) { try cursor.read(upTo: 10) }
      #expect(error.code == .overrun && error.resumePosition == 53_248 - 16_384)
      #expect(try reader.readFully(40_000..<50_000) == pattern(40_000..<50_000))
      #expect(code { _ = try reader.lease(0..<10) } == .overrun)
      let lease = try reader.lease(40_000..<50_000)
      try publisher.append(pattern(50_000..<90_000))
      let isRight = lease.withBytes { firstWrong($0, 1, at: 40_000) == nil }
      #expect(isRight, "a lease of a window is a copy")
      try publisher.seal()
      #expect(try reader.read(upTo: 1, at: 90_000) == nil)
      #expect(try client.open("k").readFully(80_000..<90_000) == pattern(80_000..<90_000))
      #expect(try client.info("k").byteCount == 90_000)
    }
  }

  @Test func `live and resumed readers begin at a mark, with whole records`() throws {
    try withBroker { _, client in
      for policy in [FlowPolicy.dropOldest, .keep] {
        let key = try BlobKey("k\(policy)")
        var options = window(policy)
        options.order = .appendOnly
        options.firstExtentByteCount = 4096
        options.extentByteLimit = 8192
        let publisher = try client.publisher(key, options)
        for record in 0..<500 {
          let start = try publisher.mark()
          #expect(start == record * 100)
          try publisher.append([UInt8](repeating: UInt8(record % 250 + 1), count: 100))
        }
        try publisher.append([9, 9, 9])
        let reader = try client.open(key)
        #expect(try reader.position(of: .live) == 49_900)
        #expect(try reader.cursor(from: .live).position == 49_900)
        guard policy == .dropOldest else { continue }
        let error = try #require(throws: PatchbayError.self) { try reader.read(upTo: 1, at: 0) }
        let resume = try #require(error.resumePosition)
        #expect(resume % 100 == 0)
        let record = try reader.readFully(resume..<resume + 100)
        #expect(Set(record) == [UInt8(resume / 100 % 250 + 1)])
      }
      let any = try client.publisher("any")
      #expect(code { try any.mark() } == .rangeOutOfBounds)
    }
  }

  @Test func `batches and loans work in a window`() throws {
    try withBroker { _, client in
      let publisher = try client.publisher("k", window(.backpressure))
      let reader = try client.open("k")
      let (results, joined) = (Results(), Results())
      let thread = TestThread {
        results.add(readAll(reader, piece: 999) { joined.add("") })
      }
      try eventually("it holds the publisher") { joined.all.count == 1 }
      let generation = publisher.generation.rawValue
      for _ in 0..<40 {
        try publisher.withBatch {
          for _ in 0..<50 {
            let end = publisher.position
            try publisher.append(oracleBytes(generation, end..<end + 33))
          }
        }
        var loan = try publisher.loan(byteCount: 3000)
        let place = loan.position..<loan.position + loan.byteCount
        let bytes = oracleBytes(generation, place)
        loan.withBytes { span in for index in span.indices { span[index] = bytes[index] } }
        let byteCount = loan.byteCount
        loan.commit(byteCount: byteCount)
      }
      let end = publisher.position
      try publisher.seal()
      thread.join()
      #expect(results.all == ["\(end)"])
    }
  }

  @Test func `threads that append at once do not overtake a reader whose table one still asks for`()
    throws
  {
    try withBroker { broker, client in
      for round in 0..<300 {
        var options = BlobOptions(policy: .backpressure)
        options.ringByteCount = 64 << 10
        options.segmentByteCount = 4096
        let publisher = try broker.makeClient().publisher(BlobKey("k\(round)"), options)
        let subscriber = try client.open(BlobKey("k\(round)"))
        let cursor = subscriber.cursor()
        try cursor.attach()
        let threads = (0..<4).map { _ in
          TestThread {
            while (try? publisher.append([UInt8](repeating: 1, count: 1024))) != nil {}
          }
        }
        try eventually("the window is full") { publisher.position >= 64 << 10 }
        // Nobody has read: the first byte is there as long as the cursor stands.
        #expect(code { _ = try subscriber.readFully(0..<1) } == nil, "round \(round)")
        publisher.close()
        for thread in threads { thread.join() }
        withExtendedLifetime(cursor) {}
      }
    }
  }

  @Test func `a cursor behind every possible end waits, however often it is asked`() throws {
    try withBroker { _, client in
      let publisher = try client.publisher("k", BlobOptions(policy: .backpressure))
      try publisher.append([1])
      var cursor = try client.open("k").cursor()
      try cursor.seek(to: .start, offset: .max - 5)
      // The first read makes its place stand, the second one takes the short way.
      for _ in 0..<2 {
        #expect(
          code {
            _ = try [UInt8](capacity: 100) { output in
              _ = try cursor.read(into: &output, deadline: .after(.zero))
            }
          } == .timedOut)
      }
    }
  }

  @Test func `an announced length counts in a window, too`() throws {
    try withBroker { _, client in
      var options = window(.dropOldest)
      options.byteCount = 30_000
      let publisher = try client.publisher("k", options)
      try publisher.append(pattern(0..<20_000))
      #expect(code { try publisher.seal() } == .lengthMismatch)
      #expect(code { try publisher.append(pattern(0..<10_001)) } == .rangeOutOfBounds)
      try publisher.append(pattern(20_000..<30_000))
      try publisher.seal()
      let empty = try client.publisher("empty", window(.backpressure))
      try empty.seal()
      #expect(try client.open("empty").read(upTo: 1, at: 0) == nil)
    }
  }

  @Test func `a window's publisher tells what is there of it`() throws {
    try withBroker { _, client in
      var options = BlobOptions(policy: .dropOldest)
      options.ringByteCount = 16384
      options.segmentByteCount = 4096
      let publisher = try client.publisher("w", options)
      #expect(try publisher.writtenRanges(in: 0..<10) == [])
      try publisher.append(pattern(0..<20_000))
      #expect(try publisher.writtenRanges(in: 0..<100_000) == [4096..<20_000])
    }
  }
}
