// One control connection, shared by all threads and tasks of a client. Every call sends one packet
// and waits for the reply with its number. There is no thread behind it while only threads call: of
// those that wait, one holds the reader's role, takes packets off the socket and hands each to whom
// it belongs; when its own reply has come, or its deadline, it passes the role on. While tasks wait
// the courier, one thread for all connections of the process, takes the role when it is free.
//
// A reply that comes too late for its caller may have granted something; it is given back at once.
//
// This file has what both kinds of calls share: sending, receiving, handing out. Nothing in it waits,
// and nobody is woken while a lock is held.

import Glibc
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

final class Connection: Sendable {
  /// Who waits for a reply.
  enum Recipient {
    case thread(PendingCall)
    /// - look: when its deadline comes, or its check is due.
    case task(TaskCall, look: MonotonicTime)
    /// A task has given up; what is granted is given back. Forgotten at the moment: what comes
    /// later still is given back when somebody reads.
    case nobody(until: MonotonicTime)
  }

  struct State {
    var nextNumber: UInt64 = 1
    var calls: [UInt64: Recipient] = [:]
    /// How many of the calls are for the courier to read: all but those of threads.
    var taskCount = 0
    var hasReader = false
    var failure: PatchbayError?
    /// What the broker is still to be told: what nobody waits for, as ends of handles and grants
    /// that came too late, and requests of tasks. Sent before anything else.
    var outbox = Outbox()
    /// Imports that nobody waits for any more, until the broker answers them.
    var lateImports: [UInt64: BlobKey] = [:]
    var attendance = Attendance()

    mutating func takeNumber() -> UInt64 {
      defer { nextNumber += 1 }
      return nextNumber
    }
  }

  let patience = SpinPatience()
  let path: String
  let socket: ControlSocket
  let state = Mutex(State())
  /// Held while packets are put on the socket, so that they go in order.
  private let sending = Mutex(())

  init(_ socket: consuming ControlSocket, path: String) {
    self.socket = socket
    self.path = path
  }

  /// Calls without a reply, those that were given up and may yet be answered included.
  var pendingCount: Int { state.withLock { $0.calls.count } }

  // MARK: Sending

  /// Sends a request whose reply nobody waits for. Never blocks and never throws: a broken
  /// connection has given back everything already. What a broker does not take now is sent by the
  /// courier, or with whatever follows.
  func post(_ request: Request) {
    owe(request)
    trySendOwed()
    attendIfOwing()
  }

  func owe(_ request: Request) {
    state.withLock { state in
      guard state.failure == nil else { return }
      let number = state.takeNumber()
      state.outbox.add(Frame.encode(request, request: number))
    }
  }

  /// Sends what is owed as far as the broker takes it.
  func trySendOwed() {
    guard state.withLock({ !$0.outbox.isEmpty }) else { return }
    // What goes wrong ends the connection for all; who calls next hears of it.
    _ = try? trySend(nil)
  }

  /// Sends what is owed, then a packet, as far as that goes without waiting.
  /// - Returns: whether everything has been sent.
  /// - Throws: why the connection has ended.
  func trySend(_ packet: Packet?) throws(PatchbayError) -> Bool {
    while true {
      switch try putOnSocket(packet) {
      case .all: return true
      case .some:
        // Replies that nobody waits for are taken off the socket here, or a client that only posts
        // would look to the broker like one that never reads.
        _ = try takeArrived()
      case .full:
        _ = try takeArrived()
        return false
      case .hungUp:
        // Whoever reads finds out why, and tells all that wait.
        guard try takeArrived() else { return true }
        throw fail(with: hungUp)
      }
    }
  }

  private enum Sent { case all, some, full, hungUp }
  /// After so many packets replies are looked for.
  private static let packetsAtOnce = 32

  private func putOnSocket(_ packet: Packet?) throws(PatchbayError) -> Sent {
    try sending.withLock { (_) throws(PatchbayError) in
      var count = 0
      while let next = state.withLock({ $0.outbox.next }) {
        guard count < Self.packetsAtOnce else { return .some }
        switch try put(next) {
        case .wouldBlock: return .full
        case .hungUp: return .hungUp
        case .sent: state.withLock { if !$0.outbox.isEmpty { $0.outbox.removeFirst() } }
        }
        count += 1
      }
      guard let packet else { return .all }
      return switch try put(packet) {
      case .sent: .all
      case .wouldBlock: .full
      case .hungUp: .hungUp
      }
    }
  }

  /// To a broker that takes no descriptors of this user the system lets nobody send one. Without it
  /// the request is refused in the broker's words.
  private func put(_ packet: Packet) throws(PatchbayError) -> ControlSocket.SendOutcome {
    do throws(PatchbayError) {
      return try socket.send(packet.bytes, descriptors: packet.descriptors)
    } catch {
      guard error.systemErrno == EPERM, !packet.descriptors.isEmpty else { throw error }
      return try socket.send(packet.bytes)
    }
  }

