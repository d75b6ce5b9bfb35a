// Descriptors that clients send to a real broker: which it takes, which it refuses, and that it
// keeps none that it does not need.

import CPatchbaySystem
import Glibc
import PatchbayLoop
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Testing

/// An open descriptor of a test's own.
private final class Opened {
  let number: Int32
  init(_ number: Int32) throws {
    try #require(number >= 0, "no descriptor: \(systemReason(errno))")
    self.number = number
  }
  deinit { close(number) }
}

@Suite(.serialized) struct ImportLoopTests {
  private func makeFile(_ scratch: Scratch, _ name: String, _ text: String) throws -> String {
    let path = "\(scratch.path)/\(name)"
    let file = try Opened(unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600))
    let bytes = Array(text.utf8)
    try #require(unsafe write(file.number, bytes, bytes.count) == bytes.count)
    return path
  }

  private func opened(_ path: String, _ flags: Int32 = O_RDONLY) throws -> Opened {
    try Opened(unsafe open(path, flags | O_CLOEXEC, 0o600))
  }

  private func offer(
    _ client: RawClient, _ key: BlobKey, _ descriptors: [Int32]
  ) throws -> RawClient.Answer {
    let number = try client.send(.import(ImportRequest(key: key)), descriptors: descriptors)
    let answer = try #require(try client.receive())
    #expect(answer.number == number)
    return answer
  }

  private func refusal(
    _ client: RawClient, _ key: BlobKey, _ descriptors: [Int32]
  ) throws -> PatchbayError? {
    guard case .failure(let error) = try offer(client, key, descriptors).reply else { return nil }
    return error
  }

  private func isImported(
    _ client: RawClient, _ key: BlobKey, _ descriptor: Int32
  ) throws -> Bool {
    guard case .created(let grant) = try offer(client, key, [descriptor]).reply else {
      return false
    }
    return grant.state == .sealed
  }

  /// Imports a file, and closes the descriptor.
  private func send(_ path: String, to client: RawClient) throws {
    let file = try opened(path)
    try #require(try isImported(client, "f", file.number))
  }

  @Test func `a file is handed to readers as it is, and let go when its blob is`() throws {
    let broker = try TestBroker()
    let client = try broker.client()
    let path = try makeFile(broker.scratch, "f", "content")
    let file = try opened(path)
    try #require(try isImported(client, "f", file.number))
    // The broker's and the test's own: they are of one process here.
    #expect(Listing.descriptorCount(of: path) == 2)
    let reader = try client.call(
      .open(OpenRequest(key: "f", waits: false, observes: false)))
    guard case .opened(let grant) = reader.reply else {
      Issue.record("not opened: \(reader.reply)")
      return
    }
    #expect(grant.byteCount == 7 && reader.descriptors.rawValues.isEmpty)
    let extent = ExtentRequest(generation: grant.blob.generation, index: 0)
    var answer: RawClient.Answer? = try client.call(.attachExtent(extent))
    guard case .imported(let imported)? = answer?.reply else {
      Issue.record("not imported: \(String(describing: answer?.reply))")
      return
    }
    #expect(imported.stamp == (try FileLook(at: file.number).stamp))
    let granted = try #require(answer).descriptors.rawValues
    try #require(granted.count == 1)
    var bytes = [UInt8](repeating: 0, count: 16)
    #expect(unsafe pread(granted[0], &bytes, 16, 0) == 7)
    #expect(Array(bytes[..<7]) == Array("content".utf8))
    #expect(unsafe write(granted[0], bytes, 1) == -1)
    answer = nil
    #expect(
      try client.call(.remove(RemoveRequest(key: "f", generation: nil))).reply == .done)
    #expect(Listing.descriptorCount(of: path) == 2)
    #expect(
      try client.call(.close(CloseRequest(blob: grant.reader, opened: reader.number))).reply
        == .done)
    #expect(eventually { Listing.descriptorCount(of: path) == 1 })
    #expect(Listing.exists(path))
  }

  @Test func `only plain read-only descriptors of files with a name are taken`() throws {
    let broker = try TestBroker()
    let client = try broker.client()
    let path = try makeFile(broker.scratch, "f", "content")
    var ends: [Int32] = [-1, -1]
    try #require(unsafe pb_pipe(&ends) == 0)
    let pipe = (try Opened(ends[0]), try Opened(ends[1]))
    let memory = try Opened(unsafe pb_memfd_empty("test"))
    let memoryReadOnly = try opened("/proc/self/fd/\(memory.number)")
    let socket = try Opened(Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0))
    let removed = try opened(try makeFile(broker.scratch, "removed", "gone"))
    Listing.remove("\(broker.scratch.path)/removed")
    let unfit: [(String, Opened)] = [
      ("a pipe", pipe.0), ("a directory", try opened(broker.scratch.path)),
      ("read-write", try opened(path, O_RDWR)), ("write-only", try opened(path, O_WRONLY)),
      ("a name only", try opened(path, 0o10000000)), ("a device", try opened("/dev/null")),
      ("memory", memory), ("memory, read-only", memoryReadOnly), ("a socket", socket),
      ("a removed file", removed),
    ]
    let before = Listing.descriptorCount
    for (what, descriptor) in unfit {
      let error = try refusal(client, "k", [descriptor.number])
      #expect(error?.code == .notPermitted, "\(what): \(String(describing: error))")
      #expect(error?.message.contains("k") == true)
    }
    #expect(eventually { Listing.descriptorCount <= before })
    // It goes on with the connection and with the key.
    let file = try opened(path)
    #expect(try isImported(client, "k", file.number))
  }

  @Test func `an import without a descriptor is refused, and the connection and its blobs go on`()
    throws
  {
    let broker = try TestBroker()
    let client = try broker.client()
    let created = try client.call(.create(CreateRequest(key: "open"))).reply
    guard case .created(let grant) = created else {
      Issue.record("not created: \(created)")
      return
    }
    let error = try #require(try refusal(client, "k", []))
    #expect(error.code == .notPermitted)
    for words in ["The import of k came without", "EPERM", "patchbay put"] {
      #expect(error.message.contains(words), "\(error.message)")
    }
    #expect(try client.call(.info(InfoRequest(key: "k"))).reply.kind == .failure)
    #expect(try client.call(.abandon(grant.blob)).reply == .done)
    try send(try makeFile(broker.scratch, "f", "content"), to: client)
  }

  /// Whether this kernel can keep descriptors away from a socket: Linux 6.16 and later.
  private static let canRefuse: Bool = {
    guard let (one, other) = try? ControlSocket.pair() else { return false }
    defer { for socket in [one, other] { _ = close(socket) } }
    return pb_take_descriptors(one, 0) == 0
  }()

  @Test(.enabled(if: canRefuse, "needs Linux 6.16"))
  func `nobody who waits to be accepted can send descriptors, from the first connection on`() throws
  {
    let scratch = try Scratch()
    let listener = try Opened(unsafe pb_listen(scratch.socket, 16, 0o600))
    let client = try RawClient(scratch.socket)
    let file = try opened(try makeFile(scratch, "f", "content"))
    let packet = Frame.encode(.import(ImportRequest(key: "i")), request: 1)
    let refused = #expect(throws: PatchbayError.self) {
      try client.send(raw: packet, descriptors: [file.number])
    }
    #expect(refused?.systemErrno == EPERM)
    // Who may, can: from the moment at which it was accepted and let.
    let accepted = try Opened(pb_accept(listener.number))
    try #require(pb_take_descriptors(accepted.number, 1) == 0)
    #expect(try client.send(raw: [1], descriptors: [file.number]) == .sent)
  }

  @Test func `descriptors with other messages, or several with an import, end a connection`() throws
  {
    let broker = try TestBroker()
    let witness = try broker.client()
    let path = try makeFile(broker.scratch, "f", "content")
    let file = try opened(path)
    let before = Listing.descriptorCount
    let wrong: [(String, Request, [Int32])] = [
      ("a ping", .ping, [file.number]),
      ("a create", .create(CreateRequest(key: "c")), [file.number]),
      ("two with an import", .import(ImportRequest(key: "i")), [file.number, file.number]),
      (
        "four with an import", .import(ImportRequest(key: "i")),
        [Int32](repeating: file.number, count: 4)
      ),
    ]
    for (what, request, descriptors) in wrong {
      let client = try broker.client()
      try client.send(request, descriptors: descriptors)
      let codes = try client.failuresUntilHangUp().map(\.code)
      #expect(codes == [.protocolViolation], "\(what)")
    }
    try endsBadly(broker, file.number)
    #expect(try witness.call(.ping).reply == .pong)
    #expect(eventually { Listing.descriptorCount(of: path) == 1 })
    #expect(eventually { Listing.descriptorCount <= before })
  }

  private func endsBadly(_ broker: TestBroker, _ descriptor: Int32) throws {
    // Not even before a hello, where nothing is said.
    let silent = try RawClient(broker.scratch.socket)
    let early = Frame.encode(.import(ImportRequest(key: "i")), request: 1)
    // The system takes a descriptor for the broker once that has seen whose connection it is.
    #expect(eventually { (try? silent.send(raw: early, descriptors: [descriptor])) == .sent })
    #expect(try silent.failuresUntilHangUp().map(\.code) == [.protocolViolation])
    // A head that says import and a body that is none.
    let liar = try broker.client()
    var packet = Frame.encode(.import(ImportRequest(key: "i")), request: 9)
    packet[24] = 0xff
    try liar.send(raw: packet, descriptors: [descriptor])
    #expect(try liar.failuresUntilHangUp().map(\.code) == [.protocolViolation])
  }

  @Test func `imports are bounded, and a broker that has let go takes others`() throws {
    let broker = try TestBroker()
    let client = try broker.client()
    let path = try makeFile(broker.scratch, "f", "content")
    let file = try opened(path)
    var limit = rlimit()
    unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    let most = min(1024, Int(limit.rlim_max) / 4)
    for index in 0..<most {
      try #require(try isImported(client, BlobKey("f\(index)"), file.number), "\(index)")
    }
    #expect(Listing.descriptorCount(of: path) == most + 1)
    for index in 0..<3 {
      #expect(try refusal(client, BlobKey("more\(index)"), [file.number])?.code == .limitReached)
    }
    #expect(eventually { Listing.descriptorCount(of: path) == most + 1 })
    #expect(try client.call(.remove(RemoveRequest(key: "f7", generation: nil))).reply == .done)
    // Closed elsewhere, and soon.
    #expect(eventually { (try? isImported(client, "again", file.number)) == true })
    for index in 0..<most where index != 7 {
      _ = try client.call(.remove(RemoveRequest(key: BlobKey("f\(index)"), generation: nil)))
    }
    _ = try client.call(.remove(RemoveRequest(key: "again", generation: nil)))
    #expect(eventually { Listing.descriptorCount(of: path) == 1 })
    #expect(try client.call(.ping).reply == .pong)
  }

  @Test func `a client that sends descriptors without end costs the broker none`() throws {
    let broker = try TestBroker()
    let witness = try broker.client()
    let path = try makeFile(broker.scratch, "f", "content")
    let file = try opened(path)
    for _ in 0..<50 {
      let client = try broker.client()
      for _ in 0..<20 {
        let many = [Int32](repeating: file.number, count: 4)
        guard try client.send(raw: Frame.encode(.ping, request: 5), descriptors: many) == .sent
        else { break }
      }
    }
    #expect(try witness.call(.ping).reply == .pong)
    #expect(eventually { Listing.descriptorCount(of: path) == 1 })
  }

  @Test func `a broker that ends leaves every file where it was, and closes them`() throws {
    let scratch = try Scratch()
    let path = try makeFile(scratch, "f", "content")
    do {
      let broker = try TestBroker(in: scratch)
      let client = try broker.client()
      try send(path, to: client)
      #expect(Listing.descriptorCount(of: path) == 1)
      broker.loop.stopNow()
    }
    #expect(eventually { Listing.descriptorCount(of: path) == 0 })
    let file = try opened(path)
    var bytes = [UInt8](repeating: 0, count: 16)
    #expect(unsafe read(file.number, &bytes, 16) == 7)
    #expect(Array(bytes[..<7]) == Array("content".utf8))
  }
}
