// One client's connection. What cannot be sent at once waits in a queue of bounded size; a client
// that lets it overflow does not read its replies and is let go. A message that waits names the
// descriptors that go with it and holds none: they are opened when it can leave. Nothing here blocks.

import Glibc
import PatchbayLedger
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

/// Descriptors on their way to a client: closed with this object, sent or not, but for lent ones.
final class OwnedDescriptors {
  private(set) var rawValues: [Int32] = []

  private var owned: [Int32] = []

  func add(_ descriptor: consuming Descriptor) {
    rawValues.append(descriptor.release())
    owned.append(rawValues[rawValues.count - 1])
  }

  /// Sends one along that stays somebody else's.
  func lend(_ rawValue: Int32) { rawValues.append(rawValue) }

  deinit { for rawValue in owned { _ = Glibc.close(rawValue) } }
}

/// A message with the descriptors it will need.
struct Outgoing {
  var packet: [UInt8]
  var sources: [DescriptorSource]
  let number: UInt64

  init(_ reply: Reply, _ sources: [DescriptorSource] = [], number: UInt64) {
    self.init(packet: Frame.encode(reply, request: number), sources, number: number)
  }

  init(packet: [UInt8], _ sources: [DescriptorSource], number: UInt64) {
    self.packet = packet
    self.sources = sources
    self.number = number
  }
}

/// Bytes that connections queue beyond their own share, all together.
final class SharedQueueRoom {
  static let byteLimit = 256 * 1024 * 1024
  private var takenByteCount = 0

  /// False: there is not so much left.
  func take(_ byteCount: Int) -> Bool {
    guard takenByteCount + byteCount <= Self.byteLimit else { return false }
    takenByteCount += byteCount
    return true
  }

  func giveBack(_ byteCount: Int) { takenByteCount -= byteCount }
}

final class Connection {
  typealias Opener = ([DescriptorSource]) throws(PatchbayError) -> OwnedDescriptors

  enum SendOutcome {
    case sent
    case queued
    /// The peer is gone, or has not read for so long that the queue is full.
    case lost
  }

  struct FlushOutcome {
    var isLost = false
    /// Requests whose grant could not be had: they were answered with a failure.
    var undelivered: [UInt64] = []
  }

  /// Bytes that may wait for a client to read, each message with a cost of its own. Every connection
  /// has its own share; beyond that it takes of what is there for all. The most is what the waiting
  /// opens of one connection can be answered with at once, and something over.
  static let ownQueueByteLimit = 4 * 1024 * 1024
  static let queueByteLimit = 4096 * (Frame.inlineByteLimit + 1024)
  private static let packetCost = 256
  /// Packets of the queue that are sent in one turn.
  static let packetsPerFlush = 64
  /// How long a connection that is to end may take to send what is queued.
  static let lingerLimit = Duration.seconds(1)

  let session: SessionID
  let peer: Peer
  private let socket: ControlSocket
  private let sharedRoom: SharedQueueRoom
  private var queue: [(outgoing: Outgoing, cost: Int)] = []
  private var sentOfQueue = 0
  private var queuedByteCount = 0
  /// Nil until the connection is to end: no request is taken any more.
  private(set) var lingersUntil: MonotonicTime?
  /// Whether the client can still touch a ring after the connection.
  var holdsRing = false
  /// It was gone before anybody could watch it.
  var isProcessGone = false
  /// The client's table, for publishers that wait for it.
  var table: Descriptor?
  var holdsTable: Bool { table != nil }
  /// Events were queued, and the queue has not been empty since.
  var isCongested = false

  init(
    _ session: SessionID, _ peer: Peer, _ socket: consuming ControlSocket,
    sharedRoom: SharedQueueRoom
  ) {
    self.session = session
    self.peer = peer
    self.socket = socket
    self.sharedRoom = sharedRoom
  }

  /// Nil before the client has greeted.
  func readOnlyTable() throws(PatchbayError) -> Descriptor? {
    switch table {
    case .some(let table): try SharedObject.readOnlyCopy(of: table)
    case .none: nil
    }
  }

  /// Whether its client announces a view of a ring. A table that cannot be read counts as a view.
  func views(_ ringID: UInt64) -> Bool {
    switch table {
    case .some(let table): (try? ClientTable.announces(ringID, in: table)) ?? true
    case .none: false
    }
  }

  /// How far the client says it has read of a window: a hint.
  func position(_ entry: Int, of generation: Generation) -> Int? {
    switch table {
    case .some(let table): (try? ClientTable.position(entry, of: generation, in: table)) ?? nil
    case .none: nil
    }
  }

