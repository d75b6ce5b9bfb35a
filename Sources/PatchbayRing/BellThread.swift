// A thread of `BellWaiters`: which bells it watches and who waits there. Its own state belongs to the
// thread alone; what others tell it is under the lock of all.

import PatchbaySystem
import PatchbayTypes
import Synchronization

/// `@unchecked`: of the stored properties, the first group is touched under the lock of
/// `BellWaiters` only, the second by the thread itself only.
final class BellThread: @unchecked Sendable {
  /// What others have for the thread.
  struct News {
    var arrivals: [any BellWait] = []
    /// Bells with waits that were ended from outside.
    var stale: Set<Doorbell.ID> = []

    var isEmpty: Bool { arrivals.isEmpty && stale.isEmpty }
  }

  // Under the lock.
  /// Bells that have been given to it.
  var bellCount = 0
  private var pending = News()
  private var isAsleep = false

  // The thread's own.
  private var bells: [WatchedBell] = []
  private var places: [Doorbell.ID: Int] = [:]
  private var words = Futex.Words()
  /// Waits that are over, by bell, until they are reported.
  private var over: [Doorbell.ID: Int] = [:]
  private var idleSince: MonotonicTime?

  /// Changes when there is news and the thread is asleep.
  private let control = Atomic<UInt32>(0)
  private let waiters: BellWaiters
  private let idleLimit: Duration

  init(_ waiters: BellWaiters, _ idleLimit: Duration) {
    self.waiters = waiters
    self.idleLimit = idleLimit
  }

  // MARK: For others

  /// Leaves news, under the lock.
  /// - Returns: this thread if it has to be signalled afterwards, without the lock.
  func post(_ tell: (inout News) -> Void) -> BellThread? {
    tell(&pending)
    defer { isAsleep = false }
    return isAsleep ? self : nil
  }

  func signal() {
    // releasing: the news are under their lock; the word only ends a sleep. BELL-NEWS.
    control.wrappingAdd(1, ordering: .releasing)
    _ = unsafe withControl { unsafe Futex.wake($0, mask: .max) }
  }

  /// Takes the news, under the lock; nil: there is none, and the thread goes to sleep.
  func takeNews() -> News? {
    guard !pending.isEmpty else {
      isAsleep = true
      return nil
    }
    defer { pending = News() }
    isAsleep = false
    return pending
  }

  // MARK: The thread

  func run() {
    while true {
      // acquiring: pairs with BELL-NEWS; read before the news, so what comes later ends the sleep.
      let before = control.load(ordering: .acquiring)
      while let news = waiters.news(for: self) { take(news) }
      let now = MonotonicTime.now
      attendAll(now)
      report()
      if mayEnd(now), waiters.lets(self) { return }
      sleep(before)
    }
  }

  private func take(_ news: News) {
    for wait in news.arrivals {
      let id = wait.bell.id
      if places[id] == nil {
        places[id] = bells.count
        bells.append(WatchedBell(wait.bell))
      }
      if let place = places[id] { bells[place].add(wait) }
    }
    for id in news.stale {
      if let place = places[id] { bells[place].mustLook = true }
    }
  }

  private func attendAll(_ now: MonotonicTime) {
    var peers = Peers()
    // Backwards: a bell that is let go is replaced by the last one, which has been looked at.
    for place in bells.indices.reversed() {
      let count = bells[place].attend(now, &peers)
      guard count > 0 else { continue }
      over[bells[place].id, default: 0] += count
      if bells[place].isEmpty { letGo(place) }
    }
  }

  private func letGo(_ place: Int) {
    places[bells[place].id] = nil
    bells.swapAt(place, bells.count - 1)
    bells.removeLast()
    if place < bells.count { places[bells[place].id] = place }
  }

  private func report() {
    waiters.forget(over)
    over.removeAll(keepingCapacity: true)
  }

  /// Whether there has been nothing to wait for as long as a thread stays.
  private func mayEnd(_ now: MonotonicTime) -> Bool {
    guard bells.isEmpty else {
      idleSince = nil
      return false
    }
    let since = idleSince ?? now
    idleSince = since
    return now >= since.advanced(by: idleLimit)
  }

