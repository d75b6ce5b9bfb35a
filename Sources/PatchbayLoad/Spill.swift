// `patchbay-load spill`: how fast a file becomes a blob that stands on disk whole, beside the programs
// that do just that: `dd`, and with LZ4 `lz4 -1 -c`, on the same data in the same minute.

import ArgumentParser
import Glibc
import Patchbay
import PatchbaySystem
import PatchbayText

/// What the bytes are like.
enum SpillSource: String, ExpressibleByArgument, CaseIterable {
  /// Words in lines: LZ4 halves them.
  case text
  /// Nothing that LZ4 could use.
  case noise
}

struct Spill: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Through memory to disk: a blob larger than memory, with and without LZ4.",
    discussion: """
      A file is published by a broker with little memory and a spool, until all of it is written \
      there (--ack retained), by one process for reading and one for writing. With --floor the same \
      file is copied by dd, or compressed by lz4 -1 -c, in turn. "ratio" compares bytes per second, \
      "per core" bytes per second of processor time of all processes together. Needs three times \
      --total on the disk of $TMPDIR.
      """)

  @Option(help: "Bytes of the file.")
  var total = ByteSize(byteCount: 512 << 20)

  @Option(help: "Memory of the broker.")
  var memory = ByteSize(byteCount: 64 << 20)

  @Option(help: "What to write: text or noise; may be repeated. (default: both)")
  var source: [SpillSource] = []

  @Flag(help: "Alternates with dd or lz4 and gives ratios.")
  var floor = false

  @Option(help: "Repeats per cell.")
  var repeats = 5

  @Option(help: "What the content derives from (default: a random number, which is printed).")
  var seed: UInt32 = .random(in: 1...UInt32.max)

  @Flag(help: "Prints one JSON object per line.")
  var json = false

  func validate() throws {
    guard total.byteCount >= 1 << 20 else { throw ValidationError("--total must be 1MiB or more.") }
    guard memory.byteCount >= 16 << 20 else {
      throw ValidationError("--memory must be 16MiB or more.")
    }
    guard repeats > 0 else { throw ValidationError("--repeats must be at least 1.") }
  }

  func run() throws {
    let path = try BrokerProcess.start(memoryByteCount: memory.byteCount, hasSpool: true)
    let directory = String(path.prefix(upTo: path.lastIndex(of: "/") ?? path.endIndex))
    var report = Report(seed: seed, asJSON: json)
    for source in source.isEmpty ? SpillSource.allCases : source {
      let file = "\(directory)/\(source.rawValue)"
      var content = SpillFile(seed: UInt64(seed))
      try content.write(source, byteCount: total.byteCount, to: file)
      for compression in SpoolCompression.allCases {
        report.add(try cell(source, compression, file, path))
      }
      _ = unsafe unlink(file)
    }
    report.finish()
  }

  private func cell(
    _ source: SpillSource, _ compression: SpoolCompression, _ file: String, _ socket: String
  ) throws -> Report.Cell {
    let copy = file + ".copy"
    var (ours, others) = (SpillFigures(), SpillFigures())
    for turn in 0..<repeats {
      ours.add(
        try publish(file, compression, socket, key: "spill/\(source)/\(compression)/\(turn)"),
        of: total.byteCount)
      guard floor else { continue }
      let command =
        compression == .none
        ? ["dd", "if=\(file)", "of=\(copy)", "bs=1M", "status=none"]
        : ["sh", "-c", "exec lz4 -1 -c '\(file)' > '\(copy)'"]
      others.add(try OtherProgram.run(command, writing: copy), of: total.byteCount)
    }
    var cell: Report.Cell = [
      ("source", .text(source.rawValue)), ("compression", .text("\(compression)")),
      ("MB/s", .series(ours.rates)), ("on disk", .series(ours.shares)),
    ]
    if floor {
      cell += [
        (compression == .none ? "dd MB/s" : "lz4 MB/s", .series(others.rates)),
        ("its size", .series(others.shares)),
        ("ratio", .series(ours.rates.ratios(to: others.rates))),
        ("per core", .series(ours.coreRates.ratios(to: others.coreRates))),
      ]
    }
    return cell
  }

  private func publish(
    _ file: String, _ compression: SpoolCompression, _ socket: String, key: String
  ) throws -> SpillRun {
    let team = Team()
    try team.add([
      "role": "spill", "socket": socket, "file": file, "compression": "\(compression.rawValue)",
      "key": key,
    ])
    let result = try team.run()[0]
    return SpillRun(
      nanoseconds: try result.int("elapsed"), coreNanoseconds: try result.int("cpu"),
      byteCount: try result.int("disk"))
  }
}

/// One run: how long, how much processor time, how much disk.
struct SpillRun {
  let nanoseconds: Int
  let coreNanoseconds: Int
  let byteCount: Int
}

struct SpillFigures {
  private(set) var rates = Series()
  private(set) var coreRates = Series()
  private(set) var shares = Series()

