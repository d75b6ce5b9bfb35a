// What the worker of a soak tells the director, line by line, and hears from it. A thread beside the
// worker's own says several times a second how far that one is and what it does at the moment, also when
// it hangs; it listens for orders, too.
//
//   beat steps=N bytes=N blobs=N refusals=DEED.CODE:N,... : what it does
//   sealed key=K generation=N bytes=N      a blob that must not be lost from now on
//   removing key=K                         ... that may be
//   kept key=K generation=N                a promised blob was read and is right
//   lost key=K generation=N : why          it is not there
//   figures broker=PROCESS spills=N ...    what a broker counts
//   excuse code=NAME since=NANOSECONDS : what was met
//   violation : what
//   ended descriptors=N threads=N ...

import Glibc
import PatchbaySystem
import PatchbayTypes
import Synchronization

final class SoakVoice: Sendable {
  private struct State {
    var steps = 0
    var bytes = 0
    var blobs = 0
    var refusals: [String: Int] = [:]
    var doing = "begins"
    var isOver = false
    var orders: [String] = []
  }

  private let state = Mutex(State())
  private static let pause: Int32 = 250

  /// Begins to speak and to listen, until the process ends.
  func begin() throws(PatchbayError) {
    try SystemThread.detached("the voice") {
      var ear = SoakEar()
      while true {
        for order in ear.listen(milliseconds: Self.pause) { self.take(order) }
        self.beat()
      }
    }
  }

  // MARK: Speaking

  func begin(_ doing: String) { state.withLock { $0.doing = doing } }
  func finish() { state.withLock { $0.steps += 1 } }
  func add(bytes: Int) { state.withLock { $0.bytes += bytes } }
  func addBlob() { state.withLock { $0.blobs += 1 } }

  func addRefusal(_ deed: SoakDeed, _ code: PatchbayError.Code) {
    state.withLock { $0.refusals["\(deed).\(code)", default: 0] += 1 }
  }

  func say(_ word: String, _ fields: Fields = [:], _ text: String = "") {
    let end = text.isEmpty ? "" : " : \(text.replacing("\n", with: " "))"
    Worker.say("\(word) \(fields.line)\(end)")
  }

  func beat() {
    let now = state.withLock { $0 }
    let refusals = now.refusals.map { "\($0.key):\($0.value)" }.joined(separator: ",")
    say(
      "beat",
      [
        "steps": String(now.steps), "bytes": String(now.bytes), "blobs": String(now.blobs),
        "refusals": refusals,
      ], now.doing)
  }

  // MARK: Listening

  /// Whether the director has had enough.
  var isOver: Bool { state.withLock { $0.isOver } }

  /// The next order that is not the last.
  func takeOrder() -> String? {
    state.withLock { $0.orders.isEmpty ? nil : $0.orders.removeFirst() }
  }

  private func take(_ order: String) {
    state.withLock { state in
      if order == "stop" { state.isOver = true } else { state.orders.append(order) }
    }
  }
}

/// The worker's end of what the director says: its standard input.
private struct SoakEar {
  private var unread: [UInt8] = []
  private var hasEnded = false

  /// Waits a while for lines. The end of the input is an order to stop.
  mutating func listen(milliseconds: Int32) -> [String] {
    var input = pollfd(fd: hasEnded ? -1 : 0, events: Int16(POLLIN), revents: 0)
    guard unsafe poll(&input, 1, milliseconds) > 0 else { return [] }
    var piece = [UInt8](repeating: 0, count: 4096)
    let got = unsafe read(0, &piece, piece.count)
    guard got > 0 else {
      hasEnded = true
      return ["stop"]
    }
    unread += piece[..<got]
    var lines: [String] = []
    while let end = unread.firstIndex(of: UInt8(ascii: "\n")) {
      lines.append(String(decoding: unread[..<end], as: UTF8.self))
      unread.removeSubrange(...end)
    }
    return lines
  }
}

/// A line of a worker's.
struct SoakLine {
  let word: String
  let fields: Fields
  let text: String

  init(_ line: String) {
    let parts = line.split(separator: " : ", maxSplits: 1)
    let head = parts.first ?? ""
    text = parts.count > 1 ? String(parts[1]) : ""
    word = String(head.prefix { $0 != " " })
    fields = Fields(line: String(head.dropFirst(word.count)))
  }
}
