// `patchbay wait`: until a blob is there, or complete.

import ArgumentParser
import Patchbay

struct WaitVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "wait",
    abstract: "Waits until a blob exists, or is sealed.",
    discussion: """
      Also waits for a key that does not exist yet. Of a blob that is fetched on demand all is \
      fetched, so that it can be sealed.

      Example: patchbay wait models/v7 --timeout 10m && run-model

      Exits with 0 when it is so; 64 usage; 69 no broker; 74 some of it could not be fetched; 75 \
      time-out; 79 the blob has failed, or was abandoned or removed: there is nothing left to wait \
      for.
      """)

  enum Condition: String, CaseIterable, ExpressibleByArgument {
    case exists, sealed
  }

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key.", transform: Typed.key)
  var key: BlobKey

  @Option(
    name: .customLong("for"), help: ArgumentHelp("What to wait for.", valueName: "state"))
  var condition: Condition = .sealed

  @Option(
    help: ArgumentHelp(
      "Gives up after so long.", discussion: "Default: never.", valueName: "duration"),
    transform: Typed.duration)
  var timeout: Duration?

  func perform() throws {
    let client = try common.connect()
    let deadline = timeout.map(Deadline.after) ?? .never
    try Failure.reading(key) {
      let subscriber = try client.open(key, waitUntil: deadline)
      if condition == .sealed { try subscriber.waitUntilSealed(deadline: deadline) }
      guard common.json else { return }
      var fields = JSONFields()
      fields.append(key: key)
      fields["generation"] = .unsigned(subscriber.generation.rawValue)
      fields["state"] = .string("\(subscriber.state)")
      fields["length"] = .optional(subscriber.byteCount)
      try StandardOutput.line(JSON.object(fields).text)
    }
  }
}
