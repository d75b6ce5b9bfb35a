// Processes that die: their own, and what is left of their blobs; the broker's journal as the next
// broker would find it.

import CPatchbayLayout
import Glibc
import PatchbayLoop
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Testing

@Suite(.serialized) struct DeathTests {
  private func waitForFailure(of key: BlobKey, _ broker: TestBroker) throws {
    let witness = try broker.client()
    #expect(try eventually { try witness.info(key).state == .failed })
    #expect(try witness.info(key).causeCode == .abandoned)
  }

  @Test func `a publisher that exits without a word fails its blob`() async throws {
    let broker = try TestBroker()
    let path = broker.scratch.socket
    await #expect(processExitsWith: .exitCode(7)) { [path = path as String] in
      let client = try RawClient(path)
      try client.hello()
      var request = CreateRequest(key: "orphan")
      request.byteCount = 4096
      _ = try client.create(request)
      _exit(7)
    }
    try waitForFailure(of: "orphan", broker)
  }

  @Test func `a publisher's death is seen though a child keeps its connection open`() async throws {
    let broker = try TestBroker()
    let path = broker.scratch.socket
    let started = ContinuousClock.now
    await #expect(processExitsWith: .exitCode(7)) { [path = path as String] in
      let client = try RawClient(path)
      try client.hello()
      var request = CreateRequest(key: "inherited")
      request.byteCount = 4096
      _ = try client.create(request)
      try Inheritance.sleepHolding(client.rawDescriptor)
      _exit(7)
    }
    try waitForFailure(of: "inherited", broker)
    // The child sleeps longer than this, so it was not its end that was seen.
    #expect(ContinuousClock.now - started < .seconds(Inheritance.seconds))
  }

  @Test func `all that a process has sent before its death counts`() async throws {
    let broker = try TestBroker()
    let client = try broker.client()
    // Enough that a page of the listing takes the broker a while.
    for index in 0..<300 {
      var request = CreateRequest(key: try BlobKey("\(String(repeating: "k", count: 80))\(index)"))
      request.inlineBytes = [1]
      _ = try client.create(request)
    }
    let path = broker.scratch.socket
    await #expect(processExitsWith: .exitCode(7)) { [path = path as String] in
      let client = try RawClient(path)
      try client.hello()
      // The connection outlives the process: it is its death that ends the session.
      try Inheritance.sleepHolding(client.rawDescriptor)
      for _ in 0..<100 { try client.send(.list(ListRequest(prefix: [], after: [], limit: 512))) }
      var last = CreateRequest(key: "last words")
      last.inlineBytes = [1]
      try client.send(.create(last))
      _exit(7)
    }
    let isCounted = try eventually { try client.clientCount() == 1 }
    #expect(isCounted)
    #expect(try client.info("last words").state == .sealed)
  }

  @Test func `a grant that never arrived holds no memory once the process is gone`() async throws {
    let broker = try TestBroker()
    let publisher = try broker.client()
    var request = CreateRequest(key: "wanted")
    request.byteCount = 1 << 20
    _ = try publisher.create(request)
    let path = broker.scratch.socket
    await #expect(processExitsWith: .exitCode(7)) { [path = path as String] in
      let client = try RawClient(path)
      try client.hello()
      // From here on the broker can hear this client, and cannot answer it.
      shutdown(client.rawDescriptor, Int32(SHUT_RD))
      try client.send(.open(OpenRequest(key: "wanted", waits: false, observes: false)))
      // Until the broker has seen that and hung up.
      while try client.send(raw: Frame.encode(.ping, request: 9)) == .sent { usleep(1000) }
      _exit(7)
    }
    let full = try publisher.memoryByteCount()
    _ = try publisher.call(.remove(RemoveRequest(key: "wanted", generation: nil)))
    let blob = BlobReference(generation: Generation(rawValue: 1), epoch: 1)
    _ = try publisher.call(.abandon(blob))
    _ = try publisher.call(.quiesced(blob))
    #expect(try eventually { try publisher.memoryByteCount() <= full - 1 << 20 })
  }

  @Test func `who was given a ring and hangs up keeps its memory as long as it lives`() throws {
    let broker = try TestBroker()
    let publisher = try broker.client()
    var request = CreateRequest(key: "wanted")
    request.byteCount = 1 << 20
    let grant = try publisher.create(request).0
    var reader: RawClient? = try broker.client()
    _ = try reader?.open("wanted")
    reader = nil
    #expect(try eventually { try publisher.clientCount() == 1 })
    let full = try publisher.memoryByteCount()
    for request: Request in [
      .remove(RemoveRequest(key: "wanted", generation: nil)), .abandon(grant.blob),
      .quiesced(grant.blob),
    ] {
      #expect(try publisher.call(request).reply == .done)
    }
    #expect(try publisher.memoryByteCount() == full)
  }

  @Test func `who comes back to the next broker has the rings that the one before gave it`() throws
  {
    let scratch = try Scratch()
    let first = try TestBroker(in: scratch)
    let before = try RawClient(scratch.socket)
    let token = try before.hello().token
    var request = CreateRequest(key: "k")
    request.byteCount = 1 << 20
    _ = try before.create(request)
    first.loop.requestHandOver()
    first.loop.waitUntilEnded()
    let next = try TestBroker(in: scratch)
    var after: RawClient? = try RawClient(scratch.socket)
    let hello = Hello(oldestVersion: 1, newestVersion: 1, token: token, name: "test")
    guard case .welcome(let welcome) = try after?.call(.hello(hello)).reply, welcome.isAwaited
    else {
      throw NotDone()
    }
    after = nil
    let other = try next.client()
    #expect(try eventually { try other.clientCount() == 1 })
    let full = try other.memoryByteCount()
    let removal = try other.call(.remove(RemoveRequest(key: "k", generation: nil)))
    #expect(removal.reply == .done)
    #expect(try other.memoryByteCount() == full && full > 1 << 20)
    withExtendedLifetime(before) {}
  }

  private struct NotDone: Error {}

  @Test func `the journal in shared memory holds what the broker has acknowledged`() throws {
    let broker = try TestBroker()
    let client = try broker.client()
    var small = CreateRequest(key: "small")
    small.inlineBytes = [1, 2, 3]
    small.byteCount = 3
    small.type = "text/plain"
    _ = try client.create(small)
    var large = CreateRequest(key: "large")
    large.byteCount = 100_000
    let (grant, _) = try client.create(large)
    var removed = CreateRequest(key: "removed")
    removed.byteCount = 4096
    _ = try client.create(removed)
    _ = try client.call(.remove(RemoveRequest(key: "removed", generation: nil)))

    let objects = Listing.sharedObjects(of: broker.loop.instance)
    let name = try #require(objects.first { $0.hasSuffix("journal-0") })
    let file = Descriptor(
      owning: try checked(
        unsafe Glibc.open("/dev/shm/\(name)", O_RDONLY | O_CLOEXEC), "Opening the journal"))
    var chunk = [UInt8](repeating: 0, count: Int(PB_CHUNK_BYTES))
    try SharedObject.read(file, at: 0, into: &chunk)
    let contents = try JournalReader.scan([0: chunk])
    #expect(contents.instance == broker.loop.instance)
    #expect(contents.clients.count == 1)
    #expect(contents.clients.first?.record.peer.process == getpid())
    let unnamed = contents.blobs.filter { !$0.record.isNamed }
    #expect(unnamed.map(\.record.info.key) == ["removed"], "its publisher has it open")
    let blobs = contents.blobs.filter(\.record.isNamed)
    #expect(blobs.map(\.record.info.key) == ["small", "large"])
    #expect(blobs.first?.record.inlineBytes == [1, 2, 3])
    #expect(blobs.first?.record.info.type == "text/plain")
    let extent = try #require(blobs.last?.record.extents.first)
    #expect(extent.ring.rawValue == grant.extent?.ringID)
    let ring = try #require(objects.first { $0.hasSuffix("-\(Listing.hex(extent.ring.rawValue))") })
    var facts = stat()
    let found = unsafe stat("/dev/shm/\(ring)", &facts)
    #expect(found == 0)
    #expect(blobs.last?.inodes == [UInt64(facts.st_ino)])
  }
}

enum Inheritance {
  static let seconds = 5

  /// Leaves a process behind that holds this descriptor, and nothing else, for a while.
  static func sleepHolding(_ descriptor: Int32) throws {
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    for standard: Int32 in 0...2 {
      unsafe posix_spawn_file_actions_adddup2(&actions, descriptor, standard)
    }
    // The copies stand for an inherited connection; whatever else is open stays behind.
    for other: Int32 in 3..<256 { _ = fcntl(other, F_SETFD, FD_CLOEXEC) }
    let words: [String] = ["sleep", "\(seconds)"]
    let arguments: [UnsafeMutablePointer<CChar>?] = unsafe words.map { unsafe strdup($0) } + [nil]
    var child: pid_t = 0
    let result = unsafe posix_spawn(&child, "/bin/sleep", &actions, nil, arguments, [nil])
    guard result == 0 else { throw PatchbayError.system("Starting sleep", errno: result) }
  }
}
