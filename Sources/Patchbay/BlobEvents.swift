// A watch: a connection of its own, so that a watcher that is slow holds up nothing but itself. What
// it has not taken waits in the socket; behind that the broker keeps no queue, only the place.
//
// It begins without a broker, and when its broker goes without a word it has none again: whoever waits
// looks for one. The next one tells of a gap, and then of all that exists. Nobody looks while nobody waits;
// nothing is missed by that.

import Glibc
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

/// What becomes of blobs, as it happens.
///
/// Of several changes of a blob between two calls the watcher may be told the last one alone, never
/// an earlier one last. Nothing is lost by waiting long between calls: who is too far behind gets a
/// gap, and is then told of everything that exists. So is who watches while another broker takes the
/// place of one that was killed. Any thread may call any method; of several that call `next` each event
/// goes to one.
public final class BlobEvents: Sendable {
  private struct State {
    /// What leads to the broker that has been asked; nil while there is none.
    var link: Link?
    /// When a broker went, or was not found, since which none has said where the watch stands.
    var lostAt: MonotonicTime?
    /// Why there is no broker.
    var met: PatchbayError?
    /// Events that have come, the next one last, each with the place behind it.
    var ready: [(event: BlobEvent, position: EventPosition)] = []
    var position = EventPosition.start
    /// The place behind the last event that has come.
    var receivedTo = EventPosition.start
    var hasStarted = false
    var failure: PatchbayError?
  }

  private let socketPath: SocketPath
  private let name: String
  private let request: WatchRequest
  private let reconnectLimit: Duration
  private let state = Mutex(State())

  private static let helloNumber: UInt64 = 1
  private static let watchNumber: UInt64 = 2

  /// A watch that is still to be asked for; the caller receives until it has started.
  /// - Throws: why the session has ended.
  init(_ session: Session, _ name: String, _ request: WatchRequest) throws(PatchbayError) {
    try session.connection.checkAlive()
    socketPath = session.path
    reconnectLimit = session.reconnectLimit
    self.name = name
    self.request = request
  }

  private var path: String { socketPath.path }

  /// Says hello and asks for the watch: two packets, for which a new connection has room.
  private func ask(_ link: Link, _ request: WatchRequest) throws(PatchbayError) {
    let version = Frame.protocolVersion
    let hello = Hello(oldestVersion: version, newestVersion: version, token: .none, name: name)
    let packets = [
      Frame.encode(.hello(hello), request: Self.helloNumber),
      Frame.encode(.watch(request), request: Self.watchNumber),
    ]
    for packet in packets {
      switch try link.socket.send(packet) {
      // What the broker said before it hung up is read with the answer.
      case .sent, .hungUp: break
      case .wouldBlock:
        throw PatchbayError(.limitReached, "The system has no room to ask the broker on \(path).")
      }
    }
  }

  /// Whether a broker has said where the watch stands.
  var hasStarted: Bool { state.withLock { $0.hasStarted } }

  /// Where to go on behind the last event that was taken: for `events(prefix:after:)`, now or
  /// later, by this process or another.
  public var position: EventPosition { state.withLock { $0.position } }

