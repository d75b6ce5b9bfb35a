// `patchbay-load throughput`: one publisher, some readers, every byte to each of them. Timed from
// before the publisher's first byte to after the last reader's last one; readers are attached before.
// Making and reserving the memory is not in it and is shown beside it.

import ArgumentParser
import CFloor
import Glibc
import Patchbay
import PatchbaySystem
import PatchbayText

struct Throughput: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Bytes per second from one publisher to some readers.",
    discussion: """
      Timed from the publisher's first byte to the last reader's last byte, with all readers
      attached before. Reserving the memory comes before that and is its own column. GB/s are
      10^9 bytes per second for each reader.
      """)

  @Option(help: "Numbers of readers to try, as in 1,2,4.")
  var readers = ReaderCounts([1])

  @Option(help: "Bytes per append.")
  var writeSize = ByteSize(byteCount: 1 << 20)

  @Option(help: "The most bytes per read (default: the write size).")
  var readSize: ByteSize?

  @Option(help: "Bytes per run.")
  var total = ByteSize(byteCount: 1 << 30)

  @Option(help: "keep or backpressure: the publisher waits for its slowest reader.")
  var policy = FlowPolicy.keep

  @Option(help: "Bytes of the first extent (default: one for all); of the ring with backpressure.")
  var ring: ByteSize?

  @Option(help: "What the ring gives up at once, with backpressure.")
  var segment: ByteSize?

  @Option(help: "Appends that become readable together.")
  var batch = 1

  @Option(help: "What readers do with the bytes: copy, sum or view.")
  var consume = Consume.copy

  @Flag(help: "Readers check every byte, which takes its time.")
  var verify = false

  @Flag(
    help: """
      Each run writes into the memory of the one before, as blobs of one size that come and go do. \
      Without it every run gets fresh memory, as the floor does.
      """)
  var warm = false

  @OptionGroup var floorOptions: FloorOptions
  @OptionGroup var run_: RunOptions

  func validate() throws {
    guard writeSize.byteCount > 0, readSize?.byteCount ?? 1 > 0, total.byteCount > 0,
      total.byteCount <= 1 << 40
    else { throw ValidationError("Sizes must be at least 1, and --total at most 1TiB.") }
    guard policy != .dropOldest else {
      throw ValidationError("With drop-oldest readers miss bytes; there is no rate to compare.")
    }
    guard batch > 0, segment == nil || policy == .backpressure else {
      throw ValidationError("--batch must be at least 1, and --segment needs backpressure.")
    }
    guard !warm || !floorOptions.floor else {
      throw ValidationError("--warm cannot be compared with the floor, whose memory is fresh.")
    }
    _ = try floorOptions.repeats(run_)
  }

  /// Bytes of a run. A blob that is a page longer than the last one cannot have its ring.
  private func total(of turn: Int) -> Int { total.byteCount + (warm ? 0 : turn * 4096) }

  /// Bytes of shared memory for a run.
  private func capacity(_ total: Int) -> Int {
    policy == .keep ? total : ring?.byteCount ?? 2 << 20
  }

  func run() throws {
    let repeats = try floorOptions.repeats(run_)
    let path = try run_.brokerPath(
      memoryByteCount: capacity(total.byteCount) * 5 / 4 + 512 << 20)
    let client = try PatchbayClient(socketPath: path, name: "patchbay-load")
    var report = Report(run_)
    var keys = KeySource()
    for readerCount in readers.counts {
      var ours = Figures()
      var floor = Figures()
      for turn in 0..<repeats {
        // Who goes first changes from turn to turn, so a trend of the machine cancels out.
        let floorFirst = turn % 2 == 1
        if floorOptions.floor && floorFirst {
          floor.add(try runFloor(readerCount, total(of: turn)))
        }
        ours.add(try runOurs(client, readerCount, keys.next(), total(of: turn)))
        if floorOptions.floor && !floorFirst {
          floor.add(try runFloor(readerCount, total(of: turn)))
        }
      }
      report.add(cell(readerCount, ours, floor))
    }
    if floorOptions.floor { try checkFloor(&report) }
    report.finish()
  }

  // MARK: Cells

  /// One run: how fast it was and how long its memory took to make.
  struct Figure {
    var gigabytesPerSecond: Double
    var preparation: Double
  }

  private struct Figures {
    var rates = Series()
    var preparations = Series()

    mutating func add(_ figure: Figure) {
      rates.values.append(figure.gigabytesPerSecond)
      preparations.values.append(figure.preparation)
    }
  }

  private func cell(_ readerCount: Int, _ ours: Figures, _ floor: Figures) -> Report.Cell {
    var cell: Report.Cell = [
      ("mode", .text("throughput, \(consume.rawValue)\(verify ? ", verified" : "")")),
      ("policy", .text(policy == .keep ? "keep" : "backpressure")),
      ("write", .text(writeSize.description)), ("batch", .number(Double(batch), decimals: 0)),
      ("total", .text(total.description)),
      ("readers", .number(Double(readerCount), decimals: 0)),
      ("GB/s", .series(ours.rates)), ("reserve ms", .number(ours.preparations.median, decimals: 1)),
    ]
    guard floorOptions.floor else { return cell }
    cell += [
      ("floor GB/s", .series(floor.rates)),
      ("floor reserve ms", .number(floor.preparations.median, decimals: 1)),
      ("ratio", .series(ours.rates.ratios(to: floor.rates))),
    ]
    return cell
  }

  /// Says whether the floor is a floor: with few warm slots it has to come near memcpy.
  private func checkFloor(_ report: inout Report) throws {
    let check = FloorCheck(seed: run_.seed)
    let ratios = try check.run()
    report.add([
      ("floor check", .text("8 slots of 1MiB, 1 reader")), ("GB/s", .series(ratios.ring)),
      ("memcpy GB/s", .series(ratios.memcpy)),
      ("ratio", .series(ratios.ring.ratios(to: ratios.memcpy))),
    ])
    let ratio = ratios.ring.ratios(to: ratios.memcpy).median
    if ratio < FloorCheck.leastRatio {
      report.note(
        "The floor reaches \(ratio.decimals(2)) of memcpy at 1MiB with 8 slots, less than "
          + "\(FloorCheck.leastRatio.decimals(2)): it is at fault, or the machine is busy.")
    }
  }

  // MARK: Runs

  private var reads: ByteSize { readSize ?? writeSize }

  private func runOurs(
    _ client: PatchbayClient, _ readerCount: Int, _ key: String, _ total: Int
  ) throws -> Figure {
    let order: Fields = [
      "socket": client.socketPath, "key": key, "total": String(total),
      "seed": String(run_.seed), "verify": String(verify), "consume": consume.rawValue,
    ]
    let team = Team()
    let publisher = order.adding([
      "role": "publisher", "piece": String(writeSize.byteCount),
      "ring": String(ring?.byteCount ?? 0), "segment": String(segment?.byteCount ?? 0),
      "batch": String(batch), "policy": String(policy.rawValue),
    ])
    let preparation = try team.add(publisher).int("preparation")
    for _ in 0..<readerCount {
      try team.add(order.adding(["role": "reader", "piece": String(reads.byteCount)]))
    }
    let results = try team.run()
    try client.remove(BlobKey(key))
    return try Self.figure(results, total: total, preparation: preparation)
  }

  private func runFloor(_ readerCount: Int, _ total: Int) throws -> Figure {
    let floor = ThroughputFloor(
      total: total, capacity: capacity(total), writeSize: writeSize.byteCount, batch: batch,
      readSize: reads.byteCount, readerCount: readerCount, consume: consume, verify: verify,
      seed: run_.seed)
    return try floor.run()
  }

  /// From the publisher's first byte to the last reader's last.
  /// - Throws: when a reader found a wrong byte.
  static func figure(
    _ results: [Fields], total: Int, preparation: Int
  ) throws(LoadError) -> Figure {
    let first = try results[0].int("first")
    var last = first
    for reader in results.dropFirst() {
      let mismatch = try reader.int("mismatch")
      guard mismatch < 0 else {
        throw LoadError("A reader got a wrong byte at position \(mismatch).")
      }
      last = max(last, try reader.int("last"))
    }
    return Figure(
      gigabytesPerSecond: Double(total) / Double(max(last - first, 1)),
      preparation: Double(preparation) / 1e6)
  }
}
