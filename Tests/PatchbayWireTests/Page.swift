// Reading the documentation's pages as data: headings, tables under them, and blocks of hex.

import PatchbayTestSupport

/// One page of the package's documentation.
struct Page {
  /// Headings with the lines below them, in order.
  private(set) var sections: [(title: String, lines: [String])] = []

  /// The page of this name in the catalog of the library, found from this file's own path.
  init(_ name: String, testFile: String = #filePath) throws {
    let root = testFile.split(separator: "/", omittingEmptySubsequences: false).dropLast(3)
    let path = (root + ["Sources", "Patchbay", "Patchbay.docc", "\(name).md"])
      .joined(separator: "/")
    var title = ""
    var lines: [String] = []
    for line in try readFile(path).split(separator: "\n", omittingEmptySubsequences: false) {
      if line.hasPrefix("#") {
        sections.append((title, lines))
        title = String(line.drop { $0 == "#" }.drop { $0 == " " })
        lines = []
      } else {
        lines.append(String(line))
      }
    }
    sections.append((title, lines))
  }

  /// The rows of every table below a heading, without heads and rules.
  func rows(under title: String) -> [[String]] {
    sections.first { $0.title == title }.map { Self.rows($0.lines) } ?? []
  }

  /// The rows of the tables in some lines. A cell's code marks are taken off.
  static func rows(_ lines: [String]) -> [[String]] {
    var rows: [[String]] = []
    for line in lines where line.hasPrefix("|") {
      let cells = line.split(separator: "|", omittingEmptySubsequences: false)
        .dropFirst().dropLast().map { Self.plain(String($0)) }
      if cells.allSatisfy({ $0.allSatisfy { $0 == "-" || $0 == ":" } }) {
        // The rule ends the table's head, which is the row before it.
        rows.removeLast()
      } else {
        rows.append(cells)
      }
    }
    return rows
  }

  private static func plain(_ cell: String) -> String {
    String(cell.filter { $0 != "`" }.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
  }

  /// The bytes of the hex dump below a heading: lines of an offset, two blanks and bytes.
  func dump(under title: String) -> [[UInt8]] {
    guard let section = sections.first(where: { $0.title == title }) else { return [] }
    var dumps: [[UInt8]] = []
    for line in section.lines {
      let words = line.split(separator: " ")
      guard let first = words.first, first.count == 4, let offset = Int(first, radix: 16) else {
        continue
      }
      if offset == 0 { dumps.append([]) }
      let bytes = words.dropFirst().prefix(16).compactMap {
        $0.count == 2 ? UInt8($0, radix: 16) : nil
      }
      dumps[dumps.count - 1] += bytes
    }
    return dumps
  }
}
