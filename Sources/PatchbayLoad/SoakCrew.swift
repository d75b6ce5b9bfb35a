// The workers of a soak as the director sees them: started, heard, killed, stopped, and asked to go. What
// they say is believed only as far as the judge allows, and a worker that says nothing new for too long has
// failed the soak.

import Glibc
import PatchbaySystem
import PatchbayTypes

final class SoakCrew {
  private let seed: UInt32
  private var random: SplitMix
  private let brokers: SoakBrokers
  private(set) var members: [SoakMember] = []
  private(set) var records: [SoakRole: SoakRoleRecord] = [:]
  var history = SoakHistory()
  private(set) var promises = SoakPromises()
  /// What an auditor has not found. Its owner may have said before that it takes it away, on a line that
  /// was not read yet.
  private var missed: [(member: String, key: String, generation: UInt64, why: String)] = []
  private var brokerStoppedUntil: MonotonicTime?

  /// How long a worker may come no further.
  private let patience: Duration

  init(seed: UInt32, patience: Duration, _ brokers: SoakBrokers) {
    self.seed = seed
    self.patience = patience
    self.brokers = brokers
    random = SplitMix(state: UInt64(seed) &+ 2)
  }

  // MARK: Coming and going

  func startAll() throws {
    for role in SoakRole.allCases {
      for number in 0..<role.processCount { try start(role, number) }
    }
  }

  private func start(_ role: SoakRole, _ number: Int) throws {
    let order: Fields = [
      "role": "soak", "part": role.rawValue, "number": String(number),
      "of": String(role.processCount), "socket": brokers.socketPath, "seed": String(seed),
      "chance": String(random.next() >> 1),
    ]
    let child = try Household.shared.startWorker { () throws(LoadError) in
      try ChildProcess(order: order)
    }
    members.append(SoakMember(role, number, child))
    records[role, default: SoakRoleRecord()].started += 1
  }

  /// A worker of a role; one that is stopped only if all are.
  func anyMember(_ role: SoakRole) -> SoakMember? {
    let those = members.filter { $0.role == role }
    let awake = those.filter { $0.stoppedUntil == nil }
    return (awake.isEmpty ? those : awake).randomElement(using: &random)
  }

  /// Kills a worker and starts another one in its place.
  func kill(_ member: SoakMember) throws {
    _ = Glibc.kill(member.child.process, SIGKILL)
    // What it had said still counts.
    while let lines = member.child.takeLines() {
      for line in lines { try take(line, from: member) }
    }
    let status = member.child.wait()
    guard status & 0x7f == SIGKILL else {
      throw failure(member.name, SoakJudge.complaint(aboutEnd: status, isExpected: false) ?? "")
    }
    remove(member)
    records[member.role]?.killed += 1
    try start(member.role, member.number)
  }

  private func remove(_ member: SoakMember) {
    Household.shared.forget(worker: member.child.process)
    history.forget(member.child.process)
    records[member.role]?.tally += member.tally
    members.removeAll { $0 === member }
  }

  func stop(_ member: SoakMember, milliseconds: Int) {
    guard member.stoppedUntil == nil else { return }
    _ = Glibc.kill(member.child.process, SIGSTOP)
    member.stoppedUntil = .now.advanced(by: .milliseconds(milliseconds))
    history.noteStop(of: member.child.process)
    records[member.role]?.stopped += 1
  }

  private func goOn(_ member: SoakMember) {
    _ = Glibc.kill(member.child.process, SIGCONT)
    history.noteContinue(of: member.child.process, at: MonotonicTime.now.nanoseconds)
    member.stoppedUntil = nil
    member.progressedAt = .now
  }

  func stopBroker(milliseconds: Int) {
    brokers.signal(SIGSTOP)
    brokers.counts.stopped += 1
    brokerStoppedUntil = .now.advanced(by: .milliseconds(milliseconds))
  }

  /// Ends all stops; of the broker, too.
  func goOnAll() {
    for member in members where member.stoppedUntil != nil { goOn(member) }
    goOnBroker()
  }

  func goOnBroker() {
    guard brokerStoppedUntil != nil else { return }
    brokers.signal(SIGCONT)
    noteBrokerServes()
  }

  /// For as long as no broker answered nobody had to come any further.
  func noteBrokerServes() {
    brokerStoppedUntil = nil
    for member in members { member.progressedAt = .now }
  }

  /// Tells workers that this was all; they end in a moment.
  func dismiss(_ isAmong: (SoakRole) -> Bool) {
    for member in members where isAmong(member.role) {
      member.isDismissed = true
      member.child.send("stop")
    }
  }

  /// Has an auditor look at something that was promised.
  func orderAudit() {
    guard let promise = promises.all.randomElement(using: &random) else { return }
    let order: Fields = [
      "key": promise.key, "generation": String(promise.generation),
      "bytes": String(promise.byteCount),
    ]
    members.first { $0.role == .audit && $0.stoppedUntil == nil }?.child.send(order.line)
  }

  // MARK: Listening

