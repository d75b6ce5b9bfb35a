// Calls of threads: each sleeps until its reply is there, unless it is the one that reads.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

extension Connection {
  /// Connects; the caller says hello. Blocks while the broker's queue of new connections is full.
  convenience init(_ path: SocketPath, deadline: Deadline) throws(PatchbayError) {
    self.init(try Self.connectedSocket(to: path, deadline: deadline), path: path.path)
  }

  /// Connects a socket; blocks as `init` does.
  static func connectedSocket(
    to path: SocketPath, deadline: Deadline
  ) throws(PatchbayError) -> ControlSocket {
    let trusted = try path.checkDirectory()
    let socket = try ControlSocket.connect(to: path.path, until: MonotonicTime(deadline))
    try trusted.check(socket, path.path)
    return socket
  }

  /// Sends a request and waits for its reply.
  /// - Parameters:
  ///   - file: goes along with the request.
  ///   - onBound: called at least every `Doorbell.bound` while there is none; may throw.
  /// - Throws: what the broker answered; `timedOut`; `noBroker` when the connection has ended.
  func call(
    _ request: Request, deadline: Deadline, with file: CarriedFile? = nil,
    onBound: () throws(PatchbayError) -> Void = {}
  ) throws(PatchbayError) -> Delivery {
    let until = MonotonicTime(deadline)
    let call = PendingCall()
    let (packet, life) = try register(call, request, file)
    do throws(PatchbayError) {
      try send(packet, life, until: until)
      let delivery = try awaitOutcome(of: call, until: until, onBound)
      if case .failure(let error) = delivery.reply { throw error }
      return delivery
    } catch {
      if let pending = forget(packet.number) {
        if pending.wasSent, request.mayWaitLong {
          _ = state.withLock { $0.owe(.cancel(CancelRequest(request: packet.number))) }
        }
        // A caller whose deadlines are short would otherwise never read.
        _ = try? takeArrived()
        trySendOwed()
        attendIfOwing()
      } else if case .success(let delivery) = call.outcome.withLock({ $0 }),
        delivery.reply.kind != .failure
      {
        // The answer and the deadline met. What it grants has no other owner, so it is taken.
        return delivery
      }
      throw error
    }
  }

  /// From now on an answer is waited for.
  /// - Returns: the request as it leaves, and the life of the connection in which it is to.
  private func register(
    _ call: PendingCall, _ request: Request, _ file: CarriedFile?
  ) throws(PatchbayError) -> (Packet, life: Int) {
    let number = takeNumber()
    let packet = Packet(Frame.encode(request, request: number), number: number, file: file)
    try Self.check(packet.bytes, of: request)
    return try state.withLock { (state) throws(PatchbayError) in
      if let failure = state.failure { throw failure }
      state.attachments.asked(request)
      state.calls[number] = Pending(recipient: .thread(call), request: request, packet: packet)
      state.callByteCount += packet.bytes.count
      return (packet, state.life)
    }
  }

  /// Gives a call up; nil when it had ended already. It may have been chosen for the reader's
  /// role a moment ago, so the role is offered on.
  private func forget(_ number: UInt64) -> Pending? {
    let (pending, next) = state.withLock { state in
      let pending = state.takeCall(number)
      if let pending, pending.wasSent { state.noteLate(number, pending) }
      return (pending, state.nextReader)
    }
    wake(next)
    return pending
  }

  /// Sends a call's packet. Without a broker it is sent when there is one again.
  private func send(
    _ packet: Packet, _ life: Int, until: MonotonicTime
  ) throws(PatchbayError) {
    while try !trySend((packet, life)) {
      guard let link = state.withLock({ $0.usableLink }) else { return }
      guard try link.socket.waitWritable(until: until) else {
        throw PatchbayError(.timedOut, "The broker on \(path) takes no requests at the moment.")
      }
    }
  }

  private func awaitOutcome(
    of call: PendingCall, until end: MonotonicTime, _ onBound: () throws(PatchbayError) -> Void
  ) throws(PatchbayError) -> Delivery {
    while true {
      // acquiring: pairs with CALL-SIGNAL; the outcome itself is read under its lock.
      let before = call.signal.load(ordering: .acquiring)
      if let outcome = call.outcome.withLock({ $0 }) { return try outcome.get() }
      let now = MonotonicTime.now
      guard now < end else { throw timedOut }
      try onBound()
      let until = min(end, now.advanced(by: Doorbell.bound))
      if takeReaderRole() {
        do {
          defer { passReaderRole() }
          try readUntilAnswered(call, until: until)
        }
        // What cannot be sent at once stays owed: there may be an answer to return with.
        trySendOwed()
      } else {
        _ = unsafe call.signal.withWord {
          unsafe Futex.wait(on: $0, expected: before, mask: .max, until: until)
        }
      }
    }
  }

  private func readUntilAnswered(
    _ call: PendingCall, until: MonotonicTime
  ) throws(PatchbayError) {
    while call.outcome.withLock({ $0 == nil }) {
      switch try receiveOne() {
      case .packet: continue
      // Whoever finds the next broker passes the role on again.
      case .interrupted: return
      case .nothing: break
      }
      guard let link = state.withLock({ $0.usableLink }) else { return }
      if try looksReadable(link) { continue }
      guard try link.socket.waitReadable(until: until) else { return }
    }
  }

  /// Looks for a moment before it sleeps: most answers come sooner than a sleep with its wake-up
  /// takes, above all on a machine whose cores have gone idle.
  private func looksReadable(_ link: Link) throws(PatchbayError) -> Bool {
    try patience.spin { () throws(PatchbayError) in
      try link.socket.waitReadable(until: MonotonicTime(nanoseconds: 0)) ? true : nil
    } ?? false
  }
}
