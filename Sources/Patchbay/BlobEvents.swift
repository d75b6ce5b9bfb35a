// A watch: a connection of its own, so that a watcher that is slow holds up nothing but itself. What
// it has not taken waits in the socket; behind that the broker keeps no queue, only the place.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

/// What becomes of blobs, as it happens.
///
/// Of several changes of a blob between two calls the watcher may be told the last one alone, never
/// an earlier one last. Nothing is lost by waiting long between calls: who is too far behind gets a
/// gap, and is then told of everything that exists. Any thread may call any method; of several
/// that call `next` each event goes to one.
public final class BlobEvents: Sendable {
  private struct State {
    /// Events that have come, the next one last, each with the place behind it.
    var ready: [(event: BlobEvent, position: EventPosition)] = []
    var position = EventPosition.start
    var hasStarted = false
    var failure: PatchbayError?
  }

  private let path: String
  let socket: ControlSocket
  private let state = Mutex(State())

  private static let helloNumber: UInt64 = 1
  private static let watchNumber: UInt64 = 2

  init(_ path: String, _ socket: consuming ControlSocket) {
    self.path = path
    self.socket = socket
  }

  /// Connects, and waits until the watch stands.
  convenience init(
    _ path: SocketPath, name: String, _ request: WatchRequest, deadline: Deadline
  ) throws(PatchbayError) {
    let until = MonotonicTime(deadline)
    self.init(path.path, try Connection.connectedSocket(to: path, deadline: deadline))
    try ask(name, request)
    while !hasStarted { try receive(until: until) }
  }

  /// Says hello and asks for the watch: two packets, for which a new connection has room.
  func ask(_ name: String, _ request: WatchRequest) throws(PatchbayError) {
    let version = Frame.protocolVersion
    let hello = Hello(oldestVersion: version, newestVersion: version, token: .none, name: name)
    let packets = [
      Frame.encode(.hello(hello), request: Self.helloNumber),
      Frame.encode(.watch(request), request: Self.watchNumber),
    ]
    for packet in packets {
      switch try socket.send(packet) {
      // What the broker said before it hung up is read with the answer.
      case .sent, .hungUp: break
      case .wouldBlock:
        throw PatchbayError(.limitReached, "The system has no room to ask the broker on \(path).")
      }
    }
  }

  /// Whether the broker has said where the watch stands.
  var hasStarted: Bool { state.withLock { $0.hasStarted } }

  /// Where to go on behind the last event that was taken: for `events(prefix:after:)`, now or
  /// later, by this process or another.
  public var position: EventPosition { state.withLock { $0.position } }

  /// The next event. Blocks until there is one.
  /// - Throws: `timedOut`, after which the watch goes on; `closed` after `close`; `noBroker` when the
  ///   broker has ended, `limitReached` when it refuses the watch.
  @available(*, noasync)
  public func next(deadline: Deadline = .never) throws(PatchbayError) -> BlobEvent {
    let until = MonotonicTime(deadline)
    while true {
      if let event = try takeReady() { return event }
      try receive(until: until)
    }
  }

  /// The next event if there is one already. Does not block.
  /// - Throws: as `next`, but not `timedOut`.
  public func nextIfReady() throws(PatchbayError) -> BlobEvent? {
    while true {
      if let event = try takeReady() { return event }
      guard try receiveOne() else { return nil }
    }
  }

  /// Ends the watch; calls that wait end with `closed`. Does nothing the second time.
  public func close() {
    state.withLock { state in
      state.failure = PatchbayError(.closed, "This watch was closed.")
      state.ready = []
    }
    socket.hangUp()
  }

  func takeReady() throws(PatchbayError) -> BlobEvent? {
    try state.withLock { (state) throws(PatchbayError) in
      guard let next = state.ready.popLast() else {
        if let failure = state.failure { throw failure }
        return nil
      }
      state.position = next.position
      return next.event
    }
  }

  var timedOut: PatchbayError {
    PatchbayError(.timedOut, "Nothing happened to the watched blobs before the deadline.")
  }

  /// Takes one packet, waiting for it if need be.
  private func receive(until: MonotonicTime) throws(PatchbayError) {
    while try !receiveOne() {
      guard try socket.waitReadable(until: until) else { throw timedOut }
    }
  }

  /// Takes one packet if there is one. Packets are taken under the lock, or two threads could mix
  /// up their order.
  func receiveOne() throws(PatchbayError) -> Bool {
    try state.withLock { (state) throws(PatchbayError) in
      if let failure = state.failure { throw failure }
      do throws(PatchbayError) {
        switch try socket.receive(
          byteLimit: Frame.byteLimit, descriptorLimit: Frame.descriptorLimit)
        {
        case .wouldBlock: return false
        case .hungUp:
          throw PatchbayError(.noBroker, "The broker on \(path) has ended the watch.")
        case .packet(let packet, let descriptors):
          // The table of views that comes with the welcome is of no use to a watcher.
          for descriptor in descriptors { _ = Descriptor(owning: descriptor) }
          try Self.take(packet, &state)
          return true
        }
      } catch {
        state.failure = error
        throw error
      }
    }
  }

  private static func take(_ packet: [UInt8], _ state: inout State) throws(PatchbayError) {
    switch try Frame(parsing: packet).decodeReply(packet) {
    case .welcome: return
    case .events(let page):
      var events = page.changes.map(BlobEvent.change)
      // Who leaves right behind a gap knows nothing yet, and is told all again.
      let gap = EventPosition(instance: page.position.instance, number: 0)
      if page.hasGap { events.insert(.gap(gap), at: 0) }
      state.hasStarted = true
      state.ready = ready(events, page) + state.ready
      if state.ready.isEmpty { state.position = page.position }
    case .failure(let error): throw error
    case let reply: throw Session.unexpected(reply)
    }
  }

  /// The events of a page, the first one last; behind the last event stands the page's place.
  private static func ready(
    _ events: [BlobEvent], _ page: EventPage
  ) -> [(event: BlobEvent, position: EventPosition)] {
    events.enumerated().reversed().map { index, event in
      (event, index == events.count - 1 ? page.position : event.position)
    }
  }
}

extension PatchbayClient {
  /// Watches what becomes of blobs: created, written, sealed, failed, gone. Blocks until the watch
  /// stands; what happens from then on is told. It has a connection of its own.
  /// - Parameters:
  ///   - prefix: only keys that begin with these bytes.
  ///   - after: goes on behind this place, so that nothing is missed that still matters; `.start`:
  ///     tells all that exists first; nil: from now.
  ///   - progress: whether to tell how far open blobs are, at most ten times a second each.
  ///   - deadline: when to give up.
  /// - Throws: `noBroker`, `limitReached`, `timedOut`.
  @available(*, noasync)
  public func events(
    prefix: [UInt8] = [], after: EventPosition? = nil, progress: Bool = true,
    deadline: Deadline = .standard
  ) throws(PatchbayError) -> BlobEvents {
    try BlobEvents(
      session.path, name: Self.watcherName,
      Self.watchRequest(prefix, after, progress), deadline: deadline)
  }

  static var watcherName: String { programName.cut(toUTF8Count: WireLimit.name) }

  static func watchRequest(
    _ prefix: [UInt8], _ after: EventPosition?, _ progress: Bool
  ) throws(PatchbayError) -> WatchRequest {
    guard prefix.count <= BlobKey.byteLimit else {
      throw PatchbayError(
        .invalidKey,
        "A prefix of \(prefix.count) bytes was to be watched; keys have at most "
          + "\(BlobKey.byteLimit).")
    }
    return WatchRequest(prefix: prefix, after: after, wantsProgress: progress)
  }
}
