// One of several processes that want the same blob, each able to produce it. What it begins to produce it
// notes in a file that all share, so that the test can add up what was produced, whoever was killed.

import Glibc
import Patchbay
import PatchbayTestSupport

/// `produce SOCKET KEY BYTES WAY NOTES GATE STALL`: the way is `anywhere`, `zero`, or `own`: from zero, with
/// a content of this process's own. Once the first piece is there it waits for the file GATE. A stall of 0
/// milliseconds is none. It says `first` when it has a byte, and `GENERATION BYTES` when it has all.
struct Producer {
  private enum Way: String {
    case anywhere, zero, own
  }

  private let socket: String
  private let key: BlobKey
  private let byteCount: Int
  private let way: Way
  private let notes: String
  private let gate: String
  private let stall: Duration?

  /// Covered at once, or not at all.
  static let pieceByteCount = 1 << 16
  static let content: UInt64 = 77

  init(_ arguments: [String]) throws {
    guard arguments.count == 8, let byteCount = Int(arguments[3]),
      let way = Way(rawValue: arguments[4]), let stall = Int(arguments[7])
    else { throw HarnessError("produce SOCKET KEY BYTES WAY NOTES GATE STALL") }
    socket = arguments[1]
    key = try BlobKey(arguments[2])
    self.byteCount = byteCount
    self.way = way
    notes = arguments[5]
    gate = arguments[6]
    self.stall = stall > 0 ? .milliseconds(stall) : nil
  }

  func run() throws {
    let client = try PatchbayClient(socketPath: socket)
    var options = ProductionOptions(
      BlobOptions(byteCount: way == .anywhere ? byteCount : nil),
      start: way == .anywhere ? .anywhere : .fromZero, stallTimeout: stall)
    options.blob.extentByteLimit = 1 << 20
    options.blob.firstExtentByteCount = 1 << 20
    let blob = try client.get(key, options) { job in try produce(job) }
    try read(blob)
    say("\(blob.generation) \(byteCount)")
  }

  // MARK: Writing

  private var oracle: PeriodicOracle {
    PeriodicOracle(way == .own ? UInt64(getpid()) : Self.content)
  }

  private func produce(_ job: Production) throws {
    let oracle = oracle
    for piece in pieces(of: job) {
      try note("\(getpid()) \(piece.lowerBound) \(piece.count)\n")
      if way == .anywhere {
        try job.publisher.write(oracle.bytes(piece), at: piece.lowerBound)
      } else {
        try job.publisher.append(oracle.bytes(piece))
      }
      try waitForGate()
      _ = poll(nil, 0, 1)
    }
  }

  private func pieces(of job: Production) -> [Range<Int>] {
    let missing = way == .anywhere ? job.missing : [0..<byteCount]
    let pieces = missing.flatMap { range in
      stride(from: range.lowerBound, to: range.upperBound, by: Self.pieceByteCount).map {
        $0..<min($0 + Self.pieceByteCount, range.upperBound)
      }
    }
    return way == .anywhere ? pieces.shuffled() : pieces
  }

  private func note(_ line: String) throws {
    let file = open(notes, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    defer { _ = close(file) }
    let bytes = Array(line.utf8)
    guard unsafe write(file, bytes, bytes.count) == bytes.count else {
      throw HarnessError("nothing can be noted in \(notes)")
    }
  }

  private func waitForGate() throws {
    try eventually("the gate opens", within: 120) { access(gate, F_OK) == 0 }
  }

  // MARK: Reading

  private func read(_ blob: Subscriber) throws {
    var cursor = blob.cursor()
    var whole: [UInt8] = []
    while let bytes = try cursor.read(upTo: 1 << 18, deadline: longWait) {
      if whole.isEmpty { say("first") }
      whole += bytes
    }
    guard whole.count == byteCount else { throw HarnessError("\(key) ends at \(whole.count)") }
    let makers =
      way == .own
      ? try Set(
        readFile(notes).split(separator: "\n").compactMap { UInt64($0.prefix { $0 != " " }) })
      : [Self.content]
    // Of one maker, from the first byte to the last.
    guard makers.contains(where: { PeriodicOracle($0).firstWrong(whole.span, at: 0) == nil }) else {
      throw HarnessError("WRONG BYTE in \(key)")
    }
  }
}
