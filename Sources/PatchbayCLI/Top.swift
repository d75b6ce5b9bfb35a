// What `top` shows, made from two looks at the broker: rows with rates, as columns that fit any
// width. Pure.

import Patchbay

/// The blobs and counters at one moment.
struct TopLook {
  let time: WallTime
  let moment: ContinuousClock.Instant
  let statistics: BrokerStatistics
  let blobs: [BlobInfo]
  /// There are more blobs than were asked for.
  let hasMore: Bool
}

/// One blob, as it moves.
struct TopRow {
  let info: BlobInfo
  /// Bytes written a second since the look before; nil when there was none of it.
  let bytesPerSecond: Int?
  /// For how long nothing of it was written; nil unless it is open.
  let quiet: Duration?
}

/// What has happened between looks.
struct TopHistory {
  private var last: TopLook?
  /// When each open blob was last seen to grow.
  private var grown: [Generation: ContinuousClock.Instant] = [:]
  private(set) var rows: [TopRow] = []
  private(set) var bytesPerSecond = 0
  private(set) var wakesPerSecond = 0

  /// Takes in a look; the rows are those of it, what moves first.
  mutating func add(_ look: TopLook) {
    let before = last.map {
      Dictionary($0.blobs.map { ($0.generation, $0.coveredByteCount) }) { first, _ in first }
    }
    let seconds = last.map {
      max(1e-3, Double(($0.moment.duration(to: look.moment)).wholeNanoseconds) / 1e9)
    }
    var grown: [Generation: ContinuousClock.Instant] = [:]
    rows = look.blobs.map { blob in
      let covered = before?[blob.generation]
      let rate = seconds.flatMap { seconds in
        covered.map { Int(Double(max(0, blob.coveredByteCount - $0)) / seconds) }
      }
      guard blob.state == .open else {
        return TopRow(info: blob, bytesPerSecond: blob.state == .sealed ? rate : 0, quiet: nil)
      }
      let isGrowing = covered.map { blob.coveredByteCount > $0 } ?? true
      let moved = isGrowing ? look.moment : self.grown[blob.generation] ?? look.moment
      grown[blob.generation] = moved
      return TopRow(info: blob, bytesPerSecond: rate, quiet: moved.duration(to: look.moment))
    }.sorted(by: Self.comesFirst)
    bytesPerSecond = rows.reduce(0) { $0 + ($1.bytesPerSecond ?? 0) }
    if let last, let seconds {
      let wakes = look.statistics.wakeCount &- last.statistics.wakeCount
      wakesPerSecond = Int(Double(Int64(bitPattern: wakes)) / seconds)
    }
    self.grown = grown
    last = look
  }

  private static func comesFirst(_ left: TopRow, _ right: TopRow) -> Bool {
    let (first, second) = (rank(left.info.state), rank(right.info.state))
    if first != second { return first < second }
    if first == 0, left.bytesPerSecond != right.bytesPerSecond {
      return left.bytesPerSecond ?? 0 > right.bytesPerSecond ?? 0
    }
    if first > 0, left.info.modified != right.info.modified {
      return left.info.modified > right.info.modified
    }
    return left.info.key < right.info.key
  }

  private static func rank(_ state: BlobState) -> Int {
    switch state {
    case .open: 0
    case .suspended: 1
    case .failed: 2
    case .sealed, .gone: 3
    }
  }
}

/// A screen of text.
struct TopScreen {
  let look: TopLook
  let history: TopHistory
  /// The written ranges of those rows that have been looked at.
  let written: [Generation: [Range<Int>]]
  /// How far the slowest sequential reader of a window is behind; of those that have one.
  var lags: [Generation: Int] = [:]

  // MARK: Lines

  /// At most so many lines of at most so many characters.
  func lines(width: Int, height: Int) -> [String] {
    var lines = headLines(width)
    let room = max(0, height - lines.count - 2)
    lines += table(Array(history.rows.prefix(room)), width: width)
    let hidden = history.rows.count - min(room, history.rows.count)
    if hidden > 0 || look.hasMore {
      lines.append("and \(look.hasMore ? "more than " : "")\(hidden) more")
    }
    return lines.prefix(max(0, height)).map { String($0.prefix(max(0, width))) }
  }

  private func headLines(_ width: Int) -> [String] {
    let statistics = look.statistics
    let open = history.rows.count { $0.info.state == .open }
    let memory =
      "memory \(Shown.bytes(statistics.memoryByteCount)) of \(Shown.bytes(statistics.memoryLimit))"
    return [
      "\(Shown.time(look.time))  up \(Shown.age(statistics.uptime.wholeNanoseconds))  "
        + "\(statistics.clientCount) clients  \(statistics.blobCount) blobs, \(open) open",
      "\(memory)  \(Shown.bytes(history.bytesPerSecond))/s written  "
        + "\(history.wakesPerSecond) wakes/s  \(statistics.evictionCount) evictions",
      "",
    ].map { String($0.prefix(width)) }
  }

