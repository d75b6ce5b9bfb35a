// Files that are blobs: what the broker keeps of them, when it looks at them, and that it lets go
// of nothing but its own descriptor.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct ImportTests {
  private let before = FileStamp(
    device: 1, inode: 2, byteCount: 1 << 40, modified: 1000, changed: 1001)

  /// A rig whose files say what they are told to.
  private struct Files {
    var rig: Rig
    var stamps: [Generation: FileStamp] = [:]
    private var lastOffer: UInt64 = 0
    private var lastNumber: UInt64 = 1 << 32

    init(_ rig: Rig) { self.rig = rig }

    mutating func offer(
      _ session: SessionID, _ key: BlobKey, _ found: Result<FileStamp, PatchbayError>,
      _ adjust: (inout ImportRequest) -> Void = { _ in }
    ) -> Reply? {
      var request = ImportRequest(key: key)
      adjust(&request)
      lastOffer += 1
      lastNumber += 1
      rig.send(
        .offered(
          session, number: lastNumber, request, FileOffer(rawValue: lastOffer), found))
      let reply = rig.reply(session, lastNumber)
      if case .success(let stamp) = found, let grant = reply?.grant {
        stamps[grant.blob.generation] = stamp
      }
      return reply
    }

    /// As a rig's `ask`, with files looked at.
    mutating func ask(_ session: SessionID, _ request: Request) -> Reply? {
      let seen = rig.trace.count
      let number = rig.post(session, request)
      for case .lookAtFile(let generation, let asker, let asked, let request) in rig.trace[seen...]
      {
        let missing = PatchbayError(.inputOutput, "There is none.")
        let stamp = stamps[generation].map { Result<FileStamp, PatchbayError>.success($0) }
        rig.send(
          .fileLooked(generation, stamp ?? .failure(missing), asker, number: asked, request))
      }
      return rig.reply(session, number)
    }

    mutating func open(_ session: SessionID, _ key: BlobKey) -> Reply? {
      ask(session, .open(OpenRequest(key: key, waits: false, observes: false)))
    }

    mutating func info(_ session: SessionID, _ key: BlobKey) -> BlobInfo? {
      let seen = rig.trace.count
      _ = ask(session, .info(InfoRequest(key: key)))
      for case .report(_, _, .info, let reports) in rig.trace[seen...] {
        return reports.first?.info
      }
      return nil
    }

    mutating func remove(_ session: SessionID, _ key: BlobKey) -> Reply? {
      ask(session, .remove(RemoveRequest(key: key, generation: nil)))
    }

    /// Descriptors that are kept, as the actions say.
    var kept: Set<Generation> {
      var kept: Set<Generation> = []
      for action in rig.trace {
        switch action {
        case .keepFile(let generation, _): kept.insert(generation)
        case .releaseFile(let generation): kept.remove(generation)
        default: break
        }
      }
      return kept
    }

    var dropped: Int {
      rig.trace.count { if case .dropOffer = $0 { true } else { false } }
    }
  }

  @Test func `an import is sealed at once, takes no memory, and is as long as its file`() throws {
    var files = Files(Rig(memory: 16 << 20))
    let session = files.rig.connect()
    let used = files.rig.ledger.usedByteCount
    let grant = try need(files.offer(session, "f", .success(before))?.grant)
    #expect(grant.state == .sealed && grant.byteCount == 1 << 40 && grant.extent == nil)
    #expect(grant.extentEnd == 1)
    #expect(files.rig.ledger.usedByteCount == used)
    let info = try need(files.info(session, "f"))
    #expect(info.isImported && info.residentByteCount == 0 && info.spilledByteCount == 0)
    #expect(info.coveredByteCount == 1 << 40 && info.policy == .keep)
    let opened = try need(files.open(session, "f")?.grant)
    let extent = ExtentRequest(generation: opened.blob.generation, index: 0)
    let number = files.rig.post(session, .attachExtent(extent))
    #expect(files.rig.reply(session, number) == .imported(ImportGrant(stamp: before)))
    #expect(files.rig.descriptors(session, number) == [.file(opened.blob.generation)])
    let second = ExtentRequest(generation: opened.blob.generation, index: 1)
    #expect(files.ask(session, .attachExtent(second))?.code == .rangeOutOfBounds)
    #expect(files.rig.ledger.inconsistency == nil)
  }

  @Test func `an import is not evicted, whatever is short`() throws {
    var files = Files(Rig(memory: 16 << 20) { $0.blobCount = 3 })
    let session = files.rig.connect()
    let generation = try need(files.offer(session, "f", .success(before))?.grant).blob.generation
    for index in 0..<6 {
      _ = try need(files.rig.sealed(session, try BlobKey("b\(index)"), byteCount: 4 << 20))
    }
    #expect(try need(files.rig.statistics(session)).evictionCount > 0)
    #expect(files.info(session, "f")?.generation == generation)
    #expect(files.kept == [generation])
    #expect(files.rig.ledger.inconsistency == nil)
  }

  @Test(arguments: [
    FileStamp(device: 1, inode: 2, byteCount: 1 << 40, modified: 1002, changed: 1001),
    FileStamp(device: 1, inode: 2, byteCount: 1 << 40, modified: 1000, changed: 1002),
    FileStamp(device: 1, inode: 2, byteCount: 9, modified: 1000, changed: 1001),
    FileStamp(device: 1, inode: 3, byteCount: 1 << 40, modified: 1000, changed: 1001),
    FileStamp(device: 2, inode: 2, byteCount: 1 << 40, modified: 1000, changed: 1001), nil,
  ])
  func `a file that has changed fails its blob when somebody opens it`(_ after: FileStamp?) throws {
    var files = Files(Rig())
    let (session, watcher) = (files.rig.connect(), files.rig.connect())
    let generation = try need(files.offer(session, "f", .success(before))?.grant).blob.generation
    let reader = try need(files.open(watcher, "f")?.grant)
    files.stamps[generation] = after
    let refused = try need(files.open(session, "f")?.error)
    #expect(refused.code == .corrupt && refused.cause?.contains("the file") == true)
    #expect(files.kept.isEmpty)
    let info = try need(files.info(session, "f"))
    #expect(info.state == .failed && info.causeCode == .corrupt && info.isImported)
    // Who has it open and asks only now gets the same.
    let extent = ExtentRequest(generation: generation, index: 0)
    #expect(files.ask(watcher, .attachExtent(extent))?.code == .corrupt)
    #expect(files.rig.ledger.inconsistency == nil)
    files.rig.close(watcher, reader.reader)
    // The key can be had again, as of any blob that has failed.
    _ = try need(files.offer(session, "f", .success(before))?.grant)
    #expect(files.open(session, "f")?.grant?.state == .sealed)
    #expect(files.rig.ledger.inconsistency == nil)
  }

  @Test func `asking for information finds a change, too`() throws {
    var files = Files(Rig())
    let session = files.rig.connect()
    let generation = try need(files.offer(session, "f", .success(before))?.grant).blob.generation
    #expect(files.info(session, "f")?.state == .sealed)
    files.stamps[generation]?.changed += 1
    let info = try need(files.info(session, "f"))
    #expect(
      info.state == .failed
        && info.cause == "the file was changed, renamed, linked or removed since it was imported")
    #expect(files.rig.ledger.inconsistency == nil)
  }

  @Test func `a removed import is readable to the last of its readers, and then let go`() throws {
    var files = Files(Rig())
    let (session, reader) = (files.rig.connect(), files.rig.connect(process: 101))
    let generation = try need(files.offer(session, "f", .success(before))?.grant).blob.generation
    let opened = try need(files.open(reader, "f")?.grant)
    #expect(files.remove(session, "f") == .done)
    #expect(files.kept == [generation])
    let extent = ExtentRequest(generation: generation, index: 0)
    #expect(files.ask(reader, .attachExtent(extent)) == .imported(ImportGrant(stamp: before)))
    files.rig.close(reader, opened.reader)
    #expect(files.kept.isEmpty)
    #expect(files.rig.ledger.inconsistency == nil)
  }

  @Test func `what cannot be imported is refused, and its descriptor dropped`() throws {
    var files = Files(Rig())
    let session = files.rig.connect()
    let unfit = PatchbayError(.notPermitted, "It is a pipe.")
    #expect(files.offer(session, "f", .failure(unfit))?.error == unfit)
    var long = before
    long.byteCount = ExtentPlan.positionLimit + 1
    #expect(files.offer(session, "f", .success(long))?.code == .limitReached)
    let executable = files.offer(session, "f", .success(before)) { $0.mode = 0o777 }
    #expect(executable?.code == .protocolViolation)
    _ = try need(files.offer(session, "f", .success(before))?.grant)
    #expect(files.offer(session, "f", .success(before))?.code == .keyExists)
    #expect(files.dropped == 4 && files.kept.count == 1)
    // Without a hello, and without a descriptor.
    let silent = files.rig.connectOnly()
    #expect(files.offer(silent, "g", .success(before))?.code == .protocolViolation)
    #expect(files.dropped == 5)
    #expect(
      files.ask(session, .import(ImportRequest(key: "h")))?.code == .notPermitted)
    #expect(files.rig.ledger.inconsistency == nil)
  }

  @Test func `replacing lets the file before go, and its number is free for the next`() throws {
    var files = Files(Rig { $0.importCount = 1 })
    let session = files.rig.connect()
    let first = try need(files.offer(session, "f", .success(before))?.grant).blob.generation
    #expect(files.offer(session, "g", .success(before))?.code == .limitReached)
    let second = try need(
      files.offer(session, "f", .success(before)) { $0.replaces = true }?.grant
    ).blob.generation
    #expect(first != second && files.kept == [second])
    #expect(files.remove(session, "f") == .done)
    _ = try need(files.offer(session, "g", .success(before))?.grant)
    #expect(files.rig.ledger.inconsistency == nil)
  }

  @Test func `nobody but the broker's own user and root imports, and a try changes nothing`() throws
  {
    var files = Files(Rig { $0.isShared = true })
    let (own, root) = (files.rig.connect(), files.rig.connect(uid: 0))
    let alice = files.rig.connect(uid: 2000)
    _ = try need(files.offer(own, "own", .success(before))?.grant)
    _ = try need(files.offer(root, "root", .success(before)) { $0.mode = 0o644 }?.grant)
    let used = files.rig.ledger.usedByteCount
    let blobs = files.rig.ledger.blobs.keys.sorted()
    // Whatever the key and the file are, the answer tells nothing of them.
    let unfit = PatchbayError(.notPermitted, "It is a pipe.")
    for (key, found) in [
      ("new", .success(before)), ("own", .success(before)), ("root", .success(before)),
      ("new", .failure(unfit)),
    ] as [(BlobKey, Result<FileStamp, PatchbayError>)] {
      for replaces in [false, true] {
        let refused = try need(
          files.offer(alice, key, found) {
            $0.replaces = replaces
            $0.mode = 0o777
          }?.error)
        #expect(refused == .foreignImport(key, by: 2000, broker: Rig.user))
        #expect(refused.code == .notPermitted)
        for words in ["User 2000", "\(key)", "user (\(Rig.user)) and root", "patchbay put"] {
          #expect(refused.message.contains(words), "\(words)")
        }
      }
    }
    #expect(files.dropped == 8 && files.kept.count == 2)
    #expect(files.rig.ledger.usedByteCount == used)
    #expect(files.rig.ledger.blobs.keys.sorted() == blobs)
    #expect(files.rig.ledger.inconsistency == nil)
    // It reads what it may, as ever.
    #expect(files.open(alice, "root")?.grant?.state == .sealed)
    #expect(files.open(alice, "own")?.code == .noSuchKey)
  }

  @Test func `an empty file is an empty blob`() throws {
    var files = Files(Rig())
    let session = files.rig.connect()
    var empty = before
    empty.byteCount = 0
    let grant = try need(files.offer(session, "f", .success(empty))?.grant)
    #expect(grant.byteCount == 0 && grant.extentEnd == 0)
    let opened = try need(files.open(session, "f")?.grant)
    let extent = ExtentRequest(generation: opened.blob.generation, index: 0)
    #expect(files.ask(session, .attachExtent(extent))?.code == .rangeOutOfBounds)
  }

  @Test func `who waits for the key of an import gets it`() throws {
    var files = Files(Rig())
    let (session, waiter) = (files.rig.connect(), files.rig.connect())
    let number = files.rig.post(
      waiter, .open(OpenRequest(key: "f", waits: true, observes: false)))
    #expect(files.rig.reply(waiter, number) == nil)
    _ = try need(files.offer(session, "f", .success(before))?.grant)
    #expect(files.rig.reply(waiter, number)?.grant?.state == .sealed)
    #expect(files.rig.ledger.inconsistency == nil)
  }
}
