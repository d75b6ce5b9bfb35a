// `patchbay cat`: blobs to standard output as they come.

import ArgumentParser
import Glibc
import Patchbay

/// What the verbs that read have in common.
struct ReadingOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Waits so long for the key to appear.", discussion: "Default: it must be there.",
      valueName: "duration"),
    transform: Typed.duration)
  var waitFor: Duration?

  @Option(
    help: ArgumentHelp(
      "Gives up when bytes are still missing so long after the key was found.",
      discussion: "Default: waits as long as the blob is open.", valueName: "duration"),
    transform: Typed.duration)
  var timeout: Duration?

  /// Waiting for bytes is over then. Counts from now.
  var deadline: Deadline { timeout.map(Deadline.after) ?? .never }

  func open(_ key: BlobKey, _ client: PatchbayClient) throws(PatchbayError) -> Subscriber {
    try client.open(key, waitUntil: waitFor.map(Deadline.after))
  }
}

extension StartPoint {
  static func typed(_ text: String) throws -> StartPoint {
    switch text {
    case "start": return .start
    case "live": return .live
    default:
      guard let position = try? Typed.size(text) else {
        throw ValidationError("A start is a position, start, or live.")
      }
      return .position(position)
    }
  }
}

struct CatVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "cat",
    abstract: "Streams blobs to standard output, waiting for what is not there yet.",
    discussion: """
      Several keys follow each other, each to its end. A broken pipe ends it quietly. A blob that \
      keeps its last bytes only may have given up what comes next: then the position at which one \
      can go on is printed.

      Example: patchbay cat build/log --wait-for 1m --from live | grep error

      Exits with 0 at the end of the last blob; 64 usage; 66 no such key; 69 no broker; 75 \
      time-out, or would block with --no-wait; 79 the blob failed, or was abandoned or removed: \
      what was readable was printed before, and nothing of one that had failed already; 80 what \
      comes next is gone.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The keys.", completion: .keys, transform: Typed.key)
  var keys: [BlobKey]

  @Option(
    help: ArgumentHelp(
      "Where to start: start, live (the last mark of the publisher, or the end of the contiguous "
        + "bytes at that moment), or a position.", valueName: "where"),
    transform: StartPoint.typed)
  var from: StartPoint = .start

  @Option(
    help: ArgumentHelp("Ends after so many bytes of each blob.", valueName: "size"),
    transform: Typed.size)
  var count: Int?

  @Flag(help: "Prints what is there and exits with 75 where it would have to wait.")
  var noWait = false

  @OptionGroup var reading: ReadingOptions

  func validate() throws {
    if noWait, reading.waitFor != nil || reading.timeout != nil {
      throw ValidationError("--no-wait does not wait; leave --wait-for and --timeout out.")
    }
  }

  func perform() throws {
    let client = try common.connect()
    for key in keys {
      try Failure.reading(key) { try stream(key, client) }
    }
  }

  private func stream(_ key: BlobKey, _ client: PatchbayClient) throws {
    let subscriber = try reading.open(key, client)
    let position = try subscriber.position(of: from)
    var progress = Progress("\(key)", quiet: common.quiet || !StandardOutput.isRegularFile)
    var done = 0
    do throws(PatchbayError) {
      try subscriber.copy(
        to: STDOUT_FILENO, from: position, byteCount: count,
        deadline: noWait ? .after(.zero) : reading.deadline
      ) { count in
        done = count
        progress.update(count, of: subscriber.byteCount.map { max(0, $0 - position) })
      }
    } catch {
      progress.clear()
      throw noWait && error.code == .timedOut
        ? wouldBlock(key, at: position + done) : error.ofOutput("standard output")
    }
    progress.clear()
  }

  private func wouldBlock(_ key: BlobKey, at position: Int) -> PatchbayError {
    PatchbayError(
      .timedOut, "Byte \(position) of the blob \(key) is not there yet, and --no-wait was given.")
  }
}

/// How far a blob was at one moment.
struct Standing {
  let state: BlobState
  let frontier: Int
  let coveredByteCount: Int

  /// Of the blob that a subscriber has open. The state is taken first: an open blob's figures are
  /// of a moment at which it was not sealed, or shortly after.
  init(of subscriber: Subscriber) throws(PatchbayError) {
    state = subscriber.state
    let ranges = try subscriber.writtenRanges()
    frontier = ranges.first.flatMap { $0.lowerBound == 0 ? $0.upperBound : nil } ?? 0
    coveredByteCount = ranges.reduce(0) { $0 + $1.count }
  }
}
