// Coming back: what a session does from the moment at which its broker has gone without a word until
// another one has taken its place, on a thread of its own. It talks to that broker by itself, a few
// questions at a time, on a socket that nobody else sees yet:
//
// 1. hello, with the token: the broker says whether it knows this client from the one before;
// 2. the new client table is put in the place of the old one, with all that stands in that;
// 3. the new boards and bells are put in the place of the old ones, whose sleepers are woken;
// 4. each handle is taken up again, and each place of a sequential reader;
// 5. the connection goes on: it sends again what has no answer, and says that this was all.
//
// A broker that goes meanwhile begins it anew, with the next one. Whatever has been done by then was done
// to this process's mappings, and is done again.

import Glibc
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

extension Session {
  /// Waits for the next broker, on a thread of its own.
  func reconnect() {
    do throws(PatchbayError) {
      try SystemThread.detached("the next broker") { [weak self] in
        Reconnection.run { self }
      }
    } catch {
      connection.fail(with: error)
    }
  }
}

enum Reconnection {
  /// What an attempt has come to.
  private enum Attempt {
    case back
    /// Nobody is there, or takes connections; what connecting met.
    case notYet(PatchbayError?)
    /// Somebody was there, and has gone.
    case lost
  }

  /// Tries until it has succeeded, the session's limit is over, or nobody has the session any more.
  fileprivate static func run(_ session: () -> Session?) {
    guard let limit = session()?.reconnectLimit else { return }
    var until = MonotonicTime.now.advanced(by: limit)
    var pause = Duration.milliseconds(1)
    var met: PatchbayError?
    while let session = session() {
      do throws(PatchbayError) {
        switch try attempt(session, until) {
        case .back: return
        case .notYet(let error): met = error
        case .lost:
          met = nil
          until = MonotonicTime.now.advanced(by: limit)
          pause = .milliseconds(1)
        }
        guard MonotonicTime.now < until else {
          throw neverCame(session.connection.path, limit, met)
        }
      } catch {
        session.connection.fail(with: error)
        return
      }
      usleep(UInt32(pause.wholeNanoseconds / 1000))
      pause = min(pause * 2, .milliseconds(50))
    }
  }

  /// - Parameter met: what the last look for a broker met.
  static func neverCame(
    _ path: String, _ limit: Duration, _ met: PatchbayError?
  ) -> PatchbayError {
    // That nobody listens is said already.
    let last = met.map { $0.code == .noBroker ? "" : " The last attempt met: \($0.message)" }
    return PatchbayError(
      .noBroker,
      "The broker on \(path) went without a word, and none has come in its place for \(limit). Start "
        + "one with: patchbay serve --socket \(path). Then connect again, or have clients wait for "
        + "longer by their reconnectLimit.\(last ?? "")",
      systemErrno: met?.systemErrno)
  }

  private static func attempt(
    _ session: Session, _ until: MonotonicTime
  ) throws(PatchbayError) -> Attempt {
    let link: Link
    switch try look(for: session.path) {
    case .found(let found): link = found
    case .notYet(let met): return .notYet(met)
    }
    let talk = Talk(link, session.connection)
    // What cannot be settled with this broker is not its fault, but it must not think otherwise.
    do throws(PatchbayError) {
      guard let greeting = try talk.ask(session.helloAgain, until: until) else {
        return .notYet(nil)
      }
      try session.recognize(greeting)
      guard let handles = session.connection.beginReattaching() else { return .back }
      guard try tell(talk, session, greeting, handles) else {
        session.connection.endReattaching()
        return .lost
      }
      try session.connection.resume(on: link)
      return .back
    } catch {
      link.socket.hangUp()
      throw error
    }
  }

  /// What a look for a broker comes to.
  enum Look {
    /// A link to one that may be believed.
    case found(Link)
    /// There is none, or none that this process can reach at this moment.
    case notYet(PatchbayError)
  }

  /// Connects to a broker that may be believed, if there is one.
  static func look(for path: SocketPath) throws(PatchbayError) -> Look {
    do throws(PatchbayError) {
      let trusted = try path.checkDirectory()
      guard let socket = try ControlSocket.connectNow(to: path.path) else {
        throw ControlSocket.queueIsFull(path.path)
      }
      let link = Link(socket)
      try trusted.check(link.socket, path.path)
      return .found(link)
    } catch  where mayPass(error) {
      return .notYet(error)
    }
  }

