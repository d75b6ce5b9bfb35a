// What all handles of one client share: the connection, the table of views, and the boards it has
// mapped. A handle keeps its session alive, so a connection ends after the last of them.

import PatchbayLayout
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

final class Session: Sendable {
  let connection: Connection
  let welcome: Welcome
  let table: ClientTable
  private let boards = Mutex<[UInt32: Board]>([:])

  init(_ path: SocketPath, name: String, deadline: Deadline) throws(PatchbayError) {
    connection = try Connection(path, deadline: deadline)
    let hello = Hello(
      oldestVersion: Frame.protocolVersion, newestVersion: Frame.protocolVersion, token: .none,
      name: name)
    let delivery = try connection.call(.hello(hello), deadline: deadline)
    guard case .welcome(let welcome) = delivery.reply else { throw Self.unexpected(delivery.reply) }
    guard welcome.version == Frame.protocolVersion else {
      throw PatchbayError(
        .versionMismatch,
        "The broker chose protocol version \(welcome.version); this client speaks "
          + "\(Frame.protocolVersion).")
    }
    self.welcome = welcome
    table = try ClientTable(delivery.takeDescriptor())
  }

  static func unexpected(_ reply: Reply) -> PatchbayError {
    PatchbayError(
      .protocolViolation, "The broker answered a request with a reply of type \(reply.kind).")
  }

  /// Sends a request that is answered by `done`.
  func perform(_ request: Request, deadline: Deadline) throws(PatchbayError) {
    let delivery = try connection.call(request, deadline: deadline)
    guard case .done = delivery.reply else { throw Self.unexpected(delivery.reply) }
  }

  /// The board with this number, mapped on first need.
  func board(_ number: UInt32, deadline: Deadline) throws(PatchbayError) -> Board {
    if let board = boards.withLock({ $0[number] }) { return board }
    let delivery = try connection.call(
      .attachBoard(BoardRequest(board: number)), deadline: deadline)
    guard case .board(let grant) = delivery.reply else { throw Self.unexpected(delivery.reply) }
    let board = try Board(
      delivery.takeDescriptor(), doorbells: delivery.takeDescriptor(),
      entryCount: grant.entryCount)
    return boards.withLock { boards in
      // Two threads may have asked at once; one mapping serves both.
      if let first = boards[number] { return first }
      boards[number] = board
      return board
    }
  }
}
