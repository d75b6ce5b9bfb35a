// What a stuck user reads, made from one look.

import PatchbayTypes
import Testing

@testable import PatchbayCLI

@Suite struct WhyTests {
  private func info(_ state: BlobState, byteCount: Int? = 1 << 20) -> BlobInfo {
    BlobInfo(
      key: "k", generation: Generation(rawValue: 3), state: state, byteCount: byteCount,
      frontier: 1000, coveredByteCount: 1000, residentByteCount: 0, spilledByteCount: 0,
      order: .any, policy: .keep, acknowledgement: .visible, publisherCount: 1, subscriberCount: 1,
      type: "", labels: [], created: WallTime(rawValue: 0), modified: WallTime(rawValue: 0),
      lastRead: nil, isCache: false, isPinned: false, access: Access(uid: 0, gid: 0, mode: 0o600),
      causeCode: nil, cause: state == .failed ? "no paper" : nil)
  }

  private func look(
    _ state: BlobState?, _ change: (inout BlobSituation) -> Void = { _ in },
    written: [Range<Int>] = [0..<1000], bytesPerSecond: Int? = nil,
    _ processes: [Int32: WhyLook.ProcessState] = [:]
  ) -> WhyLook {
    var situation = BlobSituation()
    situation.info = state.map { info($0) }
    if state == .open {
      situation.publishers = [
        BlobSituation.Party(
          process: 42, name: "maker", handleCount: 1, since: WallTime(rawValue: 0))
      ]
    }
    situation.wakeClassShift = 15
    change(&situation)
    return WhyLook(
      key: "k", situation: situation, written: written, bytesPerSecond: bytesPerSecond,
      processes: processes, now: WallTime(rawValue: 90_000_000_000))
  }

  private func wait(_ want: BlobSituation.Want) -> BlobSituation.Wait {
    BlobSituation.Wait(want: want, process: 7, name: "asker", since: WallTime(rawValue: 0))
  }

