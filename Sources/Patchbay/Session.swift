// What all handles of one client share: the connection, the table of views, and what it has
// mapped. A handle keeps its session alive, so a connection ends after the last of them.

import Glibc
import PatchbayLayout
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

/// How long a client tries to be greeted by a broker after one has gone in the middle of it. Where there
/// is none from the start it does not try again.
struct FirstPatience {
  private let limit: Duration
  private let deadline: MonotonicTime
  private var end: MonotonicTime?
  private var length = Duration.milliseconds(1)

  init(_ limit: Duration, _ deadline: Deadline) {
    self.limit = limit
    self.deadline = MonotonicTime(deadline)
  }

  /// A broker has hung up without a word.
  mutating func noteLoss() { end = min(deadline, MonotonicTime.now.advanced(by: limit)) }

  /// How long to wait before the next attempt.
  /// - Throws: the error, when there is to be none.
  mutating func pause(after error: PatchbayError) throws(PatchbayError) -> Duration {
    guard error.code == .noBroker, let end, MonotonicTime.now < end else { throw error }
    defer { length = min(length * 2, .milliseconds(50)) }
    return length
  }
}

final class Session: Sendable {
  let path: SocketPath
  let connection: Connection
  /// How long another broker is waited for when this one goes without a word; zero: not at all.
  let reconnectLimit: Duration
  private let name: String
  private let greeting: Mutex<Welcome>
  let table: ClientTable
  let mappings = RingMappings()
  private let publishers = Mutex<[Generation: Enrolled]>([:])
  let foreignRings = ForeignRings()
  let productions = RunningProductions()
  private let boards = Mutex<[UInt32: Board]>([:])
  private let takeOvers = Atomic<Int>(0)

  /// Connects and shakes hands.
  convenience init(
    _ path: SocketPath, name: String, reconnectLimit: Duration, deadline: Deadline
  ) throws(PatchbayError) {
    var patience = FirstPatience(reconnectLimit, deadline)
    var outcome = Self.meet(path, name, deadline, &patience)
    while case .failure(let error) = outcome {
      usleep(UInt32(try patience.pause(after: error).wholeNanoseconds / 1000))
      outcome = Self.meet(path, name, deadline, &patience)
    }
    let (connection, agreement) = try outcome.get()
    self.init(path, connection, name, reconnectLimit, agreement)
    try keepConnected()
  }

  /// One attempt to be greeted.
  private static func meet(
    _ path: SocketPath, _ name: String, _ deadline: Deadline, _ patience: inout FirstPatience
  ) -> Result<(Connection, Agreement), PatchbayError> {
    var connection: Connection?
    do throws(PatchbayError) {
      let made = try Connection(path, deadline: deadline)
      connection = made
      let delivery = try made.call(hello(name, .none), deadline: deadline)
      return .success((made, try accept(delivery)))
    } catch {
      if connection?.wentSilently == true { patience.noteLoss() }
      return .failure(error)
    }
  }

  /// As the blocking `meet`.
  private static func meet(
    _ path: SocketPath, _ name: String, _ deadline: Deadline, _ patience: FirstPatience
  ) async -> (Result<(Connection, Agreement), PatchbayError>, FirstPatience) {
    var (connection, patience): (Connection?, FirstPatience) = (nil, patience)
    do throws(PatchbayError) {
      let made = try await Connection.connected(to: path, deadline: deadline)
      connection = made
      let delivery = try await made.call(hello(name, .none), deadline: deadline)
      return (.success((made, try accept(delivery))), patience)
    } catch {
      if connection?.wentSilently == true { patience.noteLoss() }
      return (.failure(error), patience)
    }
  }

  /// As the blocking `init`.
  static func connected(
    to path: SocketPath, name: String, reconnectLimit: Duration, deadline: Deadline
  ) async throws(PatchbayError) -> Session {
    var (outcome, patience) = await meet(
      path, name, deadline, FirstPatience(reconnectLimit, deadline))
    while case .failure(let error) = outcome {
      let pause = try patience.pause(after: error)
      do { try await Task.sleep(for: pause) } catch { throw Connection.cancelled(path) }
      (outcome, patience) = await meet(path, name, deadline, patience)
    }
    let (connection, agreement) = try outcome.get()
    let session = Session(path, connection, name, reconnectLimit, agreement)
    try session.keepConnected()
    return session
  }

  /// What a broker has agreed to.
  private struct Agreement {
    let welcome: Welcome
    let table: ClientTable
  }

  private init(
    _ path: SocketPath, _ connection: Connection, _ name: String, _ reconnectLimit: Duration,
    _ agreement: Agreement
  ) {
    self.path = path
    self.connection = connection
    self.name = name
    self.reconnectLimit = reconnectLimit
    greeting = Mutex(agreement.welcome)
    table = agreement.table
  }

  private func keepConnected() throws(PatchbayError) {
    if reconnectLimit > .zero { try connection.keep(for: self) }
  }

  private static func hello(_ name: String, _ token: Token) -> Request {
    .hello(
      Hello(
        oldestVersion: Frame.protocolVersion, newestVersion: Frame.protocolVersion, token: token,
        name: name))
  }

  private static func accept(_ delivery: Delivery) throws(PatchbayError) -> Agreement {
    let welcome = try welcome(of: delivery)
    return Agreement(welcome: welcome, table: try ClientTable(delivery.takeDescriptor()))
  }

