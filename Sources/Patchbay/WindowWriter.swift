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
  private let state = Mutex(State())

  private struct State {
    var subscriptions: [Subscription] = []
    var tables: [UInt64: PeerTable] = [:]
    /// What the board counted when the broker told them; nil before the first time.
    var version: UInt32?
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
      guard state.version == version else { return .unknownSubscribers }
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
      state.version != version || lowest(state) >= position
    }
  }

  /// The class of the space bell that is rung when the segment below a position has been left.
  func spaceClass(of position: Int) -> UInt32 {
    1 << UInt32(truncatingIfNeeded: (position >> window.shape.segmentShift - 1) & 31)
  }

  /// Takes in whom to wait for.
  /// - Returns: clients whose table is still to be had.
  func adopt(_ list: SubscriptionList) -> [UInt64] {
    state.withLock { state in
      let clients = Set(list.subscriptions.map(\.clientID))
      state.tables = state.tables.filter { clients.contains($0.key) }
      state.subscriptions = list.subscriptions
      state.version = list.version
      return clients.filter { state.tables[$0] == nil }.sorted()
    }
  }

  func add(_ table: PeerTable, of client: UInt64) {
    state.withLock { $0.tables[client] = table }
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
