// `patchbay rm`: takes keys away.

import ArgumentParser
import Patchbay

struct RemoveVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "rm",
    abstract: "Removes blobs.",
    discussion: """
      The keys are free at once. Whoever reads a blob finishes with it; its memory goes with the \
      last reader. A key that cannot be removed does not keep the others from it; the first \
      such key decides the exit code.

      Example: patchbay rm models/v6 models/v5

      Exits with 0; 64 usage; 66 no such key (not with -f); 69 no broker; 77 not permitted.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The keys.", completion: .keys, transform: Typed.key)
  var keys: [BlobKey]

  @Flag(name: [.customShort("f"), .customLong("force")], help: "Keys that do not exist are fine.")
  var force = false

  func perform() throws {
    let client = try common.connect()
    var firstExitCode: Int32?
    for key in keys {
      do throws(PatchbayError) {
        try client.remove(key)
        try report(key)
      } catch {
        if force, error.code == .noSuchKey { continue }
        let failure = Failure(error, key: key)
        failure.report(asJSON: common.json)
        firstExitCode = firstExitCode ?? failure.exitCode
      }
    }
    if let firstExitCode { throw ExitCode(firstExitCode) }
  }

  private func report(_ key: BlobKey) throws(PatchbayError) {
    guard common.json else { return }
    var fields = JSONFields()
    fields.append(key: key)
    fields["removed"] = .boolean(true)
    try StandardOutput.line(JSON.object(fields).text)
  }
}
