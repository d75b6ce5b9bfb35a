// Where a broker starts and what it leaves: locks, sockets, directories, leftovers.

import Glibc
import PatchbayBroker
import PatchbayLoop
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Testing

@Suite(.serialized) struct GroundTests {
  private func write(_ text: String, to path: String) throws {
    let file = Descriptor(
      owning: try checked(
        unsafe Glibc.open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600), "Opening"))
    try SharedObject.write(file, at: 0, Array(text.utf8))
  }

  private func makeObject(_ name: String) throws {
    var inode: UInt64 = 0
    _ = try SharedObject.create(name: name, mode: 0o600, byteCount: 4096, inode: &inode)
  }

  @Test func `a second broker on one path is refused and the first goes on`() throws {
    let broker = try TestBroker()
    let error = #expect(throws: PatchbayError.self) {
      _ = try TestBroker(in: broker.scratch)
    }
    #expect(error?.code == .limitReached)
    #expect(error?.message.contains(broker.scratch.socket) == true)
    #expect(try broker.client().call(.ping).reply == .pong)
  }

  @Test func `a stopped broker leaves no object, no socket and no descriptor`() throws {
    let scratch = try Scratch()
    let before = Listing.descriptorCount
    var broker: TestBroker? = try TestBroker(in: scratch)
    let instance = try #require(broker?.loop.instance)
    let client = try #require(try broker?.client())
    var request = CreateRequest(key: "open")
    request.byteCount = 100_000
    _ = try client.create(request)
    #expect(Listing.sharedObjects(of: instance).count == 2)
    broker?.loop.stopNow()
    broker = nil
    #expect(try client.failuresUntilHangUp().map(\.code) == [.noBroker], "it says that it ends")
    #expect(Listing.sharedObjects(of: instance).isEmpty)
    #expect(!Listing.exists(scratch.socket))
    #expect(Listing.names(in: scratch.path) == ["control.sock.lock"])
    withExtendedLifetime(client) {}
    // The client's own socket is still there.
    #expect(eventually { Listing.descriptorCount <= before + 1 })
  }

  @Test func `a broker that was made but never started leaves nothing either`() throws {
    let scratch = try Scratch()
    var loop: BrokerLoop? = try BrokerLoop(TestBroker.configuration(scratch))
    let instance = try #require(loop?.instance)
    #expect(Listing.sharedObjects(of: instance).count == 1)
    loop = nil
    #expect(Listing.sharedObjects(of: instance).isEmpty)
    #expect(!Listing.exists(scratch.socket))
  }

  @Test func `what a killed broker has left is swept and nothing else`() throws {
    let scratch = try Scratch()
    let killed = UInt64.random(in: 1...UInt64.max)
    let stranger = UInt64.random(in: 1...UInt64.max)
    try write("\(Listing.hex(killed))\n", to: "\(scratch.socket).lock")
    // Killed before it had a journal, so nothing was promised.
    for name in ["0000000000000001", "0000000000000002"] {
      try makeObject("/patchbay-\(Listing.hex(killed))-\(name)")
      try makeObject("/patchbay-\(Listing.hex(stranger))-\(name)")
    }
    defer {
      for name in Listing.sharedObjects(of: stranger) { Listing.remove("/dev/shm/\(name)") }
    }
    // The socket file of the killed one is there, too; nobody listens on it.
    _ = Descriptor(owning: try listen(on: scratch.socket))
    let broker = try TestBroker(in: scratch)
    #expect(Listing.sharedObjects(of: killed).isEmpty)
    #expect(Listing.sharedObjects(of: stranger).count == 2)
    #expect(try broker.client().call(.ping).reply == .pong)
  }

  private func listen(on path: String) throws -> Int32 {
    let socket = Glibc.socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
    let result = unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe bind(socket, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    try #require(result == 0)
    return socket
  }

  @Test(arguments: ["nonsense", "0123456789abcdef", "0123456789abcdeg\n", "+123456789abcdef\n"])
  func `a lock file that says something else is refused, and nothing is removed`(
    text: String
  ) throws {
    let scratch = try Scratch()
    try write(text, to: "\(scratch.socket).lock")
    try makeObject("/patchbay-0123456789abcdef-test")
    defer { Listing.remove("/dev/shm/patchbay-0123456789abcdef-test") }
    let error = #expect(throws: PatchbayError.self) { _ = try TestBroker(in: scratch) }
    #expect(error?.code == .notPermitted && error?.message.contains(scratch.socket) == true)
    #expect(Listing.exists("/dev/shm/patchbay-0123456789abcdef-test"))
    let lock = try DiskFile.openForReading("\(scratch.socket).lock")
    #expect(try DiskFile.read(lock, at: 0, byteCount: 64) == Array(text.utf8))
  }

  @Test func `an empty lock file is one of a broker that has cleared up`() throws {
    let scratch = try Scratch()
    try write("", to: "\(scratch.socket).lock")
    _ = try TestBroker(in: scratch)
  }

  @Test func `a file in the place of the socket is refused and stays`() throws {
    let scratch = try Scratch()
    try write("precious", to: scratch.socket)
    let error = #expect(throws: PatchbayError.self) { _ = try TestBroker(in: scratch) }
    #expect(error?.code == .notPermitted)
    #expect(Listing.exists(scratch.socket))
  }

  @Test func `a directory that others may write to is refused`() throws {
    let scratch = try Scratch()
    let changed = unsafe chmod(scratch.path, 0o777)
    #expect(changed == 0)
    let error = #expect(throws: PatchbayError.self) { _ = try TestBroker(in: scratch) }
    #expect(error?.code == .notPermitted)
  }

  @Test func `a symbolic link in the place of the lock file is refused`() throws {
    let scratch = try Scratch()
    try write("", to: "\(scratch.path)/target")
    let made = unsafe symlink("\(scratch.path)/target", "\(scratch.socket).lock")
    #expect(made == 0)
    #expect(throws: PatchbayError.self) { _ = try TestBroker(in: scratch) }
  }

  @Test func `too little memory for a broker is said at the start`() throws {
    let error = #expect(throws: PatchbayError.self) { _ = try TestBroker(memory: 1 << 20) }
    #expect(error?.code == .noSpaceMemory)
  }

  // MARK: Draining

  @Test func `draining refuses the new and waits for the open`() throws {
    let broker = try TestBroker()
    let client = try broker.client()
    var request = CreateRequest(key: "last")
    request.byteCount = 4096
    let (grant, _) = try client.create(request)
    broker.loop.requestDrain()
    var other = CreateRequest(key: "new")
    other.inlineBytes = [1]
    other.byteCount = 1
    let isRefused = try eventually {
      if case .failure = try client.call(.create(other)).reply { return true }
      other.key = try BlobKey("\(other.key.bytes.count)-\(UInt64.random(in: 0...(.max)))")
      return false
    }
    #expect(isRefused)
    #expect(try client.call(.ping).reply == .pong)
    #expect(try client.call(.abandon(grant.blob)).reply == .done)
    broker.loop.waitUntilEnded()
    #expect(try client.failuresUntilHangUp().map(\.code) == [.noBroker])
    #expect(Listing.sharedObjects(of: broker.loop.instance).isEmpty)
  }

  @Test func `draining ends at its deadline though a blob stays open`() throws {
    let broker = try TestBroker()
    let client = try broker.client()
    var request = CreateRequest(key: "endless")
    request.byteCount = 4096
    _ = try client.create(request)
    broker.loop.drain(timeout: .milliseconds(50))
    #expect(try client.failuresUntilHangUp().map(\.code) == [.noBroker])
  }

  @Test func `leaving the scope of an embedded broker ends it`() throws {
    let scratch = try Scratch()
    var configuration = BrokerConfiguration(socketPath: scratch.socket, memoryLimit: 64 << 20)
    configuration.logger.logLevel = .critical
    try Broker.withBroker(configuration) { broker in
      #expect(broker.socketPath == scratch.socket)
      #expect(broker.memoryLimit == 64 << 20)
      let client = try RawClient(broker.socketPath)
      try client.hello()
      _ = try broker.makeClient()
    }
    #expect(!Listing.exists(scratch.socket))
  }

  @Test func `an embedded broker drains without holding a thread`() async throws {
    let scratch = try Scratch()
    var configuration = BrokerConfiguration(socketPath: scratch.socket, memoryLimit: 64 << 20)
    configuration.logger.logLevel = .critical
    let path = try await Broker.withBroker(configuration) { broker in broker.socketPath }
    #expect(path == scratch.socket)
    #expect(!Listing.exists(scratch.socket))
    await #expect(throws: PatchbayError.self) {
      _ = try await Broker.withBroker(configuration) { _ in
        throw PatchbayError(.cancelled, "The body fails.")
      }
    }
    #expect(!Listing.exists(scratch.socket))
  }

  // MARK: Out of descriptors

  @Test func `a broker out of descriptors says so and serves again when it has some`() async {
    await #expect(processExitsWith: .success) {
      let broker = try TestBroker()
      let witness = try broker.client()
      // By now the broker has closed its own copies of what it sent with the welcome.
      try #require(try witness.call(.ping).reply == .pong)
      var limit = rlimit(rlim_cur: 64, rlim_max: 64)
      unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
      var fillers: [Int32] = []
      while case let filler = unsafe Glibc.open("/dev/null", O_RDONLY), filler >= 0 {
        fillers.append(filler)
      }
      // Enough for a client to connect, not for the broker to accept it.
      close(fillers.removeLast())
      let refused = try RawClient(broker.scratch.socket)
      let failures = try refused.failuresUntilHangUp()
      try #require(failures.map(\.code) == [.limitReached])
      try #require(try witness.call(.ping).reply == .pong)
      for filler in fillers { close(filler) }
      let isServed = eventually { (try? broker.client()) != nil }
      try #require(isServed)
      _ = refused
    }
  }
}