  /// Whether what connecting met may be over in a moment: nobody listens; a broker has made its socket
  /// and not opened it to other users yet; the system or the process is short of something.
  static func mayPass(_ error: PatchbayError) -> Bool {
    guard error.code != .noBroker, let number = error.systemErrno else {
      return error.code == .noBroker
    }
    return number == EACCES || isShortage(number)
  }

  static func isShortage(_ number: Int32) -> Bool {
    [EAGAIN, EMFILE, ENFILE, ENOMEM, ENOBUFS].contains(number)
  }

  /// Tells the broker what the client has; false when it has gone meanwhile.
  private static func tell(
    _ talk: Talk, _ session: Session, _ greeting: Delivery, _ handles: [Request]
  ) throws(PatchbayError) -> Bool {
    try session.takeOver(greeting)
    let numbers = session.boardNumbers
    let boards = numbers.map { Request.attachBoard(BoardRequest(board: $0)) }
    let hasBoards = try talk.ask(boards) { (place, answer) throws(PatchbayError) in
      try session.replaceBoard(numbers[place], answer)
    }
    guard hasBoards else { return false }
    return try talk.ask(handles) { (place, answer) throws(PatchbayError) in
      switch answer.reply {
      case .done: break
      case .failure: session.connection.refused(handles[place])
      default: throw Session.unexpected(answer.reply)
      }
    }
  }
}

/// A conversation with a broker that nobody else talks to yet.
private struct Talk {
  private let link: Link
  private let connection: Connection
  /// A broker that does not answer for so long is as good as gone.
  private static let patience = Duration.seconds(30)
  /// Questions that are asked before the first of them is answered: the broker takes as many in one
  /// turn.
  private static let questionsAtOnce = 16

  init(_ link: Link, _ connection: Connection) {
    self.link = link
    self.connection = connection
  }

  /// Asks, and waits for the answer.
  /// - Parameter until: when to give up; nil: after a while.
  /// - Returns: nil when the broker has gone, goes, or does not answer.
  func ask(
    _ request: Request, until: MonotonicTime? = nil
  ) throws(PatchbayError) -> Delivery? {
    guard let number = try say(request) else { return nil }
    return try answer(to: number, until: until)
  }

  /// Asks everything, and waits for the answers, which come in the order of the questions.
  /// - Parameter take: is given each, with the place of its question.
  /// - Returns: false when the broker has gone, goes, or does not answer.
  func ask(
    _ requests: [Request], _ take: (Int, Delivery) throws(PatchbayError) -> Void
  ) throws(PatchbayError) -> Bool {
    var place = 0
    while place < requests.count {
      let most = min(Self.questionsAtOnce, requests.count - place)
      var numbers: [UInt64] = []
      // Long ones may fill the socket earlier: the rest is said once these are answered.
      while numbers.count < most, let number = try say(requests[place + numbers.count]) {
        numbers.append(number)
      }
      guard !numbers.isEmpty else { return false }
      for number in numbers {
        guard let answer = try answer(to: number, until: nil) else { return false }
        try take(place, answer)
        place += 1
      }
    }
    return true
  }

  /// The number under which it was said; nil when the broker has gone or takes nothing.
  private func say(_ request: Request) throws(PatchbayError) -> UInt64? {
    let number = connection.takeNumber()
    let outcome = try link.socket.send(Frame.encode(request, request: number))
    return outcome == .sent ? number : nil
  }

  private func answer(
    to number: UInt64, until: MonotonicTime?
  ) throws(PatchbayError) -> Delivery? {
    let until = until ?? MonotonicTime.now.advanced(by: Self.patience)
    while true {
      switch try link.socket.receive(
        byteLimit: Frame.byteLimit, descriptorLimit: Frame.descriptorLimit)
      {
      case .hungUp: return nil
      case .wouldBlock: guard try link.socket.waitReadable(until: until) else { return nil }
      case .packet(let packet, let descriptors):
        let holder = Delivery(.pong, descriptors)
        let frame = try Frame(parsing: packet)
        let reply = try frame.decodeReply(packet)
        guard frame.request != 0 else {
          guard case .failure(let error) = reply else { continue }
          guard error.isFarewell else { throw error }
          return nil
        }
        guard frame.request == number else {
          throw PatchbayError(
            .protocolViolation,
            "The broker answered request \(frame.request); it was asked \(number).")
        }
        return Delivery(reply, holder.releaseDescriptors())
      }
    }
  }
}

extension PatchbayError {
  /// Whether a broker that says it about no request takes nobody at the moment.
  var isFarewell: Bool { [.noBroker, .limitReached, .timedOut].contains(code) }
}
