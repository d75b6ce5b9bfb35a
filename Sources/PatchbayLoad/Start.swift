// `patchbay-load start`: how long a broker takes to start over a spool with many blobs, and how
// much memory it has then. The broker before it was killed, so the new one clears up, too. Or, with
// --recover, over blobs in memory and clients that come back.

import ArgumentParser
import Glibc
import Patchbay
import PatchbaySystem

struct Start: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Starting over a spool with many blobs: time to the first answer, memory.",
    discussion: """
      Blobs of up to 1000 bytes are published to a broker with a spool (--ack retained), which takes \
      a while, and that broker is killed. Then, --repeats times, a broker is started over the spool \
      and killed: "start ms" is the time from the start of its process to its answer to a client \
      that asks as soon as it can, "VmRSS MiB" and "VmHWM MiB" its memory then. Each time all blobs \
      have to be listed and some, at random, to have their bytes. The files are in the system's \
      cache. Needs about 20 KiB per blob on the disk of $TMPDIR and, while it publishes, up to 64 MiB \
      and 4 KiB per blob of shared memory. Taking so many files away at the end takes a while, too.

      With --recover the blobs are in memory, and --clients processes have ten of them open each. The \
      broker is killed under them: "first answer ms" is the time from the start of the next one's \
      process to its answer to a client that it does not know, "all back ms" to its answer to the \
      last of those that were there before, "ready ms" until it says that it is ready. Each of them \
      reads its blobs afterwards, and in the end all blobs are read. Needs 256 MiB and 64 KiB per \
      blob of shared memory.
      """)

  @Option(help: "Blobs (default: 100000 in the spool; with --recover, 1000 in memory).")
  var blobs: Int?

  @Flag(help: "Starts over blobs in memory, with clients that come back.")
  var recover = false

  @Option(help: "Clients that are connected when the broker dies (default: 100).")
  var clients: Int?

  @Option(help: "Starts.")
  var repeats = 5

  @Option(help: "What the content derives from (default: a random number, which is printed).")
  var seed: UInt32 = .random(in: 1...UInt32.max)

  @Flag(help: "Prints one JSON object per line.")
  var json = false

  private var blobCount: Int { blobs ?? (recover ? 1000 : 100_000) }

  /// The journal, which is shared memory, takes more than 2 KiB for each blob that is published.
  private var memoryByteCount: Int { (64 << 20) + blobCount * 4096 }

  func validate() throws {
    guard (1...1_000_000).contains(blobCount) else {
      throw ValidationError("--blobs must be 1 to 1000000.")
    }
    guard repeats > 0 else { throw ValidationError("--repeats must be at least 1.") }
    guard clients == nil || recover else {
      throw ValidationError("--clients is about those that come back: add --recover.")
    }
    guard (1...1000).contains(clients ?? 1) else {
      throw ValidationError("--clients must be 1 to 1000.")
    }
  }

  func run() throws {
    let directory = try Household.shared.makeDirectory()
    var report = Report(seed: seed, asJSON: json)
    if recover {
      report.add(try recoverBlobs(directory))
    } else {
      report.add(try startOverSpool(directory))
    }
    report.finish()
  }

  private func recoverBlobs(_ directory: String) throws -> Report.Cell {
    let count = clients ?? 100
    let run = RecoveryRun(directory: directory, blobs: blobCount, clients: count, seed: seed)
    let cell: Report.Cell = [
      ("blobs", .number(Double(blobCount), decimals: 0)),
      ("clients", .number(Double(count), decimals: 0)),
    ]
    return cell + (try run.measure(repeats: repeats)).cell
  }

  private func startOverSpool(_ directory: String) throws -> Report.Cell {
    let perSecond = try fill(directory)
    var (times, resident, highest) = (Series(), Series(), Series())
    for _ in 0..<repeats {
      Household.shared.killBroker()
      let result = try start(directory)
      times.values.append(Double(try result.int("elapsed")) / 1_000_000)
      resident.values.append(Double(try result.int("resident")) / 1024)
      highest.values.append(Double(try result.int("highest")) / 1024)
    }
    return [
      ("blobs", .number(Double(blobCount), decimals: 0)), ("start ms", .series(times)),
      ("VmRSS MiB", .series(resident)), ("VmHWM MiB", .series(highest)),
      ("published/s", .number(perSecond, decimals: 0)),
    ]
  }

  private func order(_ role: String, _ directory: String) -> Fields {
    [
      "role": role, "socket": BrokerProcess.socketPath(in: directory), "blobs": String(blobCount),
      "seed": String(seed),
    ]
  }

  /// Makes the spool; how many blobs were published in a second.
  private func fill(_ directory: String) throws -> Double {
    _ = try BrokerProcess.start(
      in: directory, memoryByteCount: memoryByteCount, hasSpool: true)
    let team = Team()
    try team.add(order("start-fill", directory))
    return Double(blobCount) * 1e9 / Double(max(try team.run()[0].int("elapsed"), 1))
  }

  /// Starts a broker over the spool; what its first client has found.
  private func start(_ directory: String) throws -> Fields {
    let team = Team()
    // Before the broker: the start of the client's process is not the broker's.
    try team.add(order("start-ask", directory))
    let start = MonotonicTime.now
    _ = try BrokerProcess.start(
      in: directory, memoryByteCount: memoryByteCount, hasSpool: true)
    let result = try team.run()[0]
    let elapsed = Int64(try result.int("answered")) - start.nanoseconds
    return result.adding(["elapsed": String(elapsed)])
  }
}

