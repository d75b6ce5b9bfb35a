// A blob's description as JSON and as lines for people. The JSON names are a contract.

import Patchbay

extension BlobInfo {
  /// Everything `info --json` and `ls --json` have.
  var json: JSONFields {
    var fields = JSONFields()
    fields.append(key: key)
    fields["generation"] = .unsigned(generation.rawValue)
    fields["state"] = .string("\(state)")
    fields["length"] = .optional(byteCount)
    fields["frontier"] = .integer(frontier)
    fields["coveredBytes"] = .integer(coveredByteCount)
    fields["residentBytes"] = .integer(residentByteCount)
    fields["spilledBytes"] = .integer(spilledByteCount)
    fields["policy"] = .string(policy.word)
    fields["ack"] = .string("\(acknowledgement)")
    fields["publisherCount"] = .integer(publisherCount)
    fields["subscriberCount"] = .integer(subscriberCount)
    fields["type"] = .string(type)
    fields["labels"] = .object(JSONFields(labels.map { ($0.name, .string($0.value)) }))
    fields["digest"] = .optional(digest?.description)
    fields["created"] = .string(Shown.time(created))
    fields["modified"] = .string(Shown.time(modified))
    fields["lastRead"] = .optional(lastRead.map(Shown.time))
    fields["expires"] = .optional(expires.map(Shown.time))
    fields["pinned"] = .boolean(isPinned)
    fields["imported"] = .boolean(isImported)
    fields["paused"] = .boolean(isPaused)
    fields["cache"] = .boolean(isCache)
    fields["owner"] = .integer(Int(access.uid))
    fields["mode"] = .string(octalMode)
    fields["cause"] = .optional(cause)
    return fields
  }

  /// Permission bits as `put --mode` takes them.
  var octalMode: String {
    let digits = String(access.mode, radix: 8)
    return String(repeating: "0", count: max(0, 4 - digits.count)) + digits
  }

  /// Its state, in a table.
  var stateWord: String { isPaused ? "paused" : "\(state)" }

  /// What `info` prints.
  var lines: [String] {
    var pairs = [
      ("key", key.description), ("state", state == .failed ? failure : "\(state)"),
      ("length", byteCount.map(Self.exact) ?? "not known yet"),
      ("covered", Self.exact(coveredByteCount)), ("frontier", Self.exact(frontier)),
      ("memory", Shown.bytes(residentByteCount)),
      ("written", order == .any ? "in any order" : "from the start to the end"),
      ("policy", policy.sentence),
      ("publishers", "\(publisherCount)"), ("subscribers", "\(subscriberCount)"),
    ]
    if isPaused { pairs.append(("paused", "its publisher goes on when somebody reads it")) }
    if isImported { pairs.append(("imported", "a file that is read where it is")) }
    if isPinned { pairs.append(("pinned", "is not evicted, and does not expire")) }
    if let expires { pairs.append(("expires", Shown.time(expires))) }
    if spilledByteCount > 0 { pairs.append(("on disk", Shown.bytes(spilledByteCount))) }
    if acknowledgement != .visible || isCache { pairs.append(("kept", keeping)) }
    if let digest { pairs.append(("digest", "\(digest)")) }
    if !type.isEmpty { pairs.append(("type", type)) }
    pairs += labels.map { ("label", "\($0.name)=\($0.value)") }
    pairs += [
      ("created", Shown.time(created)), ("modified", Shown.time(modified)),
      ("last read", lastRead.map(Shown.time) ?? "never"),
      ("owner", "user \(access.uid), group \(access.gid), mode \(octalMode)"),
      ("generation", "\(generation)"),
    ]
    return aligned(pairs.map { (name: $0.0, value: $0.1) })
  }

  private var keeping: String {
    let level = acknowledgement.sentence
    return isCache ? "\(level); as a cache: it may go when room is needed" : level
  }

  private var failure: String {
    cause.map { $0.isEmpty ? "failed" : "failed: \($0)" } ?? "failed"
  }

  private static func exact(_ count: Int) -> String {
    count < 1024 ? "\(count) B" : "\(count) B (\(Shown.bytes(count)))"
  }
}

extension Acknowledgement {
  /// What it means, for people.
  fileprivate var sentence: String {
    switch self {
    case .visible: "visible: it survives its publisher"
    case .retained: "retained: once sealed it survives the broker"
    case .durable: "durable: once sealed it survives loss of power"
    }
  }
}

extension FlowPolicy {
  /// What it means, for people.
  fileprivate var sentence: String {
    switch self {
    case .keep: "keep: everything stays readable"
    case .backpressure: "backpressure: the last bytes, the publisher waits for its slowest reader"
    case .dropOldest: "drop-oldest: the last bytes, a slow reader loses some"
    }
  }

  /// As the command spells it.
  var word: String {
    switch self {
    case .keep: "keep"
    case .backpressure: "backpressure"
    case .dropOldest: "drop-oldest"
    }
  }
}
