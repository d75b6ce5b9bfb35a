// What all handles of one client share: the connection, the table of views, and what it has
// mapped. A handle keeps its session alive, so a connection ends after the last of them.

import PatchbayLayout
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

final class Session: Sendable {
  let path: SocketPath
  let connection: Connection
  let welcome: Welcome
  let table: ClientTable
  let mappings = RingMappings()
  private let publishers = Mutex<[Generation: Enrolled]>([:])
  let foreignRings = ForeignRings()
  private let boards = Mutex<[UInt32: Board]>([:])

  /// Connects and shakes hands.
  convenience init(_ path: SocketPath, name: String, deadline: Deadline) throws(PatchbayError) {
    let connection = try Connection(path, deadline: deadline)
    self.init(
      path, connection,
      try Self.accept(try connection.call(Self.hello(name), deadline: deadline)))
  }

  /// As the blocking `init`.
  static func connected(
    to path: SocketPath, name: String, deadline: Deadline
  ) async throws(PatchbayError) -> Session {
    let connection = try await Connection.connected(to: path, deadline: deadline)
    return Session(
      path, connection, try accept(try await connection.call(hello(name), deadline: deadline)))
  }

  /// What a broker has agreed to.
  private struct Agreement {
    let welcome: Welcome
    let table: ClientTable
  }

  private init(_ path: SocketPath, _ connection: Connection, _ agreement: Agreement) {
    self.path = path
    self.connection = connection
    welcome = agreement.welcome
    table = agreement.table
  }

  private static func hello(_ name: String) -> Request {
    .hello(
      Hello(
        oldestVersion: Frame.protocolVersion, newestVersion: Frame.protocolVersion, token: .none,
        name: name))
  }

  private static func accept(_ delivery: Delivery) throws(PatchbayError) -> Agreement {
    guard case .welcome(let welcome) = delivery.reply else { throw unexpected(delivery.reply) }
    guard welcome.version == Frame.protocolVersion else {
      throw PatchbayError(
        .versionMismatch,
        "The broker chose protocol version \(welcome.version); this client speaks "
          + "\(Frame.protocolVersion).")
    }
    return Agreement(welcome: welcome, table: try ClientTable(delivery.takeDescriptor()))
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
    if let board = mappedBoard(number) { return board }
    return try adoptBoard(
      number, try connection.call(.attachBoard(BoardRequest(board: number)), deadline: deadline))
  }

  /// As the blocking `board`.
  func board(_ number: UInt32, deadline: Deadline) async throws(PatchbayError) -> Board {
    if let board = mappedBoard(number) { return board }
    let request = Request.attachBoard(BoardRequest(board: number))
    return try adoptBoard(number, try await connection.call(request, deadline: deadline))
  }

  private func mappedBoard(_ number: UInt32) -> Board? { boards.withLock { $0[number] } }

  private func adoptBoard(
    _ number: UInt32, _ delivery: Delivery
  ) throws(PatchbayError) -> Board {
    guard case .board(let grant) = delivery.reply else { throw Self.unexpected(delivery.reply) }
    let board = try Board(
      delivery.takeDescriptor(), doorbells: delivery.takeDescriptor(),
      entryCount: grant.entryCount)
    return boards.withLock { boards in
      // Two callers may have asked at once; one mapping serves both.
      if let first = boards[number] { return first }
      boards[number] = board
      return board
    }
  }
}
