// How far a window may be written: what its publisher knows of the subscribers it waits for. It reads
// their positions in their own tables; the broker is asked only when the board says that one has come
// or gone. Nothing here waits: each step ends with what stands in the way.

import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

final class WindowWriter: Sendable {
  let window: Window
  let bell: Doorbell
  /// No byte is appended behind it.
  let limit: Int
  private let policy: FlowPolicy
  private let generation: Generation
  private let entry: BoardEntry
  private let session: Session
  private let state = Mutex(State())

  private struct State {
    var subscriptions: [Subscription] = []
    var tables: [UInt64: PeerTable] = [:]
    /// What the board counted when the broker told them; nil before the first time.
    var version: UInt32?
    /// Which broker told them.
    var takeOverCount = 0

    /// Whether it is known whom to wait for, and how far each of them is. While one thread asks for
    /// their tables, or when it could not get them all, the others must not go on without them.
    /// When another broker has taken over, they have other tables, too; until then the ones that are
    /// here may stand still, which holds up and loses nothing.
    func isKnown(at version: UInt32, _ takeOverCount: Int) -> Bool {
      self.version == version && self.takeOverCount == takeOverCount
        && subscriptions.allSatisfy { tables[$0.clientID] != nil }
    }
  }

  /// What stands in the way of a segment.
  enum Obstacle: Sendable {
    /// Whom to wait for has changed: the broker has to be asked.
    case unknownSubscribers
    case held(Hold)
  }

  /// Positions that the slowest subscriber has to reach.
  struct Hold: Sendable {
    /// Before one segment can be given up.
    let next: Int
    /// Before it is worth to go on: half a window further, or a publisher that has to wait would be
    /// woken for each segment.
    let wanted: Int
  }

  init(_ handle: BlobHandle, _ window: Window, _ entry: BoardEntry, _ bell: Doorbell) {
    self.window = window
    self.bell = bell
    limit = handle.grant.byteCount ?? ExtentPlan.positionLimit
    self.entry = entry
    session = handle.session
    policy = handle.grant.policy
    generation = handle.generation
  }

  /// Makes the segment of a position writable. One thread at a time.
  /// - Returns: what stands in the way; nil: the segment can be written.
  func enter(segmentOf position: Int) -> Obstacle? {
    let next = window.shape.base(writing: position)
    guard next > window.base else { return nil }
    if policy == .backpressure {
      if let obstacle = obstacle(to: next, position) { return obstacle }
      window.announceReclaim(to: next)
      if let obstacle = obstacle(to: next, position) { return obstacle }
    }
    window.reclaim(to: next)
    return nil
  }

  private func obstacle(to next: Int, _ position: Int) -> Obstacle? {
    let version = entry.subscriptionVersion
    return state.withLock { state in
      guard state.isKnown(at: version, session.takeOverCount) else { return .unknownSubscribers }
      guard lowest(state) < next else { return nil }
      let half = window.shape.segmentCount / 2 * window.shape.segmentByteCount
      return .held(Hold(next: next, wanted: max(next, min(next + half, position))))
    }
  }

  /// The lowest position of a subscriber; the highest there is without any.
  private func lowest(_ state: borrowing State) -> Int {
    state.subscriptions.reduce(Int.max) { lowest, subscription in
      let position = state.tables[subscription.clientID]?.position(
        subscription.entry, of: generation)
      return min(lowest, position ?? .max)
    }
  }

  /// Whether a wait is over: everybody has reached the position, or somebody came or went.
  func isOver(_ position: Int) -> Bool {
    let version = entry.subscriptionVersion
    return state.withLock { state in
      !state.isKnown(at: version, session.takeOverCount) || lowest(state) >= position
    }
  }

  /// The class of the space bell that is rung when the segment below a position has been left.
  func spaceClass(of position: Int) -> UInt32 {
    1 << UInt32(truncatingIfNeeded: (position >> window.shape.segmentShift - 1) & 31)
  }

  /// Takes in whom to wait for.
  /// - Parameter takeOverCount: the session's before the broker was asked.
  /// - Returns: clients whose table is still to be had.
  func adopt(_ list: SubscriptionList, _ takeOverCount: Int) -> [UInt64] {
    state.withLock { state in
      let clients = Set(list.subscriptions.map(\.clientID))
      let isOther = state.takeOverCount != takeOverCount
      state.tables = isOther ? [:] : state.tables.filter { clients.contains($0.key) }
      state.takeOverCount = takeOverCount
      state.subscriptions = list.subscriptions
      state.version = list.version
      return clients.filter { state.tables[$0] == nil }.sorted()
    }
  }

  /// Takes in the table of one of them.
  /// - Parameter takeOverCount: as in `adopt`.
  func add(_ table: PeerTable, of client: UInt64, _ takeOverCount: Int) {
    state.withLock { state in
      // Asked for by who was late: it may be one that stands still.
      if state.takeOverCount == takeOverCount { state.tables[client] = table }
    }
  }

  /// Those that have not reached a position.
  func laggards(below position: Int) -> [Subscription] {
    state.withLock { state in
      state.subscriptions.filter { subscription in
        let reached = state.tables[subscription.clientID]?.position(
          subscription.entry, of: generation)
        return (reached ?? .max) < position
      }
    }
  }
}
