// Opening, waiting, closing, and the board entries that go with it.

import PatchbayLedger
import PatchbayTypes
import PatchbayWire
import Testing

@Suite struct ReaderTests {
  @Test func `an open gives a read-only ring and counts a subscriber`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let reader = rig.connect()
    let blob = try need(rig.create(writer, "k") { $0.byteCount = 10 })
    let number = rig.post(reader, .open(OpenRequest(key: "k", waits: false, observes: false)))
    let grant = try #require(rig.reply(reader, number)?.grant)
    #expect(grant.state == .open)
    #expect(grant.blob == BlobReference(generation: blob.blob.generation, epoch: 0))
    #expect(grant.board == blob.board && grant.entry == blob.entry)
    #expect(grant.extent != nil)
    #expect(
      rig.descriptors(reader, number) == [.ring(RingID(rawValue: 1), isWritable: false)])
    #expect(rig.info(reader, "k")?.subscriberCount == 1)
    #expect(rig.info(reader, "k")?.publisherCount == 1)
  }

  @Test func `a failed blob is never handed to a new reader`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let reader = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    let attached = try need(rig.open(reader, "k")?.grant)
    rig.ask(writer, .fail(FailRequest(blob: blob.blob, cause: "no luck")))
    let error = try need(rig.open(reader, "k")?.error)
    #expect(error.code == .blobFailed)
    #expect(error.cause == "no luck")
    #expect(error.message.contains("k, generation \(blob.blob.generation)"))
    #expect(rig.open(reader, "k", waits: true)?.code == .blobFailed)
    let extent = ExtentRequest(generation: attached.blob.generation, index: 0)
    #expect(rig.ask(reader, .attachExtent(extent))?.extent != nil)
  }

  @Test func `an observer sees failed blobs and counts as no reader`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    rig.abandon(writer, blob.blob)
    let grant = try need(rig.open(writer, "k", observes: true)?.grant)
    #expect(grant.state == .failed)
    #expect(grant.board == 1)
    let info = try need(rig.info(writer, "k"))
    #expect(info.subscriberCount == 0 && info.lastRead == nil)
    rig.ask(writer, .remove(RemoveRequest(key: "k", generation: nil)))
    #expect(rig.freed.isEmpty)
    rig.closeObserver(writer, grant.reader)
    #expect(rig.freed.count == 1)
  }

  @Test func `a waiting open is answered when its key is born`() throws {
    var rig = Rig()
    let reader = rig.connect()
    let writer = rig.connect()
    #expect(rig.open(reader, "k")?.code == .noSuchKey)
    let ringed = rig.post(reader, .open(OpenRequest(key: "k", waits: true, observes: false)))
    let inline = rig.post(reader, .open(OpenRequest(key: "i", waits: true, observes: false)))
    #expect(rig.reply(reader, ringed) == nil)
    _ = rig.create(writer, "k")
    _ = rig.create(writer, "i") { $0.inlineBytes = [7] }
    #expect(rig.reply(reader, ringed)?.grant?.state == .open)
    #expect(rig.reply(reader, inline)?.grant?.inlineBytes == [7])
  }

  @Test func `a cancelled wait is answered, and so is a cancel of nothing`() {
    var rig = Rig()
    let reader = rig.connect()
    let parked = rig.post(reader, .open(OpenRequest(key: "k", waits: true, observes: false)))
    #expect(rig.ask(reader, .cancel(CancelRequest(request: parked))) == .done)
    #expect(rig.reply(reader, parked)?.code == .timedOut)
    let count = rig.trace.count
    #expect(rig.ask(reader, .cancel(CancelRequest(request: parked))) == .done)
    #expect(rig.ask(reader, .cancel(CancelRequest(request: 12345))) == .done)
    #expect(rig.trace.count == count + 2)
    #expect(rig.create(reader, "k") != nil)
  }

  @Test func `waiting opens are bounded and end with their session`() {
    var rig = Rig { $0.waitingOpensPerSession = 2 }
    let reader = rig.connect()
    let wait = Request.open(OpenRequest(key: "k", waits: true, observes: false))
    let first = rig.post(reader, wait)
    let second = rig.post(reader, wait)
    #expect(rig.ask(reader, wait)?.code == .limitReached)
    rig.send(.hungUp(reader))
    let writer = rig.connect()
    _ = rig.create(writer, "k")
    #expect(rig.reply(reader, first) == nil && rig.reply(reader, second) == nil)
    #expect(rig.info(writer, "k")?.subscriberCount == 0)
  }

  @Test func `a reader attaches extents that exist, and only of blobs it has open`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let reader = rig.connect()
    let blob = try need(rig.create(writer, "k"))
    let generation = blob.blob.generation
    let second = Request.attachExtent(ExtentRequest(generation: generation, index: 1))
    #expect(rig.ask(reader, second)?.code == .closed)
    let opened = try need(rig.open(reader, "k")?.grant)
    let early = try need(rig.ask(reader, second)?.error)
    #expect(early.code == .rangeOutOfBounds)
    #expect(early.message.contains("does not exist yet"))
    rig.ask(writer, .grow(GrowRequest(blob: blob.blob, index: 1)))
    let number = rig.post(reader, second)
    #expect(rig.reply(reader, number)?.extent != nil)
    #expect(
      rig.descriptors(reader, number) == [.ring(RingID(rawValue: 2), isWritable: false)])
    rig.close(reader, opened.reader)
    #expect(rig.ask(reader, second)?.code == .closed)
    for index in [-1, Int.max] {
      let request = ExtentRequest(generation: generation, index: index)
      #expect(rig.ask(writer, .attachExtent(request))?.code == .rangeOutOfBounds)
    }
  }

  @Test func `handles are counted, and one close too many is harmless`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.sealed(writer, "k", byteCount: 10))
    let first = try need(rig.open(writer, "k")?.grant)
    _ = rig.open(writer, "k")
    #expect(rig.info(writer, "k")?.subscriberCount == 2)
    rig.ask(writer, .remove(RemoveRequest(key: "k", generation: blob.blob.generation)))
    rig.close(writer, first.reader)
    #expect(rig.freed.isEmpty)
    rig.close(writer, first.reader)
    #expect(rig.freed.count == 1)
    #expect(rig.close(writer, first.reader) == .done)
    #expect(rig.ledger.usedByteCount == rig.pooledByteCount)
  }

  @Test func `the end of an observer leaves the readers, and theirs the observers`() throws {
    var rig = Rig()
    let (writer, other) = (rig.connect(), rig.connect())
    let blob = try need(rig.sealed(writer, "k", byteCount: 10))
    let opened = try need(rig.open(other, "k")?.grant)
    _ = rig.open(other, "k", observes: true)
    rig.closeObserver(other, opened.reader)
    #expect(rig.closeObserver(other, opened.reader) == .done)
    #expect(rig.info(writer, "k")?.subscriberCount == 1)
    _ = rig.open(other, "k", observes: true)
    rig.close(other, opened.reader)
    #expect(rig.close(other, opened.reader) == .done)
    #expect(rig.info(writer, "k")?.subscriberCount == 0)
    rig.ask(writer, .remove(RemoveRequest(key: "k", generation: blob.blob.generation)))
    #expect(rig.freed.isEmpty, "it is observed")
    rig.closeObserver(other, opened.reader)
    #expect(rig.freed.count == 1)
  }

  @Test func `an open that did not arrive is closed again`() throws {
    var rig = Rig()
    let writer = rig.connect()
    _ = rig.sealed(writer, "k", byteCount: 10)
    let number = rig.post(writer, .open(OpenRequest(key: "k", waits: false, observes: false)))
    rig.send(.undelivered(writer, number: number))
    #expect(rig.info(writer, "k")?.subscriberCount == 0)
    rig.send(.undelivered(writer, number: number))
    rig.send(.undelivered(SessionID(rawValue: 99), number: 1))
    #expect(rig.info(writer, "k")?.subscriberCount == 0)
  }

  @Test func `a removed key is free at once while its readers read on`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let reader = rig.connect()
    let old = try need(rig.create(writer, "k") { $0.byteCount = 10 })
    let opened = try need(rig.open(reader, "k")?.grant)
    #expect(rig.ask(reader, .remove(RemoveRequest(key: "k", generation: nil))) == .done)
    #expect(rig.open(reader, "k")?.code == .noSuchKey)
    let new = try need(rig.create(writer, "k") { $0.byteCount = 20 })
    #expect(new.blob.generation > old.blob.generation)
    #expect(new.entry != old.entry || new.board != old.board)
    let records = rig.trace.count
    #expect(rig.ask(writer, .seal(SealRequest(blob: old.blob, byteCount: 10))) == .done)
    #expect(rig.trace.posts.last?.state == .sealed)
    // Under the next broker, too, its reader reads on, and nobody finds it by the key.
    let last = try #require(rig.records(from: records).last)
    #expect(last.info.generation == old.blob.generation && last.info.state == .sealed)
    #expect(rig.records(from: records).allSatisfy { !$0.isNamed })
    #expect(!rig.trace.contains(.eraseBlob(old.blob.generation)))
    rig.close(reader, opened.reader)
    #expect(rig.trace.contains(.eraseBlob(old.blob.generation)))
    #expect(rig.freed.map(\.rawValue) == [old.extent?.ringID])
  }

  @Test func `remove names one life of a key`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let blob = try need(rig.sealed(writer, "k", byteCount: 10))
    let other = Generation(rawValue: blob.blob.generation.rawValue + 1)
    #expect(
      rig.ask(writer, .remove(RemoveRequest(key: "k", generation: other)))?.code == .noSuchKey)
    let own = RemoveRequest(key: "k", generation: blob.blob.generation)
    #expect(rig.ask(writer, .remove(own)) == .done)
    #expect(rig.ask(writer, .remove(own))?.code == .noSuchKey)
  }

  @Test func `an entry is cleared with the last handle and given again`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let first = try need(rig.sealed(writer, "a", byteCount: 10))
    #expect(rig.trace.contains(.clearEntry(BoardSlot(board: first.board, entry: first.entry))))
    let second = try need(rig.create(writer, "b"))
    #expect(second.board == first.board && second.entry == first.entry)
    let opened = try need(rig.open(writer, "a")?.grant)
    #expect(opened.entry != second.entry)
    #expect(rig.trace.posts.last?.generation == first.blob.generation)
    #expect(rig.trace.posts.last?.state == .sealed)
  }

  @Test func `full boards are joined by another one`() {
    var rig = Rig { $0.entriesPerBoard = 2 }
    let writer = rig.connect()
    rig.holdsBoards = true
    let numbers = (0..<3).map { index in
      var request = CreateRequest(key: index == 0 ? "a" : index == 1 ? "b" : "c")
      request.byteCount = 10
      return rig.post(writer, .create(request))
    }
    #expect(numbers.allSatisfy { rig.reply(writer, $0) == nil })
    rig.send(.boardCreated(1))
    #expect(rig.reply(writer, numbers[1])?.grant?.entry == 1)
    #expect(rig.reply(writer, numbers[2]) == nil)
    rig.send(.boardCreated(2))
    #expect(rig.reply(writer, numbers[2])?.grant?.board == 2)
  }

  @Test func `boards belong to one access class`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let own = try need(rig.create(writer, "a"))
    let shared = try need(rig.create(writer, "b") { $0.mode = 0o644 })
    #expect(own.board != shared.board)
  }

  @Test func `a board comes with its doorbells`() throws {
    var rig = Rig()
    let writer = rig.connect()
    let grant = try need(rig.create(writer, "a"))
    let number = rig.post(writer, .attachBoard(BoardRequest(board: grant.board)))
    #expect(rig.reply(writer, number) == .board(BoardGrant(board: grant.board, entryCount: 8)))
    #expect(
      rig.descriptors(writer, number) == [.board(grant.board), .doorbells(grant.board)])
    for board in [0, 77, UInt32.max] {
      #expect(rig.ask(writer, .attachBoard(BoardRequest(board: board)))?.code == .closed)
    }
  }

  @Test func `an open that waits for a board is answered when it comes or is refused`() throws {
    var rig = Rig { $0.entriesPerBoard = 1 }
    let writer = rig.connect()
    let sealed = try need(rig.sealed(writer, "a", byteCount: 10))
    _ = rig.create(writer, "b")
    rig.holdsBoards = true
    let open = Request.open(OpenRequest(key: "a", waits: false, observes: false))
    let refused = rig.post(writer, open)
    #expect(rig.reply(writer, refused) == nil)
    rig.send(.boardRefused(2, errno: 24))
    #expect(rig.reply(writer, refused)?.code == .limitReached)
    #expect(rig.info(writer, "a")?.subscriberCount == 0)
    let granted = rig.post(writer, open)
    let gone = rig.connect()
    let lost = rig.post(gone, open)
    rig.send(.hungUp(gone))
    rig.send(.boardCreated(3))
    #expect(rig.reply(writer, granted)?.grant?.board == 3)
    #expect(rig.reply(gone, lost) == nil)
    #expect(rig.info(writer, "a")?.subscriberCount == 1)
    #expect(rig.trace.posts.last?.generation == sealed.blob.generation)
  }

  @Test func `a create whose board is refused never existed`() {
    var rig = Rig()
    let writer = rig.connect()
    rig.holdsBoards = true
    var request = CreateRequest(key: "a")
    request.byteCount = 10
    let number = rig.post(writer, .create(request))
    rig.send(.boardRefused(1, errno: 28))
    #expect(rig.reply(writer, number)?.code == .noSpaceMemory)
    #expect(rig.freed.count == 1)
    #expect(rig.ledger.usedByteCount == rig.pooledByteCount)
    rig.holdsBoards = false
    #expect(rig.create(writer, "a") != nil)
  }
}
