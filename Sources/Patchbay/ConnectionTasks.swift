// Calls of tasks, and what the courier does for them. A call leaves its packet and its recipient and
// suspends; it is resumed by whoever hands out its reply, by the courier at its deadline, or by its
// task's cancellation, whichever is first.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

extension Connection {
  /// The courier's side of a connection.
  struct Attendance {
    /// Whether the courier comes back to it by itself.
    var isAttended = false
    /// Whether it is the courier that holds the reader's role.
    var isReading = false
    /// When the courier comes back at the latest.
    var comesBack = MonotonicTime(nanoseconds: 0)
    /// Before this moment no deadline of a task comes and no check is due.
    var firstLook = MonotonicTime.distantFuture
  }

  /// How long a reply is read for whose task has given up.
  private static let graceTime = Duration.seconds(1)
  /// Bytes that may wait to be sent before calls of tasks are refused.
  private static let outboxLimit = 64 << 20

  /// Connects; the caller says hello.
  static func connected(
    to path: SocketPath, deadline: Deadline
  ) async throws(PatchbayError) -> Connection {
    Connection(try await connectedSocket(to: path, deadline: deadline), path: path.path)
  }

  /// Connects a socket.
  static func connectedSocket(
    to path: SocketPath, deadline: Deadline
  ) async throws(PatchbayError) -> ControlSocket {
    let trusted = try path.checkDirectory()
    var pause = Duration.milliseconds(1)
    while true {
      if let socket = try ControlSocket.connectNow(to: path.path) {
        try trusted.check(socket, path.path)
        return socket
      }
      // The kernel tells nobody when there is room in the queue.
      guard MonotonicTime.now < MonotonicTime(deadline) else {
        throw ControlSocket.queueIsFull(path.path)
      }
      do { try await Task.sleep(for: pause) } catch {
        throw PatchbayError(
          .cancelled, "The task was cancelled while it connected to the broker on \(path.path).")
      }
      pause = min(pause * 2, .milliseconds(50))
    }
  }

  /// Sends a request and waits for its reply, without holding a thread.
  /// - Parameters:
  ///   - file: goes along with the request.
  ///   - check: asked at least every `Doorbell.bound` while there is none; may throw.
  /// - Throws: what the broker answered; `timedOut`, `cancelled`; `noBroker` when the connection has
  ///   ended; `limitReached` when too much waits to be sent.
  func call(
    _ request: Request, deadline: Deadline, with file: CarriedFile? = nil,
    check: (@Sendable () throws(PatchbayError) -> Void)? = nil
  ) async throws(PatchbayError) -> Delivery {
    guard !Task.isCancelled else { throw cancelled(request) }
    let call = TaskCall(request, until: MonotonicTime(deadline), check: check)
    let number = try submit(request, call, file)
    trySendOwed()
    try attend(number)
    let outcome = await call.awaited.outcome { giveUp(number, cancelled(request)) }
    let delivery = try outcome.get()
    if case .failure(let error) = delivery.reply { throw error }
    return delivery
  }

  private func cancelled(_ request: Request) -> PatchbayError {
    PatchbayError(
      .cancelled,
      "The task was cancelled while it waited for the broker on \(path) to answer "
        + "\(request.kind).")
  }

  private func submit(
    _ request: Request, _ call: TaskCall, _ file: CarriedFile?
  ) throws(PatchbayError) -> UInt64 {
    try state.withLock { (state) throws(PatchbayError) in
      if let failure = state.failure { throw failure }
      let packet = Frame.encode(request, request: state.nextNumber)
      try Self.checkSize(packet)
      guard state.outbox.byteCount + packet.count <= Self.outboxLimit else {
        throw PatchbayError(
          .limitReached,
          "\(state.outbox.byteCount) bytes of requests wait for the broker on \(path), which takes "
            + "none at the moment. Wait for calls to end before making more.")
      }
      let number = state.takeNumber()
      state.outbox.add(packet, file: file)
      state.add(.task(call, look: Self.nextLook(of: call, .now)), number)
      return number
    }
  }

  private static func nextLook(of call: TaskCall, _ now: MonotonicTime) -> MonotonicTime {
    call.check == nil ? call.until : min(call.until, now.advanced(by: Doorbell.bound))
  }

  /// Ends a task's wait for a reply. The reply is still read, so that what it grants is given back.
  private func giveUp(_ number: UInt64, _ error: PatchbayError) {
    let call: TaskCall? = state.withLock { state in
      guard case .task(let call, _) = state.calls[number] else { return nil }
      let until = MonotonicTime.now.advanced(by: Self.graceTime)
      state.calls[number] = .nobody(until: until)
      state.lateImports[number] = call.importKey
      state.attendance.firstLook = min(state.attendance.firstLook, until)
      if call.isHeld {
        let cancel = Request.cancel(CancelRequest(request: number))
        let own = state.takeNumber()
        state.outbox.add(Frame.encode(cancel, request: own))
      }
      return call
    }
    guard let call else { return }
    call.awaited.finish(.failure(error))
    trySendOwed()
    attendIfOwing()
  }

  // MARK: For the courier

