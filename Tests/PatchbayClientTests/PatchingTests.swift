// Blobs with several publishers: what each of them may expect of its calls. Clients of one process
// are as far apart for the broker as processes are.

import Glibc
import Patchbay
import PatchbayBroker
import PatchbayTestSupport
import Synchronization
import Testing

@Suite struct PatchingTests {
  private func joinable(_ byteCount: Int? = nil) -> BlobOptions {
    var options = BlobOptions(byteCount: byteCount)
    options.isJoinable = true
    return options
  }

  /// Every publisher writes its own byte everywhere. Whichever comes first at a place must stay.
  @Test func `a covered byte never changes though two publishers write the same ranges`() throws {
    let byteCount = 200_000
    try withBroker { broker, first in
      let clients = [first, try broker.makeClient(), try broker.makeClient()]
      let publishers = [
        try clients[0].publisher("k", joinable(byteCount)), try clients[1].join("k"),
        try clients[2].join("k"),
      ]
      let reader = try first.open("k")
      let changed = Counter()
      let threads = publishers.indices.map { index in
        TestThread {
          var random = SeededRandom(seed: UInt64(index))
          var ranges = raggedRanges(byteCount, seed: UInt64(index))
          ranges.shuffle(using: &random)
          while !ranges.isEmpty {
            ranges.removeAll { range in
              let bytes = [UInt8](repeating: UInt8(index + 1), count: range.count)
              let isWritten =
                (try? publishers[index].write(
                  bytes, at: range.lowerBound, skippingCovered: true)) != nil
              guard isWritten, let now = try? reader.readFully(range),
                let later = try? reader.readFully(range)
              else { return isWritten }
              if now != later { changed.count() }
              return true
            }
          }
        }
      }
      var seen = [UInt8](repeating: 0, count: byteCount)
      while try !publishers[0].missing().isEmpty {
        for range in try reader.writtenRanges() {
          for (position, byte) in zip(range, try reader.readFully(range)) {
            if seen[position] != 0, seen[position] != byte { changed.count() }
            seen[position] = byte
          }
        }
      }
      for thread in threads { thread.join() }
      #expect(changed.value == 0)
      try publishers[1].leave()
      try publishers[2].seal()
      let all = try reader.readFully(0..<byteCount)
      #expect(zip(seen, all).allSatisfy { $0 == 0 || $0 == $1 } && !all.contains(0))
    }
  }

  @Test func `a claim keeps others out until its last reference goes`() throws {
    try withBroker { broker, client in
      let first = try client.publisher("k", joinable(10_000))
      let second = try broker.makeClient().join("k")
      var claim: RangeClaim? = try first.claim(1000..<2000)
      do throws(PatchbayError) {
        try second.write(pattern(500..<1500), at: 500)
        Issue.record("written")
      } catch {
        #expect(error.code == .rangeOverlap && error.resumePosition == 1000)
      }
      // Nothing of the refused write is there, and what is under the claim is its holder's.
      #expect(try second.missing() == [0..<10_000])
      for at in stride(from: 1000, to: 2000, by: 10) {
        try first.write(pattern(at..<at + 10), at: at)
      }
      try second.write(pattern(0..<1000), at: 0)
      #expect(claim?.range == 1000..<2000)
      claim = nil
      try client.ping()
      #expect(code { try second.write([1], at: 1500) } == .rangeOverlap)
      try second.write(pattern(2000..<10_000), at: 2000)
      try first.seal()
      let reader = try client.open("k")
      #expect(try reader.readFully(0..<10_000) == pattern(0..<10_000))
    }
  }

