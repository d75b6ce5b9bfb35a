// Clients that live through the deaths of many brokers. Two of them publish one blob after another,
// `stream/N` in sequence and `patch/N` in any order; an empty blob is the last of its kind. The others
// read all of these, each in its own way, or watch, or wait. Each ends with 0, or says what was wrong.

import Glibc
import Patchbay
import PatchbayTestSupport
import Synchronization

/// `ROLE SOCKET SEED`.
struct Crowd {
  static let roles = ["stream", "patch", "follow", "live", "random", "views", "watch", "wait"]

  let socket: String
  let seed: UInt64

  init(_ arguments: [String]) throws {
    guard arguments.count > 2, let seed = UInt64(arguments[2]) else {
      throw HarnessError("ROLE SOCKET SEED")
    }
    socket = arguments[1]
    self.seed = seed
  }

  func run(_ role: String) throws {
    let client = try connectedEventually(socket)
    let baseline = DescriptorBaseline()
    say("ready")
    switch role {
    case "stream": try publishMany(upTo: 1_500_000, seed, StreamPublisher(client: client).publish)
    case "patch": try publishMany(upTo: 1_000_000, seed, PatchPublisher(client: client).publish)
    case "watch": try Watcher(client).run()
    case "wait": try waitForTokens(client)
    default: try read(role, client)
    }
    try baseline.check()
    say("ended")
  }

  /// Opens one blob after another, until there is an empty one.
  private func read(_ role: String, _ client: PatchbayClient) throws {
    var random = SeededRandom(seed: seed)
    let kind = role == "random" ? "patch" : "stream"
    var number = 0
    while true {
      let subscriber = try client.open(BlobKey("\(kind)/\(number)"), waitUntil: longWait)
      let byteCount =
        switch role {
        case "random": try readAnywhere(subscriber, &random)
        case "views": try readByViews(subscriber, &random)
        case "live": try readLive(subscriber)
        default: try subscriber.checkAll(subscriber.content)
        }
      if byteCount == 0 { return }
      number += 1
    }
  }

  /// From the place where the publisher is; then what was before it.
  private func readLive(_ subscriber: Subscriber) throws -> Int {
    let content = subscriber.content
    let start = try subscriber.position(of: .live, deadline: longWait)
    let end = try subscriber.checkAll(from: start, content)
    if start > 0 {
      try content.check(try subscriber.readFully(0..<start, deadline: longWait), at: 0)
    }
    return end
  }

  /// Ranges that may not be written yet.
  private func readAnywhere(
    _ subscriber: Subscriber, _ random: inout SeededRandom
  ) throws -> Int {
    let (content, end) = (subscriber.content, subscriber.byteCount ?? 0)
    for _ in 0..<(end == 0 ? 0 : 20) {
      let start = Int.random(in: 0..<end, using: &random)
      let range = start..<min(end, start + Int.random(in: 1...60_000, using: &random))
      try content.check(
        try subscriber.readFully(range, deadline: longWait), at: range.lowerBound)
    }
    return end
  }

  /// In place, with up to three views held at a time; each is looked at again before it ends.
  private func readByViews(
    _ subscriber: Subscriber, _ random: inout SeededRandom
  ) throws -> Int {
    let content = subscriber.content
    var held: [Lease] = []
    func dropOldest() throws {
      let lease = held.removeFirst()
      try lease.withBytes { try content.check($0, at: lease.range.lowerBound) }
    }
    var at = 0
    while let bytes = try subscriber.read(upTo: 1, at: at, deadline: longWait) {
      try content.check(bytes, at: at)
      let lease = try lease(subscriber, at: at, Int.random(in: 1...30_000, using: &random))
      try lease.withBytes { try content.check($0, at: at) }
      at = lease.range.upperBound
      held.append(lease)
      if held.count > 3 { try dropOldest() }
    }
    while !held.isEmpty { try dropOldest() }
    return at
  }

  /// Of the bytes that are there already, in one extent, at most so many.
  private func lease(_ subscriber: Subscriber, at: Int, _ most: Int) throws -> Lease {
    let there = try subscriber.read(upTo: most, at: at, deadline: longWait)
    var end = at + (there?.count ?? 1)
    while true {
      do throws(PatchbayError) {
        return try subscriber.lease(at..<end, deadline: longWait)
      } catch {
        guard error.code == .rangeOutOfBounds, let edge = error.resumePosition, edge < end,
          edge > at
        else { throw error }
        end = edge
      }
    }
  }

  /// Keys that come one after another; the last says that it is.
  private func waitForTokens(_ client: PatchbayClient) throws {
    var number = 0
    while true {
      let token = try client.open(BlobKey("token/\(number)"), waitUntil: longWait)
      let bytes = try token.readFully(0..<2, deadline: longWait)
      guard bytes == [1, 1] || bytes == [2, 2] else { throw HarnessError("WRONG token \(bytes)") }
      if bytes == [2, 2] { return }
      number += 1
    }
  }
}

/// Whether the test has had enough: a line says so.
final class Stopping: Sendable {
  private let isOver = Mutex(false)

  init() {
    _ = TestThread {
      _ = readLine()
      self.stop()
    }
  }

  private func stop() { isOver.withLock { $0 = true } }
  var isSaid: Bool { isOver.withLock { $0 } }
}

/// Is told what becomes of all blobs, and in the end, when nothing changes any more, knows of each that
/// exists that it is sealed.
struct Watcher {
  private let client: PatchbayClient

  init(_ client: PatchbayClient) { self.client = client }

  func run() throws {
    let stopping = Stopping()
    let events = try client.events(after: .start, progress: false, deadline: longWait)
    defer { events.close() }
    var sealed: Set<Generation> = []
    while !stopping.isSaid { try take(events, &sealed) }
    let there = try allBlobs()
    try eventually("the watcher is told of each of \(there.count) blobs", within: 60) {
      try take(events, &sealed)
      return there.allSatisfy { sealed.contains($0.generation) }
    }
  }

  /// One event, if one comes soon.
  private func take(_ events: BlobEvents, _ sealed: inout Set<Generation>) throws {
    do throws(PatchbayError) {
      let event = try events.next(deadline: .after(.milliseconds(100)))
      if case .change(let change) = event, change.kind == .sealed {
        sealed.insert(change.generation)
      }
    } catch {
      guard error.code == .timedOut else { throw error }
    }
  }

  private func allBlobs() throws -> [BlobInfo] {
    var blobs: [BlobInfo] = []
    var hasMore = true
    while hasMore {
      let page = try client.list(after: blobs.last?.key, deadline: longWait)
      blobs += page.blobs
      hasMore = page.hasMore
    }
    return blobs
  }
}
