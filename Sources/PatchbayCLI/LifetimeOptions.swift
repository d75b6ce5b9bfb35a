// What `produce` may say about how long a blob, and a failure to make it, is kept, and about a production
// that nobody reads.

import ArgumentParser
import Patchbay

struct LifetimeOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "How long the complete blob is served; then it is made again.",
      discussion: "Default: until it has to make room.", valueName: "duration"),
    transform: Typed.positiveDuration)
  var ttl: Duration?

  @Option(
    help: ArgumentHelp(
      "How long it is served when nobody asks for it.",
      discussion: "Default: until it has to make room.", valueName: "duration"),
    transform: Typed.positiveDuration)
  var idleExpiry: Duration?

  @Option(
    help: ArgumentHelp(
      "How long after that it is still served while one caller makes it again.",
      valueName: "duration"),
    transform: Typed.positiveDuration)
  var grace: Duration?

  @Option(
    help: ArgumentHelp(
      "What becomes of the command when nobody reads its output any more: finish, stop or pause.",
      discussion: "(default: finish)", valueName: "policy"),
    transform: Self.policy)
  var unread: UnreadPolicy = .finish

  @Option(
    help: ArgumentHelp(
      "How long all that ask are told of a failure, before the command is run again.",
      discussion: "Default: whoever asks next runs it.", valueName: "duration"),
    transform: Typed.positiveDuration)
  var failureTtl: Duration?

  @Option(
    help: ArgumentHelp(
      "How often the key must have been asked for before the blob is kept.",
      discussion: "Until then it goes with its last reader.", valueName: "n"))
  var leastUses: UInt32 = 0

  func validate() throws {
    if grace != nil, ttl == nil, idleExpiry == nil {
      throw ValidationError("--grace begins when a time is over; give --ttl or --idle-expiry.")
    }
  }

  func apply(to options: inout ProductionOptions) {
    options.blob.timeToLive = ttl
    options.blob.idleExpiry = idleExpiry
    options.blob.grace = grace
    options.whenUnread = unread
    options.failureLifetime = failureTtl
    options.leastUses = leastUses
  }

  private static func policy(_ text: String) throws -> UnreadPolicy {
    guard let policy = UnreadPolicy.allCases.first(where: { "\($0)" == text }) else {
      throw ValidationError(
        "What becomes of an unread production is one of finish, stop and pause.")
    }
    return policy
  }
}
