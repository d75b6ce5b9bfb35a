// A line on standard error that says how far a transfer is: bytes, percent when the length is
// known, and the rate. Drawn only for people: on a terminal, and not with --quiet.

import Patchbay

/// The progress of one transfer. Not drawn more than ten times a second.
struct Progress {
  private let isShown: Bool
  private let label: String
  private let delay: Duration
  private let started = ContinuousClock.now
  private var drawn: ContinuousClock.Instant?

  /// - Parameter delay: nothing is drawn before so long.
  init(_ label: String, quiet: Bool, after delay: Duration = .zero) {
    self.label = label
    self.delay = delay
    isShown = !quiet && Terminal.error.isTerminal
  }

  mutating func update(_ done: Int, of total: Int?) {
    guard isShown else { return }
    let now = ContinuousClock.now
    guard Self.isDue(in: now - started, after: delay, sinceDrawn: drawn.map { now - $0 })
    else { return }
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

  /// Whether the line is to be drawn.
  static func isDue(
    in elapsed: Duration, after delay: Duration, sinceDrawn: Duration?
  ) -> Bool {
    sinceDrawn.map { $0 >= .milliseconds(100) } ?? (elapsed >= delay)
  }

  static func line(_ label: String, _ done: Int, of total: Int?, in elapsed: Duration) -> String {
    let share =
      total.map { " of \(Shown.bytes($0))  \(Shown.percent(done, of: $0))" } ?? ""
    return "\(label)  \(Shown.bytes(done))\(share)  \(Shown.rate(done, in: elapsed))"
  }
}
