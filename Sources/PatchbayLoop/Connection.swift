// One client's connection. What cannot be sent at once waits in a queue of bounded size and count,
// with the descriptors that belong to it; a client that lets it overflow does not read its replies
// and is let go. Nothing here blocks.

import Glibc
import PatchbayLedger
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

/// Descriptors on their way to a client: closed when the last packet that needs them is gone,
/// whichever way it went.
final class OwnedDescriptors {
  private(set) var rawValues: [Int32] = []

  func add(_ descriptor: consuming Descriptor) { rawValues.append(descriptor.release()) }

  deinit { for rawValue in rawValues { _ = Glibc.close(rawValue) } }
}

final class Connection {
  enum SendOutcome {
    case sent
    case queued
    /// The peer is gone, or has not read for so long that the queue is full.
    case lost
  }

  /// Bounds of what waits for a client to read.
  static let queueCountLimit = 256
  static let queueByteLimit = 4 * 1024 * 1024
  /// How long a connection that is to end may take to send what is queued.
  static let lingerLimit = Duration.seconds(1)

  let session: SessionID
  let peer: Peer
  private let socket: ControlSocket
  private var queue: [(packet: [UInt8], descriptors: OwnedDescriptors?)] = []
  private var sentOfQueue = 0
  private var queuedByteCount = 0
  /// Nil until the connection is to end: no request is taken any more.
  private(set) var lingersUntil: MonotonicTime?
  /// Whether the client can still touch a ring after the connection.
  var holdsRing = false
  var holdsTable = false

  init(_ session: SessionID, _ peer: Peer, _ socket: consuming ControlSocket) {
    self.session = session
    self.peer = peer
    self.socket = socket
  }

  var rawDescriptor: Int32 { socket.descriptor.rawValue }
  var source: PollSource { .connection(session.rawValue) }
  var isEnding: Bool { lingersUntil != nil }
  var hasQueue: Bool { sentOfQueue < queue.count }

  func receive() throws(PatchbayError) -> ControlSocket.Received {
    // Without room for descriptors the kernel installs none, however many a client sends.
    try socket.receive(byteLimit: Frame.byteLimit, descriptorLimit: 0)
  }

  /// Sends a packet now, or as soon as the client reads.
  /// - Throws: when the system refuses the packet; nothing of it has left then.
  func send(
    _ packet: [UInt8], _ descriptors: OwnedDescriptors?
  ) throws(PatchbayError) -> SendOutcome {
    if !hasQueue {
      switch try socket.send(packet, descriptors: descriptors?.rawValues ?? []) {
      case .sent: return .sent
      case .hungUp: return .lost
      case .wouldBlock: break
      }
    }
    guard queue.count - sentOfQueue < Self.queueCountLimit,
      queuedByteCount + packet.count <= Self.queueByteLimit
    else { return .lost }
    queue.append((packet, descriptors))
    queuedByteCount += packet.count
    return .queued
  }

  /// Sends what the client takes of the queue. False: the connection is lost.
  func flush() -> Bool {
    while hasQueue {
      let (packet, descriptors) = queue[sentOfQueue]
      switch try? socket.send(packet, descriptors: descriptors?.rawValues ?? []) {
      case .sent:
        queuedByteCount -= packet.count
        queue[sentOfQueue] = ([], nil)
        sentOfQueue += 1
      case .wouldBlock: return true
      case .hungUp, nil: return false
      }
    }
    queue = []
    sentOfQueue = 0
    return true
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