  @Test func `a seal is refused while another claims, and done for all once nobody does`() throws {
    try withBroker { broker, client in
      let first = try client.publisher("k", joinable(100))
      let other = try broker.makeClient()
      let second = try other.join("k")
      try first.write(pattern(0..<100), at: 0)
      do {
        let claim = try second.claim(10..<20)
        do throws(PatchbayError) {
          try first.seal()
          Issue.record("sealed")
        } catch {
          #expect(error.code == .rangeOverlap && error.resumePosition == 10)
        }
        withExtendedLifetime(claim) {}
      }
      // What was said before this was answered has been heard.
      try other.ping()
      try first.seal()
      // The other publisher's seal finds what it asks for; nothing more can be written.
      #expect(code { _ = try second.claim(10..<20) } == .closed)
      try second.seal()
      #expect(code { _ = try client.join("k") } == .closed)
      #expect(try client.info("k").publisherCount == 0)
    }
  }

  @Test func `of an unknown length the seal takes what the others have written, too`() throws {
    try withBroker { broker, client in
      let first = try client.publisher("k", joinable())
      let second = try broker.makeClient().join("k")
      // Extents far apart: the second one's is not known to the first one.
      try first.write(pattern(0..<1000), at: 0)
      try second.write(pattern(1000..<300_000), at: 1000)
      try first.seal()
      let reader = try client.open("k")
      #expect(reader.byteCount == 300_000)
      #expect(try reader.readFully(0..<300_000) == pattern(0..<300_000))
    }
  }

  @Test func `a publisher that leaves writes no more, and the blob goes on without it`() throws {
    try withBroker { broker, client in
      let first = try client.publisher("k", joinable(100))
      try first.write(pattern(0..<50), at: 0)
      try first.leave()
      #expect(code { try first.write([1], at: 50) } == .closed)
      #expect(code { try first.leave() } == .closed)
      #expect(try client.info("k").state == .suspended)
      #expect(try client.info("k").publisherCount == 0)
      let second = try broker.makeClient().join("k")
      #expect(try client.info("k").state == .open)
      #expect(try second.missing() == [50..<100])
      try second.write(pattern(50..<100), at: 50)
      try second.seal()
      #expect(try client.open("k").readFully(0..<100) == pattern(0..<100))
    }
  }

  @Test func `an exclusive blob is not joined, claimed or left`() throws {
    try withBroker { broker, client in
      let alone = try client.publisher("k", BlobOptions(byteCount: 10))
      #expect(code { _ = try broker.makeClient().join("k") } == .notPermitted)
      #expect(code { _ = try alone.claim(0..<1) } == .notPermitted)
      #expect(code { try alone.leave() } == .notPermitted)
      // It was not ended by that.
      try alone.write(pattern(0..<10), at: 0)
      try alone.seal()
    }
  }

  @Test func `what several publishers cannot do is refused, and says so`() throws {
    try withBroker { _, client in
      var options = joinable()
      options.order = .appendOnly
      #expect(code { _ = try client.publisher("a", options) } == .protocolViolation)
      let first = try client.publisher("k", joinable(100))
      #expect(code { try first.append([1]) } == .notPermitted)
      #expect(code { _ = try first.loan(byteCount: 1) } == .notPermitted)
      #expect(code { try first.withBatch {} } == .notPermitted)
      #expect(code { _ = try client.join("k") } == .limitReached)
      for range in [-1..<1, 99..<101, 5..<5] {
        #expect(code { _ = try first.claim(range) } == .rangeOutOfBounds)
      }
      #expect(code { _ = try client.join("none") } == .noSuchKey)
      #expect(code { try client.publish([1], as: "w", joinable()) } == .notPermitted)
      var cursor = first.appending(from: 0)
      try cursor.append(pattern(0..<60))
      try cursor.append(pattern(60..<100))
      try first.seal()
    }
  }

  @Test func `closing while a write is under way keeps its range claimed until it has ended`()
    throws
  {
    try withBroker { broker, client in
      let second = try broker.makeClient()
      let byteCount = 40 << 20
      let reader: Subscriber
      let thread: TestThread
      do {
        let first = try client.publisher("k", joinable(byteCount))
        reader = try client.open("k")
        thread = TestThread {
          _ = try? first.write([UInt8](repeating: 1, count: byteCount), at: 0)
        }
        _ = try reader.read(upTo: 1, at: 0, deadline: .after(.seconds(60)))
        let other = try second.join("k")
        first.close()
        // Either the first one's write has ended by now, or it still holds its range.
        let outcome = code { try other.write([2], at: byteCount - 1) }
        #expect(outcome == .rangeOverlap)
        thread.join()
        try? other.leave()
      }
      #expect(try reader.readFully(byteCount - 1..<byteCount) == [1])
    }
  }

