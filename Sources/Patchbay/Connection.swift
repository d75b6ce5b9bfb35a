// One control connection, shared by all threads of a client. Every call sends one packet and waits
// for the reply with its number. There is no thread behind it: of the threads that wait, one holds
// the reader's role, takes packets off the socket and hands each to whom it belongs; when its own
// reply has come, or its deadline, it passes the role on.
//
// A reply that comes too late for its caller may have granted something; it is given back at once.

import Glibc
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

/// A reply with the descriptors that came along, owned until taken.
final class Delivery: Sendable {
  let reply: Reply
  fileprivate let descriptors: Mutex<[Int32]>

  init(_ reply: Reply, _ descriptors: [Int32]) {
    self.reply = reply
    self.descriptors = Mutex(descriptors)
  }

  /// The next descriptor in message order.
  /// - Throws: `protocolViolation` when the broker sent fewer than the reply promises.
  func takeDescriptor() throws(PatchbayError) -> Descriptor {
    let next: Int32? = descriptors.withLock { $0.isEmpty ? nil : $0.removeFirst() }
    guard let next else {
      throw PatchbayError(.protocolViolation, "A reply of the broker lacks a descriptor.")
    }
    return Descriptor(owning: next)
  }

  deinit { descriptors.withLock { for descriptor in $0 { _ = Glibc.close(descriptor) } } }
}

/// A call that waits for its reply.
private final class PendingCall: Sendable {
  /// Changes whenever there is something to look at: the reply, the reader's role, the end.
  let signal = Atomic<UInt32>(0)
  let outcome = Mutex<Result<Delivery, PatchbayError>?>(nil)

  func wake() {
    // releasing: the outcome or the freed role, both under locks; the word only ends the sleep.
    // CALL-SIGNAL.
    signal.wrappingAdd(1, ordering: .releasing)
    _ = unsafe signal.withWord { unsafe Futex.wake($0, mask: .max) }
  }
}

extension Atomic where Value == UInt32 {
  /// The word's address, for the futex calls. It stays put: its owner is a class.
  @unsafe borrowing func withWord<Result>(
    _ body: (UnsafeMutablePointer<Atomic<UInt32>>) -> Result
  ) -> Result {
    unsafe withUnsafePointer(to: self) { unsafe body(UnsafeMutablePointer(mutating: $0)) }
  }
}

final class Connection: Sendable {
  private struct State {
    var nextNumber: UInt64 = 1
    var calls: [UInt64: PendingCall] = [:]
    var hasReader = false
    var failure: PatchbayError?
  }

  private let patience = SpinPatience()
  let path: String
  private let socket: ControlSocket
  private let state = Mutex(State())

  /// Connects; the caller says hello.
  init(_ path: SocketPath) throws(PatchbayError) {
    try path.checkDirectory()
    self.path = path.path
    socket = try ControlSocket.connect(to: path.path)
  }

  /// Sends a request and waits for its reply.
  /// - Throws: what the broker answered; `timedOut`; `noBroker` when the connection has ended.
  func call(_ request: Request, deadline: Deadline) throws(PatchbayError) -> Delivery {
    let until = MonotonicTime(deadline)
    let call = PendingCall()
    let number = try register(call)
    do throws(PatchbayError) {
      try send(Frame.encode(request, request: number), until: until)
      let delivery = try awaitOutcome(of: call, number: number, until: until)
      if case .failure(let error) = delivery.reply { throw error }
      return delivery
    } catch {
      if forget(number), case .open(let open) = request, open.waits {
        post(.cancel(CancelRequest(request: number)))
      }
      throw error
    }
  }

  /// Sends a request whose reply nobody waits for. Never throws: a broken connection has given
  /// back everything already.
  func post(_ request: Request) {
    let number = state.withLock { state in
      defer { state.nextNumber += 1 }
      return state.nextNumber
    }
    let until = MonotonicTime.now.advanced(by: .seconds(1))
    try? send(Frame.encode(request, request: number), until: until)
    // Replies that nobody waits for are taken off the socket here, or a client that only posts would
    // look to the broker like one that never reads.
    try? takeArrived()
  }

  /// Whether the broker has hung up. Does not block; takes what has arrived if nobody else does.
  func checkAlive() throws(PatchbayError) {
    try state.withLock { (state) throws(PatchbayError) in
      if let failure = state.failure { throw failure }
    }
    try takeArrived()
  }

  private func register(_ call: PendingCall) throws(PatchbayError) -> UInt64 {
    try state.withLock { (state) throws(PatchbayError) in
      if let failure = state.failure { throw failure }
      let number = state.nextNumber
      state.nextNumber += 1
      state.calls[number] = call
      return number
    }
  }

