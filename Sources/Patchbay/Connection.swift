// One control connection, shared by all threads and tasks of a client. Every call sends one packet
// and waits for the reply with its number. There is no thread behind it while only threads call: of
// those that wait, one holds the reader's role, takes packets off the socket and hands each to whom
// it belongs; when its own reply has come, or its deadline, it passes the role on. While tasks wait
// the courier, one thread for all connections of the process, takes the role when it is free.
//
// A reply that comes too late for its caller may have granted something; it is given back at once.
//
// A broker that ends says so before it hangs up. One that hangs up without a word has been killed, and
// another one may take its place: until then the connection is interrupted. Calls go on waiting, with
// what they have asked, to be asked again under the same numbers; nothing is sent. What nobody waits for
// is dropped: `Attachments` says what the client still has. `Reconnection` finds the next broker.
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

  /// A request without an answer.
  struct Pending {
    var recipient: Recipient
    let request: Request
    /// As it leaves, and as it leaves again; nil once nobody waits for the answer.
    var packet: Packet?
    /// Whether a broker may have carried it out.
    var wasSent = false
    /// Whether one that is gone may have, and another was asked again.
    var isRepeated = false
  }

  /// Whether there is a broker.
  enum Phase {
    case connected
    /// There was one, and another one is waited for.
    case interrupted
    /// There is another one, which is told what this client has; nothing else is sent to it yet.
    case reattaching
  }

  struct State {
    /// What leads to the broker, or led to the one before.
    var link: Link
    var phase = Phase.connected
    /// Grows whenever a broker is lost and whenever another one is found.
    var life = 0
    /// When the broker was lost.
    var interruptedAt = MonotonicTime(nanoseconds: 0)
    /// What comes back when its broker does; nil while the broker knows nobody here.
    weak var session: Session?
    var attachments = Attachments()
    var nextNumber: UInt64 = 1
    var calls: [UInt64: Pending] = [:]
    /// Bytes of requests that may have to be sent again.
    var callByteCount = 0
    /// How many of the calls are for the courier to read: all but those of threads.
    var taskCount = 0
    var hasReader = false
    var failure: PatchbayError?
    /// Whether it has ended because the broker hung up without a word, and no other one was waited for.
    var wentSilently = false
    /// What the broker is still to be told: what nobody waits for, as ends of handles and grants
    /// that came too late, and requests of tasks. Sent before anything else.
    var outbox = Outbox()
    /// Imports, and questions for something to fetch, that nobody waits for any more, until the broker
    /// answers them.
    var late: [UInt64: Request] = [:]
    /// Joins that nobody waits for any more, and the leaves that give back what they grant, until a
    /// broker answers them. One that dies may have made this client a publisher, whom nobody names to the
    /// next: that one would take it for a publisher that does not come back, and fail the blob. So
    /// the next one is asked again.
    var unsettled: [UInt64: Packet] = [:]
    var attendance = Attendance()

    init(_ link: Link) { self.link = link }

    mutating func takeNumber() -> UInt64 {
      defer { nextNumber += 1 }
      return nextNumber
    }

    /// Nil while there is no broker to talk to.
    var usableLink: Link? { phase == .connected ? link : nil }
  }

  let patience = SpinPatience()
  let path: String
  let state: Mutex<State>
  /// Held while packets are put on the socket, so that they go in order, and while another broker is
  /// taken for the one before.
  let sending = Mutex(())

  init(_ socket: consuming ControlSocket, path: String) {
    state = Mutex(State(Link(socket)))
    self.path = path
  }

  deinit { Courier.shared.unwatch(state.withLock { $0.link }) }

  /// Calls without a reply, those that were given up and may yet be answered included.
  var pendingCount: Int { state.withLock { $0.calls.count } }

  // MARK: Sending

  /// Sends a request whose reply nobody waits for. Never blocks and never throws: a broken
  /// connection has given back everything already. What a broker does not take now is sent by the
  /// courier, or with whatever follows.
  func post(_ request: Request) {
    state.withLock { state in
      guard state.failure == nil else { return }
      state.attachments.asked(request)
      state.owe(request)
    }
    trySendOwed()
    attendIfOwing()
  }

  /// Sends what is owed as far as the broker takes it.
  func trySendOwed() {
    guard state.withLock({ $0.phase == .connected && !$0.outbox.isEmpty }) else { return }
    // What goes wrong ends the connection for all; who calls next hears of it.
    _ = try? trySend(nil)
  }

  /// Sends what is owed, then a packet, as far as that goes without waiting.
  /// - Parameter own: the packet, and the life of the connection in which its call was made: in a later
  ///   one it is not sent here, but with all calls that are repeated.
  /// - Returns: whether everything has been sent, or will be by others.
  /// - Throws: why the connection has ended.
  func trySend(_ own: (packet: Packet, life: Int)?) throws(PatchbayError) -> Bool {
    while true {
      switch try putOnSocket(own) {
      case .all: return true
      case .some:
        // Replies that nobody waits for are taken off the socket here, or a client that only posts
        // would look to the broker like one that never reads.
        _ = try takeArrived()
      case .full:
        _ = try takeArrived()
        return false
      case .hungUp(let link):
        // Whoever reads finds out why, and tells all that wait.
        if try takeArrived() { try lose(link) }
        return true
      }
    }
  }

  private enum Sent {
    case all, some, full
    case hungUp(Link)
  }
  /// After so many packets replies are looked for.
  private static let packetsAtOnce = 32

  private func putOnSocket(
    _ own: (packet: Packet, life: Int)?
  ) throws(PatchbayError) -> Sent {
    try sending.withLock { (_) throws(PatchbayError) in
      var count = 0
      while true {
        let (link, next, life) = state.withLock { ($0.usableLink, $0.outbox.next, $0.life) }
        guard let link else { return .all }
        guard count < Self.packetsAtOnce else { return .some }
        let isOwed = next != nil
        let wanted = own.flatMap { $0.life == life ? $0.packet : nil }
        guard let packet = next ?? wanted else { return .all }
        switch try put(packet, link) {
        case .wouldBlock: return .full
        case .hungUp: return .hungUp(link)
        case .sent: state.withLock { $0.noteSent(packet, over: link, isOwed: isOwed) }
        }
        if !isOwed { return .all }
        count += 1
      }
    }
  }

  /// To a broker that takes no descriptors of this user the system lets nobody send one. Without it
  /// the request is refused in the broker's words.
  private func put(
    _ packet: Packet, _ link: Link
  ) throws(PatchbayError) -> ControlSocket.SendOutcome {
    do throws(PatchbayError) {
      return try link.socket.send(packet.bytes, descriptors: packet.descriptors)
    } catch {
      guard error.systemErrno == EPERM, !packet.descriptors.isEmpty else { throw error }
      return try link.socket.send(packet.bytes)
    }
  }

  /// A broker hangs up on what it cannot read, and all that share the connection would pay for what one
  /// caller has passed: what a caller is free to choose is read here before it is sent.
  static func check(_ packet: [UInt8], of request: Request) throws(PatchbayError) {
    guard packet.count <= Frame.byteLimit else {
      throw PatchbayError(
        .limitReached,
        "A request has \(packet.count) bytes; a control message takes \(Frame.byteLimit).")
    }
    guard request.isFreelyChosen else { return }
    do throws(PatchbayError) {
      _ = try Frame(parsing: packet).decodeRequest(packet)
    } catch {
      throw PatchbayError(
        .protocolViolation,
        "The request \(request.kind) was not sent, as no broker would take it. \(error.message)")
    }
  }

  // MARK: Receiving

  /// Whether the connection has ended for good; while another broker is waited for it has not. Does not
  /// block; takes what has arrived if nobody else does.
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
    while try receiveOne() == .packet {}
    return true
  }

  func takeReaderRole() -> Bool {
    state.withLock { state in
      guard !state.hasReader, state.phase == .connected else { return false }
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

  enum Received {
    case packet, nothing
    /// There is no broker to receive from at the moment.
    case interrupted
  }

  /// Takes one packet and hands it on.
  func receiveOne() throws(PatchbayError) -> Received {
    guard let link = state.withLock({ $0.usableLink }) else {
      try checkNotFailed()
      return .interrupted
    }
    do throws(PatchbayError) {
      switch try link.socket.receive(
        byteLimit: Frame.byteLimit, descriptorLimit: Frame.descriptorLimit)
      {
      case .wouldBlock: return .nothing
      case .packet(let packet, let descriptors):
        try deliver(packet, descriptors, over: link)
        return .packet
      case .hungUp: break
      }
    } catch {
      throw fail(with: error)
    }
    try lose(link)
    return .interrupted
  }

  private func deliver(
    _ packet: [UInt8], _ descriptors: [Int32], over link: Link
  ) throws(PatchbayError) {
    // From here on the delivery owns the descriptors, whatever is thrown.
    let holder = Delivery(.pong, descriptors)
    let frame = try Frame(parsing: packet)
    let reply = try frame.decodeReply(packet)
    guard frame.request != 0 else {
      // Number 0 belongs to no request: the broker says why it will hang up.
      guard case .failure(let error) = reply else { return }
      throw error
    }
    let (recipient, delivery) = state.withLock { state in
      let pending = state.takeCall(frame.request)
      let answer = pending?.answer(reply) ?? reply
      let delivery = Delivery(
        answer, holder.releaseDescriptors(), to: frame.request, life: state.life)
      // Under the same lock, so a call that is no longer pending has its outcome, and what it grants
      // stands in the mirror.
      switch pending?.recipient {
      case .thread(let call): call.outcome.withLock { $0 = .success(delivery) }
      case .nobody, nil:
        state.giveBack(reply, to: frame.request, over: link)
        return (Recipient?.none, delivery)
      case .task: break
      }
      if let pending { state.attachments.answered(pending.request, frame.request, by: answer) }
      return (pending?.recipient, delivery)
    }
    switch recipient {
    case .thread(let call): call.wake()
    case .task(let call, _): call.awaited.finish(.success(delivery))
    case .nobody, nil: break
    }
  }

  // MARK: The end

  /// Ends the connection for everybody, once; the error that now holds.
  @discardableResult
  func fail(with error: PatchbayError) -> PatchbayError {
    tell(state.withLock { $0.end(with: error) })
  }

  /// A connection that has ended: what is left to be done without the lock.
  struct End {
    let failure: PatchbayError
    /// Calls that are still to hear of it.
    let calls: [Pending]
    let link: Link
  }

  /// Tells everybody that waits; the error that they are told.
  @discardableResult
  func tell(_ end: End) -> PatchbayError {
    // The broker must learn it, too: blobs of a client that can say nothing more are abandoned.
    end.link.socket.hangUp()
    for pending in end.calls {
      switch pending.recipient {
      case .thread(let call):
        call.outcome.withLock { $0 = .failure(end.failure) }
        call.wake()
      case .task(let call, _): call.awaited.finish(.failure(end.failure))
      case .nobody: break
      }
    }
    return end.failure
  }
}

extension Connection.State {
  /// Takes a call out of those that wait.
  mutating func takeCall(_ number: UInt64) -> Connection.Pending? {
    guard let pending = calls.removeValue(forKey: number) else { return nil }
    callByteCount -= pending.packet?.bytes.count ?? 0
    switch pending.recipient {
    case .task, .nobody: taskCount -= 1
    case .thread: break
    }
    return pending
  }

  /// Takes in that nobody waits for an answer any more which may yet come.
  mutating func noteLate(_ number: UInt64, _ pending: Connection.Pending) {
    switch pending.request {
    case .join, .standBy: unsettled[number] = pending.packet
    default: break
    }
    // What it would have granted the next broker takes back by itself.
    guard phase == .connected else { return }
    switch pending.request {
    case .import, .nextDemand: late[number] = pending.request
    default: break
    }
  }

  /// Takes in what is to be said to the broker; the caller sends it. The mirror stays as it is.
  /// - Returns: nil when there is nobody to say it to: the next broker will not know of what is ended here.
  @discardableResult
  mutating func owe(_ request: Request) -> Packet? {
    guard failure == nil, phase != .interrupted else { return nil }
    let number = takeNumber()
    let packet = Packet(Frame.encode(request, request: number), number: number)
    outbox.add(packet)
    return packet
  }

  /// A grant whose caller has gone; it is not in the mirror. Sent after the reader's role is passed on: a
  /// reader that waited until it can send would read nothing.
  mutating func giveBack(_ reply: Reply, to number: UInt64, over link: Link) {
    let question = late.removeValue(forKey: number)
    // Another broker takes back by itself what this one has granted and nobody names.
    guard usableLink === link else { return }
    unsettled[number] = nil
    switch reply {
    case .opened(let grant): owe(.close(CloseRequest(blob: grant.blob, opened: number)))
    case .created(let grant):
      let generation = grant.blob.generation
      // Nobody has looked whether its file is still what it was.
      owe(
        question?.importKey.map { .remove(RemoveRequest(key: $0, generation: generation)) }
          ?? .abandon(grant.blob))
      // Whoever opens or creates has a reader of it besides.
      owe(.close(CloseRequest(blob: grant.reader, opened: number)))
    case .joined(let grant):
      let leave = owe(.leave(grant.blob))
      if let leave { unsettled[leave.number] = leave }
    case .claimed(let grant): owe(RangeClaim.release(grant))
    case .demanded(let range):
      guard case .nextDemand(let blob) = question else { return }
      owe(.settleDemand(SettleDemandRequest(blob: blob, range: range, outcome: .returned)))
    default: break
    }
  }

  /// Ends the connection, once; the caller tells.
  mutating func end(with error: PatchbayError) -> Connection.End {
    let failure = self.failure ?? error
    let end = Connection.End(failure: failure, calls: Array(calls.values), link: link)
    self.failure = failure
    outbox = Outbox()
    late = [:]
    unsettled = [:]
    attachments = Attachments()
    taskCount = 0
    callByteCount = 0
    calls = [:]
    return end
  }

  /// Takes in that a packet has been sent.
  mutating func noteSent(_ packet: Packet, over link: Link, isOwed: Bool) {
    calls[packet.number]?.wasSent = true
    // When the broker was lost meanwhile nothing is owed of what was.
    if isOwed, usableLink === link, !outbox.isEmpty { outbox.removeFirst() }
  }

  /// The courier while tasks wait, else some thread that does; nil when somebody reads.
  var nextReader: Connection.NextReader? {
    guard !hasReader, phase == .connected else { return nil }
    if taskCount > 0 { return .courier }
    guard case .thread(let call) = calls.values.first?.recipient else { return nil }
    return .thread(call)
  }
}

extension Request {
  /// Whether the broker may keep it until something happens: it is told when nobody waits any more.
  var mayWaitLong: Bool {
    switch self {
    case .open(let open): open.waits
    case .create, .createWith, .openOrCreate, .standBy, .demand, .nextDemand, .grow: true
    default: false
    }
  }

  /// Whether it holds texts, lists or numbers just as a caller gave them.
  fileprivate var isFreelyChosen: Bool {
    switch self {
    case .create, .createWith, .openOrCreate, .import, .list: true
    default: false
    }
  }

  /// The key when a file is to be imported.
  var importKey: BlobKey? {
    guard case .import(let request) = self else { return nil }
    return request.key
  }
}