  // MARK: Blobs that nobody owns

  @Test func `the same ownerless creation finds the same blob, another finds that the key exists`()
    throws
  {
    try withBroker { broker, client in
      var options = BlobOptions(byteCount: 1000, type: "text/plain")
      options.idleLimit = .seconds(60)
      let generation = try client.create("k", options)
      #expect(try client.info("k").state == .suspended)
      let other = try broker.makeClient()
      #expect(try other.create("k", options) == generation)
      let publisher = try other.join("k")
      #expect(try client.create("k", options) == generation)
      for change: (inout BlobOptions) -> Void in [
        { $0.byteCount = 999 }, { $0.type = "" }, { $0.idleLimit = .seconds(61) },
        { $0.mode = 0o644 },
      ] {
        var changed = options
        change(&changed)
        #expect(code { try client.create("k", changed) } == .keyExists)
      }
      #expect(code { _ = try client.publisher("k", options) } != nil)
      try publisher.write(pattern(0..<1000), at: 0)
      try publisher.seal()
      #expect(code { try client.create("k", options) } == .keyExists)
    }
  }

  @Test func `a removed blob that nobody writes fails for its readers`() throws {
    try withBroker { _, client in
      try client.create("k", BlobOptions(byteCount: 10))
      let reader = try client.open("k")
      try client.remove("k")
      #expect(code { _ = try reader.readFully(0..<1) } == .removed)
    }
  }

  @Test func `of all callers exactly one creates, again after a failure`() throws {
    try withBroker { broker, client in
      for round in 0..<3 {
        let created = Mutex<[Publisher]>([])
        let generations = Mutex<Set<Generation>>([])
        let threads = try (0..<8).map { _ in
          let own = try broker.makeClient()
          return TestThread {
            switch try? own.openOrCreate("k", BlobOptions(byteCount: 10)) {
            case .created(let publisher, let subscriber):
              created.withLock { $0.append(publisher) }
              generations.withLock { _ = $0.insert(subscriber.generation) }
            case .existing(let subscriber):
              generations.withLock { _ = $0.insert(subscriber.generation) }
            case nil: break
            }
          }
        }
        for thread in threads { thread.join() }
        #expect(generations.withLock { $0.count } == 1)
        #expect(created.withLock { $0.count } == 1, "round \(round)")
        try created.withLock { try $0.first?.fail("next round") }
      }
    }
  }

  // MARK: Resuming

  @Test(arguments: WriteOrder.allCases)
  func `a resumed blob begins with what was covered, and only the rest is written`(
    order: WriteOrder
  ) throws {
    try withBroker { _, client in
      for byteCount in [nil, 200_000] {
        let first = try client.publisher("k", BlobOptions(byteCount: byteCount, order: order))
        try first.append(pattern(0..<70_001))
        if order == .any { try first.write(pattern(100_000..<150_003), at: 100_000) }
        try first.fail("half way")
        var options = BlobOptions(byteCount: byteCount, order: order)
        options.resumes = true
        let second = try client.publisher("k", options)
        let rest = order == .any ? [70_001..<100_000, 150_003..<200_000] : [70_001..<200_000]
        if byteCount != nil { #expect(try second.missing() == rest) }
        #expect(second.position == (order == .any ? 0 : 70_001))
        #expect(code { try second.write(pattern(0..<1), at: 0) } != nil)
        for range in rest {
          if order == .any {
            try second.write(pattern(range), at: range.lowerBound)
          } else {
            try second.append(pattern(range), expecting: range.lowerBound)
          }
        }
        try second.seal()
        let reader = try client.open("k")
        #expect(reader.byteCount == 200_000)
        #expect(try reader.readFully(0..<200_000) == pattern(0..<200_000))
        try client.remove("k")
      }
    }
  }

  @Test func `a reader may take over bytes before their new publisher has looked at them`() throws {
    try withBroker { _, client in
      let first = try client.publisher("k")
      try first.write(pattern(0..<600_000), at: 0)
      try first.fail("half way")
      var options = BlobOptions()
      options.resumes = true
      let second = try client.publisher("k", options)
      // No extent but the first is mapped by the publisher: the broker has begun their use.
      let reader = try client.open("k")
      #expect(
        try reader.readFully(0..<600_000, deadline: .after(.seconds(20))) == pattern(0..<600_000))
      try second.seal()
      #expect(reader.byteCount == 600_000)
    }
  }