enum StartWorker {
  /// Publishes all blobs, and says from time to time how far it is.
  static func fill(_ order: Fields) throws {
    let blobs = try RetainedBlobs(order)
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    var options = BlobOptions()
    options.acknowledgement = .retained
    Worker.waitForStart()
    let start = MonotonicTime.now
    for number in 0..<blobs.count {
      try client.publish(blobs.bytes(number), as: try blobs.key(number), options)
      if (number + 1) % max(blobs.count / 10, 1) == 0 {
        tell("\(number + 1) of \(blobs.count) blobs are published.")
      }
    }
    Worker.finish(["elapsed": String(MonotonicTime.now.nanoseconds - start.nanoseconds)])
  }

  /// To people, who wait; figures go to the standard output.
  private static func tell(_ sentence: String) {
    let bytes = Array("\(sentence)\n".utf8)
    _ = unsafe write(2, bytes, bytes.count)
  }

  /// Asks a broker that has just come up whether it is there, and then for all blobs.
  static func ask(_ order: Fields) throws {
    let blobs = try RetainedBlobs(order)
    Worker.waitForStart()
    let client = try PatchbayClient(socketPath: try order.text("socket"))
    try client.ping()
    let answered = MonotonicTime.now
    let memory = try ProcessMemory(of: client.brokerProcess)
    try blobs.check(client)
    Worker.finish([
      "answered": String(answered.nanoseconds), "resident": String(memory.resident),
      "highest": String(memory.highest),
    ])
  }
}

/// Small blobs of predictable bytes and lengths, in the order of their keys.
private struct RetainedBlobs {
  let count: Int
  private let seed: UInt64
  private let content: Content
  private static let longest = 1000
  /// So many are read, of those that are listed.
  private static let readCount = 50

  init(_ order: Fields) throws(LoadError) {
    count = try order.int("blobs")
    seed = UInt64(try order.int("seed"))
    content = Content(seed: seed, longest: Self.longest)
  }

  /// With leading zeros: the byte order of the keys is that of the numbers.
  func key(_ number: Int) throws(PatchbayError) -> BlobKey {
    try BlobKey("start/\(String(String(10_000_000 + number).dropFirst()))")
  }

  private func byteCount(_ number: Int) -> Int { 1 + number * 7919 % Self.longest }

  func bytes(_ number: Int) -> [UInt8] {
    content.withBytes(at: number * 61, count: byteCount(number)) { span in
      [UInt8](capacity: span.count) { output in
        for index in span.indices { output.append(span[index]) }
      }
    }
  }

  func check(_ client: PatchbayClient) throws {
    try checkList(client)
    var random = SplitMix(state: seed)
    for _ in 0..<Self.readCount {
      let number = Int.random(in: 0..<count, using: &random)
      let key = try key(number)
      guard try client.open(key).readFully(0..<byteCount(number)) == bytes(number) else {
        throw LoadError("The blob \(key) came back changed.")
      }
    }
  }

  private func checkList(_ client: PatchbayClient) throws {
    var (number, after, hasMore) = (0, BlobKey?.none, true)
    while hasMore {
      let page = try client.list(after: after)
      for info in page.blobs {
        guard number < count, info.key == (try key(number)), info.byteCount == byteCount(number)
        else { throw LoadError("Blob \(number) of \(count) is listed as \(info.key).") }
        number += 1
      }
      after = page.blobs.last?.key
      hasMore = page.hasMore
    }
    guard number == count else { throw LoadError("Of \(count) blobs \(number) are listed.") }
  }
}

/// What a process has in memory, in KiB: now, and at most so far.
struct ProcessMemory {
  let resident: Int
  let highest: Int

  init(of process: Int32) throws(LoadError) {
    let path = "/proc/\(process)/status"
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw LoadError("\(path) cannot be opened: error \(errno).") }
    defer { _ = close(file) }
    var bytes = [UInt8](repeating: 0, count: 8192)
    let got = unsafe read(file, &bytes, bytes.count)
    let lines = String(decoding: bytes.prefix(max(got, 0)), as: UTF8.self).split(separator: "\n")
    func figure(_ name: String) throws(LoadError) -> Int {
      let words = lines.first { $0.hasPrefix("\(name):") }?.split { $0 == " " || $0 == "\t" }
      guard let words, words.count > 1, let figure = Int(words[1]) else {
        throw LoadError("\(path) does not tell \(name).")
      }
      return figure
    }
    resident = try figure("VmRSS")
    highest = try figure("VmHWM")
  }
}
