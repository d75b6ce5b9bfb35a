// What `top` shows of two looks, at any width.

import PatchbayTypes
import Testing

@testable import PatchbayCLI

@Suite struct TopTests {
  private static let start = ContinuousClock.now

  private func blob(
    _ key: BlobKey, _ state: BlobState, _ covered: Int, of byteCount: Int? = nil,
    modified: Int64 = 0
  ) -> BlobInfo {
    BlobInfo(
      key: key, generation: Generation(rawValue: UInt64(key.bytes[0])), state: state,
      byteCount: byteCount, frontier: covered, coveredByteCount: covered, residentByteCount: 0,
      spilledByteCount: 0, order: .any, policy: .keep, acknowledgement: .visible,
      publisherCount: 1, subscriberCount: 3, type: "", labels: [],
      created: WallTime(rawValue: 0), modified: WallTime(rawValue: modified), lastRead: nil,
      isCache: false, isPinned: false, access: Access(uid: 0, gid: 0, mode: 0o600),
      causeCode: nil, cause: nil)
  }

  private func look(_ seconds: Double, _ blobs: [BlobInfo], wakes: UInt64 = 0) -> TopLook {
    var statistics = BrokerStatistics()
    statistics.wakeCount = wakes
    statistics.blobCount = UInt64(blobs.count)
    return TopLook(
      time: WallTime(rawValue: 0), moment: Self.start + .seconds(seconds), statistics: statistics,
      blobs: blobs, hasMore: false)
  }

  private func history(_ looks: TopLook...) -> TopHistory {
    looks.reduce(into: TopHistory()) { $0.add($1) }
  }

  @Test func `rates are of the time between two looks`() {
    let one = look(0, [blob("a", .open, 1000), blob("b", .open, 50)], wakes: 10)
    let two = look(0.5, [blob("a", .open, 3000), blob("b", .open, 50)], wakes: 20)
    #expect(history(one).rows.map(\.bytesPerSecond) == [nil, nil])
    let moved = history(one, two)
    #expect(moved.rows.map(\.bytesPerSecond) == [4000, 0])
    #expect(moved.bytesPerSecond == 4000 && moved.wakesPerSecond == 20)
  }

  @Test func `a blob is quiet from when it was last seen to grow`() {
    let looks = [(0.0, 10), (1.0, 20), (2.0, 20), (5.0, 20)].map { second, covered in
      look(second, [blob("a", .open, covered)])
    }
    var history = TopHistory()
    let quiet = looks.map { look in
      history.add(look)
      return history.rows[0].quiet
    }
    #expect(quiet == [.zero, .zero, .seconds(1), .seconds(4)])
    history.add(look(6, [blob("a", .sealed, 20, of: 20)]))
    #expect(history.rows[0].quiet == nil)
  }

  @Test func `what moves comes first, what has ended last, the latest before the rest`() {
    let before = [blob("a", .open, 0), blob("b", .open, 0)]
    let after = [
      blob("a", .open, 5), blob("b", .open, 50), blob("c", .sealed, 1, of: 1, modified: 1),
      blob("d", .sealed, 1, of: 1, modified: 2), blob("e", .failed, 0), blob("f", .suspended, 0),
    ]
    let rows = history(look(0, before), look(1, after)).rows
    #expect(rows.map { $0.info.key.description } == ["b", "a", "f", "e", "d", "c"])
  }

  @Test func `a screen has what fits, and nothing wider or longer`() {
    let blobs = [
      blob("models/v7", .open, 1 << 20, of: 4 << 20), blob("zebra", .sealed, 5, of: 5),
    ]
    let look = look(0, blobs)
    let screen = TopScreen(
      look: look, history: history(look),
      written: [Generation(rawValue: UInt64(UInt8(ascii: "m"))): [0..<1 << 20]])
    for width in [0, 1, 5, 20, 40, 60, 80, 120, 300] {
      for height in [0, 1, 3, 5, 24] {
        let lines = screen.lines(width: width, height: height)
        #expect(lines.count <= height && lines.allSatisfy { $0.count <= width })
      }
    }
    let wide = screen.lines(width: 120, height: 24)
    #expect(
      wide[3].hasPrefix(
        "STATE     WRITTEN     LENGTH   DONE        RATE   QUIET  READERS        LAG  MAP"))
    #expect(
      wide[4].hasPrefix(
        "open     1.00 MiB   4.00 MiB   25 %           -       -        3          -  ████"))
    #expect(wide[4].hasSuffix("models/v7") && wide[4].contains("·"))
    #expect(wide[5].hasSuffix("  zebra") && !wide[5].contains("·"))
    let narrow = screen.lines(width: 40, height: 24)
    #expect(narrow[3].hasPrefix("STATE") && !narrow[3].contains("LENGTH"))
    #expect(narrow[4].hasSuffix("models/v7"), "the key is there at any width")
    let short = screen.lines(width: 80, height: 6)
    #expect(short.last == "and 1 more")
  }

  @Test func `other people's words cannot move the cursor`() {
    #expect(Shown.plain("a\u{1b}[2J\nb\u{9b}c") == "a\u{fffd}[2J\u{fffd}b\u{fffd}c")
    #expect(Shown.plain("größe 漢字") == "größe 漢字")
  }
}