  @Test func `an old reader never sees what the new generation writes`() throws {
    try withBroker { _, client in
      let first = try client.publisher("k", BlobOptions(byteCount: 1000))
      try first.write(pattern(0..<10), at: 0)
      let old = try client.open("k")
      #expect(try old.readFully(0..<10) == pattern(0..<10))
      try first.fail("half way")
      var options = BlobOptions(byteCount: 1000)
      options.resumes = true
      let second = try client.publisher("k", options)
      try second.write([UInt8](repeating: 9, count: 990), at: 10)
      try second.seal()
      #expect(try old.readFully(0..<10) == pattern(0..<10))
      #expect(code { _ = try old.readFully(10..<11) } == .blobFailed)
    }
  }

  @Test func `what cannot be resumed says what differs and leaves the failed blob`() throws {
    try withBroker { _, client in
      let first = try client.publisher("k", BlobOptions(byteCount: 1000))
      try first.write(pattern(0..<10), at: 0)
      try first.fail("half way")
      var options = BlobOptions(byteCount: 1001)
      options.resumes = true
      #expect(code { _ = try client.publisher("k", options) } == .lengthMismatch)
      options = BlobOptions(byteCount: 1000, order: .appendOnly)
      options.resumes = true
      #expect(code { _ = try client.publisher("k", options) } == .keyExists)
      options = BlobOptions(byteCount: 1000)
      options.resumes = true
      options.firstExtentByteCount = 8192
      #expect(code { _ = try client.publisher("k", options) } == .keyExists)
      #expect(try client.info("k").coveredByteCount == 10)
      options.firstExtentByteCount = nil
      #expect(try client.publisher("k", options).missing() == [10..<1000])
    }
  }

  @Test func `resuming what never failed is creating`() throws {
    try withBroker { _, client in
      var options = BlobOptions(byteCount: 10)
      options.resumes = true
      let publisher = try client.publisher("k", options)
      #expect(try publisher.missing() == [0..<10])
      #expect(code { _ = try client.publisher("k", options) } == .keyExists)
      try publisher.write(pattern(0..<10), at: 0)
      try publisher.seal()
    }
  }
}

/// Counts from any thread.
private final class Counter: Sendable {
  private let counted = Atomic<Int>(0)
  // relaxed: read after the threads have been joined.
  var value: Int { counted.load(ordering: .relaxed) }
  // relaxed: as above.
  func count() { counted.add(1, ordering: .relaxed) }

  @Test func `a publisher whose leave had no answer says nothing for the one that joined after it`()
    throws
  {
    try withBroker { broker, client in
      try client.create("k", BlobOptions(byteCount: 1 << 20))
      var first: Publisher? = try client.join("k")
      #expect(code { try first?.leave(deadline: .after(.zero)) } == .timedOut)
      let second = try client.join("k")
      let claim = try second.claim(0..<1000)
      defer { withExtendedLifetime(claim) {} }
      #expect(first?.isEnded == true)
      first?.close()
      first = nil
      try client.ping()
      let other = try broker.makeClient().join("k")
      #expect(code { _ = try other.claim(0..<1000) } == .rangeOverlap)
      try second.write([UInt8](repeating: 1, count: 10), at: 2000)
    }
  }
}
