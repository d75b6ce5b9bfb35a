// What tests of blobs many times as large as memory have in common: how large, files to make them of,
// readers by random ranges, and a look at the memory that a broker takes meanwhile.

import Glibc
import Patchbay
import PatchbayTestSupport
import Synchronization
import Testing

/// A blob, and how much memory its broker may take.
struct LargeSize: Sendable {
  let total: Int
  let memory: String
  let memoryByteCount: Int

  static let ofTier =
    isFullTier
    ? LargeSize(total: 6 << 30, memory: "256MiB", memoryByteCount: 256 << 20)
    : LargeSize(total: 640 << 20, memory: "64MiB", memoryByteCount: 64 << 20)
}

/// A file of bytes that do not repeat: a key stream, made as fast as it can be written.
func makeLargeFile(_ path: String, _ byteCount: Int) throws {
  let outcome = try runProgram(
    "/bin/sh", ["-c", "head -c \(byteCount) /dev/urandom > \(path)"])
  try #require(outcome.exitCode == 0, "\(outcome.error)")
}

extension BrokerProcess {
  /// Starts a script that finds the command as `$PATCHBAY`, for this broker.
  func shell(_ script: String) throws -> ChildProcess {
    try ChildProcess(
      "/bin/sh", ["-c", script],
      environment: ["PATCHBAY_SOCKET": socket, "PATCHBAY": try program("patchbay")])
  }

  /// Bytes of memory that its objects take, as the system counts them.
  fileprivate var blockByteCount: Int {
    objects.reduce(0) { sum, name in
      var facts = stat()
      guard stat("/dev/shm/\(name)", &facts) == 0 else { return sum }
      return sum + Int(facts.st_blocks) * 512
    }
  }
}

/// Looks all the time at how much memory a broker's objects take, until it is finished.
final class MemoryWatch: Sendable {
  private final class Sight: Sendable {
    private struct State {
      var highest = 0
      var isOver = false
    }

    private let state = Mutex(State())

    /// False when nobody wants to know any more.
    func note(_ byteCount: Int) -> Bool {
      state.withLock { state in
        state.highest = max(state.highest, byteCount)
        return !state.isOver
      }
    }

    func end() -> Int {
      state.withLock { state in
        state.isOver = true
        return state.highest
      }
    }
  }

  private let sight: Sight
  private let thread: TestThread

  init(_ broker: BrokerProcess) {
    let sight = Sight()
    self.sight = sight
    // Not without a pause: those who are looked at need the processors, too.
    thread = TestThread { while sight.note(broker.blockByteCount) { _ = poll(nil, 0, 1) } }
  }

  deinit { _ = sight.end() }

  /// The most bytes that it has seen.
  func finish() -> Int {
    let highest = sight.end()
    thread.join()
    return highest
  }
}

/// Reads random ranges of the blob `big`, waiting for each, and compares them with a file.
final class RandomReader: Sendable {
  private final class Sight: Sendable {
    private let said = Mutex("")
    private let count = Mutex(0)

    var complaint: String { said.withLock { $0 } }
    var rangeCount: Int { count.withLock { $0 } }
    func complain(_ text: String) { said.withLock { $0 = text } }
    func countOne() { count.withLock { $0 += 1 } }
  }

  private let sight: Sight
  private let thread: TestThread

  /// - Parameter part: where the ranges lie.
  init(_ broker: BrokerProcess, _ file: String, _ part: Range<Int>, count: Int) {
    let (sight, socket) = (Sight(), broker.socket)
    self.sight = sight
    thread = TestThread {
      do {
        let source = open(file, O_RDONLY)
        defer { _ = close(source) }
        let blob = try PatchbayClient(socketPath: socket).open(
          "big", waitUntil: .after(.seconds(60)))
        var random = SeededRandom(seed: 11)
        for _ in 0..<count {
          let start = Int.random(in: part, using: &random)
          let length = min(part.upperBound - start, Int.random(in: 1...600_000, using: &random))
          var expected = [UInt8](repeating: 0, count: length)
          guard pread(source, &expected, length, off_t(start)) == length,
            try blob.readFully(start..<start + length, deadline: .after(.seconds(500)))
              == expected
          else { return sight.complain("\(length) wrong bytes at \(start)") }
          sight.countOne()
        }
      } catch {
        sight.complain("\(error)")
      }
    }
  }

  /// How many ranges were right so far.
  var rangeCount: Int { sight.rangeCount }

  /// What it found wrong; empty for nothing.
  var complaint: String { sight.complaint }

  /// Waits until it has read all; what it found wrong, empty for nothing.
  func finish() -> String {
    thread.join()
    return complaint
  }
}
