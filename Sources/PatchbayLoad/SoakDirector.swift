// The course of a soak, in three parts: workers on a fresh broker for a moment; then while all are stopped
// now and then and some of them killed, but not the broker; then while everything is done to everybody. After
// each part all workers go, what was promised must be there, and what is left is compared with what there was
// after the first; in the end another broker that takes the last one's place must say the same.

import Glibc
import Patchbay
import PatchbaySystem

final class SoakDirector {
  private let seed: UInt32
  private let seconds: Int
  let brokers: SoakBrokers
  let crew: SoakCrew
  private var deck: SoakDeck
  private var faults: [String] = []
  private var nextShow = MonotonicTime.now
  private let began = MonotonicTime.now
  private(set) var before = SoakFigures([])
  private(set) var between = SoakFigures([])
  private(set) var after = SoakFigures([])
  /// Promised blobs that were read at the end, for each broker that was asked.
  private(set) var checkedCount = 0

  private static let warmUp = Duration.seconds(2)
  /// As long as workers may come no further.
  private let patience: Duration
  /// As long as what they held may take to go when they have gone.
  private let settling: Duration

  init(seed: UInt32, seconds: Int, patience: Duration, settling: Duration) throws {
    self.seed = seed
    self.seconds = seconds
    self.patience = patience
    self.settling = settling
    brokers = SoakBrokers(in: try Household.shared.makeDirectory())
    crew = SoakCrew(seed: seed, patience: patience, brokers)
    deck = .gentle(seed: seed)
  }

  func run() throws {
    do {
      try startBroker()
      try warmUp()
      try disturb(seconds: (seconds + 3) / 4, untilPlayed: false)
      between = try compared()
      deck = .complete(seed: seed)
      try disturb(seconds: seconds * 3 / 4, untilPlayed: true)
      try check(crew.promises.all)
      try replaceBroker()
      after = try compared()
      try endBroker("drain")
      try lookForRemains()
    } catch let error as LoadError {
      throw LoadError(([error.description] + faults.suffix(12)).joined(separator: "\n  "))
    }
  }

  private func warmUp() throws {
    try crew.startAll()
    let start = MonotonicTime.now
    try wait(for: "everybody works") {
      self.crew.members.allSatisfy { $0.tally.steps > 0 }
        && MonotonicTime.now > start.advanced(by: Self.warmUp)
    }
    try dismissAll()
    try check(crew.promises.all)
    before = try settled(since: nil)
  }

  /// What was promised is there, and what is left when that has gone, too.
  private func compared() throws -> SoakFigures {
    try check(crew.promises.all)
    let now = try settled(since: before)
    let grown = now.grown(since: before)
    guard grown.isEmpty else {
      let names = Household.names(in: "\(brokers.directory)/spool").sorted()
      throw crew.failure(
        "broker",
        "something has grown: \(grown.joined(separator: "; ")). In the spool: "
          + names.joined(separator: ", "))
    }
    return now
  }

  /// Waits until something holds, and takes in what workers say meanwhile. A worker that comes no further
  /// is named before this gives up.
  private func wait(for what: String, _ condition: () throws -> Bool) throws {
    let until = MonotonicTime.now.advanced(by: patience).advanced(by: patience)
    while try !condition() {
      guard MonotonicTime.now < until else {
        throw crew.failure("director", "it never came true that \(what)")
      }
      try crew.listen(milliseconds: 20)
    }
  }

  private func dismissAll() throws {
    crew.goOnAll()
    // Who publishes goes on until nobody waits for it.
    crew.dismiss { !$0.isAwaited }
    try wait(for: "readers end") { self.crew.members.allSatisfy(\.role.isAwaited) }
    crew.dismiss { $0.isAwaited }
    try wait(for: "publishers end") { self.crew.members.isEmpty }
  }

  // MARK: Disturbing

  /// - Parameter untilPlayed: goes on in any case until all has been done once.
  private func disturb(seconds: Int, untilPlayed: Bool) throws {
    try crew.startAll()
    let end = MonotonicTime.now.advanced(by: .seconds(seconds))
    let pause = min(700, max(20, seconds * 1000 / (deck.count * 5 / 2)))
    while MonotonicTime.now < end || untilPlayed && deck.playedCount == 0 {
      let next = MonotonicTime.now.advanced(by: .milliseconds(deck.draw(in: 0...2 * pause)))
      while MonotonicTime.now < next {
        try crew.listen(milliseconds: 20)
        showProgress(until: end)
      }
      crew.orderAudit()
      try perform(deck.draw())
    }
    try dismissAll()
  }

