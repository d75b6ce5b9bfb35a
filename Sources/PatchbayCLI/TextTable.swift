// Columns that line up, for people. Scripts take --json.

/// Rows of cells; each column is as wide as its widest cell.
struct TextTable {
  enum Alignment {
    case left, right
  }

  private let columns: [(title: String, alignment: Alignment)]
  private var rows: [[String]] = []

  init(_ columns: [(title: String, alignment: Alignment)]) { self.columns = columns }

  mutating func append(_ row: [String]) {
    precondition(row.count == columns.count, "a row has a cell for each column")
    rows.append(row)
  }

  /// The titles and the rows, two blanks between columns, no blanks at line ends.
  var lines: [String] {
    let all = [columns.map(\.title)] + rows
    let widths = columns.indices.map { column in all.map { $0[column].count }.max() ?? 0 }
    return all.map { row in
      var line = columns.indices.map { column in
        let blanks = String(repeating: " ", count: widths[column] - row[column].count)
        return columns[column].alignment == .left ? row[column] + blanks : blanks + row[column]
      }.joined(separator: "  ")
      while line.last == " " { line.removeLast() }
      return line
    }
  }
}

/// Names and values below each other, the values in one column.
func aligned(_ pairs: [(name: String, value: String)]) -> [String] {
  let width = pairs.map(\.name.count).max() ?? 0
  return pairs.map { pair in
    pair.name + String(repeating: " ", count: width - pair.name.count + 2) + pair.value
  }
}
