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
  /// Bytes of requests that may wait for an answer before calls of tasks are refused.
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
      do { try await Task.sleep(for: pause) } catch { throw cancelled(path) }
      pause = min(pause * 2, .milliseconds(50))
    }
  }

  static func cancelled(_ path: SocketPath) -> PatchbayError {
    PatchbayError(
      .cancelled, "The task was cancelled while it connected to the broker on \(path.path).")
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
    let call = TaskCall(until: MonotonicTime(deadline), check: check)
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
      let number = state.takeNumber()
      let packet = Packet(Frame.encode(request, request: number), number: number, file: file)
      try Self.check(packet.bytes, of: request)
      guard state.callByteCount + packet.bytes.count <= Self.outboxLimit else {
        throw PatchbayError(
          .limitReached,
          "\(state.callByteCount) bytes of requests wait for the broker on \(path) to answer them. Wait "
            + "for calls to end before making more.")
      }
      state.attachments.asked(request)
      // While there is no broker it waits among the calls, to be sent to the next one.
      if state.phase == .connected { state.outbox.add(packet) }
      state.add(
        Pending(
          recipient: .task(call, look: Self.nextLook(of: call, .now)), request: request,
          packet: packet))
      return number
    }
  }

  private static func nextLook(of call: TaskCall, _ now: MonotonicTime) -> MonotonicTime {
    call.check == nil ? call.until : min(call.until, now.advanced(by: Doorbell.bound))
  }

  /// Ends a task's wait for a reply. The reply is still read, so that what it grants is given back.
  private func giveUp(_ number: UInt64, _ error: PatchbayError) {
    let call: TaskCall? = state.withLock { state in
      guard let pending = state.calls[number], case .task(let call, _) = pending.recipient else {
        return nil
      }
      // Nothing comes for it any more: the next broker is not asked.
      guard state.phase == .connected else {
        _ = state.takeCall(number)
        if pending.wasSent { state.noteLate(number, pending) }
        return call
      }
      state.giveUp(number, pending, until: MonotonicTime.now.advanced(by: Self.graceTime))
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
      guard case .task(_, let look) = state.calls[number]?.recipient else { return .none }
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
      return state.calls.compactMap { number, pending in
        if case .task = pending.recipient { number } else { nil }
      }
    }
    for number in numbers { giveUpAlone(number, error) }
  }

  /// As `giveUp`, without a courier that could read on.
  private func giveUpAlone(_ number: UInt64, _ error: PatchbayError) {
    let call: TaskCall? = state.withLock { state in
      guard let pending = state.calls[number], case .task(let call, _) = pending.recipient else {
        return nil
      }
      _ = state.takeCall(number)
      state.noteLate(number, pending)
      return call
    }
    call?.awaited.finish(.failure(error))
  }

  /// What the courier is to wait for until it comes back.
  struct Errand {
    /// Kept open for as long as the courier waits at it.
    let link: Link
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
      guard (try? receiveOne()) == .packet else { return }
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
  /// Takes in a task's call.
  fileprivate mutating func add(_ pending: Connection.Pending) {
    guard let packet = pending.packet else { return }
    calls[packet.number] = pending
    callByteCount += packet.bytes.count
    taskCount += 1
  }

  /// Nobody waits for an answer any more. What it grants is given back.
  fileprivate mutating func giveUp(
    _ number: UInt64, _ pending: Connection.Pending, until: MonotonicTime
  ) {
    noteLate(number, pending)
    var pending = pending
    pending.recipient = .nobody(until: until)
    callByteCount -= pending.packet?.bytes.count ?? 0
    pending.packet = nil
    calls[number] = pending
    attendance.firstLook = min(attendance.firstLook, until)
    guard pending.request.mayWaitLong else { return }
    let own = takeNumber()
    outbox.add(
      Packet(
        Frame.encode(.cancel(CancelRequest(request: number)), request: own), number: own))
  }

  /// How the courier is to be told of something that is due at a moment, now that it is owed.
  fileprivate mutating func visit(before look: MonotonicTime) -> Connection.Visit {
    attendance.firstLook = min(attendance.firstLook, look)
    guard attendance.isAttended else {
      attendance.isAttended = true
      attendance.comesBack = MonotonicTime(nanoseconds: 0)
      return .first
    }
    // A thread that read may have found no task waiting, and passed the role to nobody.
    let isUnread = !hasReader && phase == .connected
    return isUnread || !outbox.isEmpty || look < attendance.comesBack ? .early : .none
  }

  /// What the courier has to do until it comes back; nil: nothing.
  fileprivate mutating func errand() -> Connection.Errand? {
    let isSending = phase == .connected && !outbox.isEmpty
    let isOver = failure != nil || taskCount == 0 && !isSending
    if attendance.isReading, isOver || taskCount == 0 || phase != .connected {
      attendance.isReading = false
      hasReader = false
    } else if !isOver, taskCount > 0, !hasReader, phase == .connected {
      attendance.isReading = true
      hasReader = true
    }
    attendance.isAttended = !isOver
    guard !isOver else { return nil }
    attendance.comesBack = attendance.firstLook
    return Connection.Errand(
      link: link, isReading: attendance.isReading, isSending: isSending,
      comesBack: attendance.firstLook)
  }

  /// The calls whose moment has come; those that nobody waits for any more are forgotten.
  fileprivate mutating func takeDue(_ now: MonotonicTime) -> [(UInt64, TaskCall)] {
    guard attendance.firstLook <= now else { return [] }
    var due: [(UInt64, TaskCall)] = []
    var first = MonotonicTime.distantFuture
    for (number, pending) in calls {
      switch pending.recipient {
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
        calls[number]?.recipient = .task(call, look: next)
        if call.until > now { first = min(first, next) }
      }
    }
    attendance.firstLook = first
    return due
  }
}