  /// Sees to it that the courier comes for a call.
  /// - Throws: `limitReached` when there can be no courier: then no task waits here any more.
  private func attend(_ number: UInt64) throws(PatchbayError) {
    let visit = state.withLock { state -> Visit in
      guard case .task(_, let look) = state.calls[number] else { return .none }
      return state.visit(before: look)
    }
    do throws(PatchbayError) {
      try request(visit)
    } catch {
      endAttendance(error)
      throw error
    }
  }

  /// Sees to it that the courier sends what the broker does not take now. Without a courier it is
  /// sent with whatever follows.
  func attendIfOwing() {
    let visit = state.withLock { state in
      state.outbox.isEmpty || state.failure != nil
        ? Visit.none : state.visit(before: .distantFuture)
    }
    do throws(PatchbayError) {
      try request(visit)
    } catch {
      endAttendance(error)
    }
  }

  fileprivate enum Visit { case none, first, early }

  private func request(_ visit: Visit) throws(PatchbayError) {
    switch visit {
    case .none: break
    case .first: try Courier.shared.attend(self)
    case .early: Courier.shared.raise()
    }
  }

  private func endAttendance(_ error: PatchbayError) {
    let numbers = state.withLock { state in
      state.attendance.isAttended = false
      return state.calls.compactMap { number, recipient in
        if case .task = recipient { number } else { nil }
      }
    }
    for number in numbers { giveUpAlone(number, error) }
  }

  /// As `giveUp`, without a courier that could read on.
  private func giveUpAlone(_ number: UInt64, _ error: PatchbayError) {
    let call: TaskCall? = state.withLock { state in
      guard case .task(let call, _) = state.takeCall(number) else { return nil }
      state.lateImports[number] = call.importKey
      return call
    }
    call?.awaited.finish(.failure(error))
  }

  /// What the courier is to wait for until it comes back.
  struct Errand {
    let isReading: Bool
    let isSending: Bool
    let comesBack: MonotonicTime
  }

  /// One visit of the courier: sends, ends what is over, and takes or passes on the reader's role.
  /// - Returns: nil when it need not come back.
  func visit() -> Errand? {
    expire()
    trySendOwed()
    let (errand, next) = state.withLock { state in
      let errand = state.errand()
      // The role that is passed on here was the courier's own.
      return (errand, state.taskCount == 0 ? state.nextReader : nil)
    }
    wake(next)
    return errand
  }

  /// Hands out what has arrived, when the courier reads; a bounded number of packets.
  func receiveForTasks() {
    for _ in 0..<64 {
      guard state.withLock({ $0.attendance.isReading }) else { return }
      // What goes wrong has told everybody already.
      guard (try? receiveOne()) == true else { return }
    }
  }

  /// Ends the waits of tasks whose deadline has come or whose check says so.
  private func expire() {
    let now = MonotonicTime.now
    let due = state.withLock { $0.takeDue(now) }
    for (number, call) in due {
      if call.until <= now {
        giveUp(number, timedOut)
        continue
      }
      do throws(PatchbayError) { try call.check?() } catch { giveUp(number, error) }
    }
  }
}

extension Connection.State {
  mutating func add(_ recipient: Connection.Recipient, _ number: UInt64) {
    calls[number] = recipient
    taskCount += 1
  }

  /// How the courier is to be told of something that is due at a moment, now that it is owed.
  fileprivate mutating func visit(before look: MonotonicTime) -> Connection.Visit {
    attendance.firstLook = min(attendance.firstLook, look)
    guard attendance.isAttended else {
      attendance.isAttended = true
      attendance.comesBack = MonotonicTime(nanoseconds: 0)
      return .first
    }
    return !outbox.isEmpty || look < attendance.comesBack ? .early : .none
  }

  /// What the courier has to do until it comes back; nil: nothing.
  fileprivate mutating func errand() -> Connection.Errand? {
    let isOver = failure != nil || taskCount == 0 && outbox.isEmpty
    if attendance.isReading, isOver || taskCount == 0 {
      attendance.isReading = false
      hasReader = false
    } else if !isOver, taskCount > 0, !hasReader {
      attendance.isReading = true
      hasReader = true
    }
    attendance.isAttended = !isOver
    guard !isOver else { return nil }
    attendance.comesBack = attendance.firstLook
    return Connection.Errand(
      isReading: attendance.isReading, isSending: !outbox.isEmpty,
      comesBack: attendance.firstLook)
  }

  /// The calls whose moment has come; those that nobody waits for any more are forgotten.
  fileprivate mutating func takeDue(_ now: MonotonicTime) -> [(UInt64, TaskCall)] {
    guard attendance.firstLook <= now else { return [] }
    var due: [(UInt64, TaskCall)] = []
    var first = MonotonicTime.distantFuture
    for (number, recipient) in calls {
      switch recipient {
      case .thread: break
      case .nobody(let until):
        if until <= now { _ = takeCall(number) } else { first = min(first, until) }
      case .task(let call, let look):
        guard look <= now else {
          first = min(first, look)
          continue
        }
        due.append((number, call))
        let next = min(call.until, now.advanced(by: Doorbell.bound))
        calls[number] = .task(call, look: next)
        if call.until > now { first = min(first, next) }
      }
    }
    attendance.firstLook = first
    return due
  }
}
