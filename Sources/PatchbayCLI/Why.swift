// What a stuck user wants to read: who waits for what, on whom, since when, and what to do. Pure:
// everything it says is made from one look.

import Patchbay

/// Everything that is known of a key at one moment.
struct WhyLook {
  /// What a process is doing, as the system says.
  enum ProcessState: String {
    case running, stopped, zombie, gone
  }

  let key: BlobKey
  let situation: BlobSituation
  /// The written ranges, in order; empty when they could not be had.
  var written: [Range<Int>] = []
  /// How much was written between two looks; nil when there was one only.
  var bytesPerSecond: Int?
  var processes: [Int32: ProcessState] = [:]
  let now: WallTime

  var info: BlobInfo? { situation.info }

  // MARK: Sleepers

  /// Where bytes are missing that somebody has gone to sleep for: the first place of each wake class.
  var sleepingFor: [Range<Int>] {
    guard let info, info.state == .open || info.state == .suspended, situation.sleepingClasses != 0
    else { return [] }
    var ranges: [Range<Int>] = []
    for bit in 0..<32 where situation.sleepingClasses >> bit & 1 == 1 {
      if let range = firstMissing(class: bit) { ranges.append(range) }
    }
    return Self.merged(ranges.sorted { $0.lowerBound < $1.lowerBound })
  }

  private var missing: [Range<Int>] {
    var gaps: [Range<Int>] = []
    var end = 0
    for range in written {
      if end < range.lowerBound { gaps.append(end..<range.lowerBound) }
      end = range.upperBound
    }
    let whole = info?.byteCount ?? ExtentPlan.positionLimit
    if end < whole { gaps.append(end..<whole) }
    return gaps
  }

  /// The first missing bytes of a class; all ones of a class within 32 blocks.
  private func firstMissing(class wanted: Int) -> Range<Int>? {
    let shift = Int(situation.wakeClassShift)
    for gap in missing {
      let first = gap.lowerBound >> shift
      let block = first + (wanted - first % 32 + 32) % 32
      let range = (block << shift..<(block + 1) << shift).clamped(to: gap)
      if !range.isEmpty { return range }
    }
    return nil
  }

