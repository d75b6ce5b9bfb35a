// Flags that several modes share. A mode takes the groups it honours and no others.

import ArgumentParser
import Patchbay
import PatchbayText

extension ByteSize: ExpressibleByArgument {
  /// A size as it was typed; nil for what is none.
  public init?(argument: String) { self.init(argument) }
}

extension TimeSpan: ExpressibleByArgument {
  /// A duration as it was typed; nil for what is none.
  public init?(argument: String) { self.init(argument) }
}

/// What a reader does with the bytes it gets.
enum Consume: String, ExpressibleByArgument, CaseIterable {
  /// Copies them into a buffer of its own.
  case copy
  /// Copies them and adds them up.
  case sum
  /// Adds them up where they are, without a copy.
  case view
}

extension FlowPolicy: ExpressibleByArgument {
  /// A policy as the command spells it; nil for what is none.
  public init?(argument: String) {
    switch argument {
    case "keep": self = .keep
    case "backpressure": self = .backpressure
    case "drop-oldest": self = .dropOldest
    default: return nil
    }
  }

  /// How the command spells them.
  public static var allValueStrings: [String] { ["keep", "backpressure", "drop-oldest"] }
  /// How the command spells this one.
  public var defaultValueDescription: String { Self.allValueStrings[Int(rawValue) - 1] }
}

/// Which broker, and how the figures are shown.
struct RunOptions: ParsableArguments {
  @Option(help: "A running broker's socket; without it the tool starts a broker of its own.")
  var socket: String?

  @Option(help: "Repeats per cell (default: 5 with --floor, else 3).")
  var repeats: Int?

  @Option(help: "What the content derives from (default: a random number, which is printed).")
  var seed: UInt32 = .random(in: 1...UInt32.max)

  @Flag(help: "Prints one JSON object per line.")
  var json = false

  func validate() throws {
    guard repeats ?? 1 > 0 else { throw ValidationError("--repeats must be at least 1.") }
  }

  /// The broker to measure; one of the tool's own unless another was named.
  func brokerPath(memoryByteCount: Int) throws -> String {
    try socket ?? BrokerProcess.start(memoryByteCount: memoryByteCount)
  }
}

/// Comparing with the C floor.
struct FloorOptions: ParsableArguments {
  @Flag(help: "Alternates with the same work in plain C and gives ratios ours/floor.")
  var floor = false

  static let leastRepeats = 5

  func repeats(_ run: RunOptions) throws -> Int {
    let repeats = run.repeats ?? (floor ? Self.leastRepeats : 3)
    guard !floor || repeats >= Self.leastRepeats else {
      throw ValidationError(
        "--floor needs at least \(Self.leastRepeats) repeats; the range of fewer says nothing.")
    }
    return repeats
  }
}

/// Numbers of readers, as in `1,2,4`.
struct ReaderCounts: ExpressibleByArgument {
  let counts: [Int]

  init(_ counts: [Int]) { self.counts = counts }

  static let limit = 32

  init?(argument: String) {
    let parts = argument.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) }
    let counts = parts.compactMap { $0 }
    guard counts.count == parts.count, counts.allSatisfy({ (1...Self.limit).contains($0) }) else {
      return nil
    }
    self.counts = counts
  }

  var defaultValueDescription: String { counts.map(String.init).joined(separator: ",") }
}

/// Keys of this run: no two runs on one broker meet.
struct KeySource {
  private let prefix = "patchbay-load/\(UInt64.random(in: .min ... .max))"
  private var count = 0

  mutating func next() -> String {
    count += 1
    return "\(prefix)/\(count)"
  }
}
