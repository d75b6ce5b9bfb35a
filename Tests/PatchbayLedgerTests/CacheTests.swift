// What is kept although nobody uses it: how often it must have been wanted, how much of it there may be,
// and what the embedder says.

import PatchbayTypes
import PatchbayWire
import Synchronization
import Testing

@testable import PatchbayLedger

@Suite struct CacheTests {
  // MARK: Least uses

  private static func asked(_ key: BlobKey, leastUses: UInt32) -> Request {
    var terms = CreateTerms(ownership: .produced, idleLimit: nil, resumes: false)
    terms.production.leastUses = leastUses
    var create = CreateRequest(key: key)
    create.byteCount = 10_000
    return .openOrCreate(OpenOrCreateRequest(create: create, terms: terms, standsBy: false))
  }

  /// Asks for a key as a program does that produces what is missing, reads it, and goes.
  private func use(_ rig: inout Rig, _ session: SessionID, _ key: BlobKey, _ leastUses: UInt32) {
    switch rig.ask(session, Self.asked(key, leastUses: leastUses)) {
    case .created(let grant):
      rig.ask(session, .seal(SealRequest(blob: grant.blob, byteCount: 10_000)))
      rig.close(session, grant.reader)
    case .opened(let grant): rig.close(session, grant.reader)
    default: Issue.record("neither created nor opened")
    }
  }

  @Test
  func `a blob that was wanted too seldom goes with its last reader, and its key is counted on`()
    throws
  {
    var rig = Rig()
    let session = rig.connect()
    for _ in 1...2 {
      use(&rig, session, "k", 3)
      #expect(rig.info(session, "k") == nil)
    }
    use(&rig, session, "k", 3)
    let kept = try need(rig.info(session, "k"))
    use(&rig, session, "k", 3)
    #expect(rig.info(session, "k")?.generation == kept.generation)
  }

  @Test func `who opens it while it is there counts as well`() throws {
    var rig = Rig()
    let session = rig.connect()
    let grant = try need(rig.ask(session, Self.asked("k", leastUses: 3))?.grant)
    for _ in 1...2 {
      let reader = try need(rig.open(session, "k")?.grant)
      rig.close(session, reader.blob)
    }
    rig.ask(session, .seal(SealRequest(blob: grant.blob, byteCount: 10_000)))
    rig.close(session, grant.reader)
    #expect(rig.info(session, "k") != nil)
  }

  @Test func `while somebody reads it, or it is pinned, it stays`() throws {
    var rig = Rig()
    let session = rig.connect()
    let grant = try need(rig.ask(session, Self.asked("k", leastUses: 9))?.grant)
    rig.ask(session, .seal(SealRequest(blob: grant.blob, byteCount: 10_000)))
    #expect(rig.info(session, "k") != nil)
    rig.ask(session, .pin(PinRequest(key: "k", isPinned: true)))
    rig.close(session, grant.reader)
    #expect(rig.info(session, "k") != nil)
    rig.ask(session, .pin(PinRequest(key: "k", isPinned: false)))
    #expect(rig.info(session, "k") == nil)
  }

  @Test func `one that was sealed when nobody read it any more goes at once`() throws {
    var rig = Rig()
    let session = rig.connect()
    let grant = try need(rig.ask(session, Self.asked("k", leastUses: 2))?.grant)
    rig.close(session, grant.reader)
    #expect(rig.info(session, "k") != nil, "it is being written")
    rig.ask(session, .seal(SealRequest(blob: grant.blob, byteCount: 10_000)))
    #expect(rig.info(session, "k") == nil)
  }