  deinit { sharedRoom.giveBack(Self.beyondOwnShare(queuedByteCount)) }

  var rawDescriptor: Int32 { socket.descriptor.rawValue }
  var source: PollSource { .connection(session.rawValue) }
  var isEnding: Bool { lingersUntil != nil }
  var hasQueue: Bool { sentOfQueue < queue.count }

  /// - Parameter takesOne: whether a descriptor may come in with a packet that begins so. For any other
  ///   the kernel installs none, however many a client sends.
  func receive(
    _ takesOne: ([UInt8]) -> Bool = { _ in false }
  ) throws(PatchbayError) -> ControlSocket.Arrival {
    try socket.receive(
      byteLimit: Frame.byteLimit, headByteCount: Frame.headerByteCount, takesOne: takesOne)
  }

  /// Sends a message now, or as soon as the client reads.
  /// - Throws: when its descriptors cannot be had, or the system refuses it; nothing of it has left
  ///   then.
  func send(_ outgoing: Outgoing, _ open: Opener) throws(PatchbayError) -> SendOutcome {
    if !hasQueue {
      switch try put(outgoing, open) {
      case .sent: return .sent
      case .hungUp: return .lost
      case .wouldBlock: break
      }
    }
    return enqueue(outgoing) ? .queued : .lost
  }

  private func put(
    _ outgoing: Outgoing, _ open: Opener
  ) throws(PatchbayError) -> ControlSocket.SendOutcome {
    guard !outgoing.sources.isEmpty else { return try socket.send(outgoing.packet) }
    let descriptors = try open(outgoing.sources)
    defer { withExtendedLifetime(descriptors) {} }
    return try socket.send(outgoing.packet, descriptors: descriptors.rawValues)
  }

  private static func beyondOwnShare(_ byteCount: Int) -> Int {
    max(0, byteCount - ownQueueByteLimit)
  }

  private func enqueue(_ outgoing: Outgoing) -> Bool {
    let cost = outgoing.packet.count + Self.packetCost
    let sum = queuedByteCount + cost
    let more = Self.beyondOwnShare(sum) - Self.beyondOwnShare(queuedByteCount)
    guard sum <= Self.queueByteLimit, sharedRoom.take(more) else { return false }
    queue.append((outgoing, cost))
    queuedByteCount = sum
    return true
  }

  private func dropFirst() {
    let rest = queuedByteCount - queue[sentOfQueue].cost
    sharedRoom.giveBack(Self.beyondOwnShare(queuedByteCount) - Self.beyondOwnShare(rest))
    queuedByteCount = rest
    queue[sentOfQueue] = (Outgoing(packet: [], [], number: 0), 0)
    sentOfQueue += 1
    guard sentOfQueue == queue.count || sentOfQueue > 1024 && sentOfQueue * 2 > queue.count
    else { return }
    queue.removeFirst(sentOfQueue)
    sentOfQueue = 0
  }

  /// Sends what the client takes of the queue, at most so many messages. A grant whose descriptors
  /// cannot be had any more becomes a failure.
  func flush(atMost limit: Int = packetsPerFlush, _ open: Opener) -> FlushOutcome {
    var outcome = FlushOutcome()
    var sentCount = 0
    while hasQueue, sentCount < limit {
      let outgoing = queue[sentOfQueue].outgoing
      do throws(PatchbayError) {
        switch try put(outgoing, open) {
        case .sent:
          dropFirst()
          sentCount += 1
        case .wouldBlock: return outcome
        case .hungUp:
          outcome.isLost = true
          return outcome
        }
      } catch {
        guard !outgoing.sources.isEmpty else {
          outcome.isLost = true
          return outcome
        }
        queue[sentOfQueue].outgoing = Outgoing(
          .failure(error.inBrokerWords), number: outgoing.number)
        outcome.undelivered.append(outgoing.number)
      }
    }
    return outcome
  }

  /// No more requests; what is queued may leave for a while.
  func beginEnding() {
    if lingersUntil == nil { lingersUntil = MonotonicTime.now.advanced(by: Self.lingerLimit) }
  }

  /// Throws away what has arrived: unread packets at a close would cost the client the last reply.
  /// False: the client has hung up.
  func discardInput(atMost count: Int) -> Bool {
    for _ in 0..<count {
      switch try? receive() {
      case .wouldBlock: return true
      case .hungUp: return false
      case .packet, nil: continue
      }
    }
    return true
  }
}
