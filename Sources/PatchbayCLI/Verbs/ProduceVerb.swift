// `patchbay produce`: prints a blob, and if it is missing has it made, by one caller on the machine.

import ArgumentParser
import Glibc
import Patchbay
import Synchronization

struct ProduceVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "produce",
    abstract: "Prints a blob; if it is missing, one caller runs the command that makes it.",
    usage: "patchbay produce <key> [<options>] -- <command> ...",
    discussion: """
      All that ask for the key at once print the same bytes, from the first one on, while they are \
      made. The command runs without input; its errors go where this command's go. Later callers \
      find the blob, until it is evicted or removed.

      When the caller that runs the command dies, another one that waits starts its own: what that \
      prints first is compared with what is there already, and goes on where that ends. If the two \
      differ the blob has failed, so nobody ever gets the beginning of one and the end of the other. \
      A command that does not exit with 0 fails the blob for all that wait; the next caller begins \
      anew. Who stops reading, or is interrupted without running the command, disturbs nobody.

      With --ttl or --idle-expiry the blob has its time. When that is over it is made again for whoever \
      asks; with --grace all go on getting the old one meanwhile, and the caller that makes the new one \
      exits when that is complete.

      Example: patchbay produce index/v3 --stall 1m -- make-index --all
      Example: patchbay produce weather --ttl 5m --grace 1h --failure-ttl 10s -- fetch-weather

      Exits with 0 at the end of the blob; 64 usage; 69 no broker; 74 standard output cannot be \
      written; 75 no answer in time; 79 the command did not exit with 0, or could not be started, or \
      printed something else than before; 81 no space; 130 interrupted; 143 terminated.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key.", completion: .keys, transform: Typed.key)
  var key: BlobKey

  @Argument(
    parsing: .postTerminator, help: "Behind --: the command whose output becomes the blob.")
  var command: [String] = []

  @Option(
    help: ArgumentHelp(
      "How long the command may print nothing while others wait: then one of them runs its own.",
      discussion: "Twice as long for one that stops where the one before did, and so on. "
        + "Default: as long as it runs.", valueName: "duration"),
    transform: Typed.positiveDuration)
  var stall: Duration?

  @Flag(help: "Prints nothing: only sees to it that the blob is there.")
  var noOutput = false

  @Option(
    help: ArgumentHelp("Announces this length; other lengths fail the blob.", valueName: "size"),
    transform: Typed.size)
  var length: Int?

  @Option(
    help: ArgumentHelp(
      "Permission bits, fixed for this blob. (default: 0600)", valueName: "octal"),
    transform: Typed.mode)
  var mode: UInt16 = 0o600

  @Option(
    help: ArgumentHelp("Media type of the bytes.", valueName: "mime"), transform: Typed.mediaType)
  var type = ""

  @Option(
    help: ArgumentHelp("A label that travels with the blob; may be repeated.", valueName: "k=v"),
    transform: Typed.label)
  var label: [BlobInfo.Label] = []

  @OptionGroup var digest: DigestOptions

  @OptionGroup var lifetime: LifetimeOptions

  func validate() throws {
    guard !command.isEmpty else {
      throw ValidationError("Behind -- stands the COMMAND that makes the blob; there is none.")
    }
    if Set(label.map(\.name)).count < label.count {
      throw ValidationError("A label name was given twice.")
    }
  }

  func perform() throws {
    // Whoever reads our output may go; others may be reading the blob.
    _ = signal(SIGPIPE, SIG_IGN)
    let started = ContinuousClock.now
    let client = try common.connect()
    let making = Making(command, length: length)
    let subscriber = try Failure.about(key) {
      try client.get(key, options) { job in try making.run(job) }
    }
    do {
      try Failure.reading(key) { try print(subscriber, client) }
    } catch let failure as Failure where failure.error.code == .blobFailed {
      throw making.shortage.map { Failure($0, key: key) } ?? failure
    }
    // Of a stale one: what the command prints here is for who comes next.
    try client.finishProducing()
    try report(subscriber, making, since: started)
  }

  private var options: ProductionOptions {
    var blob = BlobOptions(
      byteCount: length, order: .appendOnly, mode: mode, type: type, labels: label)
    digest.apply(to: &blob)
    var options = ProductionOptions(blob, start: .fromZero, stallTimeout: stall)
    lifetime.apply(to: &options)
    return options
  }

  private func print(
    _ subscriber: Subscriber, _ client: PatchbayClient
  ) throws {
    var progress = Progress(
      "\(key)", quiet: common.quiet || !noOutput && !StandardOutput.isRegularFile)
    defer { progress.clear() }
    do throws(PatchbayError) {
      guard !noOutput else {
        _ = try subscriber.waitUntilSealed()
        return
      }
      try subscriber.copy(to: STDOUT_FILENO) { count in
        progress.update(count, of: subscriber.byteCount)
      }
    } catch {
      if error.code == .inputOutput, error.systemErrno != nil { leave(subscriber, client) }
      throw error.ofOutput("standard output")
    }
  }

  /// Our output takes no more, as when nobody reads it: what is made here is finished for whoever else
  /// reads the blob, or as it was wanted without a reader.
  private func leave(_ subscriber: Subscriber, _ client: PatchbayClient) {
    subscriber.close()
    try? client.finishProducing()
  }

  private func report(
    _ subscriber: Subscriber, _ making: Making, since started: ContinuousClock.Instant
  ) throws {
    guard common.json else { return }
    var fields = JSONFields()
    fields.append(key: key)
    fields["generation"] = .unsigned(subscriber.generation.rawValue)
    fields["byteCount"] = .integer(subscriber.byteCount ?? 0)
    fields["produced"] = .boolean(making.isBegun)
    fields["seconds"] = .seconds(ContinuousClock.now - started)
    let line = JSON.object(fields).text
    if noOutput { try StandardOutput.line(line) } else { StandardError.write(line + "\n") }
  }
}

/// The command of this caller, and whether it was ever run.
private final class Making: Sendable {
  private let command: [String]
  private let length: Int?
  private let begun = Atomic<Bool>(false)
  private let storedShortage = Mutex<PatchbayError?>(nil)

  init(_ command: [String], length: Int?) {
    self.command = command
    self.length = length
  }

  /// Whether the command was run here.
  var isBegun: Bool {
    // relaxed: the word alone is wanted.
    begun.load(ordering: .relaxed)
  }

  /// What there was no room for of the command's output: readers are told as of any failure, but it is
  /// no fault of the command.
  var shortage: PatchbayError? { storedShortage.withLock { $0 } }

  private func noteShortage(_ error: any Error) {
    guard let error = error as? PatchbayError, ExitStatus.of(error.code) == ExitStatus.noSpace
    else { return }
    storedShortage.withLock { $0 = error }
  }

  /// Runs the command, and appends what it prints.
  /// - Throws: why the blob has failed, or that it is somebody else's now.
  func run(_ job: Production) throws {
    // relaxed: as where it is read.
    begun.store(true, ordering: .relaxed)
    let source = try PutSource(outputOf: command, input: .none, length: length)
    do {
      let count = try appendAll(source, job)
      while try !source.awaitEnd(for: Self.look) { try check(job, source) }
      try source.expectSuccess(for: job.publisher.key)
      if let length, count < length { throw source.shrunk(to: count) }
    } catch {
      noteShortage(error)
      source.stop()
      throw Stopped(error)
    }
  }

  /// How often it is looked whether the blob is still wanted of a command that says nothing.
  private static let look = Duration.milliseconds(200)

  private func check(_ job: Production, _ source: borrowing PutSource) throws {
    guard job.isCurrent else { throw source.unwanted }
  }

  /// - Returns: how many bytes there were.
  private func appendAll(_ source: borrowing PutSource, _ job: Production) throws -> Int {
    var count = 0
    while let piece = try next(source, job) {
      count += piece.count
      if let length, count > length { throw source.longer(than: length) }
      try check(job, source)
      try job.publisher.append(piece)
    }
    return count
  }

  /// The next piece; nil at the end.
  private func next(_ source: borrowing PutSource, _ job: Production) throws -> [UInt8]? {
    while try !Interruption.waitReadable(source.descriptor.rawValue, for: Self.look) {
      try check(job, source)
    }
    var count = 0
    let piece = try unsafe [UInt8](unsafeUninitializedCapacity: 256 << 10) { place, filled in
      count = try unsafe source.read(into: UnsafeMutableRawBufferPointer(place))
      filled = count
    }
    return count > 0 ? piece : nil
  }
}

/// Why a command's output did not become a blob, in the words that its readers get.
private struct Stopped: Error, CustomStringConvertible {
  let description: String

  init(_ error: any Error) {
    description = (error as? Interrupted)?.word ?? (error as? PatchbayError)?.cause ?? "\(error)"
  }
}

extension PutSource {
  /// The blob has ended, or somebody else goes on with it.
  fileprivate var unwanted: PatchbayError {
    PatchbayError(.fenced, "\(name) is not wanted any more.")
  }
}