  mutating func add(_ run: SpillRun, of byteCount: Int) {
    rates.values.append(Double(byteCount) * 1000 / Double(max(run.nanoseconds, 1)))
    coreRates.values.append(Double(byteCount) * 1000 / Double(max(run.coreNanoseconds, 1)))
    shares.values.append(Double(run.byteCount) / Double(byteCount))
  }
}

// MARK: Ours

enum SpillWorker {
  static func run(_ order: Fields) throws {
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    let key = try BlobKey(try order.text("key"))
    var options = BlobOptions()
    options.acknowledgement = .retained
    options.compression = SpoolCompression(rawValue: UInt8(try order.int("compression")))
    let file = try order.text("file")
    let broker = client.brokerProcess
    Worker.waitForStart()
    let before = try ProcessorTime.ofThis() + ProcessorTime.of(broker)
    let start = MonotonicTime.now
    try client.publish(contentsOf: file, as: key, options)
    let elapsed = MonotonicTime.now.nanoseconds - start.nanoseconds
    let after = try ProcessorTime.ofThis() + ProcessorTime.of(broker)
    let disk = try client.info(key).spilledByteCount
    try client.remove(key)
    Worker.finish([
      "elapsed": String(elapsed), "cpu": String(after - before), "disk": String(disk),
    ])
  }
}

/// What processes have used of processors, in nanoseconds.
enum ProcessorTime {
  static func nanoseconds(_ usage: rusage) -> Int {
    let seconds = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
    return seconds * 1_000_000_000 + Int(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000
  }

  static func ofThis() -> Int {
    var time = timespec()
    _ = unsafe clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return time.tv_sec * 1_000_000_000 + time.tv_nsec
  }

  /// Of another process, all its threads, to a hundredth of a second.
  static func of(_ process: Int32) throws(LoadError) -> Int {
    var clock = clockid_t()
    var time = timespec()
    guard unsafe clock_getcpuclockid(process, &clock) == 0,
      unsafe clock_gettime(clock, &time) == 0
    else { throw LoadError("The processor time of process \(process) cannot be had.") }
    return time.tv_sec * 1_000_000_000 + time.tv_nsec
  }
}

// MARK: The others

enum OtherProgram {
  /// Runs a program to its end, looks at what it has written, and removes that: the next run begins
  /// with a new file, as ours do.
  static func run(_ words: [String], writing path: String) throws(LoadError) -> SpillRun {
    var arguments = unsafe words.map { unsafe strdup($0) } + [nil]
    defer { unsafe arguments.forEach { unsafe free($0) } }
    defer { _ = unsafe unlink(path) }
    let start = MonotonicTime.now
    var process = pid_t()
    let result = unsafe posix_spawnp(&process, words[0], nil, nil, &arguments, environ)
    guard result == 0 else { throw LoadError("\(words[0]) does not start: error \(result).") }
    var status: Int32 = 0
    var usage = rusage()
    _ = unsafe wait4(process, &status, 0, &usage)
    let elapsed = MonotonicTime.now.nanoseconds - start.nanoseconds
    var facts = stat()
    guard status == 0, unsafe stat(path, &facts) == 0 else {
      throw LoadError("\(words.joined(separator: " ")) failed with status \(status).")
    }
    return SpillRun(
      nanoseconds: Int(elapsed), coreNanoseconds: ProcessorTime.nanoseconds(usage),
      byteCount: Int(facts.st_size))
  }
}

// MARK: The file

struct SpillFile {
  private var random: SplitMix

  init(seed: UInt64) { random = SplitMix(state: seed) }

  mutating func write(
    _ source: SpillSource, byteCount: Int, to path: String
  ) throws(LoadError) {
    let file = unsafe open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    guard file >= 0 else { throw LoadError("\(path) cannot be made: error \(errno).") }
    defer { _ = close(file) }
    let words = (0..<4096).map { _ in word() }
    var left = byteCount
    while left > 0 {
      let piece = source == .noise ? noise() : text(words)
      let count = min(left, piece.count)
      guard unsafe Glibc.write(file, piece, count) == count else {
        throw LoadError("\(path) cannot be written: error \(errno).")
      }
      left -= count
    }
  }

  private static let pieceByteCount = 1 << 20

  private mutating func noise() -> [UInt8] {
    (0..<Self.pieceByteCount / 8).flatMap { _ in
      let word = random.next()
      return (0..<8).map { UInt8(truncatingIfNeeded: word >> ($0 * 8)) }
    }
  }

  private mutating func word() -> [UInt8] {
    let letters = random.next()
    let count = 2 + Int(letters % 9)
    return (0..<count).map { UInt8(ascii: "a") + UInt8(letters >> (4 + $0 * 5) & 0x1f) % 26 }
  }

  /// Words of a small language, the short numbers more often.
  private mutating func text(_ words: [[UInt8]]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(Self.pieceByteCount + 16)
    while bytes.count < Self.pieceByteCount {
      let drawn = random.next()
      let index = Int(drawn % 4096) & Int(drawn >> 12 % 4096)
      bytes += words[index]
      bytes.append(UInt8(ascii: drawn >> 60 == 0 ? "\n" : " "))
    }
    return bytes
  }
}
