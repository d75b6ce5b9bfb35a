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
    let number = try register(call)
    var isSent = false
    do throws(PatchbayError) {
      let packet = Packet(bytes: Frame.encode(request, request: number), file: file)
      try send(packet, until: until)
      isSent = true
      let delivery = try awaitOutcome(of: call, until: until, onBound)
      if case .failure(let error) = delivery.reply { throw error }
      return delivery
    } catch {
      if forget(number, isSent ? request.importKey : nil) {
        if isSent, request.mayWaitLong {
          owe(.cancel(CancelRequest(request: number)))
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

  private func register(_ call: PendingCall) throws(PatchbayError) -> UInt64 {
    try state.withLock { (state) throws(PatchbayError) in
      if let failure = state.failure { throw failure }
      let number = state.takeNumber()
      state.calls[number] = .thread(call)
      return number
    }
  }

  /// Gives a call up; false when it had ended already. It may have been chosen for the reader's
  /// role a moment ago, so the role is offered on.
  /// - Parameter importKey: the key of an import that was sent.
  private func forget(_ number: UInt64, _ importKey: BlobKey?) -> Bool {
    let (wasPending, next) = state.withLock { state in
      let wasPending = state.takeCall(number) != nil
      if wasPending { state.lateImports[number] = importKey }
      return (wasPending, state.nextReader)
    }
    wake(next)
    return wasPending
  }

  private func send(_ packet: Packet, until: MonotonicTime) throws(PatchbayError) {
    try Self.checkSize(packet.bytes)
    while try !trySend(packet) {
      guard try socket.waitWritable(until: until) else {
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

  var timedOut: PatchbayError {
    PatchbayError(.timedOut, "The broker on \(path) did not answer before the deadline.")
  }

  private func readUntilAnswered(
    _ call: PendingCall, until: MonotonicTime
  ) throws(PatchbayError) {
    while call.outcome.withLock({ $0 == nil }) {
      if try receiveOne() { continue }
      if try looksReadable() { continue }
      guard try socket.waitReadable(until: until) else { return }
    }
  }

  /// Looks for a moment before it sleeps: most answers come sooner than a sleep with its wake-up
  /// takes, above all on a machine whose cores have gone idle.
  private func looksReadable() throws(PatchbayError) -> Bool {
    try patience.spin { () throws(PatchbayError) in
      try socket.waitReadable(until: MonotonicTime(nanoseconds: 0)) ? true : nil
    } ?? false
  }
}
