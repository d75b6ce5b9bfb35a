// The runner: a case is a name and a body that does something so many times; what is shown is the
// median over the repeats, because one slow moment of the machine should not move it.

import Patchbay

/// Something to measure.
struct Benchmark {
  let name: String
  /// How often the operation is done in one repeat.
  let count: Int
  /// Does everything needed and calls the timer around what counts.
  let body: (_ count: Int, _ timer: inout Timer) throws -> Void

  static let repeats = 7

  /// Nanoseconds per operation: median, lowest and highest of the repeats.
  func measure() throws -> (median: Double, lowest: Double, highest: Double) {
    let samples = try (0..<Self.repeats).map { _ in
      var timer = Timer()
      try body(count, &timer)
      return timer.nanoseconds / Double(count)
    }.sorted()
    return (samples[Self.repeats / 2], samples[0], samples[Self.repeats - 1])
  }
}

/// Adds up the time of what is measured.
struct Timer {
  private(set) var nanoseconds = 0.0

  mutating func time<Result>(_ body: () throws -> Result) rethrows -> Result {
    let start = ContinuousClock.now
    defer {
      let (seconds, attoseconds) = (ContinuousClock.now - start).components
      nanoseconds += Double(seconds) * 1e9 + Double(attoseconds) / 1e9
    }
    return try body()
  }
}

/// Columns that line up, names to the left and figures to the right.
func show(_ columns: [String]) {
  let widths = [34, 12, 12, 12]
  let cells = zip(columns, widths).enumerated().map { index, cell in
    let padding = String(repeating: " ", count: max(0, cell.1 - cell.0.count))
    return index == 0 ? cell.0 + padding : padding + cell.0
  }
  print(cells.joined())
}

/// One digit behind the point.
func rounded(_ number: Double) -> String { "\((number * 10).rounded() / 10)" }
