// `patchbay info`: one blob, and what is written of it as a picture.

import ArgumentParser
import Patchbay

struct InfoVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "info",
    abstract: "Shows a blob: state, length, what is written, who uses it.",
    discussion: """
      --map draws the written ranges; with --json they are in `written`. --follow draws again ten \
      times a second until the blob is sealed or has failed: in place on a terminal, otherwise a \
      new picture whenever something has changed.

      Example: patchbay info models/v7 --map --follow

      Exits with 0, also for a failed blob; 64 usage; 66 no such key; 69 no broker; 79 the blob \
      went while it was followed.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key.", completion: .keys, transform: Typed.key)
  var key: BlobKey

  @Flag(help: "Draws the written ranges.")
  var map = false

  @Flag(help: "Draws again until the blob is sealed or has failed.")
  var follow = false

  func perform() throws {
    let client = try common.connect()
    try Failure.about(key) {
      let observer = map || follow ? try client.observe(key) : nil
      var shownBefore: View?
      repeat {
        let view = try look(client, observer)
        if view != shownBefore { try show(view, over: shownBefore) }
        shownBefore = view
        if !follow || view.isFinal { return }
        try Interruption.sleep(.milliseconds(100))
      } while true
    }
  }

  /// What is shown at one moment.
  private struct View: Equatable {
    var info: BlobInfo
    var written: [Range<Int>]?
    var lines: [String] = []

    var isFinal: Bool { info.state == .sealed || info.state == .failed }
  }

  private func look(_ client: PatchbayClient, _ observer: BlobObserver?) throws -> View {
    // The description comes first, so that the picture of a sealed blob is a whole one.
    let info = try client.info(key)
    var view = View(info: info, written: map ? try observer?.writtenRanges() : nil)
    view.lines = info.lines
    if let written = view.written {
      let picture = WrittenPicture(
        written, byteCount: info.byteCount, columnCount: Self.pictureColumnCount)
      view.lines = follow ? [info.headline] + picture.lines : view.lines + [""] + picture.lines
    }
    if follow, Terminal.output.isTerminal {
      // A line that wraps would be two when the picture is drawn over.
      let limit = Terminal.output.columnCount - 1
      view.lines = view.lines.map { String($0.prefix(limit)) }
    }
    return view
  }

  private static var pictureColumnCount: Int {
    guard Terminal.output.isTerminal else { return 64 }
    return min(128, max(16, Terminal.output.columnCount - 12))
  }

  private func show(_ view: View, over before: View?) throws {
    if common.json {
      var fields = view.info.json
      if let written = view.written { fields["written"] = .ranges(written) }
      try StandardOutput.line(JSON.object(fields).text)
      return
    }
    var text = view.lines.map { $0 + "\n" }.joined()
    if let before, Terminal.output.isTerminal {
      // Back to the first line of the last picture, and everything below it away.
      text = "\u{1b}[\(before.lines.count)A\u{1b}[J" + text
    }
    try StandardOutput.write(text)
  }
}

extension BlobInfo {
  /// One line above a picture that is drawn again and again.
  var headline: String {
    "\(key)  \(state)  \(Shown.time(modified))"
  }
}
