// A picture of the written ranges in characters: rows of cells, each shaded by how much of it is
// written, with the positions at their left. Pure.

import Patchbay

/// What is written of a blob, as rows of shades.
struct WrittenPicture {
  /// Nothing, up to a third, up to two thirds, nearly all, all of a cell.
  static let shades: [Character] = ["·", "░", "▒", "▓", "█"]

  /// Bytes in all; of a blob of unknown length, the end of its highest written byte.
  let byteCount: Int
  let isLengthKnown: Bool
  let ranges: [Range<Int>]
  /// Cells in a row.
  let columnCount: Int
  /// Bytes a cell stands for.
  let cellByteCount: Int

  /// - Parameter rowLimit: the picture never has more rows.
  init(_ ranges: [Range<Int>], byteCount: Int?, columnCount: Int = 64, rowLimit: Int = 8) {
    self.ranges = ranges
    self.byteCount = byteCount ?? ranges.last?.upperBound ?? 0
    isLengthKnown = byteCount != nil
    self.columnCount = max(1, columnCount)
    let cellLimit = self.columnCount * max(1, rowLimit)
    cellByteCount = max(1, (self.byteCount + cellLimit - 1) / cellLimit)
  }

  var coveredByteCount: Int { ranges.reduce(0) { $0 + $1.count } }
  /// End of the contiguous prefix.
  var frontier: Int { ranges.first.flatMap { $0.lowerBound == 0 ? $0.upperBound : nil } ?? 0 }

  var lines: [String] { rows + [summary, legend] }

  private var rows: [String] {
    let rowByteCount = cellByteCount * columnCount
    let starts = Array(stride(from: 0, to: max(byteCount, 1), by: rowByteCount))
    let labels = starts.map { Shown.bytes($0) }
    let width = labels.map(\.count).max() ?? 0
    let cells = self.cells
    return starts.indices.map { row in
      let label = String(repeating: " ", count: width - labels[row].count) + labels[row]
      let part = cells.dropFirst(row * columnCount).prefix(columnCount)
      return label + "  " + String(part)
    }
  }

  /// One shade per cell, walking the ranges once.
  var cells: [Character] {
    var cells: [Character] = []
    var index = 0
    for start in stride(from: 0, to: byteCount, by: cellByteCount) {
      let cell = start..<min(start + cellByteCount, byteCount)
      while index < ranges.count, ranges[index].upperBound <= cell.lowerBound { index += 1 }
      var covered = 0
      var at = index
      while at < ranges.count, ranges[at].lowerBound < cell.upperBound {
        covered += ranges[at].clamped(to: cell).count
        at += 1
      }
      cells.append(Self.shade(covered, of: cell.count))
    }
    return cells
  }

  private static func shade(_ covered: Int, of count: Int) -> Character {
    if covered == 0 { return shades[0] }
    if covered == count { return shades[4] }
    return shades[1 + min(2, Int(Double(covered) / Double(count) * 3))]
  }

  private var summary: String {
    let whole = isLengthKnown ? Shown.bytes(byteCount) : "unknown length"
    let percent = isLengthKnown ? ", \(Shown.percent(coveredByteCount, of: byteCount))" : ""
    let count = ranges.count == 1 ? "1 range" : "\(ranges.count) ranges"
    return "\(Shown.bytes(coveredByteCount)) of \(whole) written\(percent), in \(count); "
      + "frontier \(Shown.bytes(frontier))"
  }

  private var legend: String {
    "one character is \(Shown.bytes(cellByteCount)): "
      + "\(Self.shades[0]) nothing  \(Self.shades[1])\(Self.shades[2])\(Self.shades[3]) in part  "
      + "\(Self.shades[4]) written"
  }
}
