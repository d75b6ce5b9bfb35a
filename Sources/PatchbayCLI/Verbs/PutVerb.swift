// `patchbay put`: what is asked for, and the ends: sealed, or failed with the reason. How the bytes
// get there is in PutSource.swift.

import ArgumentParser
import Glibc
import Patchbay

struct PutVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "put",
    abstract: "Publishes a file or standard input, and seals it.",
    discussion: """
      Readers see the bytes as they come. A regular file announces its length; one that changes \
      its size meanwhile fails the blob. So does a signal: readers get the cause "interrupted" or \
      "terminated".

      With a plain pipe (`make | patchbay put KEY`) nobody can tell that the producer died: the \
      pipe just ends, and the blob is sealed. Give --length where the length is known; a pipe \
      that ends early then fails the blob.

      Example: patchbay put models/v7 weights.bin --type application/octet-stream

      Exits with 0 sealed; 64 usage; 65 not the announced length; 69 no broker; 73 the key \
      exists; 74 the input cannot be read; 81 no space; 130 interrupted; 143 terminated.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key to publish under.", transform: Typed.key)
  var key: BlobKey

  @Argument(help: "What to publish; - or nothing: standard input.")
  var file = "-"

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
      "The size of the rings that make up the blob.",
      discussion: "Default: one for the whole of a known length, else 64KiB doubling to 64MiB.",
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

  @Option(help: ArgumentHelp("Media type of the bytes.", valueName: "mime"))
  var type = ""

  @Option(
    help: ArgumentHelp("A label that travels with the blob; may be repeated.", valueName: "k=v"),
    transform: Typed.label)
  var label: [BlobInfo.Label] = []

  @Flag(help: "Takes the place of a blob that has the key; its readers finish undisturbed.")
  var replace = false

  func validate() throws {
    if shuffle != nil, file == "-" {
      throw ValidationError("--shuffle needs a regular FILE; standard input has no random access.")
    }
    if block != nil, shuffle == nil {
      throw ValidationError("--block is the block size of --shuffle; give both.")
    }
    if Set(label.map(\.name)).count < label.count {
      throw ValidationError("A label name was given twice.")
    }
  }

  func perform() throws {
    let source = try PutSource(file, length: length, isShuffled: shuffle != nil)
    let client = try common.connect()
    if let byteCount = source.smallByteCount, shuffle == nil, ring == nil, rate == nil {
      return try publishWhole(source, byteCount, client)
    }
    Interruption.react { _, index in index == 0 ? .grace(.seconds(5)) : .end }
    let started = ContinuousClock.now
    let publisher = try Failure.about(key) { try client.publisher(key, options(for: source)) }
    var transfer = PutTransfer(
      publisher, source, rate: rate, progress: Progress("\(key)", quiet: common.quiet))
    try Failure.about(key) {
      try sealing(publisher, &transfer)
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
    let options = options(for: source)
    let generation = try Failure.about(key) { try client.publish(bytes, as: key, options) }
    try report(generation, byteCount, since: started)
  }

  private func options(for source: borrowing PutSource) -> BlobOptions {
    var options = BlobOptions(
      byteCount: source.byteCount, order: shuffle == nil ? .appendOnly : .any, mode: mode,
      replaces: replace, type: type, labels: label)
    options.firstExtentByteCount = ring
    options.extentByteLimit = ring
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
      try publisher.seal()
      transfer.progress.finish(transfer.byteCount, of: publisher.byteCount)
    } catch {
      transfer.progress.clear()
      let cause = (error as? Interrupted)?.word ?? "\(error)"
      if !publisher.isEnded { try? publisher.fail(cause, deadline: .after(.seconds(3))) }
      throw error
    }
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
    try StandardOutput.line(JSON.object(fields).text)
  }
}
