// What clients have in common that live longer than their brokers: they connect when there is one, know
// their content, and have in the end as many descriptors as in the beginning.

import Glibc
import Patchbay
import PatchbayTestSupport

/// A line for the test, at once and whole: several threads speak.
func say(_ line: String) {
  let bytes = Array("\(line)\n".utf8)
  _ = unsafe write(1, bytes, bytes.count)
}

/// What is wrong, for the test's log.
func complain(_ line: String) {
  let bytes = Array("\(line)\n".utf8)
  _ = unsafe write(2, bytes, bytes.count)
}

/// Connects as soon as there is a broker: one that dies while it is greeted is not there yet.
func connectedEventually(_ socket: String) throws -> PatchbayClient {
  var client: PatchbayClient?
  try eventually("a broker answers on \(socket)", within: 60) {
    do throws(PatchbayError) {
      client = try PatchbayClient(socketPath: socket)
    } catch {
      guard [.noBroker, .timedOut].contains(error.code) else { throw error }
    }
    return client != nil
  }
  guard let client else { throw HarnessError("no client") }
  return client
}

/// Watches that a process gives back what it has opened.
struct DescriptorBaseline {
  private let count = descriptorCount(of: getpid())

  /// Handles that are closed give back theirs in a moment.
  func check() throws {
    var now = count
    do {
      try eventually("descriptors are given back") {
        now = descriptorCount(of: getpid())
        return now <= count
      }
    } catch {
      throw HarnessError("\(now) descriptors are open, \(count) were in the beginning")
    }
  }
}

/// A blob's content, and whoever reads something else says so.
struct CheckedContent {
  let oracle: PeriodicOracle
  private let name: String

  init(_ key: BlobKey, _ generation: Generation) {
    oracle = PeriodicOracle(generation.rawValue)
    name = "\(key), generation \(generation)"
  }

  func check(_ bytes: Span<UInt8>, at position: Int) throws {
    if let wrong = oracle.firstWrong(bytes, at: position) {
      throw HarnessError("WRONG BYTE at \(wrong) of \(name)")
    }
  }

  func check(_ bytes: [UInt8], at position: Int) throws { try check(bytes.span, at: position) }
}

extension Subscriber {
  var content: CheckedContent { CheckedContent(key, generation) }

  /// Reads everything up to the end from a position on; how many bytes the blob has.
  func checkAll(from start: Int = 0, _ content: CheckedContent) throws -> Int {
    var cursor = cursor(from: start)
    while true {
      let at = cursor.position
      guard let bytes = try cursor.read(upTo: 1 << 18, deadline: longWait) else { return at }
      try content.check(bytes, at: at)
    }
  }
}

/// Longer than any number of starts takes; then somebody waits in vain.
var longWait: Deadline { .after(.seconds(120)) }