  @Test func `the verdict names who is waited for, and what would help`() {
    #expect(look(nil).verdict == "Nobody waits for it.")
    let parked = look(nil) {
      $0.waits = [wait(.key)]
      $0.waitCount = 1
    }
    #expect(parked.verdict == "1 request waits for somebody to create it.")
    #expect(look(.sealed).verdict == "It is complete; nobody has to wait for its bytes.")
    #expect(
      look(.failed).verdict
        == "It has failed: no paper. Nobody waits for it; create the key again.")
    #expect(
      look(.open).verdict
        == "Nobody sleeps for its bytes; it is written by process 42 (maker).")
    let asleep = look(.open, { $0.sleepingClasses = 1 }, bytesPerSecond: 0)
    #expect(
      asleep.verdict
        == "Readers sleep for bytes that process 42 (maker) has yet to write. Nothing was written "
        + "while this looked.")
    let stopped = look(.open, { $0.sleepingClasses = 1 }, bytesPerSecond: 0, [42: .stopped])
    #expect(stopped.verdict.hasSuffix("That process is stopped; kill -CONT 42 lets it go on."))
    let busy = look(.open, { $0.sleepingClasses = 1 }, bytesPerSecond: 3 << 20)
    #expect(busy.verdict.hasSuffix("3.00 MiB/s are being written."))
    let sealing = look(.open) { $0.waits = [wait(.verification)] }
    #expect(sealing.verdict.contains("asked for the seal"))
    let growing = look(.open) { $0.waits = [wait(.memory)] }
    #expect(growing.verdict.contains("waits for memory"))
    let paused = look(.open) { $0.info?.isPaused = true }
    #expect(
      paused.verdict
        == "Its publisher is paused, as nobody reads it. It goes on as soon as somebody does: "
        + "patchbay cat \(paused.key)")
  }

  @Test func `readers sleep where bytes of their class are missing, not where they are written`() {
    // Blocks of 32 KiB; a length of 1 MiB has one block a class.
    #expect(look(.open, { $0.sleepingClasses = 0 }).sleepingFor == [])
    #expect(look(.open, { $0.sleepingClasses = 1 }).sleepingFor == [1000..<32768])
    #expect(
      look(.open, { $0.sleepingClasses = 0b1011 }).sleepingFor == [1000..<65536, 98304..<131_072])
    let last = look(
      .open, { $0.sleepingClasses = 1 << 31 }, written: [0..<1000, 1_040_000..<1_048_000])
    #expect(last.sleepingFor == [1_015_808..<1_040_000])
    let covered = look(.open, { $0.sleepingClasses = 1 }, written: [0..<40_000])
    #expect(covered.sleepingFor == [], "a bit that nobody has cleared yet")
    #expect(look(.sealed, { $0.sleepingClasses = .max }).sleepingFor == [])
  }

  @Test func `of an unknown length the place is the next block of the class`() {
    var situation = BlobSituation()
    situation.info = info(.open, byteCount: nil)
    situation.wakeClassShift = 14
    situation.sleepingClasses = 1 << 3 | 1
    let look = WhyLook(
      key: "k", situation: situation, written: [0..<600_000], now: WallTime(rawValue: 0))
    #expect(
      look.sleepingFor == [1_048_576..<1_064_960, 1_097_728..<1_114_112])
  }

  @Test func `everybody is named, with states that are not the usual one`() {
    let look = look(
      .open,
      {
        $0.subscribers = [
          BlobSituation.Party(
            process: 43, name: "", handleCount: 2, since: WallTime(rawValue: 60_000_000_000))
        ]
        $0.waits = [wait(.memory)]
        $0.waitCount = 3
      }, [42: .stopped])
    #expect(
      look.lines == [
        "k  open  1000 B of 1.00 MiB  0 %",
        "  frontier    1000 B",
        "  open        since 1970-01-01T00:00:00.000Z (90 s)",
        "  publisher   process 42 (maker), stopped, since 1970-01-01T00:00:00.000Z (90 s)",
        "  subscriber  process 43, 2 handles, since 1970-01-01T00:01:00.000Z (30 s)",
        "  waiting     process 7 (asker), for memory, since 1970-01-01T00:00:00.000Z (90 s)",
        "  waiting     and 2 more",
        "",
        "Its publisher waits for memory, which the broker is reserving.",
      ])
  }

  @Test func `of a window the slowest reader is named, with how far it is behind`() {
    func reader(_ process: Int32, _ position: Int?) -> BlobSituation.Party {
      BlobSituation.Party(
        process: process, name: "", handleCount: 1, since: WallTime(rawValue: 0),
        position: position)
    }
    let look = look(
      .open, { $0.subscribers = [reader(1, 900), reader(2, 100), reader(3, nil)] },
      bytesPerSecond: 0, [2: .stopped])
    #expect(
      look.verdict
        == "process 42 (maker) waits for its slowest reader when the window is full: process 2 is "
        + "900 B behind. It is stopped; kill -CONT 2 lets it go on.")
    #expect(look.lines.contains { $0.contains("process 2, stopped, 900 B behind") })
    #expect(JSON.object(look.json).text.contains(#""position":900,"behindBytes":100"#))
  }

  @Test func `scripts get the same`() {
    let text = JSON.object(
      look(
        nil,
        {
          $0.waits = [wait(.key)]
          $0.waitCount = 1
        }
      ).json
    ).text
    #expect(text.hasPrefix(#"{"key":"k","generation":null,"state":null,"length":null,"#))
    #expect(
      text.contains(
        #""waits":[{"for":"key","process":7,"name":"asker","processState":"running","since":"1970-"#
      ))
    #expect(text.contains(#""waitCount":1,"bytesPerSecond":null,"verdict":"1 request waits"#))
  }

  @Test(arguments: [
    (0, "0 ms"), (999_000_000, "999 ms"), (1_000_000_000, "1 s"), (119_000_000_000, "119 s"),
    (120_000_000_000, "2 min"), (7_500_000_000_000, "2 h 5 min"), (180_000_000_000_000, "2 d"),
    (-5, "0 ms"),
  ])
  func `an age is shown with the unit that matters`(nanoseconds: Int64, shown: String) {
    #expect(Shown.age(nanoseconds) == shown)
  }
}
