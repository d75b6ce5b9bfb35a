// `patchbay create`: a blob that no process owns.

import ArgumentParser
import Patchbay

struct CreateVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "create",
    abstract: "Creates a blob that no process owns, to be patched from any.",
    discussion: """
      Any process of the same user may `write` parts of it, at once or one after the other, each \
      byte once; readers see the bytes as they come. The blob lives until it is sealed or failed, \
      or until nobody has been writing it for --idle. The same command again changes nothing and \
      says the same; with other options it finds that the key exists.

      Example: patchbay create up/1 --length 10MiB --idle 1h
      Example: patchbay write up/1 part2 --at 5MiB
      Example: patchbay write up/1 part1 --at 0
      Example: patchbay seal up/1

      Exits with 0; 64 usage; 65 --resume with another length; 69 no broker; 73 the key exists; 81 \
      no space.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key.", transform: Typed.key)
  var key: BlobKey

  @Option(
    help: ArgumentHelp(
      "Announces this length: it is held to at the seal, and its memory is reserved now.",
      valueName: "size"),
    transform: Typed.size)
  var length: Int?

  @Option(
    help: ArgumentHelp(
      "How long the blob is kept while nobody writes it. (default: 10m)", valueName: "dur"),
    transform: Typed.duration)
  var idle: Duration?

  @Option(
    help: ArgumentHelp(
      "The size of the rings that make up the blob.",
      discussion: "Default: one for the whole of a known length, else 64KiB doubling to 64MiB.",
      valueName: "size"),
    transform: Typed.positiveSize)
  var ring: Int?

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

  @OptionGroup var digest: DigestOptions

  @Flag(help: "Takes the place of a blob that has the key; its readers finish undisturbed.")
  var replace = false

  @Flag(
    help: """
      Begins with what was written of a failed blob of the key, which must have had the same \
      length and rings; with nothing if its content was not what was expected.
      """)
  var resume = false

  func validate() throws {
    if idle == .zero { throw ValidationError("--idle must be longer than 0s.") }
    if replace, resume {
      throw ValidationError("--replace forgets what --resume would take over; give one of them.")
    }
    if Set(label.map(\.name)).count < label.count {
      throw ValidationError("A label name was given twice.")
    }
  }

  func perform() throws {
    var options = BlobOptions(
      byteCount: length, mode: mode, replaces: replace, type: type, labels: label)
    options.firstExtentByteCount = ring
    options.extentByteLimit = ring
    options.idleLimit = idle
    options.resumes = resume
    keeping.apply(to: &options)
    digest.apply(to: &options)
    let client = try common.connect()
    let generation = try Failure.about(key) { try client.create(key, options) }
    guard common.json else { return }
    var fields = JSONFields()
    fields.append(key: key)
    fields["generation"] = .unsigned(generation.rawValue)
    try StandardOutput.line(JSON.object(fields).text)
  }
}
