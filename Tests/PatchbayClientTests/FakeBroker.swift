// A broker that says what a test tells it to, message by message, and goes without a word when the test
// wants that.

import CPatchbaySystem
import Glibc
import PatchbayRing
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import PatchbayWire
import Synchronization
import Testing

@testable import Patchbay

/// The socket of brokers that come and go, and what they remember of their one client.
final class FakeBroker {
  let directory: TemporaryDirectory
  private var listener: Int32 = -1
  static let token = Token(high: 11, low: 12)
  static let instance: UInt64 = 0xabc
  /// Grows with each that comes.
  private(set) var process: Int32 = 100

  init() throws {
    directory = try TemporaryDirectory()
    try listen()
  }

  deinit { if listener >= 0 { _ = close(listener) } }

  var path: String { directory.file("s") }

  /// A broker comes.
  func listen() throws { try listen(queueing: 16) }

  private func listen(queueing count: Int32) throws {
    if listener >= 0 { stopListening() }
    _ = unsafe unlink(path)
    listener = try checked(unsafe pb_listen(path, count, 0o600), "Listening")
    process += 1
  }

  /// Another broker comes, whose queue of new connections is full with one.
  /// - Returns: that one's other end; `accept` makes room.
  func listenToOne() throws -> Link {
    try listen(queueing: 0)
    guard let socket = try ControlSocket.connectNow(to: path) else {
      throw HarnessError("no room for one")
    }
    return Link(socket)
  }

  /// It goes; what it has accepted stays.
  func stopListening() {
    _ = close(listener)
    listener = -1
  }

  /// The next connection.
  func accept() throws -> FakePeer {
    let until = MonotonicTime.now.advanced(by: .seconds(20))
    guard pb_poll_readable(listener, until.nanoseconds) > 0 else {
      throw HarnessError("nobody connects")
    }
    return FakePeer(
      ControlSocket(Descriptor(owning: try checked(pb_accept(listener), "Accepting"))))
  }

  /// Whether somebody waits to be accepted.
  var isCalled: Bool { pb_poll_readable(listener, 0) > 0 }

  /// A client, and the other end of its connection.
  func client(
    reconnectLimit: Duration = .seconds(20)
  ) throws -> (client: PatchbayClient, peer: FakePeer) {
    let connecting = Started { [path] () throws(PatchbayError) in
      try PatchbayClient(socketPath: path, name: "a test", reconnectLimit: reconnectLimit)
    }
    let peer = try accept()
    #expect(try peer.greet(self, isAwaited: false).token == .none)
    return (try connecting.value, peer)
  }
}

func isInterrupted(_ client: PatchbayClient) -> Bool {
  client.session.connection.state.withLock { $0.phase != .connected }
}

/// The broker's end of a connection.
final class FakePeer {
  private var link: Link?
  /// The client table that it has made.
  private var table: Object?

