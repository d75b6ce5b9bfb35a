// What may not grow: figures of the broker, of its process and of what it has on disk and in shared memory,
// before and after; and those that each worker has of itself.

import Glibc
import Patchbay

/// What the system says about a process.
struct ProcessFigures {
  let descriptorCount: Int
  let threadCount: Int
  let mappingCount: Int
  /// Memory that no other process has mapped, and no file.
  let privateByteCount: Int

  init(_ process: pid_t) {
    let place = "/proc/\(process)"
    descriptorCount = Household.names(in: "\(place)/fd").count
    threadCount = Household.names(in: "\(place)/task").count
    mappingCount = Self.text("\(place)/maps").count { $0 == "\n" }
    let line = Self.text("\(place)/status").split(separator: "\n")
      .first { $0.hasPrefix("RssAnon:") }?.split(separator: " ").dropFirst().first
    privateByteCount = (line.flatMap { Int($0) } ?? 0) << 10
  }

  private static func text(_ path: String) -> String {
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return "" }
    defer { _ = close(file) }
    var all: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let got = unsafe read(file, &piece, piece.count)
      guard got > 0 else { return String(decoding: all, as: UTF8.self) }
      all += piece[..<got]
    }
  }
}

/// Figures of one moment, to be compared with those of another.
struct SoakFigures {
  struct Figure: Equatable {
    let name: String
    let value: Int
    /// By how much it may be higher than it was.
    var allowance = 0
  }

  private(set) var all: [Figure]

  init(_ all: [Figure]) { self.all = all }

  /// Of a broker that has no client but the one that asks.
  init(_ client: PatchbayClient, _ brokers: SoakBrokers) throws(PatchbayError) {
    let directory = brokers.directory
    let figures = try client.statistics()
    let process = ProcessFigures(client.brokerProcess)
    all = [
      Figure(name: "blobs", value: Int(figures.blobCount)),
      Figure(name: "clients", value: Int(figures.clientCount)),
      Figure(name: "rings", value: Int(figures.ringCount)),
      Figure(name: "memory bytes", value: Int(figures.memoryByteCount)),
      Figure(name: "pool bytes", value: Int(figures.poolByteCount)),
      Figure(name: "spool bytes", value: Int(figures.spoolByteCount)),
      Figure(name: "objects in /dev/shm", value: brokers.objects.count),
      Figure(name: "names in the spool", value: Household.names(in: "\(directory)/spool").count),
      Figure(name: "names in the directory", value: Household.names(in: directory).count),
      Figure(name: "descriptors of the broker", value: process.descriptorCount),
      Figure(name: "threads of the broker", value: process.threadCount),
      Figure(name: "mappings of the broker", value: process.mappingCount, allowance: 32),
      // What an allocator keeps of its highest mark.
      Figure(
        name: "private bytes of the broker", value: process.privateByteCount,
        allowance: 32 << 20),
    ]
  }

  /// Whether the broker has no blobs and no memory of them any more.
  var isEmpty: Bool {
    all.allSatisfy { !["blobs", "pool bytes"].contains($0.name) || $0.value == 0 }
  }

  /// What is higher than it was, in words.
  func grown(since before: SoakFigures) -> [String] {
    zip(all, before.all).filter { $0.value > $1.value + $1.allowance }.map { after, before in
      "\(after.name): \(before.value) before, \(after.value) after"
    }
  }
}

/// What a worker has more of in the end than when it had just connected.
struct SoakGrowth {
  /// Each with what is no leak: a client keeps 64 mappings of rings warm, and threads for files and for
  /// tasks, each a descriptor or two.
  static let allowances = [
    "descriptors": 12, "threads": 16, "mappings": 160, "private": 32 << 20,
  ]
  private static let names = allowances.keys.sorted()

  private(set) var values: [String: Int]

  init(since before: ProcessFigures, now: ProcessFigures) {
    values = [
      "descriptors": now.descriptorCount - before.descriptorCount,
      "threads": now.threadCount - before.threadCount,
      "mappings": now.mappingCount - before.mappingCount,
      "private": now.privateByteCount - before.privateByteCount,
    ]
  }

  /// As a worker said it.
  init(_ fields: Fields) throws(LoadError) {
    values = [:]
    for name in Self.names { values[name] = try fields.int(name) }
  }

  var fields: Fields { Fields(words: values.map { "\($0.key)=\($0.value)" }) }

  /// What is more than may be, in words.
  var excess: [String] {
    Self.names.compactMap { name in
      guard let value = values[name], let allowance = Self.allowances[name], value > allowance
      else { return nil }
      return "\(value) more \(name) than in the beginning"
    }
  }
}