  static func checkSize(_ packet: [UInt8]) throws(PatchbayError) {
    guard packet.count <= Frame.byteLimit else {
      throw PatchbayError(
        .limitReached,
        "A request has \(packet.count) bytes; a control message takes \(Frame.byteLimit).")
    }
  }

  // MARK: Receiving

  /// Whether the broker has hung up. Does not block; takes what has arrived if nobody else does.
  func checkAlive() throws(PatchbayError) {
    try checkNotFailed()
    _ = try takeArrived()
    trySendOwed()
  }

  func checkNotFailed() throws(PatchbayError) {
    try state.withLock { (state) throws(PatchbayError) in
      if let failure = state.failure { throw failure }
    }
  }

  /// Takes what has arrived. A broker that hangs up says why before it does: what it said may be
  /// among it.
  /// - Returns: false when another thread reads.
  /// - Throws: what the broker said.
  func takeArrived() throws(PatchbayError) -> Bool {
    guard takeReaderRole() else { return false }
    defer { passReaderRole() }
    while try receiveOne() {}
    return true
  }

  func takeReaderRole() -> Bool {
    state.withLock { state in
      guard !state.hasReader else { return false }
      state.hasReader = true
      return true
    }
  }

  func passReaderRole() {
    let next = state.withLock { state in
      state.hasReader = false
      return state.nextReader
    }
    wake(next)
  }

  /// Who is to read when nobody does.
  enum NextReader {
    case courier
    case thread(PendingCall)
  }

  func wake(_ next: NextReader?) {
    switch next {
    case .courier: Courier.shared.raise()
    case .thread(let call): call.wake()
    case nil: break
    }
  }

  /// Takes one packet and hands it on; false when there is none.
  func receiveOne() throws(PatchbayError) -> Bool {
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

  private var hungUp: PatchbayError {
    PatchbayError(.noBroker, "The broker on \(path) has ended the connection.")
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
    let (recipient, lateImport) = state.withLock { state in
      let recipient = state.takeCall(frame.request)
      // Under the same lock, so a call that is no longer pending has its outcome.
      if case .thread(let call) = recipient { call.outcome.withLock { $0 = .success(delivery) } }
      return (recipient, state.lateImports.removeValue(forKey: frame.request))
    }
    switch recipient {
    case .thread(let call): call.wake()
    case .task(let call, _): call.awaited.finish(.success(delivery))
    case .nobody, nil: giveBack(reply, lateImport)
    }
  }

  /// A grant whose caller has gone. Sent after the reader's role is passed on: a reader that waited
  /// until it can send would read nothing.
  /// - Parameter lateImport: the key, when a file was to be imported.
  private func giveBack(_ reply: Reply, _ lateImport: BlobKey?) {
    switch reply {
    case .opened(let grant): owe(.close(grant.blob))
    case .created(let grant):
      let generation = grant.blob.generation
      // Nobody has looked whether its file is still what it was.
      owe(
        lateImport.map { .remove(RemoveRequest(key: $0, generation: generation)) }
          ?? .abandon(grant.blob))
    case .joined(let grant): owe(.leave(grant.blob))
    case .claimed(let grant): owe(RangeClaim.release(grant))
    default: break
    }
  }

  // MARK: The end

  /// Ends the connection for everybody, once; the error that now holds.
  func fail(with error: PatchbayError) -> PatchbayError {
    let (calls, failure) = state.withLock { state in
      let failure = state.failure ?? error
      state.failure = failure
      state.outbox = Outbox()
      state.lateImports = [:]
      state.taskCount = 0
      defer { state.calls = [:] }
      return (Array(state.calls.values), failure)
    }
    // The broker must learn it, too: blobs of a client that can say nothing more are abandoned.
    socket.hangUp()
    for recipient in calls {
      switch recipient {
      case .thread(let call):
        call.outcome.withLock { $0 = .failure(failure) }
        call.wake()
      case .task(let call, _): call.awaited.finish(.failure(failure))
      case .nobody: break
      }
    }
    return failure
  }
}

extension Connection.State {
  /// Takes a call out of those that wait.
  mutating func takeCall(_ number: UInt64) -> Connection.Recipient? {
    let recipient = calls.removeValue(forKey: number)
    switch recipient {
    case .task, .nobody: taskCount -= 1
    case .thread, nil: break
    }
    return recipient
  }

  /// The courier while tasks wait, else some thread that does; nil when somebody reads.
  var nextReader: Connection.NextReader? {
    guard !hasReader else { return nil }
    if taskCount > 0 { return .courier }
    guard case .thread(let call) = calls.values.first else { return nil }
    return .thread(call)
  }
}

extension Request {
  /// Whether the broker may keep it until something happens: it is told when nobody waits any more.
  var mayWaitLong: Bool {
    switch self {
    case .open(let open): open.waits
    case .create, .createWith, .grow: true
    default: false
    }
  }

  /// The key when a file is to be imported.
  var importKey: BlobKey? {
    guard case .import(let request) = self else { return nil }
    return request.key
  }
}