  /// Waits so long for what workers and the broker say, takes it in, and lets go on whose time has come.
  /// - Throws: what is wrong with it, or that somebody does not come any further.
  func listen(milliseconds: Int) throws {
    var milliseconds = milliseconds
    while try takeOnce(milliseconds) { milliseconds = 0 }
    for miss in missed where promises.isBroken(miss.key, miss.generation) {
      throw failure(
        miss.member,
        "the promised blob \(miss.key), generation \(miss.generation), is lost: \(miss.why)")
    }
    missed = []
    try lookAround(at: .now)
  }

  /// False when nothing was said.
  private func takeOnce(_ milliseconds: Int) throws -> Bool {
    let speakers = members
    var set = speakers.map(\.child.listening) + [brokers.child].compactMap { $0?.listening }
    guard unsafe poll(&set, nfds_t(set.count), Int32(milliseconds)) > 0 else { return false }
    for (member, state) in zip(speakers, set) where state.revents != 0 {
      guard let lines = member.child.takeLines() else {
        try takeEnd(of: member)
        continue
      }
      for line in lines { try take(line, from: member) }
    }
    if set.count > speakers.count, set[speakers.count].revents != 0 { try listenToBroker() }
    return true
  }

  private func listenToBroker() throws {
    guard let lines = brokers.child?.takeLines() else {
      let wasEnding = brokers.isEnding
      do { try brokers.takeEnd() } catch { throw failure("broker", "\(error)") }
      if wasEnding { history.noteChange(at: MonotonicTime.now.nanoseconds) }
      return
    }
    for line in lines { try brokers.take(line) }
    if brokers.isReady { noteBrokerServes() }
  }

  private func takeEnd(of member: SoakMember) throws {
    let status = member.child.wait()
    let isExpected = member.isDismissed && member.hasSaidEnd
    if let complaint = SoakJudge.complaint(aboutEnd: status, isExpected: isExpected) {
      throw failure(member.name, "\(complaint); it was about to: \(member.doing)")
    }
    remove(member)
  }

  private func take(_ said: String, from member: SoakMember) throws {
    let line = SoakLine(said)
    let fields = line.fields
    switch line.word {
    case "ready": member.progressedAt = .now
    case "beat": try takeBeat(line, from: member)
    case "sealed": promises.make(try Self.promise(fields))
    case "removing": promises.forget(try fields.text("key"))
    case "kept": promises.noteChecked()
    case "lost":
      let generation = UInt64(try fields.int("generation"))
      missed.append((member.name, try fields.text("key"), generation, line.text))
    case "figures": brokers.note(fields)
    case "excuse": try take(line, excusing: member)
    case "ended":
      member.hasSaidEnd = true
      let growth = try SoakGrowth(fields)
      records[member.role]?.growth.merge(growth.values, uniquingKeysWith: max)
      if !growth.excess.isEmpty {
        throw failure(member.name, "has in the end \(growth.excess.joined(separator: ", "))")
      }
    default: throw failure(member.name, line.text.isEmpty ? said : line.text)
    }
  }

  private static func promise(_ fields: Fields) throws(LoadError) -> SoakPromises.Promise {
    SoakPromises.Promise(
      key: try fields.text("key"), generation: UInt64(try fields.int("generation")),
      byteCount: try fields.int("bytes"))
  }

  private func takeBeat(_ line: SoakLine, from member: SoakMember) throws {
    let tally = try SoakTally(line.fields)
    if tally.steps != member.tally.steps { member.progressedAt = .now }
    member.tally = tally
    member.doing = line.text
  }

  private func take(_ line: SoakLine, excusing member: SoakMember) throws {
    let process = member.child.process
    let since = Int64(try line.fields.int("since"))
    guard !history.excuses(process, since: since) else { return }
    throw failure(member.name, "\(try line.fields.text("code")) without a cause. \(line.text)")
  }

  // MARK: Looking around

  private func lookAround(at now: MonotonicTime) throws {
    for member in members {
      if let until = member.stoppedUntil, until <= now { goOn(member) }
    }
    if let until = brokerStoppedUntil, until <= now { goOnBroker() }
    guard brokerStoppedUntil == nil else { return }
    for member in members where member.stoppedUntil == nil {
      guard now > member.progressedAt.advanced(by: patience) else { continue }
      throw failure(
        member.name, "has come no further for \(patience); it was about to: \(member.doing)")
    }
  }

  /// What ends the soak.
  func failure(_ who: String, _ what: String) -> LoadError {
    LoadError("The soak has failed (seed \(seed)). \(who): \(what)")
  }

  /// The blob is removed.
  func forgetPromise(_ key: String) { promises.forget(key) }

  var killCount: Int { records.values.reduce(0) { $0 + $1.killed } }

  /// What all workers have done so far.
  func tally(_ role: SoakRole) -> SoakTally {
    members.filter { $0.role == role }.reduce(into: records[role]?.tally ?? SoakTally()) {
      $0 += $1.tally
    }
  }

  var tally: SoakTally { SoakRole.allCases.reduce(into: SoakTally()) { $0 += tally($1) } }
}
