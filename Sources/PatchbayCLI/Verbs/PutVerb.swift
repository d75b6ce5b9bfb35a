// `patchbay put`: what is asked for, and the ends: sealed, or failed with the reason. How the bytes
// get there is in PutSource.swift.

import ArgumentParser
import Glibc
import Patchbay

struct PutVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "put",
    abstract: "Publishes a file, standard input or a command's output, and seals it.",
    usage: """
      patchbay put <key> [<file>] [<options>]
      patchbay put <key> [<options>] -- <command> ...
      """,
    discussion: """
      Readers see the bytes as they come. A regular file announces its length; one that changes \
      its size meanwhile fails the blob. So does a signal: readers get the cause "interrupted" or \
      "terminated".

      With a plain pipe (`make | patchbay put KEY`) nobody can tell that the producer died: the \
      pipe just ends, and the blob is sealed. `patchbay put KEY -- make` runs the command itself \
      and seals only when it exits with 0; otherwise the blob has failed, and its readers are \
      told how the command ended. The command is started only when the key has been created. \
      Signals are passed on to it, and it is asked to end when publishing cannot go on. Its output \
      ends when all that inherited it have closed it, what it left running included. Or give \
      --length where the length is known: a pipe that ends early then fails the blob.

      With --tee the bytes go to standard output as well. When nobody reads there any more, \
      publishing goes on.

      With --expect the blob is sealed only if its content has that digest; otherwise it has failed, \
      and nobody new gets it. Readers that have it open already get its bytes as they come, before \
      anybody can know, and at the end the failure instead of the end.

      Example: patchbay put models/v7 weights.bin --type application/octet-stream
      Example: patchbay put models/v8 weights.bin --ack durable --compress lz4
      Example: patchbay put build/log -- make -k all

      Exits with 0 sealed; 64 usage; 65 not the announced length or the expected digest; 69 no \
      broker; 73 the key exists; 74 the input cannot be read, or the command not be started; 75 no \
      answer in time; 77 no spool for --ack or --compress; 79 the command did not exit with 0; 81 no \
      space; 130 interrupted; 143 terminated.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key to publish under.", transform: Typed.key)
  var key: BlobKey

  @Argument(help: "What to publish; - or nothing: standard input.", completion: .file())
  var file: String?

  @Argument(
    parsing: .postTerminator, help: "Behind --: a command to run, whose output is published.")
  var command: [String] = []

  @Flag(help: "Passes the bytes on to standard output.")
  var tee = false

  @Option(
    help: ArgumentHelp("Announces this length; other lengths fail the blob.", valueName: "size"),
    transform: Typed.size)
  var length: Int?

  @Option(
    help: ArgumentHelp(
      "Writes the blocks of a regular file in a random order; the same seed, the same order.",
      valueName: "seed"))
  var shuffle: UInt64?

  @Option(
    help: ArgumentHelp("The blocks of --shuffle. (default: 1MiB)", valueName: "size"),
    transform: Typed.positiveSize)
  var block: Int?

  @Option(
    help: ArgumentHelp(
      "The size of the rings that make up the blob, or of its one ring (see --policy).",
      discussion: """
        Default: one for the whole of a known length, else 64KiB doubling to 64MiB; 2MiB for one \
        that keeps the last bytes only.
        """,
      valueName: "size"),
    transform: Typed.positiveSize)
  var ring: Int?

  @Option(
    help: ArgumentHelp("Publishes at most so many bytes a second.", valueName: "size"),
    transform: Typed.positiveSize)
  var rate: Int?

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

  @OptionGroup var keeping: KeepingOptions

  @OptionGroup var flow: FlowOptions

  @OptionGroup var digest: DigestOptions

  @Flag(help: "Takes the place of a blob that has the key; its readers finish undisturbed.")
  var replace = false

  func validate() throws {
    if shuffle != nil, !command.isEmpty || file ?? "-" == "-" {
      throw ValidationError(
        "--shuffle needs a regular FILE; standard input and commands have no random access.")
    }
    if shuffle != nil, tee {
      throw ValidationError("--tee passes the bytes on in order; leave --shuffle out.")
    }
    if shuffle != nil, flow.isWindow || flow.lines {
      throw ValidationError(
        "--shuffle writes out of order; leave --lines and policies that keep the last bytes out.")
    }
    if flow.isWindow, digest.isWished {
      throw ValidationError(
        "--expect and --digest need all bytes; leave policies that keep the last bytes out.")
    }
    if block != nil, shuffle == nil {
      throw ValidationError("--block is the block size of --shuffle; give both.")
    }
    if flow.isWindow, keeping.ack != .visible || keeping.compress != nil || keeping.ttl != nil {
      throw ValidationError(
        "--ack, --ttl and --compress are about whole blobs; this --policy keeps the last bytes only."
      )
    }
    if file != nil, !command.isEmpty {
      throw ValidationError("Publish either a FILE or the output of a COMMAND, not both.")
    }
    if command.isEmpty, CommandLine.arguments.last == "--" {
      throw ValidationError("Behind -- stands the COMMAND to run; there is none.")
    }
    if Set(label.map(\.name)).count < label.count {
      throw ValidationError("A label name was given twice.")
    }
  }

  func perform() throws {
    // A reader of what --tee passes on may go; the blob has others.
    if tee { _ = signal(SIGPIPE, SIG_IGN) }
    guard command.isEmpty else { return try publishOutput() }
    let source = try PutSource(file ?? "-", length: length, isShuffled: shuffle != nil)
    let client = try common.connect()
    if let byteCount = source.smallByteCount, shuffle == nil, ring == nil, rate == nil,
      !flow.isWindow, !flow.lines
    {
      return try publishWhole(source, byteCount, client)
    }
    let started = ContinuousClock.now
    let publisher = try begin(client, byteCount: source.byteCount)
    try transfer(source, publisher, since: started)
  }

  /// The command is started when the blob is there: a key that is taken costs no work.
  private func publishOutput() throws {
    let started = ContinuousClock.now
    let publisher = try begin(common.connect(), byteCount: length)
    let source: PutSource
    do throws(PatchbayError) {
      source = try PutSource(outputOf: command, length: length)
    } catch {
      fail(publisher, because: error)
      throw Failure(error, key: key)
    }
    try transfer(source, publisher, since: started)
  }

  /// From here on a signal fails the blob before it ends the process.
  private func begin(_ client: PatchbayClient, byteCount: Int?) throws -> Publisher {
    Interruption.react { _, index in index == 0 ? .grace(.seconds(5)) : .end }
    return try Failure.about(key) { try client.publisher(key, options(byteCount: byteCount)) }
  }

  private func transfer(
    _ source: consuming PutSource, _ publisher: Publisher, since started: ContinuousClock.Instant
  ) throws {
    let isQuiet = common.quiet || tee && !StandardOutput.isRegularFile
    var transfer = PutTransfer(
      publisher, source, rate: rate, passesOn: tee, marksLines: flow.lines,
      progress: Progress("\(key)", quiet: isQuiet))
    do {
      try sealing(publisher, &transfer)
    } catch let error as PatchbayError {
      throw Failure(error, key: key)
    }
    try report(publisher.generation, transfer.byteCount, since: started)
  }

  /// A small file travels in one message, and needs no ring.
  private func publishWhole(
    _ source: borrowing PutSource, _ byteCount: Int, _ client: PatchbayClient
  ) throws {
    let started = ContinuousClock.now
    var bytes = [UInt8](repeating: 0, count: byteCount)
    try source.read(0..<byteCount, into: &bytes)
    try source.expectSize(byteCount)
    let options = options(byteCount: byteCount)
    let generation = try Failure.about(key) { try client.publish(bytes, as: key, options) }
    if tee {
      var passedOn = PassedOn()
      try passedOn.write(bytes)
    }
    try report(generation, byteCount, since: started)
  }

  private func options(byteCount: Int?) -> BlobOptions {
    var options = BlobOptions(
      byteCount: byteCount, order: shuffle == nil ? .appendOnly : .any, mode: mode,
      replaces: replace, type: type, labels: label)
    if flow.isWindow {
      options.ringByteCount = ring
    } else {
      options.firstExtentByteCount = ring
      options.extentByteLimit = ring
    }
    flow.apply(to: &options)
    keeping.apply(to: &options)
    digest.apply(to: &options)
    return options
  }

  /// Writes and seals. Whatever prevents that becomes the blob's failure before it becomes ours.
  private func sealing(_ publisher: Publisher, _ transfer: inout PutTransfer) throws {
    do {
      if let shuffle {
        try transfer.writeShuffled(seed: shuffle, blockByteCount: block ?? 1 << 20)
      } else {
        try transfer.appendAll()
      }
      try publisher.seal(deadline: keeping.ack == .visible ? digest.sealDeadline : .never)
      transfer.progress.finish(transfer.byteCount, of: publisher.byteCount)
    } catch {
      transfer.progress.clear()
      fail(publisher, because: error)
      transfer.stop()
      throw error
    }
  }

  private func fail(_ publisher: Publisher, because error: any Error) {
    guard !publisher.isEnded else { return }
    let cause = (error as? Interrupted)?.word ?? (error as? PatchbayError)?.cause ?? "\(error)"
    try? publisher.fail(cause, deadline: .after(.seconds(3)))
  }

  private func report(
    _ generation: Generation, _ byteCount: Int, since started: ContinuousClock.Instant
  ) throws {
    guard common.json else { return }
    var fields = JSONFields()
    fields.append(key: key)
    fields["generation"] = .unsigned(generation.rawValue)
    fields["byteCount"] = .integer(byteCount)
    fields["seconds"] = .seconds(ContinuousClock.now - started)
    let line = JSON.object(fields).text
    if tee { StandardError.write(line + "\n") } else { try StandardOutput.line(line) }
  }
}