  private struct Column {
    let title: String
    /// The lowest goes first when there is no room.
    let priority: Int
    let isRight: Bool
    /// Not narrower than its usual cells, so that columns stay where they are.
    let least: Int
    let cells: [String]
    var width: Int { max(title.count, least, cells.map(\.count).max() ?? 0) }
  }

  private static let keyWidth = 12
  private static let mapWidths = 8...40

  /// Titles and rows: the columns for which there is room, then the map, then the key.
  private func table(_ rows: [TopRow], width: Int) -> [String] {
    var columns = self.columns(rows)
    func needed() -> Int { columns.reduce(0) { $0 + $1.width + 2 } }
    while needed() + Self.keyWidth > width,
      let weakest = columns.indices.min(by: { columns[$0].priority < columns[$1].priority })
    {
      columns.remove(at: weakest)
    }
    let rest = width - needed()
    let mapWidth = min(Self.mapWidths.upperBound, rest - Self.keyWidth * 2 - 2)
    let hasMap = mapWidth >= Self.mapWidths.lowerBound
    let titles =
      columns.map { Self.padded($0.title, $0) } + (hasMap ? [Self.filled("MAP", mapWidth)] : [])
    return [Self.line(titles + ["KEY"])]
      + rows.indices.map { index in
        let map = hasMap ? [Self.filled(map(rows[index], mapWidth), mapWidth)] : []
        let cells = columns.map { Self.padded($0.cells[index], $0) }
        return Self.line(cells + map + ["\(rows[index].info.key)"])
      }
  }

  private func columns(_ rows: [TopRow]) -> [Column] {
    func column(
      _ title: String, _ priority: Int, _ least: Int, isRight: Bool = true,
      _ cell: (TopRow) -> String
    ) -> Column {
      Column(
        title: title, priority: priority, isRight: isRight, least: least, cells: rows.map(cell))
    }
    return [
      column("STATE", 6, 6, isRight: false) { $0.info.stateWord },
      column("WRITTEN", 4, 9) { Shown.bytes($0.info.coveredByteCount) },
      column("LENGTH", 1, 9) { $0.info.byteCount.map { Shown.bytes($0) } ?? "-" },
      column("DONE", 3, 5) { row in
        row.info.byteCount.map { Shown.percent(row.info.coveredByteCount, of: $0) } ?? "-"
      },
      column("RATE", 5, 10) {
        $0.bytesPerSecond.map { $0 == 0 ? "-" : "\(Shown.bytes($0))/s" } ?? "-"
      },
      column("QUIET", 2, 6) { $0.quiet.map(Self.quiet) ?? "-" },
      column("READERS", 4, 0) { "\($0.info.subscriberCount)" },
      column("LAG", 2, 9) { lags[$0.info.generation].map { Shown.bytes($0) } ?? "-" },
    ]
  }

  private static func quiet(_ duration: Duration) -> String {
    duration < .seconds(1) ? "-" : Shown.age(duration.wholeNanoseconds)
  }

  private func map(_ row: TopRow, _ width: Int) -> String {
    let info = row.info
    if info.state == .sealed { return String(repeating: WrittenPicture.shades[4], count: width) }
    guard let ranges = written[info.generation] else { return "" }
    let picture = WrittenPicture(
      ranges, byteCount: info.byteCount, columnCount: width, rowLimit: 1)
    return String(picture.cells)
  }

  private static func padded(_ text: String, _ column: Column) -> String {
    let blanks = String(repeating: " ", count: max(0, column.width - text.count))
    return column.isRight ? blanks + text : text + blanks
  }

  private static func filled(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
  }

  private static func line(_ cells: [String]) -> String { cells.joined(separator: "  ") }

  // MARK: For scripts

  /// The names are a contract.
  var json: JSONFields {
    JSONFields([
      ("time", .string(Shown.time(look.time))), ("stats", .object(look.statistics.json)),
      ("bytesPerSecond", .integer(history.bytesPerSecond)),
      ("wakesPerSecond", .integer(history.wakesPerSecond)),
      ("blobs", .array(history.rows.map { .object(json($0)) })),
      ("hasMore", .boolean(look.hasMore)),
    ])
  }

  private func json(_ row: TopRow) -> JSONFields {
    var fields = row.info.json
    fields["bytesPerSecond"] = .optional(row.bytesPerSecond)
    fields["lagBytes"] = .optional(lags[row.info.generation])
    fields["quietSeconds"] = row.quiet.map(JSON.seconds) ?? .null
    return fields
  }
}