  /// The next event. Blocks until there is one.
  /// - Throws: `timedOut`, after which the watch goes on; `closed` after `close`; `noBroker` when the
  ///   broker has ended, or was killed and none has taken its place within the client's
  ///   `reconnectLimit`; `limitReached` when it refuses the watch.
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
      guard try receiveOne() == .packet else { return nil }
    }
  }

  /// Ends the watch; calls that wait end with `closed`. Does nothing the second time.
  public func close() {
    let link = state.withLock { state in
      state.failure = PatchbayError(.closed, "This watch was closed.")
      state.ready = []
      return state.link
    }
    link?.socket.hangUp()
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
    let (hasStarted, met) = state.withLock { ($0.hasStarted, $0.met) }
    guard !hasStarted else {
      return PatchbayError(.timedOut, "Nothing happened to the watched blobs before the deadline.")
    }
    guard let met else {
      return PatchbayError(
        .timedOut,
        "The broker on \(path) was asked for a watch and did not answer before the deadline.")
    }
    return PatchbayError(
      met.code, "No watch could begin before the deadline. \(met.message)",
      systemErrno: met.systemErrno)
  }

  /// Takes one packet, waiting for it if need be, or looks for a broker until there is one.
  fileprivate func receive(until: MonotonicTime) throws(PatchbayError) {
    while true {
      switch try receiveOne() {
      case .packet: return
      case .nothing(let link):
        guard try link.socket.waitReadable(until: until) else { throw timedOut }
      case .lost:
        guard MonotonicTime.now < until else { throw timedOut }
        usleep(UInt32(Self.pause.wholeNanoseconds / 1000))
      }
    }
  }

  /// Between two looks for the next broker.
  static let pause = Duration.milliseconds(10)

  /// What there is to take.
  enum Received: Equatable {
    case packet
    /// Nothing yet: the link to wait at, which this keeps open.
    case nothing(Link)
    /// There is no broker at the moment.
    case lost

    static func == (left: Self, right: Self) -> Bool {
      switch (left, right) {
      case (.packet, .packet), (.lost, .lost): true
      case (.nothing(let one), .nothing(let other)): one === other
      default: false
      }
    }
  }

  /// Takes one packet if there is one; without a broker, looks for one first. Packets are taken under
  /// the lock, or two threads could mix up their order.
  func receiveOne() throws(PatchbayError) -> Received {
    try state.withLock { (state) throws(PatchbayError) in
      if let failure = state.failure { throw failure }
      do throws(PatchbayError) {
        guard let link = try connected(&state) else { return .lost }
        switch try link.socket.receive(
          byteLimit: Frame.byteLimit, descriptorLimit: Frame.descriptorLimit)
        {
        case .wouldBlock: return .nothing(link)
        case .hungUp:
          let end = PatchbayError(.noBroker, "The broker on \(path) has ended the watch.")
          try lose(&state, end)
          return .lost
        case .packet(let packet, let descriptors):
          // The table of views that comes with the welcome is of no use to a watcher.
          for descriptor in descriptors { _ = Descriptor(owning: descriptor) }
          try take(packet, &state)
          return state.link == nil ? .lost : .packet
        }
      } catch {
        state.failure = error
        throw error
      }
    }
  }

  /// What leads to the broker that has been asked; asks the next one, if there is one, to begin or to go
  /// on.
  private func connected(_ state: inout State) throws(PatchbayError) -> Link? {
    if let link = state.link { return link }
    switch try Reconnection.look(for: socketPath) {
    case .found(let link):
      var request = request
      // It numbers what it tells anew, so it tells of a gap, and then everything.
      if state.hasStarted { request.after = state.receivedTo }
      try ask(link, request)
      state.link = link
      state.met = nil
      return link
    case .notYet(let met):
      // A broker whose queue is full is there: it is waited for as long as the caller likes.
      if !state.hasStarted, met.code == .timedOut {
        state.met = met
      } else if !state.hasStarted, let number = met.systemErrno, Reconnection.isShortage(number) {
        throw met
      } else {
        try lose(&state, met)
      }
      return nil
    }
  }

  /// There is no broker that tells.
  /// - Throws: when none has for so long that nobody waits for one any more.
  private func lose(_ state: inout State, _ met: PatchbayError) throws(PatchbayError) {
    guard reconnectLimit > .zero else { throw met }
    // A broker that goes before it has told anything does not make the search a new one.
    let lostAt = state.lostAt ?? .now
    state.link = nil
    state.lostAt = lostAt
    state.met = met
    guard MonotonicTime.now < lostAt.advanced(by: reconnectLimit) else {
      throw Reconnection.neverCame(path, reconnectLimit, met)
    }
  }

  private func take(_ packet: [UInt8], _ state: inout State) throws(PatchbayError) {
    let frame = try Frame(parsing: packet)
    switch try frame.decodeReply(packet) {
    case .welcome: return
    case .events(let page):
      var events = page.changes.map(BlobEvent.change)
      // Who leaves right behind a gap knows nothing yet, and is told all again.
      let gap = EventPosition(instance: page.position.instance, number: 0)
      if page.hasGap { events.insert(.gap(gap), at: 0) }
      state.hasStarted = true
      state.lostAt = nil
      state.receivedTo = page.position
      state.ready = Self.ready(events, page) + state.ready
      if state.ready.isEmpty { state.position = page.position }
    case .failure(let error):
      // Who comes back to a broker that takes nobody at the moment looks again.
      let isComingBack = state.hasStarted && state.lostAt != nil
      guard isComingBack, frame.request == 0, error.isFarewell else { throw error }
      try lose(&state, error)
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
  /// stands, if need be with the next broker; what happens from then on is told. It has a connection
  /// of its own.
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
    let until = MonotonicTime(deadline)
    let request = try Self.watchRequest(prefix, after, progress)
    let events = try BlobEvents(session, Self.watcherName, request)
    while !events.hasStarted { try events.receive(until: until) }
    return events
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
