// Bugs that read-through caches have had (C9 to C12): retries, requests and claims that lose sight of one
// another. Each is a check that Patchbay passes, and in which a model with this very bug is found out.

import Patchbay
import PatchbayTestSupport
import Synchronization
import Testing

private let content = Array("0123456789".utf8)
private let whole = Reading(bytes: content, ending: .whole)

@Suite(.serialized) struct KnownBugsProducingTests {
  private struct SourceBroke: Error {}

  // MARK: C9

  /// Makes a blob, again when that has failed.
  private protocol RetryingCache {
    /// What one reads that came before the first attempt: that gives six bytes and breaks, the second one
    /// the rest.
    func readThroughTwoAttempts() throws -> Reading
  }

  private struct PatchbayRetries: RetryingCache {
    let client: PatchbayClient

    func readThroughTwoAttempts() throws -> Reading {
      var options = ProductionOptions(BlobOptions(byteCount: 10))
      options.attempts = 2
      return try client.get("k", options) { job in
        for range in job.missing {
          let end = job.attempt == 1 ? 6 : range.upperBound
          try job.publisher.write(Array(content[range.lowerBound..<end]), at: range.lowerBound)
        }
        if job.attempt == 1 { throw SourceBroke() }
      }.reading()
    }
  }

  /// A stream that broke cannot be gone on with: each attempt makes one of its own.
  private struct StreamPerAttempt: RetryingCache {
    private final class Stream {
      var bytes: [UInt8] = []
      var ending = Ending.waitsForEver
    }

    func readThroughTwoAttempts() -> Reading {
      var stream = Stream()
      let read = stream
      stream.bytes += content[..<6]
      stream = Stream()
      stream.bytes += content
      stream.ending = .whole
      return Reading(bytes: read.bytes, ending: read.ending)
    }
  }

  @Test func `C9: a retry goes on for those that are reading already`() throws {
    let broker = try BrokerProcess()
    let client = try PatchbayClient(socketPath: broker.socket)
    #expect(try PatchbayRetries(client: client).readThroughTwoAttempts() == whole)
    try broker.stop()
    let twin = StreamPerAttempt().readThroughTwoAttempts()
    #expect(twin == Reading(bytes: Array(content[..<6]), ending: .waitsForEver))
  }

  // MARK: C10

  /// Gives a blob, and makes it when it is missing.
  private protocol ReadThrough: AnyObject {
    func get(_ key: String) throws -> Reading
    var makeCount: Int { get }
  }

  private final class PatchbayReadThrough: ReadThrough {
    private final class Count: Sendable { let made = Mutex(0) }
    private let client: PatchbayClient
    private let count = Count()

    init(_ client: PatchbayClient) { self.client = client }

    var makeCount: Int { count.made.withLock { $0 } }

    func get(_ key: String) throws -> Reading {
      try client.get(try BlobKey(key)) { [count] job in
        count.made.withLock { $0 += 1 }
        try job.publisher.append(content)
      }.reading()
    }
  }

  /// Requests that are under way are combined, and stay in the table that tells which those are.
  private final class NeverForgets: ReadThrough {
    private var pending: Set<String> = []
    private(set) var makeCount = 0

    func get(_ key: String) -> Reading {
      // Joins what has given out everything long ago.
      guard pending.insert(key).inserted else { return Reading(bytes: [], ending: .waitsForEver) }
      makeCount += 1
      return whole
    }
  }

  private func readings(_ cache: any ReadThrough) throws -> [Reading] {
    try [cache.get("k"), cache.get("k")]
  }