  @Test func `the next broker keeps what was wanted often enough`() throws {
    var rig = Rig()
    let session = rig.connect(process: 1)
    use(&rig, session, "twice", 2)
    use(&rig, session, "twice", 2)
    #expect(rig.info(session, "twice") != nil)
    let seldom = try need(rig.ask(session, Self.asked("once", leastUses: 2))?.grant)
    rig.ask(session, .seal(SealRequest(blob: seldom.blob, byteCount: 10_000)))
    var next = rig.killed(dead: [1])
    let other = next.connect(process: 2)
    #expect(next.info(other, "twice") != nil)
    #expect(next.info(other, "once") == nil, "its last reader is gone")
  }

  @Test func `the counts are bounded, and the key that was asked for longest ago is forgotten`()
    throws
  {
    var uses = KeyUses()
    let keys = try (0...KeyUses.limit).map { try BlobKey(Array("k\($0)".utf8)) }
    for key in keys.dropLast() { uses.count(key) }
    uses.count(keys[0])
    uses.count(keys[KeyUses.limit])
    #expect(uses.keyCount == KeyUses.limit)
    #expect(uses.uses(of: keys[0]) == 2 && uses.uses(of: keys[1]) == 0)
    for _ in 0..<100_000 { uses.count(keys[0]) }
    #expect(uses.placeCount <= 4 * KeyUses.limit + 1)
    #expect(uses.uses(of: keys[2]) == 1)
  }

  // MARK: Bounds

  private func keys(_ rig: inout Rig, _ session: SessionID) -> [String] {
    rig.list(session)?.keys ?? []
  }

  @Test func `beyond their number the blob goes whose last use is longest ago`() throws {
    var rig = Rig { $0.cachedBlobCount = 3 }
    let session = rig.connect()
    for key in ["a", "b", "c"] as [BlobKey] { _ = rig.sealed(session, key, byteCount: 100) }
    #expect(keys(&rig, session) == ["a", "b", "c"])
    let reader = try need(rig.open(session, "a")?.grant)
    rig.close(session, reader.blob)
    rig.watchAll(session)
    let place = rig.trace.count
    _ = rig.sealed(session, "d", byteCount: 100)
    #expect(keys(&rig, session) == ["a", "c", "d"])
    #expect(rig.toldChanges(of: "b", from: place) == [.evicted])
    #expect(rig.ledger.inconsistency == nil)
  }

  @Test func `who is in use, pinned, or to outlive the broker does not count`() throws {
    var rig = Rig.spooling { $0.cachedBlobCount = 1 }
    let session = rig.connect()
    _ = rig.sealed(session, "read", byteCount: 100)
    _ = rig.open(session, "read")
    _ = rig.sealed(session, "pinned", byteCount: 100)
    rig.ask(session, .pin(PinRequest(key: "pinned", isPinned: true)))
    let kept = try rig.begin(session, "kept", .retained)
    rig.ask(session, .seal(SealRequest(blob: kept.blob, byteCount: 0)))
    _ = rig.sealed(session, "cached", byteCount: 100)
    #expect(keys(&rig, session) == ["cached", "kept", "pinned", "read"])
    _ = rig.sealed(session, "later", byteCount: 100)
    #expect(keys(&rig, session) == ["kept", "later", "pinned", "read"])
  }

  @Test func `one that is used no more is the youngest, and makes an older one go`() throws {
    var rig = Rig { $0.cachedBlobCount = 1 }
    let session = rig.connect()
    _ = rig.sealed(session, "a", byteCount: 100)
    let reader = try need(rig.open(session, "a")?.grant)
    _ = rig.sealed(session, "b", byteCount: 100)
    #expect(keys(&rig, session) == ["a", "b"])
    rig.close(session, reader.blob)
    #expect(keys(&rig, session) == ["b"], "a was opened before b was made")
  }

  @Test func `with no place at all nothing is kept that nobody uses`() throws {
    var rig = Rig { $0.cachedBlobCount = 0 }
    let session = rig.connect()
    _ = rig.sealed(session, "a", byteCount: 100)
    #expect(keys(&rig, session) == [])
  }