  private final class Object {
    let descriptor: Descriptor
    init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }
  }

  init(_ socket: consuming ControlSocket) { link = Link(socket) }

  private func connected() throws -> Link {
    guard let link else { throw HarnessError("this broker has gone") }
    return link
  }

  /// The next request.
  /// - Throws: when none comes, or the client hangs up.
  func next() throws -> (number: UInt64, request: Request) {
    let until = MonotonicTime.now.advanced(by: .seconds(20))
    while true {
      switch try receive() {
      case .packet(let packet, _):
        let frame = try Frame(parsing: packet)
        return (frame.request, try frame.decodeRequest(packet))
      case .hungUp: throw HarnessError("the client has hung up")
      case .wouldBlock:
        guard try waitReadable(until) else { throw HarnessError("the client asks nothing") }
      }
    }
  }

  private func receive() throws -> ControlSocket.Received {
    try connected().socket.receive(byteLimit: Frame.byteLimit, descriptorLimit: 4)
  }

  private func waitReadable(_ until: MonotonicTime) throws -> Bool {
    try connected().socket.waitReadable(until: until)
  }

  /// The next so many requests.
  func next(_ count: Int) throws -> [Request] { try (0..<count).map { _ in try next().request } }

  /// Whether the client has hung up, all that it said taken.
  func seesEnd() throws -> Bool {
    while true {
      switch try receive() {
      case .packet: continue
      case .hungUp: return true
      case .wouldBlock: return false
      }
    }
  }

  func say(_ reply: Reply, to number: UInt64, _ descriptors: [Int32] = []) throws {
    try say(Frame.encode(reply, request: number), descriptors)
  }

  func say(_ packet: [UInt8], _ descriptors: [Int32] = []) throws {
    let outcome = try connected().socket.send(packet, descriptors: descriptors)
    guard outcome == .sent else { throw HarnessError("not sent") }
  }

  /// Takes the next request and answers it; the request.
  @discardableResult
  func answer(_ reply: Reply) throws -> Request {
    let (number, request) = try next()
    try say(reply, to: number)
    return request
  }

  /// Takes a hello and answers it; the hello.
  @discardableResult
  func greet(
    _ broker: FakeBroker, isAwaited: Bool, instance: UInt64 = FakeBroker.instance
  ) throws -> Hello {
    let (number, request) = try next()
    guard case .hello(let hello) = request else { throw HarnessError("\(request)") }
    let table = try ClientTable.create(clientID: 7)
    try say(
      .welcome(
        Welcome(
          version: Frame.protocolVersion, clientID: 7, token: FakeBroker.token,
          instance: instance, brokerProcess: broker.process, isAwaited: isAwaited)),
      to: number, [table.rawValue])
    self.table = Object(table)
    return hello
  }

  /// How many views are announced in its table.
  func viewCount() throws -> Int {
    try table.map { try ClientTable.announcedCount(in: $0.descriptor) } ?? 0
  }

  /// Takes a question for a board and answers it.
  func giveBoard(_ board: FakeBoard) throws {
    let (number, request) = try next()
    #expect(request == .attachBoard(BoardRequest(board: 0)))
    try board.give(self, number)
  }

  /// As one that goes without a word, but sees when the client hangs up.
  func fallSilent() throws { _ = shutdown(try connected().descriptor, Int32(SHUT_WR)) }

  /// Goes without a word.
  func vanish() { link = nil }
}

/// A board of a broker, with four entries.
final class FakeBoard {
  let board: BoardWriter
  let bells: DoorbellWriter

  init() throws {
    board = try BoardWriter(instance: FakeBroker.instance, board: 0, entryCount: 4)
    bells = try DoorbellWriter(instance: FakeBroker.instance, board: 0, count: 4)
  }

  func post(_ state: BlobState, _ generation: UInt64 = 4) {
    board.post(
      entry: 0, generation: Generation(rawValue: generation), state: state, epoch: 1,
      byteCount: nil, extentVersion: 1, subscriptionVersion: 1, causeCode: nil, cause: "")
  }

  func give(_ peer: FakePeer, _ number: UInt64) throws {
    let object = try board.readOnlyDescriptor()
    let bells = try bells.descriptor()
    try peer.say(
      .board(BoardGrant(board: 0, entryCount: 4)), to: number, [object.rawValue, bells.rawValue])
  }
}

/// What a thread of its own, or a task, computes.
final class Started<Value: Sendable>: Sendable {
  private let box = Box()

  private final class Box: Sendable {
    let result = Mutex<Result<Value, PatchbayError>?>(nil)
  }

  init(_ body: @escaping @Sendable () throws(PatchbayError) -> Value) {
    _ = TestThread { [box] in
      let result = Result { () throws(PatchbayError) in try body() }
      box.result.withLock { $0 = result }
    }
  }

  init(task body: @escaping @Sendable () async throws(PatchbayError) -> Value) {
    Task { [box] in
      let result: Result<Value, PatchbayError>
      do throws(PatchbayError) { result = .success(try await body()) } catch {
        result = .failure(error)
      }
      box.result.withLock { $0 = result }
    }
  }

  var isOver: Bool { box.result.withLock { $0 != nil } }

  /// Waits for it.
  var value: Value {
    get throws {
      try eventually("a thread ends", within: 60) { isOver }
      guard let result = box.result.withLock({ $0 }) else { throw HarnessError("no result") }
      return try result.get()
    }
  }

  /// The code of what it throws; nil when it throws nothing.
  var code: PatchbayError.Code? {
    get throws {
      do {
        _ = try value
        return nil
      } catch let error as PatchbayError {
        return error.code
      }
    }
  }
}