  @Test func `C10: a process asks for a finished blob again, and gets it`() throws {
    let broker = try BrokerProcess()
    let cache = PatchbayReadThrough(try PatchbayClient(socketPath: broker.socket))
    #expect(try readings(cache) == [whole, whole])
    #expect(cache.makeCount == 1)
    try broker.stop()
    #expect(
      try readings(NeverForgets()) == [whole, Reading(bytes: [], ending: .waitsForEver)])
  }

  // MARK: C11

  /// Two processes that want the same blob.
  private protocol ClaimedCache: AnyObject {
    /// The other process claims the right to make it, and has it.
    func otherClaims() throws
    func otherFinishes() throws
    /// Whether this one finds it when it looks.
    func finds() throws -> Bool
    /// Whether this one is to make it.
    func claims() throws -> Bool
  }

  private final class PatchbayClaims: ClaimedCache {
    private let client: PatchbayClient
    private let other: Peer

    init(_ broker: BrokerProcess) throws {
      client = try PatchbayClient(socketPath: broker.socket)
      other = try broker.peer()
    }

    func otherClaims() throws {
      #expect(try other.ask("openOrCreate k").hasPrefix("created"))
      try other.ask("append k 10")
    }

    func otherFinishes() throws { try other.ask("seal k") }

    func finds() throws -> Bool {
      try client.exists("k") && client.info("k").state == .sealed
    }

    func claims() throws -> Bool {
      switch try client.openOrCreate("k") {
      case .existing(let subscriber):
        #expect(try subscriber.waitUntilSealed(deadline: .after(.seconds(60))) == 10)
        return false
      case .created(let publisher, _):
        publisher.close()
        return true
      }
    }
  }

  /// The right to make it is a file that only one can create; it is renamed into the store.
  private final class ClaimFile: ClaimedCache {
    private var isClaimed = false
    private var isStored = false

    func otherClaims() { isClaimed = true }

    func otherFinishes() {
      isClaimed = false
      isStored = true
    }

    func finds() -> Bool { isStored }

    /// The claim has become free by what it was for, and nobody looks.
    func claims() -> Bool {
      guard !isClaimed else { return false }
      isClaimed = true
      return true
    }
  }

  /// Whether it is made twice when the other one finishes between a look and a claim.
  private func isMadeTwice(_ cache: any ClaimedCache) throws -> Bool {
    try cache.otherClaims()
    #expect(try !cache.finds())
    try cache.otherFinishes()
    return try cache.claims()
  }

  @Test func `C11: what was finished between a look and a claim is not made again`() throws {
    let broker = try BrokerProcess()
    #expect(try !isMadeTwice(PatchbayClaims(broker)))
    try broker.stop()
    #expect(try isMadeTwice(ClaimFile()), "the twin has the bug")
  }

  // MARK: C12

  /// One of those that make a blob of ten bytes.
  private protocol Owner {
    /// Writes what it takes to be missing up to there.
    func write(upTo end: Int) throws
    /// Whether the blob counts as published.
    func publish() throws -> Bool
  }

  private protocol OwnedCache: AnyObject {
    func begin() throws -> any Owner
    /// The first one is taken for dead.
    func takeOver() throws -> any Owner
    /// Nil: nothing is published.
    func published() throws -> [UInt8]?
  }

  /// A production that is in the hands of the test.
  private final class HeldProduction: Sendable {
    private let state = Mutex<(job: Production?, isOver: Bool)>((nil, false))

    var job: Production? { state.withLock { $0.job } }
    func end() { state.withLock { $0.isOver = true } }

    func hold(_ job: Production) throws {
      state.withLock { $0.job = job }
      try eventually("the test ends", within: 120) { state.withLock { $0.isOver } }
    }
  }

  private final class PatchbayOwners: OwnedCache {
    private struct Holder: Owner {
      let job: Production
      let content: [UInt8]

      func write(upTo end: Int) throws {
        for range in job.missing where range.lowerBound < end {
          let bytes = Array(content[range.lowerBound..<min(end, range.upperBound)])
          try job.publisher.write(bytes, at: range.lowerBound, skippingCovered: true)
        }
      }

      func publish() throws -> Bool {
        do throws(PatchbayError) {
          try job.publisher.seal()
          return true
        } catch {
          guard [.fenced, .closed].contains(error.code) else { throw error }
          return false
        }
      }
    }

    private let clients: [PatchbayClient]
    private let productions = [HeldProduction(), HeldProduction()]
    private var readers: [Subscriber] = []

    init(_ broker: BrokerProcess) throws {
      clients = [
        try PatchbayClient(socketPath: broker.socket),
        try PatchbayClient(socketPath: broker.socket),
      ]
    }

    func begin() throws -> any Owner {
      let owner = try own(0, Array("..........".utf8))
      // It is not to stand by afterwards: who is taken over could take over.
      readers[0].close()
      return owner
    }

    func takeOver() throws -> any Owner { try own(1, content) }

    private func own(_ number: Int, _ content: [UInt8]) throws -> any Owner {
      let options = ProductionOptions(
        BlobOptions(byteCount: 10), stallTimeout: .milliseconds(50))
      let production = productions[number]
      readers.append(try clients[number].get("k", options) { job in try production.hold(job) })
      try eventually("it has the right") { production.job != nil }
      guard let job = production.job else { throw HarnessError("no right") }
      return Holder(job: job, content: content)
    }

    func published() throws -> [UInt8]? {
      guard try clients[1].info("k").state == .sealed else { return nil }
      return try clients[1].open("k").readFully(0..<10)
    }

    func end() { for production in productions { production.end() } }
  }

  /// What is being made has one name, and is renamed into the store by that.
  private final class RenamedByName: OwnedCache {
    private final class File { var bytes: [UInt8] = [] }

    private struct Writer: Owner {
      let cache: RenamedByName
      let file: File

      func write(upTo end: Int) { file.bytes = Array(content[..<end]) }

      /// Whichever file has the name.
      func publish() -> Bool {
        guard let made = cache.unfinished else { return false }
        (cache.unfinished, cache.stored) = (nil, made)
        return true
      }
    }

    private var unfinished: File?
    private var stored: File?

    func begin() -> any Owner {
      let file = File()
      unfinished = file
      return Writer(cache: self, file: file)
    }

    func takeOver() -> any Owner { begin() }
    func published() -> [UInt8]? { stored?.bytes }
  }

  private func complaints(_ cache: any OwnedCache) throws -> [String] {
    let old = try cache.begin()
    let new = try cache.takeOver()
    try new.write(upTo: 6)
    // It wakes up and takes the blob for its own.
    try? old.write(upTo: 10)
    var complaints: [String] = []
    if try old.publish() { complaints.append("the old owner publishes") }
    if let bytes = try cache.published() {
      complaints.append("\(bytes.count) of 10 bytes are published")
    }
    try new.write(upTo: 10)
    if try !new.publish() { complaints.append("the new owner cannot publish") }
    if try cache.published() != content { complaints.append("the content is wrong") }
    return complaints
  }

  @Test
  func `C12: an owner that was taken over publishes nothing, least of all its follower's half`()
    throws
  {
    let broker = try BrokerProcess()
    let owners = try PatchbayOwners(broker)
    #expect(try complaints(owners) == [])
    owners.end()
    try broker.stop()
    #expect(
      try complaints(RenamedByName()).contains("6 of 10 bytes are published"), "the twin")
  }
}
