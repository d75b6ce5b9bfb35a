// Figures of repeated runs and what is said about them: the median and the range, never a mean,
// because a slow second of the machine would show in all of it.

import Histogram

/// The same figure from several runs.
struct Series {
  var values: [Double] = []

  private var sorted: [Double] { values.sorted() }

  /// The middle value; of an even number the mean of the two in the middle. 0 for none.
  var median: Double {
    let sorted = sorted
    guard let last = sorted.last else { return 0 }
    let middle = sorted.count / 2
    return sorted.count % 2 == 1
      ? sorted[middle] : (sorted[middle - 1] + min(sorted[middle], last)) / 2
  }

  var lowest: Double { values.min() ?? 0 }
  var highest: Double { values.max() ?? 0 }

  /// Run by run: this one's value over the other's of the same moment.
  func ratios(to floor: Series) -> Series {
    Series(values: zip(values, floor.values).map { $0 / $1 })
  }

  /// As `1.02 [0.97..1.10]`.
  var medianAndRange: String {
    "\(median.decimals(2)) [\(lowest.decimals(2))..\(highest.decimals(2))]"
  }
}

extension Double {
  /// With so many digits behind the point.
  func decimals(_ count: Int) -> String {
    let scale = (0..<count).reduce(1.0) { product, _ in product * 10 }
    let scaled = (magnitude * scale).rounded()
    guard scaled < 1e15 else { return "\(self)" }
    let digits = String(Int(scaled))
    let padded = String(repeating: "0", count: max(0, count + 1 - digits.count)) + digits
    let sign = self < 0 && scaled > 0 ? "-" : ""
    guard count > 0 else { return sign + padded }
    return "\(sign)\(padded.dropLast(count)).\(padded.suffix(count))"
  }
}

/// How long something took, over many times.
struct Percentiles: Equatable {
  /// Nanoseconds.
  var median: Int
  var ninetyNinth: Int
  var highest: Int

  init(median: Int, ninetyNinth: Int, highest: Int) {
    self.median = median
    self.ninetyNinth = ninetyNinth
    self.highest = highest
  }

  /// From samples in nanoseconds, to three significant digits.
  init(nanoseconds samples: some Sequence<Int64>) {
    var histogram = Histogram<UInt64>(numberOfSignificantValueDigits: .three)
    for sample in samples { histogram.record(UInt64(max(sample, 0))) }
    median = Int(histogram.valueAtPercentile(50))
    ninetyNinth = Int(histogram.valueAtPercentile(99))
    highest = Int(histogram.max)
  }

  var fields: Fields {
    ["p50": String(median), "p99": String(ninetyNinth), "max": String(highest)]
  }

  init(_ fields: Fields) throws(LoadError) {
    median = try fields.int("p50")
    ninetyNinth = try fields.int("p99")
    highest = try fields.int("max")
  }
}