  private func perform(_ fault: SoakFault) throws {
    note("\(fault)")
    switch fault {
    case .kill(let role): if let member = crew.anyMember(role) { try crew.kill(member) }
    case .stop(let role):
      let milliseconds = deck.stopMilliseconds()
      if let member = crew.anyMember(role) { crew.stop(member, milliseconds: milliseconds) }
    case .killBroker: try replaceBroker()
    case .killBrokerAndHeir:
      killBroker()
      try brokers.begin()
      try crew.listen(milliseconds: deck.draw(in: 0...60))
      try replaceBroker()
    case .stopBroker: crew.stopBroker(milliseconds: deck.draw(in: 20...1500))
    case .drainBroker:
      try endBroker("drain")
      try startBroker()
    case .handOverBroker:
      try endBroker("hand over")
      try startBroker()
    }
  }

  private func note(_ what: String) {
    let elapsed = (MonotonicTime.now.nanoseconds - began.nanoseconds) / 1_000_000
    faults.append("at \(elapsed) ms: \(what)")
    if faults.count > 40 { faults.removeFirst(20) }
  }

  private func killBroker() {
    crew.goOnBroker()
    brokers.kill()
    crew.history.noteChange(at: MonotonicTime.now.nanoseconds)
  }

  private func replaceBroker() throws {
    killBroker()
    // Now and then its clients have to wait for the next one.
    if deck.draw(in: 0...2) == 0 { try listen(milliseconds: deck.draw(in: 0...700)) }
    try startBroker()
  }

  private func listen(milliseconds: Int) throws {
    let until = MonotonicTime.now.advanced(by: .milliseconds(milliseconds))
    while MonotonicTime.now < until { try crew.listen(milliseconds: 10) }
  }

  private func startBroker() throws {
    try brokers.begin()
    try wait(for: "the broker is ready") { self.brokers.isReady }
    note("the broker, process \(brokers.child?.process ?? 0), is ready")
  }

  private func endBroker(_ word: String) throws {
    crew.goOnBroker()
    if word == "drain" {
      crew.history.noteDrain()
      brokers.counts.drained += 1
    } else {
      brokers.counts.handedOver += 1
    }
    brokers.tellToEnd(word)
    try wait(for: "the broker ends") { self.brokers.child == nil }
  }

  /// On a terminal in place, each second; elsewhere a line now and then.
  private func showProgress(until end: MonotonicTime) {
    let isTerminal = isatty(2) == 1
    guard MonotonicTime.now >= nextShow else { return }
    nextShow = .now.advanced(by: isTerminal ? .seconds(1) : .seconds(600))
    let left = max(0, (end.nanoseconds - MonotonicTime.now.nanoseconds) / 1_000_000_000)
    let tally = crew.tally
    let text =
      "\(left) s left, \(tally.blobs) blobs, \(tally.bytes >> 20) MiB checked, "
      + "\(crew.killCount) workers and \(brokers.counts.killed) brokers killed"
    Self.say(isTerminal ? "\r\(text)   " : "\(text)\n")
  }

  /// What comes next begins on a line of its own.
  func endProgress() { if isatty(2) == 1 { Self.say("\n") } }

  private static func say(_ text: String) {
    let bytes = Array(text.utf8)
    _ = unsafe write(2, bytes, bytes.count)
  }

  // MARK: Afterwards

  private func check(_ promises: [SoakPromises.Promise]) throws {
    let client = try PatchbayClient(socketPath: brokers.socketPath, name: "patchbay-load soak")
    let oracle = SoakOracle(seed: seed)
    for promise in promises {
      if let complaint = try SoakAudit.complaint(about: promise, client, oracle) {
        throw crew.failure(
          "director",
          "the promised blob \(promise.key), generation \(promise.generation), is lost: "
            + complaint)
      }
      checkedCount += 1
    }
  }

  /// Removes all blobs and waits until nothing of them is left.
  private func settled(since before: SoakFigures?) throws -> SoakFigures {
    let client = try PatchbayClient(socketPath: brokers.socketPath, name: "patchbay-load soak")
    while true {
      let page = try client.list()
      for blob in page.blobs {
        crew.forgetPromise("\(blob.key)")
        try remove(blob.key, client)
      }
      if !page.hasMore { break }
    }
    let until = MonotonicTime.now.advanced(by: settling)
    while true {
      let now = try SoakFigures(client, brokers)
      let isOver = MonotonicTime.now > until
      if now.isEmpty || isOver, before.map({ now.grown(since: $0).isEmpty }) ?? true || isOver {
        return now
      }
      try crew.listen(milliseconds: 50)
    }
  }

  /// What has its time may be gone by itself meanwhile.
  private func remove(_ key: BlobKey, _ client: PatchbayClient) throws(PatchbayError) {
    do throws(PatchbayError) {
      try client.remove(key)
    } catch {
      guard error.code == .noSuchKey else { throw error }
    }
  }

  /// The broker has ended in order: nothing of it may be left.
  private func lookForRemains() throws {
    let directory = brokers.directory
    var left = Household.names(in: "\(directory)/spool").filter { $0 != "broker.lock" }
    left += Household.names(in: directory).filter { !["spool", "control.sock.lock"].contains($0) }
    left += brokers.objects
    guard left.isEmpty else {
      throw crew.failure("broker", "has left behind: \(left.joined(separator: ", "))")
    }
  }
}
