// Blobs with a digest: what is ordered when, what a seal waits for, and who is told of a mismatch.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct DigestTests {
  private static let right = simulatedDigest(.sha256, [1])
  private static let wrong = simulatedDigest(.sha256, [2])
  private static let expecting = DigestWish(expecting: right)

  /// A rig whose orders are answered by hand.
  private func rig() -> Rig {
    var rig = Rig()
    rig.holdsDigests = true
    return rig
  }

  private func begin(
    _ rig: inout Rig, _ session: SessionID, _ key: BlobKey = "k",
    _ wish: DigestWish = Self.expecting, _ adjust: (inout CreateRequest) -> Void = { _ in }
  ) throws -> BlobGrant {
    try need(rig.create(session, key, as: .exclusive, digest: wish, adjust)?.grant)
  }

  private func seal(_ grant: BlobGrant, _ byteCount: Int) -> Request {
    .seal(SealRequest(blob: grant.blob, byteCount: byteCount))
  }

  private func orders(_ rig: Rig) -> [DigestOrder] {
    rig.trace.compactMap { if case .digest(let order) = $0 { order } else { nil } }
  }

  private func drops(_ rig: Rig) -> [Generation] {
    rig.trace.compactMap { if case .dropDigest(let generation) = $0 { generation } else { nil } }
  }

  @Test func `a seal is answered when the digest is known, and says what it is`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer) { $0.byteCount = 10_000 }
    let asked = rig.post(writer, seal(blob, 10_000))
    #expect(rig.reply(writer, asked) == nil)
    #expect(rig.info(writer, "k")?.state == .open)
    #expect(orders(rig).map(\.end) == [10_000])
    rig.send(.digested(blob.blob.generation, .found(Self.right, byteCount: 10_000)))
    #expect(rig.reply(writer, asked) == .done)
    let info = try need(rig.info(writer, "k"))
    #expect(info.state == .sealed && info.digest == Self.right)
    #expect(drops(rig) == [blob.blob.generation])
  }

  @Test func `another digest fails the blob, posted and rung before it is told`() throws {
    var rig = rig()
    let (writer, reader) = (rig.connect(), rig.connect(process: 101))
    let blob = try begin(&rig, writer) { $0.byteCount = 10_000 }
    #expect(rig.open(reader, "k")?.grant != nil)
    let asked = rig.post(writer, seal(blob, 10_000))
    let before = rig.trace.count
    rig.send(.digested(blob.blob.generation, .found(Self.wrong, byteCount: 10_000)))
    let kinds = rig.trace[before...].compactMap { action -> String? in
      switch action {
      case .recordBlob: "record"
      case .post(_, let post):
        post.state == .failed && post.causeCode == .digestMismatch ? "post" : "other"
      case .ring: "ring"
      case .reply: "reply"
      default: nil
      }
    }
    #expect(kinds == ["record", "post", "ring", "reply"])
    let error = try need(rig.reply(writer, asked)?.error)
    #expect(error.code == .digestMismatch)
    let cause = try #require(error.cause)
    #expect(
      cause
        == "its 10000 bytes have the sha256 \(Self.wrong.hex), not \(Self.right.hex) as expected")
    #expect(rig.open(reader, "k")?.error?.code == .digestMismatch)
    #expect(rig.open(reader, "k")?.error?.cause == cause)
    #expect(rig.info(writer, "k")?.digest == nil)
  }

  @Test func `who seals again a blob that had other content is told the same`() throws {
    var rig = Rig { $0.isShared = true }
    rig.digest = .found(Self.wrong, byteCount: 10_000)
    let (writer, stranger) = (rig.connect(), rig.connect(process: 101, uid: 2000))
    let blob = try begin(&rig, writer) { $0.byteCount = 10_000 }
    #expect(rig.ask(writer, seal(blob, 10_000))?.code == .digestMismatch)
    #expect(rig.ask(writer, seal(blob, 10_000))?.code == .digestMismatch)
    #expect(rig.ask(stranger, seal(blob, 10_000))?.code == .closed)
  }

  @Test func `seals that join one that waits for the digest get its answer`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer) { $0.byteCount = 10_000 }
    let first = rig.post(writer, seal(blob, 10_000))
    let second = rig.post(writer, seal(blob, 10_000))
    #expect(orders(rig).count == 1)
    rig.send(.digested(blob.blob.generation, .found(Self.right, byteCount: 10_000)))
    #expect(rig.reply(writer, first) == .done && rig.reply(writer, second) == .done)
  }

  @Test func `a publisher that dies while its blob is hashed has failed it`() throws {
    var rig = rig()
    let (writer, reader) = (rig.connect(), rig.connect(process: 101))
    let blob = try begin(&rig, writer) { $0.byteCount = 10_000 }
    rig.post(writer, seal(blob, 10_000))
    rig.send(.exited(writer))
    #expect(rig.open(reader, "k")?.error?.code == .abandoned)
    #expect(drops(rig) == [blob.blob.generation])
    // It comes too late to seal anything.
    #expect(rig.send(.digested(blob.blob.generation, .found(Self.right, byteCount: 10_000))) == [])
    #expect(rig.info(reader, "k")?.state == .failed)
  }

  @Test func `a blob that is failed while it is hashed answers its seal with that`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer) { $0.byteCount = 10_000 }
    let asked = rig.post(writer, seal(blob, 10_000))
    #expect(rig.ask(writer, .fail(FailRequest(blob: blob.blob, cause: "enough"))) == .done)
    #expect(rig.reply(writer, asked)?.error?.cause == "enough")
  }

  @Test func `a broker that drains waits for the seal under way`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer) { $0.byteCount = 10_000 }
    let asked = rig.post(writer, seal(blob, 10_000))
    rig.send(.drainBegan)
    #expect(!rig.ledger.isDrained)
    rig.send(.digested(blob.blob.generation, .found(Self.right, byteCount: 10_000)))
    #expect(rig.reply(writer, asked) == .done && rig.ledger.isDrained)
  }

  @Test func `everybody else is served while a blob is hashed`() throws {
    var rig = rig()
    let (writer, other) = (rig.connect(), rig.connect(process: 101))
    let blob = try begin(&rig, writer) { $0.byteCount = 1 << 20 }
    let asked = rig.post(writer, seal(blob, 1 << 20))
    #expect(rig.ask(other, .ping) == .pong)
    #expect(rig.sealed(other, "plain", byteCount: 5000) != nil)
    #expect(rig.open(other, "k")?.grant?.state == .open)
    let second = try begin(&rig, other, "second") { $0.byteCount = 5000 }
    rig.post(other, seal(second, 5000))
    #expect(orders(rig).map(\.generation) == [blob.blob.generation, second.blob.generation])
    #expect(rig.reply(writer, asked) == nil)
  }

  @Test func `one order of a blob is out at a time, and the last follows those before`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer) { $0.byteCount = 1 << 20 }
    let generation = blob.blob.generation
    rig.pass(.milliseconds(20))
    rig.send(.tick)
    #expect(orders(rig).map(\.end) == [nil])
    let asked = rig.post(writer, seal(blob, 1 << 20))
    #expect(orders(rig).count == 1)
    rig.send(.digested(generation, .reached(700_000, hasMore: false)))
    #expect(orders(rig).map(\.end) == [nil, 1 << 20])
    rig.send(.digested(generation, .reached(900_000, hasMore: true)))
    #expect(orders(rig).count == 3)
    rig.send(.digested(generation, .found(Self.right, byteCount: 1 << 20)))
    #expect(rig.reply(writer, asked) == .done)
  }

  @Test func `a blob in which nothing comes is looked at less and less often`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer) { $0.byteCount = 1 << 20 }
    var pauses: [Int64] = []
    for _ in 0..<9 {
      let next = try need(rig.ledger.nextDeadline)
      pauses.append((next - rig.now.monotonicNanoseconds) / 1_000_000)
      rig.pass(.nanoseconds(next - rig.now.monotonicNanoseconds))
      rig.send(.tick)
      rig.send(.digested(blob.blob.generation, .reached(0, hasMore: false)))
    }
    #expect(pauses == [20, 40, 80, 160, 320, 640, 1000, 1000, 1000])
    rig.pass(.seconds(1))
    rig.send(.tick)
    rig.send(.digested(blob.blob.generation, .reached(5, hasMore: false)))
    #expect(rig.ledger.nextDeadline == rig.now.monotonicNanoseconds + 20_000_000)
  }

  @Test func `an extent that comes has those before it hashed at once`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer) {
      $0.order = .appendOnly
      $0.firstExtent = 1 << 16
      $0.extentLimit = 1 << 16
    }
    let grown = rig.ask(writer, .grow(GrowRequest(blob: blob.blob, index: 1)))
    #expect(grown?.extent != nil)
    #expect(orders(rig).last?.extents.map(\.index) == [0, 1])
    rig.send(.digested(blob.blob.generation, .reached(1 << 16, hasMore: false)))
    _ = rig.ask(writer, .grow(GrowRequest(blob: blob.blob, index: 2)))
    #expect(orders(rig).last?.extents.map(\.index) == [1, 2])
  }

  @Test func `bytes that cannot be read refuse the seal, and the blob is open still`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer) { $0.byteCount = 10_000 }
    let first = rig.post(writer, seal(blob, 10_000))
    let error = PatchbayError(.corrupt, "The ring was cut off.")
    rig.send(.digested(blob.blob.generation, .failed(error)))
    #expect(rig.reply(writer, first)?.error == error)
    #expect(rig.info(writer, "k")?.state == .open)
    let second = rig.post(writer, seal(blob, 10_000))
    rig.send(.digested(blob.blob.generation, .found(Self.right, byteCount: 10_000)))
    #expect(rig.reply(writer, second) == .done)
  }

  @Test func `a blob that is sealed shorter than it was hashed is hashed anew`() throws {
    var rig = rig()
    let writer = rig.connect()
    let blob = try begin(&rig, writer) { $0.order = .appendOnly }
    rig.pass(.milliseconds(20))
    rig.send(.tick)
    rig.send(.digested(blob.blob.generation, .reached(9000, hasMore: false)))
    rig.post(writer, seal(blob, 5000))
    #expect(drops(rig) == [blob.blob.generation])
    #expect(orders(rig).last?.end == 5000)
  }

  @Test func `another publisher that writes meanwhile keeps the blob open`() throws {
    var rig = rig()
    let (writer, other) = (rig.connect(), rig.connect(process: 101))
    let blob = try need(
      rig.create(writer, "k", as: .joinable, digest: Self.expecting)?.grant)
    let joined = try need(rig.join(other, "k")?.grant)
    let asked = rig.post(writer, seal(blob, 10_000))
    #expect(orders(rig).last?.end == 10_000)
    guard case .claimed(let claim) = rig.claim(other, joined, 10_000..<20_000) else {
      Issue.record("no claim")
      return
    }
    rig.send(.digested(blob.blob.generation, .found(Self.right, byteCount: 10_000)))
    #expect(rig.reply(writer, asked)?.error?.code == .rangeOverlap)
    #expect(rig.info(writer, "k")?.state == .open)
    let release = ReleaseRequest(blob: joined.blob, claim: claim.claim)
    #expect(rig.ask(other, .release(release)) == .done)
    rig.coverage = Coverage(coveredByteCount: 10_000, missing: [10_000..<20_000])
    let again = rig.post(writer, seal(blob, 10_000))
    rig.send(.digested(blob.blob.generation, .found(Self.right, byteCount: 10_000)))
    #expect(rig.reply(writer, again) == .done)
  }

  // MARK: In one message, and empty

  @Test func `a small blob is compared before it is answered`() throws {
    var rig = rig()
    let (writer, reader) = (rig.connect(), rig.connect(process: 101))
    let waiting = rig.post(
      reader, .open(OpenRequest(key: "bad", waits: true, observes: false)))
    var request = CreateRequest(key: "good")
    request.inlineBytes = [1]
    #expect(rig.ask(writer, .createWith(request, .plain(digest: Self.expecting)))?.grant != nil)
    #expect(rig.info(writer, "good")?.digest == Self.right)
    request.key = "bad"
    request.inlineBytes = [2]
    let used = rig.ledger.usedByteCount
    let error = rig.ask(writer, .createWith(request, .plain(digest: Self.expecting)))?.error
    #expect(error?.code == .digestMismatch && error?.cause?.contains(Self.wrong.hex) == true)
    #expect(rig.reply(reader, waiting)?.error?.code == .digestMismatch)
    #expect(rig.info(writer, "bad")?.state == .failed)
    #expect(rig.ledger.usedByteCount == used)
    request.inlineBytes = [1]
    #expect(rig.ask(writer, .createWith(request, .plain(digest: Self.expecting)))?.grant != nil)
    #expect(orders(rig).isEmpty)
  }

  @Test func `an empty blob has the digest of nothing`() throws {
    var rig = rig()
    let writer = rig.connect()
    let nothing = simulatedDigest(.sha384, [])
    let blob = try begin(&rig, writer, "k", DigestWish(.sha384))
    #expect(rig.ask(writer, seal(blob, 0)) == .done)
    #expect(rig.info(writer, "k")?.digest == nothing)
    let bad = try begin(&rig, writer, "bad", Self.expecting)
    #expect(rig.ask(writer, seal(bad, 0))?.code == .digestMismatch)
    #expect(orders(rig).isEmpty)
  }

  // MARK: With others

  @Test func `a window has no digest`() throws {
    var rig = rig()
    let writer = rig.connect()
    let reply = rig.create(writer, "k", as: .exclusive, digest: Self.expecting) {
      $0.policy = .backpressure
      $0.order = .appendOnly
    }
    #expect(reply?.code == .protocolViolation)
  }

  @Test func `what had other content is not resumed, and another digest is another creation`()
    throws
  {
    var rig = rig()
    rig.holdsDigests = false
    rig.digest = .found(Self.wrong, byteCount: 10_000)
    let writer = rig.connect()
    let blob = try begin(&rig, writer) { $0.byteCount = 10_000 }
    #expect(rig.ask(writer, seal(blob, 10_000))?.code == .digestMismatch)
    let again = rig.create(writer, "k", as: .exclusive, resumes: true, digest: Self.expecting) {
      $0.byteCount = 10_000
    }
    #expect(again?.grant != nil)
    #expect(!rig.trace.contains { if case .copy = $0 { true } else { false } })
    #expect(rig.create(writer, "o", as: .ownerless, digest: Self.expecting)?.grant != nil)
    #expect(rig.create(writer, "o", as: .ownerless, digest: Self.expecting)?.grant != nil)
    #expect(rig.create(writer, "o", as: .ownerless)?.code == .keyExists)
  }
}