  private static func merged(_ ranges: [Range<Int>]) -> [Range<Int>] {
    ranges.reduce(into: []) { merged, range in
      if let last = merged.last, last.upperBound >= range.lowerBound {
        merged[merged.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
      } else {
        merged.append(range)
      }
    }
  }

  // MARK: For people

  var lines: [String] { [headline] + aligned(details) + ["", verdict] }

  private var headline: String {
    guard let info else { return "No blob has the key \(key)." }
    let share = info.byteCount.map {
      " of \(Shown.bytes($0))  \(Shown.percent(info.coveredByteCount, of: $0))"
    }
    return "\(key)  \(info.state)  \(Shown.bytes(info.coveredByteCount))\(share ?? "")"
  }

  private var details: [(name: String, value: String)] {
    var pairs: [(name: String, value: String)] = []
    if let info {
      pairs.append(("frontier", Shown.bytes(info.frontier)))
      pairs.append(("\(info.state)", since(info.state == .open ? info.created : info.modified)))
    }
    pairs += situation.publishers.map { ("publisher", shown($0)) }
    pairs += situation.subscribers.map { ("subscriber", shown($0)) }
    if !sleepingFor.isEmpty {
      pairs.append(("asleep", "for bytes \(sleepingFor.map(Self.shown).joined(separator: ", "))"))
    }
    pairs += situation.waits.map { wait in
      let who = party(wait.process, wait.name)
      return ("waiting", "\(who), for \(words(wait.want)), \(since(wait.since))")
    }
    let more = situation.waitCount - situation.waits.count
    if more > 0 { pairs.append(("waiting", "and \(more) more")) }
    return pairs.map { ("  " + $0.name, $0.value) }
  }

  private static func shown(_ range: Range<Int>) -> String {
    "\(range.lowerBound) to \(range.upperBound)"
  }

  private func shown(_ party: BlobSituation.Party) -> String {
    let handles = party.handleCount > 1 ? ", \(party.handleCount) handles" : ""
    let behind = lag(of: party).map { ", \(Shown.bytes($0)) behind" } ?? ""
    return "\(self.party(party.process, party.name))\(handles)\(behind), \(since(party.since))"
  }

  /// How far a sequential reader of a window is behind its frontier.
  private func lag(of party: BlobSituation.Party) -> Int? {
    guard let info, let position = party.position else { return nil }
    return max(0, info.frontier - position)
  }

  /// Whom the publisher of a window waits for when it is full.
  private var slowest: (party: BlobSituation.Party, lag: Int)? {
    situation.subscribers.compactMap { party in lag(of: party).map { (party, $0) } }
      .max { $0.1 < $1.1 }
  }

  /// `process 42 (name), stopped`.
  private func party(_ process: Int32, _ name: String) -> String {
    let state = processes[process] ?? .running
    let remark = state == .running ? "" : ", \(state.rawValue)"
    return Self.named(process, name) + remark
  }

  private static func named(_ process: Int32, _ name: String) -> String {
    "process \(process)\(name.isEmpty ? "" : " (\(Shown.plain(name)))")"
  }

  private func since(_ time: WallTime) -> String {
    "since \(Shown.time(time)) (\(Shown.age(now.rawValue - time.rawValue)))"
  }

  private func words(_ want: BlobSituation.Want) -> String {
    switch want {
    case .key: "the key to be created"
    case .board: "its place on the board"
    case .memory: "memory"
    case .verification: "its seal to be verified"
    case .fetch: "bytes to be fetched"
    case .demand: "somebody to want bytes that it can fetch"
    case .production: "to go on with it if its publisher cannot"
    }
  }

  // MARK: What it comes to

  /// One or two sentences: who waits on whom, and what would help.
  var verdict: String {
    guard let info else {
      return situation.waitCount == 0
        ? "Nobody waits for it."
        : "\(count(situation.waitCount, "request")) \(situation.waitCount == 1 ? "waits" : "wait") "
          + "for somebody to create it."
    }
    switch info.state {
    case .sealed: return "It is complete; nobody has to wait for its bytes."
    case .failed:
      let cause = info.cause.map { $0.isEmpty ? "" : ": \(Shown.plain($0))" } ?? ""
      return "It has failed\(cause). Nobody waits for it; create the key again."
    case .suspended:
      return "Nobody writes it. \(readers) until a publisher joins, or its time is up."
    case .gone: return "It is gone."
    case .open: return openVerdict
    }
  }

  private var readers: String {
    situation.subscribers.isEmpty ? "Nobody reads it, and it waits" : "Its readers wait"
  }

  private var openVerdict: String {
    if info?.isPaused == true {
      return "Its publisher is paused, as nobody reads it. It goes on as soon as somebody does: "
        + "patchbay cat \(key)"
    }
    if situation.waits.contains(where: { $0.want == .verification }) {
      return "Its publisher has asked for the seal, and the broker looks at what is covered."
    }
    if situation.waits.contains(where: { $0.want == .memory }) {
      return "Its publisher waits for memory, which the broker is reserving."
    }
    let writers = situation.publishers.map { Self.named($0.process, $0.name) }
      .joined(separator: " and ")
    let stopped = situation.publishers.filter { processes[$0.process] == .stopped }
    let waiting =
      sleepingFor.isEmpty
      ? "Nobody sleeps for its bytes; it is written by \(writers)."
      : "Readers sleep for bytes that \(writers) has yet to write."
    if let slowest, slowest.lag > 0, sleepingFor.isEmpty || bytesPerSecond == 0 {
      let who = Self.named(slowest.party.process, slowest.party.name)
      let remedy =
        processes[slowest.party.process] == .stopped
        ? " It is stopped; kill -CONT \(slowest.party.process) lets it go on." : ""
      return "\(writers) waits for its slowest reader when the window is full: \(who) is "
        + "\(Shown.bytes(slowest.lag)) behind.\(remedy)"
    }
    if let one = stopped.first {
      return "\(waiting) That process is stopped; kill -CONT \(one.process) lets it go on."
    }
    switch bytesPerSecond {
    case nil: return waiting
    case 0?: return "\(waiting) Nothing was written while this looked."
    case let rate?: return "\(waiting) \(Shown.bytes(rate))/s are being written."
    }
  }

  private func count(_ number: Int, _ noun: String) -> String {
    "\(number) \(noun)\(number == 1 ? "" : "s")"
  }

  // MARK: For scripts

  /// The names are a contract.
  var json: JSONFields {
    var fields = JSONFields()
    fields.append(key: key)
    fields["generation"] = info.map { .unsigned($0.generation.rawValue) } ?? .null
    fields["state"] = .optional(info.map { "\($0.state)" })
    fields["length"] = .optional(info?.byteCount)
    fields["frontier"] = .optional(info?.frontier)
    fields["coveredBytes"] = .optional(info?.coveredByteCount)
    fields["created"] = .optional(info.map { Shown.time($0.created) })
    fields["modified"] = .optional(info.map { Shown.time($0.modified) })
    fields["cause"] = .optional(info?.cause)
    fields["publishers"] = .array(situation.publishers.map(json))
    fields["subscribers"] = .array(situation.subscribers.map(json))
    fields["sleepingFor"] = .ranges(sleepingFor)
    fields["waits"] = .array(situation.waits.map(json))
    fields["waitCount"] = .integer(situation.waitCount)
    fields["bytesPerSecond"] = .optional(bytesPerSecond)
    fields["verdict"] = .string(verdict)
    return fields
  }

  private func json(_ party: BlobSituation.Party) -> JSON {
    .object(
      JSONFields([
        ("process", .integer(Int(party.process))), ("name", .string(party.name)),
        ("processState", .string((processes[party.process] ?? .running).rawValue)),
        ("handles", .integer(party.handleCount)), ("since", .string(Shown.time(party.since))),
        ("position", .optional(party.position)), ("behindBytes", .optional(lag(of: party))),
      ]))
  }

  private func json(_ wait: BlobSituation.Wait) -> JSON {
    .object(
      JSONFields([
        ("for", .string("\(wait.want)")), ("process", .integer(Int(wait.process))),
        ("name", .string(wait.name)),
        ("processState", .string((processes[wait.process] ?? .running).rawValue)),
        ("since", .string(Shown.time(wait.since))),
      ]))
  }
}
