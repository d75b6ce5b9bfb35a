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
  /// - Throws: `limitReached` when fewer came than the reply promises.
  func takeDescriptor() throws(PatchbayError) -> Descriptor {
    let next: Int32? = descriptors.withLock { $0.isEmpty ? nil : $0.removeFirst() }
    guard let next else {
      throw PatchbayError(
        .limitReached,
        "A reply of the broker came without its descriptors: this process has none left. Close "
          + "some, or raise its limit of open files (ulimit -n).", systemErrno: EMFILE)
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
    /// What the broker is still to be told and nobody waits for: ends of handles, and grants that
    /// came too late for their callers. Sent before anything else.
    var owed: [Request] = []
  }

  private let patience = SpinPatience()
  let path: String
  private let socket: ControlSocket
  private let state = Mutex(State())

  /// Connects; the caller says hello.
  init(_ path: SocketPath, deadline: Deadline) throws(PatchbayError) {
    try path.checkDirectory()
    self.path = path.path
    socket = try ControlSocket.connect(to: path.path, until: MonotonicTime(deadline))
  }

  /// Sends a request and waits for its reply.
  /// - Parameter onBound: called at least every `Doorbell.bound` while there is none; may throw.
  /// - Throws: what the broker answered; `timedOut`; `noBroker` when the connection has ended.
  func call(
    _ request: Request, deadline: Deadline,
    onBound: () throws(PatchbayError) -> Void = {}
  ) throws(PatchbayError) -> Delivery {
    let until = MonotonicTime(deadline)
    try sendOwed(until: until)
    let call = PendingCall()
    let number = try register(call)
    do throws(PatchbayError) {
      try send(Frame.encode(request, request: number), until: until)
      let delivery = try awaitOutcome(of: call, until: until, onBound)
      if case .failure(let error) = delivery.reply { throw error }
      return delivery
    } catch {
      if forget(number) {
        if case .open(let open) = request, open.waits {
          owe(.cancel(CancelRequest(request: number)))
        }
        // A caller whose deadlines are short would otherwise never read.
        _ = try? takeArrived()
        try? sendOwed(until: .now)
      } else if case .success(let delivery) = call.outcome.withLock({ $0 }),
        delivery.reply.kind != .failure
      {
        // The answer and the deadline met. What it grants has no other owner, so it is taken.
        return delivery
      }
      throw error
    }
  }

  /// Sends a request whose reply nobody waits for. Never throws: a broken connection has given
  /// back everything already. A broker that takes nothing for a second is told later, together
  /// with whatever follows.
  func post(_ request: Request) {
    let patience: Duration = owe(request) ? .zero : .seconds(1)
    try? sendOwed(until: MonotonicTime.now.advanced(by: patience))
  }

  /// Returns whether something was owed already.
  @discardableResult
  private func owe(_ request: Request) -> Bool {
    state.withLock { state in
      guard state.failure == nil else { return false }
      defer { state.owed.append(request) }
      return !state.owed.isEmpty
    }
  }

  /// Tells the broker what it is still to be told, first things first.
  /// - Throws: `timedOut` with the rest still owed; `noBroker`.
  private func sendOwed(until: MonotonicTime) throws(PatchbayError) {
    while let (number, request) = takeOwed() {
      do throws(PatchbayError) {
        try send(Frame.encode(request, request: number), until: until)
        // Replies that nobody waits for are taken off the socket here, or a client that only posts
        // would look to the broker like one that never reads.
        _ = try takeArrived()
      } catch {
        state.withLock { if $0.failure == nil { $0.owed.insert(request, at: 0) } }
        throw error
      }
    }
  }

  private func takeOwed() -> (number: UInt64, Request)? {
    state.withLock { state in
      guard !state.owed.isEmpty else { return nil }
      defer { state.nextNumber += 1 }
      return (state.nextNumber, state.owed.removeFirst())
    }
  }

  /// Whether the broker has hung up. Does not block; takes what has arrived if nobody else does.
  func checkAlive() throws(PatchbayError) {
    try state.withLock { (state) throws(PatchbayError) in
      if let failure = state.failure { throw failure }
    }
    _ = try takeArrived()
    try? sendOwed(until: .now)
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
        // Whoever reads finds out why, and tells all that wait.
        guard try takeArrived() else { return }
        throw fail(with: hungUp)
      case .wouldBlock:
        guard try socket.waitWritable(until: until) else {
          throw PatchbayError(.timedOut, "The broker on \(path) takes no requests at the moment.")
        }
      }
    }
  }

  /// Takes what has arrived. A broker that hangs up says why before it does: what it said may be
  /// among it.
  /// - Returns: false when another thread reads.
  /// - Throws: what the broker said.
  private func takeArrived() throws(PatchbayError) -> Bool {
    guard takeReaderRole() else { return false }
    defer { passReaderRole() }
    while try receiveOne() {}
    return true
  }

  private var hungUp: PatchbayError {
    PatchbayError(.noBroker, "The broker on \(path) has ended the connection.")
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
        try? sendOwed(until: .now)
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
    let delivery = Delivery(reply, holder.releaseDescriptors())
    let call = state.withLock { state in
      let call = state.calls.removeValue(forKey: frame.request)
      // Under the same lock, so a call that is no longer pending has its outcome.
      call?.outcome.withLock { $0 = .success(delivery) }
      return call
    }
    guard let call else { return giveBack(reply) }
    call.wake()
  }

  /// A grant whose caller has gone. Sent after the reader's role is passed on: a reader that waited
  /// until it can send would read nothing.
  private func giveBack(_ reply: Reply) {
    let request: Request
    switch reply {
    case .opened(let grant): request = .close(grant.blob)
    case .created(let grant): request = .abandon(grant.blob)
    case .joined(let grant): request = .leave(grant.blob)
    case .claimed(let grant):
      request = .release(ReleaseRequest(blob: grant.blob, claim: grant.claim))
    default: return
    }
    owe(request)
  }

  /// Ends the connection for everybody, once; the error that now holds.
  private func fail(with error: PatchbayError) -> PatchbayError {
    let (calls, failure) = state.withLock { state in
      let failure = state.failure ?? error
      state.failure = failure
      state.owed = []
      defer { state.calls = [:] }
      return (Array(state.calls.values), failure)
    }
    // The broker must learn it, too: blobs of a client that can say nothing more are abandoned.
    socket.hangUp()
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
