// What is printed: what was run on what, then cells as a table that lines up, or as JSON objects.

import Glibc
import PatchbayTypes

/// One figure or word of a cell.
enum ReportValue {
  case text(String)
  case number(Double, decimals: Int)
  /// A median with its range.
  case series(Series)

  fileprivate var shown: String {
    switch self {
    case .text(let text): text
    case .number(let number, let decimals): number.decimals(decimals)
    case .series(let series): series.medianAndRange
    }
  }

  fileprivate var json: String {
    switch self {
    case .text(let text): Report.quoted(text)
    case .number(let number, let decimals): number.decimals(decimals)
    case .series(let series):
      "{\"median\":\(series.median.decimals(4)),\"min\":\(series.lowest.decimals(4)),"
        + "\"max\":\(series.highest.decimals(4))}"
    }
  }
}

/// Collects cells; shows them when it is finished, or one by one as JSON.
struct Report {
  typealias Cell = [(name: String, value: ReportValue)]
  private let isJSON: Bool
  private var cells: [Cell] = []
  private var notes: [String] = []

  init(_ options: RunOptions) { self.init(seed: options.seed, asJSON: options.json) }

  init(seed: UInt32, asJSON: Bool) {
    isJSON = asJSON
    let machine = Machine()
    let command = CommandLine.arguments.joined(separator: " ")
    if isJSON {
      print(
        "{\"command\":\(Self.quoted(command)),\"seed\":\(seed),"
          + "\"cpu\":\(Self.quoted(machine.processor)),\"cores\":\(machine.coreCount),"
          + "\"kernel\":\(Self.quoted(machine.kernel))}")
    } else {
      print("\(command)\nseed \(seed)\n\(machine.description)\n")
    }
  }

  mutating func add(_ cell: Cell) {
    guard isJSON else { return cells.append(cell) }
    let members = cell.map { "\(Self.quoted($0.name)):\($0.value.json)" }
    print("{\(members.joined(separator: ","))}")
    _ = fflush(nil)
  }

  /// A sentence about the figures, below the table; not in JSON.
  mutating func note(_ sentence: String) { notes.append(sentence) }

  func finish() {
    guard !isJSON else { return }
    var rest = cells[...]
    while let first = rest.first {
      let names = first.map(\.name)
      let table = rest.prefix { $0.map(\.name) == names }
      rest = rest.dropFirst(table.count)
      print(Self.table([names] + table.map { $0.map(\.value.shown) }), terminator: "\n\n")
    }
    for note in notes { print(note) }
  }

  /// Columns as wide as their widest word, figures to the right.
  static func table(_ rows: [[String]]) -> String {
    let widths = (0..<(rows.first?.count ?? 0)).map { column in
      rows.map { $0[column].count }.max() ?? 0
    }
    return rows.map { row in
      zip(row, widths).enumerated().map { column, cell in
        let padding = String(repeating: " ", count: cell.1 - cell.0.count)
        return column == 0 ? cell.0 + padding : padding + cell.0
      }.joined(separator: "  ")
    }.joined(separator: "\n")
  }

  /// A JSON string.
  static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": result += "\\\(scalar)"
      case let control where control.value < 0x20:
        let digits = String(control.value, radix: 16)
        result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }
}

/// What this runs on.
struct Machine: CustomStringConvertible {
  let processor: String
  let coreCount: Int
  let kernel: String

  init() {
    processor = Self.processorName()
    coreCount = Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))
    var names = utsname()
    _ = unsafe uname(&names)
    kernel = unsafe withUnsafeBytes(of: &names.release) { bytes in
      unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
  }

  private static func processorName() -> String {
    let file = unsafe open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return "unknown processor" }
    defer { _ = Glibc.close(file) }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let got = unsafe read(file, &bytes, bytes.count)
    let lines = String(decoding: bytes.prefix(max(got, 0)), as: UTF8.self).split(separator: "\n")
    let model = lines.first { $0.hasPrefix("model name") }?.split(separator: ":").last
    return model.map { String($0.drop { $0 == " " }) } ?? "unknown processor"
  }

  var description: String { "\(processor), \(coreCount) cores, Linux \(kernel)" }
}