  private func sleep(_ before: UInt32) {
    let idleEnd = idleSince?.advanced(by: idleLimit) ?? .distantFuture
    let until = bells.reduce(idleEnd) { min($0, $1.wakes) }
    words.removeAll()
    unsafe withControl { unsafe words.add($0, expected: before) }
    for bell in bells { unsafe words.add(bell.bell.sequenceWord, expected: bell.sequence) }
    _ = words.wait(until: until)
  }

  /// The word's address. It stays put: its owner is a class.
  @unsafe private func withControl<Result>(
    _ body: (UnsafeMutablePointer<Atomic<UInt32>>) -> Result
  ) -> Result {
    unsafe withUnsafePointer(to: control) { unsafe body(UnsafeMutablePointer(mutating: $0)) }
  }
}

/// What was found out in one round about the peers of those who wait.
struct Peers {
  private var errors: [ObjectIdentifier: PatchbayError?] = [:]

  /// Why the peer of a wait is gone; nil: it is alive.
  mutating func error(of wait: any BellWait) -> PatchbayError? {
    if let known = errors[wait.company] { return known }
    var found: PatchbayError?
    do throws(PatchbayError) { try wait.checkPeer() } catch { found = error }
    errors[wait.company] = .some(found)
    return found
  }
}

/// A bell and who waits there.
struct WatchedBell {
  let bell: Doorbell
  let id: Doorbell.ID
  /// What seq held before the bell was armed.
  private(set) var sequence: UInt32
  /// A wait has ended from outside.
  var mustLook = false
  private var waits: [any BellWait] = []
  private var arrivals: [any BellWait] = []
  /// When the truth was last looked at for all.
  private var lookedAt: MonotonicTime
  /// The first moment at which somebody gives up.
  private var earliest = MonotonicTime.distantFuture

  init(_ bell: Doorbell) {
    self.bell = bell
    id = bell.id
    sequence = bell.sequence
    lookedAt = .now
  }

  var isEmpty: Bool { waits.isEmpty && arrivals.isEmpty }
  /// When it is to be looked at even if nobody rings.
  var wakes: MonotonicTime { min(earliest, lookedAt.advanced(by: Doorbell.bound)) }

  mutating func add(_ wait: any BellWait) { arrivals.append(wait) }

  /// Looks for those for whom something may have changed; how many of them are done.
  mutating func attend(_ now: MonotonicTime, _ peers: inout Peers) -> Int {
    let current = bell.sequence
    let isRung = current != sequence
    let isBound = now >= lookedAt.advanced(by: Doorbell.bound)
    let before = waits.count + arrivals.count
    if isRung || isBound {
      lookForAll(now, current, isRung: isRung, &peers)
    } else if mustLook || now >= earliest {
      _ = lookForWaits(now)
    }
    takeArrivals(now)
    mustLook = false
    earliest = waits.reduce(.distantFuture) { min($0, $1.until) }
    return before - waits.count
  }

  private mutating func lookForAll(
    _ now: MonotonicTime, _ current: UInt32, isRung: Bool, _ peers: inout Peers
  ) {
    sequence = current
    bell.arm(waits.reduce(0) { $0 | $1.bits })
    if !waits.isEmpty {
      let foundCount = lookForWaits(now)
      bell.note(isRung ? .woken : .timedOut, found: foundCount > 0)
    }
    lookedAt = now
    if !isRung { checkPeers(&peers) }
  }

  private mutating func checkPeers(_ peers: inout Peers) {
    waits.removeAll { wait in
      guard let error = peers.error(of: wait) else { return false }
      wait.fail(error)
      return true
    }
  }

  /// Arms the bell for those who came and looks for them.
  private mutating func takeArrivals(_ now: MonotonicTime) {
    guard !arrivals.isEmpty else { return }
    bell.arm(arrivals.reduce(0) { $0 | $1.bits })
    waits += arrivals.filter { Self.settle($0, now) == .nothing }
    arrivals = []
  }

  /// Lets go who is done; how many have found what they waited for.
  private mutating func lookForWaits(_ now: MonotonicTime) -> Int {
    var foundCount = 0
    waits.removeAll { wait in
      let look = Self.settle(wait, now)
      if look == .found { foundCount += 1 }
      return look != .nothing
    }
    return foundCount
  }

  private static func settle(_ wait: any BellWait, _ now: MonotonicTime) -> BellLook {
    let look = wait.look()
    guard look == .nothing, wait.until <= now else { return look }
    wait.timeOut()
    return .over
  }
}
