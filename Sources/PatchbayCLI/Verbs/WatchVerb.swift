// `patchbay watch`: what becomes of blobs, as it happens.

import ArgumentParser
import Patchbay

struct WatchVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "watch",
    abstract: "Prints what becomes of blobs, as it happens.",
    discussion: """
      One line for each event: created, progress, suspended, sealed, failed, removed, evicted, expired. Of \
      events that come faster than they are read only the last of each blob is printed. --json \
      gives each event a position; --from takes it to go on there, also after a break, and misses \
      nothing that still matters. `gap` says that too much has happened since: everything that \
      exists follows then, as with --from start.

      Example: patchbay watch models/ --no-progress
      Example: patchbay watch --json | jq --unbuffered 'select(.event == "sealed") | .key'

      Exits with 0 after --count events; 64 usage; 69 no broker, or it has ended; 130 interrupted; \
      143 terminated.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(
    help: "Only keys that begin so; %XX stands for one byte.", completion: .keys,
    transform: Typed.key)
  var prefix: BlobKey?

  @Option(
    help: ArgumentHelp(
      "Where to begin: live, start (first all that exists), or the position of an event.",
      valueName: "where"),
    transform: WatchStart.typed)
  var from: WatchStart = .live

  @Option(help: ArgumentHelp("Ends after so many events. (default: never)", valueName: "n"))
  var count: Int?

  @Flag(help: "Does not print how far open blobs are.")
  var noProgress = false

  func validate() throws {
    guard count ?? 1 > 0 else { throw ValidationError("--count is at least one event.") }
  }

  func perform() throws {
    StandardOutput.endWithReader()
    let events = try common.connect().events(
      prefix: prefix?.bytes ?? [], after: from.position, progress: !noProgress)
    for _ in 0..<(count ?? .max) {
      let event = try events.next()
      try StandardOutput.line(common.json ? JSON.object(event.json).text : event.line)
    }
  }
}

/// Where watching starts.
enum WatchStart: Equatable {
  case live, start
  case behind(EventPosition)

  static func typed(_ text: String) throws -> WatchStart {
    switch text {
    case "live": return .live
    case "start": return .start
    default:
      guard let position = EventPosition(text) else {
        throw ValidationError(
          "A start is live, start, or the position of an event, 0a1b2c3d4e5f6071-42.")
      }
      return .behind(position)
    }
  }

  var position: EventPosition? {
    switch self {
    case .live: nil
    case .start: .start
    case .behind(let position): position
    }
  }
}

extension BlobEvent {
  /// The names are a contract.
  var json: JSONFields {
    switch self {
    case .change(let change): change.json
    case .gap(let position):
      JSONFields([("event", .string("gap")), ("position", .string("\(position)"))])
    }
  }

  /// What people read.
  var line: String {
    switch self {
    case .change(let change): change.line
    case .gap: "Too much has happened to tell it all. This is what exists now:"
    }
  }
}

extension BlobChange {
  fileprivate var json: JSONFields {
    var fields = JSONFields([("event", .string("\(kind)"))])
    fields.append(key: key)
    fields["generation"] = .unsigned(generation.rawValue)
    fields["position"] = .string("\(position)")
    fields["time"] = .string(Shown.time(time))
    fields["length"] = .optional(byteCount)
    fields["frontier"] = .integer(frontier)
    fields["coveredBytes"] = .integer(coveredByteCount)
    if kind == .failed {
      fields["code"] = .optional(causeCode?.description)
      fields["cause"] = .optional(cause)
    }
    return fields
  }

  fileprivate var line: String {
    let word = "\(kind)" + String(repeating: " ", count: max(0, 9 - "\(kind)".count))
    return [Shown.time(time), word, key.description, detail].filter { !$0.isEmpty }
      .joined(separator: "  ")
  }

  private var detail: String {
    switch kind {
    case .created: byteCount.map { "of \(Shown.bytes($0))" } ?? ""
    case .progress, .suspended:
      Shown.bytes(coveredByteCount)
        + (byteCount.map {
          " of \(Shown.bytes($0))  \(Shown.percent(coveredByteCount, of: $0))"
        } ?? "")
    case .sealed: Shown.bytes(byteCount ?? coveredByteCount)
    case .failed: Shown.plain(cause ?? "")
    case .removed, .evicted, .expired: ""
    }
  }
}