  private static func welcome(of delivery: Delivery) throws(PatchbayError) -> Welcome {
    if case .failure(let error) = delivery.reply { throw error }
    guard case .welcome(let welcome) = delivery.reply else { throw unexpected(delivery.reply) }
    guard welcome.version == Frame.protocolVersion else {
      throw PatchbayError(
        .versionMismatch,
        "The broker chose protocol version \(welcome.version); this client speaks "
          + "\(Frame.protocolVersion).")
    }
    return welcome
  }

  // MARK: The broker

  /// What the broker of the moment, or the last one, has said of itself.
  var welcome: Welcome { greeting.withLock { $0 } }

  /// How many brokers have taken the place of another. What others have been granted by one of them, as
  /// the tables of subscribers, stands still after the next.
  var takeOverCount: Int {
    // relaxed: whoever finds an old number asks a little later.
    takeOvers.load(ordering: .relaxed)
  }

  /// What the next broker is greeted with.
  var helloAgain: Request { Self.hello(name, welcome.token) }

  /// Looks whether the next broker knows this client.
  /// - Throws: `noBroker` when it does not; what it answered instead of a welcome.
  func recognize(_ delivery: Delivery) throws(PatchbayError) {
    let (before, now) = (welcome, try Self.welcome(of: delivery))
    guard now.isAwaited, now.instance == before.instance, now.clientID == before.clientID else {
      throw PatchbayError(
        .noBroker,
        "Process \(now.brokerProcess), the broker on \(path.path), does not know this client, which was "
          + "connected to process \(before.brokerProcess). What it had there has ended: connect again."
      )
    }
  }

  /// Takes the next broker for the one before: its table for the one that there was.
  func takeOver(_ delivery: Delivery) throws(PatchbayError) {
    let next = try Self.welcome(of: delivery)
    try table.replace(with: delivery.takeDescriptor())
    greeting.withLock { $0 = next }
    // relaxed: as in `takeOverCount`.
    takeOvers.wrappingAdd(1, ordering: .relaxed)
  }

  static func unexpected(_ reply: Reply) -> PatchbayError {
    PatchbayError(
      .protocolViolation, "The broker answered a request with a reply of type \(reply.kind).")
  }

  /// Sends a request that is answered by `done`.
  func perform(_ request: Request, deadline: Deadline) throws(PatchbayError) {
    try Self.checkDone(try connection.call(request, deadline: deadline))
  }

  /// As the blocking `perform`.
  func perform(_ request: Request, deadline: Deadline) async throws(PatchbayError) {
    try Self.checkDone(try await connection.call(request, deadline: deadline))
  }

  private static func checkDone(_ delivery: Delivery) throws(PatchbayError) {
    guard case .done = delivery.reply else { throw unexpected(delivery.reply) }
  }

  // MARK: Publishers

  private struct Enrolled {
    weak var publisher: Publisher?
  }

  /// Takes note of a publisher of a blob that others may join. The broker knows the publishers of a
  /// client by their blob: that it has granted one says that an earlier one of the same blob is over,
  /// whose leave may not have been answered, and which must say nothing more.
  func enroll(_ publisher: Publisher) {
    let earlier = publishers.withLock { publishers in
      if publishers.count > 64 { publishers = publishers.filter { $0.value.publisher != nil } }
      return publishers.updateValue(
        Enrolled(publisher: publisher), forKey: publisher.generation)
    }
    earlier?.publisher?.supersede()
  }

  // MARK: Boards

  /// The board with this number, mapped on first need.
  func board(_ number: UInt32, deadline: Deadline) throws(PatchbayError) -> Board {
    while true {
      if let board = mappedBoard(number) { return board }
      let delivery = try connection.call(Self.boardRequest(number), deadline: deadline)
      if let board = try adoptBoard(number, delivery) { return board }
    }
  }

  /// As the blocking `board`.
  func board(_ number: UInt32, deadline: Deadline) async throws(PatchbayError) -> Board {
    while true {
      if let board = mappedBoard(number) { return board }
      let delivery = try await connection.call(Self.boardRequest(number), deadline: deadline)
      if let board = try adoptBoard(number, delivery) { return board }
    }
  }

  private static func boardRequest(_ number: UInt32) -> Request {
    .attachBoard(BoardRequest(board: number))
  }

  private func mappedBoard(_ number: UInt32) -> Board? { boards.withLock { $0[number] } }

  /// Nil: it is the board of a broker that is gone.
  private func adoptBoard(
    _ number: UInt32, _ delivery: Delivery
  ) throws(PatchbayError) -> Board? {
    guard case .board(let grant) = delivery.reply else { throw Self.unexpected(delivery.reply) }
    let board = try Board(
      delivery.takeDescriptor(), doorbells: delivery.takeDescriptor(),
      entryCount: grant.entryCount)
    return boards.withLock { boards in
      // Two callers may have asked at once; one mapping serves both.
      if let first = boards[number] { return first }
      // Asked under this lock: whoever replaces boards looks for them after the life has changed.
      guard delivery.life == connection.life else { return nil }
      boards[number] = board
      return board
    }
  }

  /// Boards that are mapped.
  var boardNumbers: [UInt32] { boards.withLock { $0.keys.sorted() } }

  /// Puts the next broker's board in the place of the one before.
  func replaceBoard(_ number: UInt32, _ delivery: Delivery) throws(PatchbayError) {
    guard let board = mappedBoard(number) else { return }
    switch delivery.reply {
    case .board(let grant):
      try board.replace(
        with: delivery.takeDescriptor(), doorbells: delivery.takeDescriptor(),
        entryCount: grant.entryCount)
    case .failure:
      // No blob that this client has has an entry there any more.
      boards.withLock { $0[number] = nil }
      try board.clear()
    default: throw Self.unexpected(delivery.reply)
    }
  }
}
