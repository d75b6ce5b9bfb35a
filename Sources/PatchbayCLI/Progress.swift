// A line on standard error that says how far a transfer is: bytes, percent when the length is
// known, and the rate. Drawn only for people: on a terminal, and not with --quiet.

import Patchbay

/// The progress of one transfer. Not drawn more than ten times a second.
struct Progress {
  private let isShown: Bool
  private let label: String
  private let started = ContinuousClock.now
  private var drawn: ContinuousClock.Instant?

  init(_ label: String, quiet: Bool) {
    self.label = label
    isShown = !quiet && Terminal.error.isTerminal
  }

  mutating func update(_ done: Int, of total: Int?) {
    guard isShown else { return }
    let now = ContinuousClock.now
    if let drawn, now - drawn < .milliseconds(100) { return }
    drawn = now
    StandardError.write("\r\u{1b}[K" + Self.line(label, done, of: total, in: now - started))
  }

  /// Draws the last state for good.
  mutating func finish(_ done: Int, of total: Int?) {
    guard isShown else { return }
    let elapsed = ContinuousClock.now - started
    StandardError.write("\r\u{1b}[K" + Self.line(label, done, of: total, in: elapsed) + "\n")
    drawn = nil
  }

  /// Takes the line away, so that a message can stand in its place.
  mutating func clear() {
    if isShown, drawn != nil { StandardError.write("\r\u{1b}[K") }
    drawn = nil
  }

  static func line(_ label: String, _ done: Int, of total: Int?, in elapsed: Duration) -> String {
    let share =
      total.map { " of \(Shown.bytes($0))  \(Shown.percent(done, of: $0))" } ?? ""
    return "\(label)  \(Shown.bytes(done))\(share)  \(Shown.rate(done, in: elapsed))"
  }
}
