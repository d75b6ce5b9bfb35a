// What a watcher may expect of each of its calls.

import Patchbay
import PatchbayBroker
import PatchbayTestSupport
import Synchronization
import Testing

@Suite struct EventsTests {
  private func words(_ event: BlobEvent) -> String {
    switch event {
    case .change(let change): "\(change.kind) \(change.key)"
    case .gap: "gap"
    }
  }

  private func next(_ events: BlobEvents, _ count: Int) throws -> [String] {
    try (0..<count).map { _ in words(try events.next(deadline: .after(.seconds(20)))) }
  }

  @Test func `a watcher is told what happens from when it began`() throws {
    try withBroker { _, client in
      try client.publish([1], as: "before")
      let events = try client.events(progress: false)
      let publisher = try client.publisher("k", BlobOptions(byteCount: 3))
      try publisher.append([1, 2, 3])
      try publisher.seal()
      try client.remove("k")
      #expect(try next(events, 3) == ["created k", "sealed k", "removed k"])
      #expect(try events.nextIfReady() == nil)
      #expect(code { _ = try events.next(deadline: .after(.milliseconds(1))) } == .timedOut)
      try client.publish([1], as: "after")
      #expect(try next(events, 1) == ["sealed after"], "a deadline ends a call, not the watch")
    }
  }

  @Test func `a watch can go on at the place of any event, and at its own`() throws {
    try withBroker { _, client in
      let events = try client.events()
      let start = events.position
      for key in ["a", "b", "c"] as [BlobKey] { try client.publish([1], as: key) }
      let first = try events.next()
      #expect(events.position == first.position)
      let own = try client.events(after: events.position)
      #expect(try next(own, 2) == ["sealed b", "sealed c"])
      let same = try client.events(after: EventPosition("\(start)"))
      #expect(try next(same, 3) == ["sealed a", "sealed b", "sealed c"])
      let all = try client.events(prefix: Array("b".utf8), after: .start)
      #expect(try next(all, 1) == ["sealed b"])
    }
  }

  @Test func `a place in the history of another broker is a gap, then all that exists`() throws {
    var place = EventPosition.start
    try withBroker { _, client in
      try client.publish([1], as: "old")
      place = try client.events().position
    }
    try withBroker { _, client in
      try client.publish([1], as: "new")
      let events = try client.events(after: place)
      let gap = try events.next()
      #expect(words(gap) == "gap")
      // Who leaves right behind the gap is told all again.
      let again = try client.events(after: gap.position)
      #expect(try next(again, 1) == ["sealed new"])
      #expect(try next(events, 1) == ["sealed new"])
    }
  }

  @Test func `closing a watch wakes its own waiting calls`() throws {
    try withBroker { _, client in
      let events = try client.events()
      let codes = Mutex<[PatchbayError.Code?]>([])
      let waiting = (0..<3).map { _ in
        TestThread {
          let code = code { _ = try events.next() }
          codes.withLock { $0.append(code) }
        }
      }
      events.close()
      for thread in waiting { thread.join() }
      #expect(codes.withLock { $0 } == [.closed, .closed, .closed])
      #expect(code { _ = try events.nextIfReady() } == .closed)
    }
  }

  @Test func `a broker that ends takes its watches with it`() throws {
    let directory = try TemporaryDirectory()
    let broker = try Broker(
      BrokerConfiguration(socketPath: directory.file("s"), memoryLimit: 64 << 20))
    let client = try broker.makeClient()
    let events = try client.events()
    try client.publish([1], as: "k")
    broker.requestStop()
    #expect(try next(events, 1) == ["sealed k"], "what was sent is still told")
    #expect(code { _ = try events.next() } == .noBroker)
    broker.waitUntilEnded()
  }

  @Test func `a prefix is not longer than a key may be`() throws {
    try withBroker { _, client in
      let long = [UInt8](repeating: 1, count: 1025)
      #expect(code { _ = try client.events(prefix: long) } == .invalidKey)
      _ = try client.events(prefix: Array(long.dropLast()))
    }
  }

  // MARK: For tasks

  @Test func `a task takes events as a sequence, and misses none`() async throws {
    try await withBroker { _, client in
      let events = try await client.events(prefix: Array("k".utf8))
      for index in 0..<200 {
        try await client.publish([1], as: BlobKey("k\(index)"))
        try await client.publish([1], as: "other")
        try await client.remove("other")
      }
      var told: [String] = []
      for try await event in events {
        told.append(words(event))
        if told.count == 200 { break }
      }
      #expect(told == (0..<200).map { "sealed k\($0)" })
      try await client.remove("k7")
      let next = try await events.next(deadline: .after(.seconds(20)))
      #expect(words(next) == "removed k7", "a loop that ends leaves the watch")
    }
  }

  @Test func `a waiting task ends by its deadline, by cancellation, and by a close`() async throws {
    try await withBroker { _, client in
      let events = try await client.events()
      let late = await code { _ = try await events.next(deadline: .after(.milliseconds(5))) }
      #expect(late == .timedOut)
      let cancelled = Task { await code { for try await _ in events {} } }
      cancelled.cancel()
      #expect(await cancelled.value == .cancelled)
      try await client.publish([1], as: "k")
      #expect(words(try await events.next()) == "sealed k", "the watch went on")
      let closed = Task { await code { _ = try await events.next() } }
      events.close()
      #expect(await closed.value == .closed)
    }
  }

  @Test func `a task that watches ends with the broker`() async throws {
    let directory = try TemporaryDirectory()
    let broker = try Broker(
      BrokerConfiguration(socketPath: directory.file("s"), memoryLimit: 64 << 20))
    let client = try await broker.makeClient()
    let events = try await client.events()
    let watching = Task { await code { for try await _ in events {} } }
    await broker.drain()
    #expect(await watching.value == .noBroker)
  }

  @Test(arguments: [
    "", "x", "12-", "-12", "0123456789abcdef", "0123456789abcdef-", "0123456789abcdef-x",
    "123456789abcdef-1", "0123456789abcdefg-1", "+123456789abcdef-1", "0123456789abcdef-+1",
    "0123456789abcdef-1-2", "0123456789abcdef-99999999999999999999",
  ])
  func `what is no place is not taken for one`(text: String) {
    #expect(EventPosition(text) == nil)
  }

  @Test func `a place survives being written down`() {
    #expect(EventPosition("00000000000000ff-42")?.description == "00000000000000ff-42")
    #expect(EventPosition("\(EventPosition.start)") == .start)
  }
}