  /// Gives a call up; false when it had ended already. It may have been chosen for the reader's
  /// role a moment ago, so the role is offered on.
  private func forget(_ number: UInt64) -> Bool {
    let (wasPending, next) = state.withLock { state in
      let wasPending = state.calls.removeValue(forKey: number) != nil
      return (wasPending, state.hasReader ? nil : state.calls.values.first)
    }
    next?.wake()
    return wasPending
  }

  private func send(_ packet: [UInt8], until: MonotonicTime) throws(PatchbayError) {
    guard packet.count <= Frame.byteLimit else {
      throw PatchbayError(
        .limitReached,
        "A request has \(packet.count) bytes; a control message takes \(Frame.byteLimit).")
    }
    while true {
      switch try socket.send(packet) {
      case .sent: return
      case .hungUp:
        try takeArrived()
        throw fail(with: hungUp)
      case .wouldBlock:
        guard try socket.waitWritable(until: until) else {
          throw PatchbayError(.timedOut, "The broker on \(path) takes no requests at the moment.")
        }
      }
    }
  }

  /// Takes what has arrived, if nobody else does. A broker that hangs up says why before it does:
  /// what it said may be among it.
  /// - Throws: what it said.
  private func takeArrived() throws(PatchbayError) {
    guard takeReaderRole() else { return }
    defer { passReaderRole() }
    while try receiveOne() {}
  }

  private var hungUp: PatchbayError {
    PatchbayError(.noBroker, "The broker on \(path) has ended the connection.")
  }

  private func awaitOutcome(
    of call: PendingCall, number: UInt64, until: MonotonicTime
  ) throws(PatchbayError) -> Delivery {
    while true {
      // acquiring: pairs with CALL-SIGNAL; the outcome itself is read under its lock.
      let before = call.signal.load(ordering: .acquiring)
      if let outcome = call.outcome.withLock({ $0 }) { return try outcome.get() }
      guard MonotonicTime.now < until else { throw timedOut }
      if takeReaderRole() {
        defer { passReaderRole() }
        try readUntilAnswered(call, until: until)
      } else {
        _ = unsafe call.signal.withWord {
          unsafe Futex.wait(on: $0, expected: before, mask: .max, until: until)
        }
      }
    }
  }

  private var timedOut: PatchbayError {
    PatchbayError(.timedOut, "The broker on \(path) did not answer before the deadline.")
  }

  private func takeReaderRole() -> Bool {
    state.withLock { state in
      guard !state.hasReader else { return false }
      state.hasReader = true
      return true
    }
  }

  private func passReaderRole() {
    let next = state.withLock { state in
      state.hasReader = false
      return state.calls.values.first
    }
    next?.wake()
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

  /// Takes one packet and hands it on; false when there is none.
  private func receiveOne() throws(PatchbayError) -> Bool {
    do throws(PatchbayError) {
      switch try socket.receive(
        byteLimit: Frame.byteLimit, descriptorLimit: Frame.descriptorLimit)
      {
      case .wouldBlock: return false
      case .hungUp: throw hungUp
      case .packet(let packet, let descriptors):
        try deliver(packet, descriptors)
        return true
      }
    } catch {
      throw fail(with: error)
    }
  }

  private func deliver(_ packet: [UInt8], _ descriptors: [Int32]) throws(PatchbayError) {
    // From here on the delivery owns the descriptors, whatever is thrown.
    let holder = Delivery(.pong, descriptors)
    let frame = try Frame(parsing: packet)
    let reply = try frame.decodeReply(packet)
    guard frame.request != 0 else {
      // Number 0 belongs to no request: the broker says why it will hang up.
      guard case .failure(let error) = reply else { return }
      throw error
    }
    let call = state.withLock { $0.calls.removeValue(forKey: frame.request) }
    guard let call else { return giveBack(reply) }
    call.outcome.withLock { $0 = .success(Delivery(reply, holder.releaseDescriptors())) }
    call.wake()
  }

  /// A grant whose caller has gone.
  private func giveBack(_ reply: Reply) {
    switch reply {
    case .opened(let grant): post(.close(grant.blob))
    case .created(let grant): post(.abandon(grant.blob))
    default: break
    }
  }

  /// Ends the connection for everybody, once; the error that now holds.
  private func fail(with error: PatchbayError) -> PatchbayError {
    let (calls, failure) = state.withLock { state in
      let failure = state.failure ?? error
      state.failure = failure
      defer { state.calls = [:] }
      return (Array(state.calls.values), failure)
    }
    for call in calls {
      call.outcome.withLock { $0 = .failure(failure) }
      call.wake()
    }
    return failure
  }
}

extension Delivery {
  /// Gives all descriptors away.
  func releaseDescriptors() -> [Int32] {
    descriptors.withLock { list in
      defer { list = [] }
      return list
    }
  }
}
