// What `put` and `create` may say about how long a blob is kept, and how on disk.

import ArgumentParser
import Patchbay

struct KeepingOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "What the end of this command promises: visible, retained, or durable.",
      discussion: """
        visible: the blob survives its publisher. retained: it survives the broker as well, durable: \
        also loss of power; both need a broker with a spool, where all of the blob is written before \
        it is sealed. (default: visible)
        """, valueName: "level"),
    transform: Self.level)
  var ack: Acknowledgement = .visible

  @Flag(help: "Lets the blob go when room is needed, whatever --ack says.")
  var cache = false

  @Option(
    help: ArgumentHelp(
      "How long the complete blob is served; then its key is free.",
      discussion: "Default: until it is removed, or has to make room.", valueName: "duration"),
    transform: Typed.positiveDuration)
  var ttl: Duration?

  @Option(
    help: ArgumentHelp(
      "How the blob is kept on disk: none or lz4. (default: as serve --compress says)",
      valueName: "method"),
    transform: Typed.compression)
  var compress: SpoolCompression?

  func apply(to options: inout BlobOptions) {
    options.acknowledgement = ack
    options.isCache = cache
    options.compression = compress
    options.timeToLive = ttl
  }

  private static func level(_ text: String) throws -> Acknowledgement {
    guard let level = Acknowledgement.allCases.first(where: { "\($0)" == text }) else {
      throw ValidationError("An acknowledgement is one of visible, retained and durable.")
    }
    return level
  }
}
