// What `put` may say about slow readers: who waits for whom, and where a late one begins.

import ArgumentParser
import Patchbay

struct FlowOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "What becomes of bytes when readers are slow: keep, backpressure, or drop-oldest.",
      discussion: """
        keep: everything stays readable. backpressure and drop-oldest keep the last bytes only, in \
        one ring: with backpressure the publisher waits for its slowest reader, with drop-oldest a \
        slow reader loses the oldest bytes and is told so. (default: keep)
        """, valueName: "policy"),
    transform: Self.policy)
  var policy: FlowPolicy = .keep

  @Option(
    help: ArgumentHelp(
      "What a ring gives up at once; a power of two from 4KiB. (default: an eighth of the ring)",
      valueName: "size"),
    transform: Typed.positiveSize)
  var segment: Int?

  @Option(
    help: ArgumentHelp(
      "With backpressure: lets a reader go that holds the publisher so long. (default: 10s)",
      valueName: "duration"),
    transform: Typed.duration)
  var slowest: Duration?

  @Flag(
    help: ArgumentHelp(
      "Marks the beginnings of lines.",
      discussion: """
        A reader that starts at the live end, or goes on after it has lost bytes, then begins with a \
        whole line.
        """))
  var lines = false

  var isWindow: Bool { policy != .keep }

  func validate() throws {
    if segment != nil, !isWindow {
      throw ValidationError("--segment divides the ring of --policy backpressure or drop-oldest.")
    }
    if slowest != nil, policy != .backpressure {
      throw ValidationError("--slowest is the patience of --policy backpressure; give both.")
    }
  }

  func apply(to options: inout BlobOptions) {
    options.policy = policy
    options.segmentByteCount = segment
    if let slowest { options.slowestLimit = slowest }
  }

  private static func policy(_ text: String) throws -> FlowPolicy {
    guard let policy = FlowPolicy.allCases.first(where: { $0.word == text }) else {
      throw ValidationError("A policy is one of keep, backpressure and drop-oldest.")
    }
    return policy
  }
}
