// `patchbay import`: a file that is there becomes a blob as it is.

import ArgumentParser
import Patchbay

struct ImportVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "import",
    abstract: "Publishes an existing file without copying it.",
    discussion: """
      The blob is sealed at once and takes no memory, however long the file is: readers read the file \
      itself. The broker never writes to it, and it stays where it is when the blob is removed. Only \
      the broker's own user and root may import; others copy: `patchbay put`.

      Do not change the file any more. A change is noticed by the file's length and times, and \
      renaming, linking, removing it or changing its mode counts as one: reads end with an error \
      then, and the blob has failed. An import waits until the file was left alone for 20 ms. To \
      publish a file that goes on changing, copy it: `patchbay put`.

      Example: patchbay import models/v7 weights.bin --type application/octet-stream

      Exits with 0; 64 usage; 65 the file was changed just as it was imported; 69 no broker; 73 the \
      key exists; 74 the file cannot be read, or has not the length that it says; 75 it is being \
      written to; 76 a mode with other bits than those of reading and writing; 77 it may not be read, \
      has no name, or the broker is another user's; 81 the broker holds as many files as it can.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key to publish under.", transform: Typed.key)
  var key: BlobKey

  @Argument(help: "A regular file.", completion: .file())
  var file: String

  @Option(
    help: ArgumentHelp(
      "Permission bits, fixed for this blob. (default: 0600)",
      discussion: "The file's own do not matter to readers.", valueName: "octal"),
    transform: Typed.mode)
  var mode: UInt16 = 0o600

  @Option(
    help: ArgumentHelp("Media type of the bytes.", valueName: "mime"), transform: Typed.mediaType)
  var type = ""

  @Option(
    help: ArgumentHelp("A label that travels with the blob; may be repeated.", valueName: "k=v"),
    transform: Typed.label)
  var label: [BlobInfo.Label] = []

  @Flag(help: "Takes the place of a blob that has the key; its readers finish undisturbed.")
  var replace = false

  func validate() throws {
    if Set(label.map(\.name)).count < label.count {
      throw ValidationError("A label name was given twice.")
    }
  }

  func perform() throws {
    let client = try common.connect()
    let options = ImportOptions(mode: mode, replaces: replace, type: type, labels: label)
    let generation = try Failure.about(key) { try client.importFile(file, as: key, options) }
    guard common.json else { return }
    let info = try Failure.about(key) { try client.info(key) }
    var fields = JSONFields()
    fields.append(key: key)
    fields["generation"] = .unsigned(generation.rawValue)
    fields["byteCount"] = .optional(info.byteCount)
    try StandardOutput.line(JSON.object(fields).text)
  }
}
