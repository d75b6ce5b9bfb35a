// `patchbay top`: the broker at work, drawn again and again.

import ArgumentParser
import Glibc
import Patchbay
import PatchbaySystem

struct TopVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "top",
    abstract: "Shows blobs as they are written and read, again and again.",
    discussion: """
      What moves comes first: state, bytes written, rate, for how long nothing came, readers, how \
      far the slowest is behind (where the publisher waits for it), and a map of what is written. \
      q ends it. Without a terminal it prints one table, with rates over one interval; with --json \
      one object each interval, until it is ended or for --count times.

      Example: patchbay top models/ --interval 250ms

      Exits with 0 by q, or after --count; 64 usage; 69 no broker, or it has ended; 130 \
      interrupted; 143 terminated.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(
    help: "Only keys that begin so; %XX stands for one byte.", completion: .keys,
    transform: Typed.key)
  var prefix: BlobKey?

  @Option(
    help: ArgumentHelp("Between two looks. (default: 1s)", valueName: "duration"),
    transform: Typed.positiveDuration)
  var interval: Duration = .seconds(1)

  @Option(help: ArgumentHelp("Ends after so many looks. (default: never)", valueName: "n"))
  var count: Int?

  /// More blobs are not asked for: the broker has other things to do.
  private static let blobLimit = 4096
  /// Each is a question of its own.
  private static let lagLimit = 256

  func validate() throws {
    guard count ?? 1 > 0 else { throw ValidationError("--count is at least one look.") }
  }

  func perform() throws {
    let client = try common.connect()
    if common.json {
      StandardOutput.endWithReader()
      try showObjects(client)
    } else if Terminal.output.isTerminal {
      try showScreens(client)
    } else {
      try showTable(client)
    }
  }

  // MARK: Three ways to show

  private func showObjects(_ client: PatchbayClient) throws {
    var history = TopHistory()
    for index in 0..<(count ?? .max) {
      if index > 0 { try Interruption.sleep(interval) }
      let look = try look(client)
      history.add(look)
      let screen = TopScreen(
        look: look, history: history, written: [:], lags: lags(of: history.rows, client))
      try StandardOutput.line(JSON.object(screen.json).text)
    }
  }

  private func showTable(_ client: PatchbayClient) throws {
    var history = TopHistory()
    var maps = WrittenMaps()
    history.add(try look(client))
    try Interruption.sleep(interval)
    let look = try look(client)
    history.add(look)
    let screen = TopScreen(
      look: look, history: history, written: maps.ranges(of: history.rows, client),
      lags: lags(of: history.rows, client))
    let lines = screen.lines(width: 120, height: .max)
    try StandardOutput.write(lines.map { $0 + "\n" }.joined())
  }

  private func showScreens(_ client: PatchbayClient) throws {
    let screen = try Screen()
    defer { screen.leave() }
    // The terminal must be as it was before the process ends.
    Interruption.react { _, index in index == 0 ? .grace(.seconds(2)) : .end }
    var history = TopHistory()
    var maps = WrittenMaps()
    for _ in 0..<(count ?? .max) {
      let look = try look(client)
      history.add(look)
      let size = Terminal.output.size
      let shown = Array(history.rows.prefix(size.rows))
      let frame = TopScreen(
        look: look, history: history, written: maps.ranges(of: shown, client),
        lags: lags(of: shown, client))
      try screen.draw(frame.lines(width: size.columns, height: size.rows))
      if try screen.isLeft(within: interval) { return }
    }
  }

  /// How far the slowest readers of windows are behind. One that cannot be asked for has no lag.
  private func lags(of rows: [TopRow], _ client: PatchbayClient) -> [Generation: Int] {
    let windows = rows.filter {
      $0.info.policy == .backpressure && $0.info.state == .open && $0.info.subscriberCount > 0
    }
    var lags: [Generation: Int] = [:]
    for row in windows.prefix(Self.lagLimit) {
      guard let situation = try? client.situation(of: row.info.key), let info = situation.info,
        let slowest = situation.subscribers.compactMap(\.position).min()
      else { continue }
      lags[info.generation] = max(0, info.frontier - slowest)
    }
    return lags
  }

  private func look(_ client: PatchbayClient) throws(PatchbayError) -> TopLook {
    var blobs: [BlobInfo] = []
    var hasMore = true
    while hasMore, blobs.count < Self.blobLimit {
      let page = try client.list(prefix: prefix?.bytes ?? [], after: blobs.last?.key)
      blobs += page.blobs
      hasMore = page.hasMore
    }
    return TopLook(
      time: .now, moment: ContinuousClock.now, statistics: try client.statistics(), blobs: blobs,
      hasMore: hasMore)
  }
}

/// The written ranges of blobs that are shown, by observers that are kept while they are.
private struct WrittenMaps {
  private var observers: [Generation: BlobObserver] = [:]

  /// So many ranges make a picture that nobody could tell from one of all.
  private static let rangeLimit = 4096

  /// Of blobs that are still written, or have failed. One that cannot be looked at has no map.
  mutating func ranges(
    of rows: [TopRow], _ client: PatchbayClient
  ) -> [Generation: [Range<Int>]] {
    let wanted = rows.filter { $0.info.state != .sealed }
    let before = observers
    observers = [:]
    var ranges: [Generation: [Range<Int>]] = [:]
    for row in wanted {
      let generation = row.info.generation
      guard let observer = before[generation] ?? (try? client.observe(row.info.key)),
        observer.generation == generation
      else { continue }
      observers[generation] = observer
      ranges[generation] = try? observer.writtenRanges(limit: Self.rangeLimit)
    }
    return ranges
  }
}

/// A terminal that is drawn over as a whole, and left as it was.
private final class Screen {
  private var before = termios()
  private let hasKeys: Bool
  private var isLeft = false

  /// The other screen, no cursor, lines that are cut and not wrapped; keys come one by one, unseen.
  init() throws {
    hasKeys = unsafe isatty(STDIN_FILENO) == 1 && tcgetattr(STDIN_FILENO, &before) == 0
    if hasKeys {
      var mode = before
      mode.c_lflag &= ~tcflag_t(ICANON | ECHO)
      // A stop would leave the shell with this screen.
      unsafe withUnsafeMutableBytes(of: &mode.c_cc) { unsafe $0[Int(VSUSP)] = 0 }
      _ = unsafe tcsetattr(STDIN_FILENO, TCSADRAIN, &mode)
    }
    try StandardOutput.write("\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l")
  }

  func leave() {
    guard !isLeft else { return }
    isLeft = true
    try? StandardOutput.write("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l")
    if hasKeys { _ = unsafe tcsetattr(STDIN_FILENO, TCSADRAIN, &before) }
  }

  /// One write, every line over the one before: nothing is blank in between.
  func draw(_ lines: [String]) throws {
    let text = lines.map { $0 + "\u{1b}[K" }.joined(separator: "\r\n")
    try StandardOutput.write("\u{1b}[H\(text)\u{1b}[J")
  }

  /// Waits for the next look; true when q was pressed.
  /// - Throws: `Interrupted`.
  func isLeft(within duration: Duration) throws -> Bool {
    let end = ContinuousClock.now + duration
    while ContinuousClock.now < end {
      guard hasKeys else {
        try Interruption.sleep(end - ContinuousClock.now)
        break
      }
      guard try Interruption.waitReadable(STDIN_FILENO, for: end - ContinuousClock.now) else {
        break
      }
      var key: UInt8 = 0
      guard unsafe read(STDIN_FILENO, &key, 1) == 1 else { return true }
      if key == UInt8(ascii: "q") || key == UInt8(ascii: "Q") { return true }
    }
    return false
  }
}