  @Test func `failures that are told need no place`() throws {
    var rig = Rig { $0.cachedBlobCount = 1 }
    let session = rig.connect()
    let grant = try need(rig.create(session, "failed"))
    rig.ask(session, .fail(FailRequest(blob: grant.blob, cause: "no")))
    rig.ask(session, .quiesced(grant.blob))
    for key in ["a", "b"] as [BlobKey] { _ = rig.sealed(session, key, byteCount: 100) }
    #expect(keys(&rig, session) == ["b", "failed"])
  }

  @Test func `beyond their bytes in memory the blobs go whose last use is longest ago`() throws {
    var rig = Rig { $0.cachedByteCount = 3 << 20 }
    let session = rig.connect()
    for key in ["a", "b"] as [BlobKey] { _ = rig.sealed(session, key, byteCount: 1 << 20) }
    #expect(keys(&rig, session) == ["a", "b"])
    _ = rig.sealed(session, "c", byteCount: 1 << 20)
    #expect(keys(&rig, session) == ["b", "c"])
    #expect(rig.ledger.idleByteCount <= 3 << 20)
  }

  // MARK: The embedder's word

  /// What was asked about, and what is answered by the beginning of a key.
  private final class Embedder: Sendable {
    let asked = Mutex<[String]>([])
    var policy: CachePolicy {
      { info in
        let key = info.key.description
        self.asked.withLock { $0.append(key) }
        return if key.hasPrefix("drop") {
          .drop
        } else if key.hasPrefix("keep") {
          .keep
        } else if key.hasPrefix("soon") {
          .expire(after: .seconds(60))
        } else {
          .byDefault
        }
      }
    }
  }

  @Test func `the embedder is asked when a complete blob has lost its last user, once`() throws {
    let embedder = Embedder()
    var rig = Rig(cachePolicy: embedder.policy)
    let session = rig.connect()
    let grant = try need(rig.sealed(session, "a", byteCount: 100))
    #expect(embedder.asked.withLock { $0 } == ["a"])
    let first = try need(rig.open(session, "a")?.grant)
    let second = try need(rig.open(session, "a")?.grant)
    rig.close(session, first.blob)
    #expect(embedder.asked.withLock { $0 } == ["a"])
    rig.close(session, second.blob)
    #expect(embedder.asked.withLock { $0 } == ["a", "a"])
    #expect(rig.info(session, "a")?.generation == grant.blob.generation)
    let failed = try need(rig.create(session, "b"))
    rig.ask(session, .fail(FailRequest(blob: failed.blob, cause: "no")))
    #expect(embedder.asked.withLock { $0 } == ["a", "a"], "a failed blob is none to keep")
  }

  @Test func `what it wants dropped goes at once, what it wants kept is spared by the bounds`()
    throws
  {
    var rig = Rig(adjust: { $0.cachedBlobCount = 1 }, cachePolicy: Embedder().policy)
    let session = rig.connect()
    for key in ["drop", "keep1", "keep2", "a", "b"] as [BlobKey] {
      _ = rig.sealed(session, key, byteCount: 100)
    }
    #expect(keys(&rig, session) == ["keep1", "keep2"])
  }

  @Test func `what it gives a time goes then, unless somebody opens it before`() throws {
    var rig = Rig(cachePolicy: Embedder().policy)
    let session = rig.connect()
    _ = rig.sealed(session, "soon", byteCount: 100)
    #expect(rig.info(session, "soon")?.expires != nil)
    rig.pass(.seconds(60) - Rig.instant)
    let reader = try need(rig.open(session, "soon")?.grant)
    rig.pass(.seconds(3600))
    rig.send(.tick)
    #expect(rig.info(session, "soon")?.expires == nil)
    rig.close(session, reader.blob)
    rig.pass(.seconds(60) - Rig.instant)
    rig.send(.tick)
    #expect(rig.info(session, "soon") != nil)
    rig.pass(Rig.instant)
    #expect(rig.info(session, "soon") == nil)
  }
}
