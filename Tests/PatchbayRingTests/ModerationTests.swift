// Pauses of a reader that has caught up: kept while they make its stream faster, else hardly tried.
// The stream is played here, by the clock that the reader measures with.

import PatchbaySystem
import Testing

@testable import PatchbayRing

@Suite struct ModerationTests {
  /// Looks at a publisher that brings so many bytes until a look, and until one after a pause.
  /// - Returns: how many of the last half of the looks paused.
  private func pauses(
    looks: Int, bytesAtOnce: Int, bytesAfterPause: Int, pays: Bool = true
  ) -> Int {
    var moderation = Moderation()
    var (position, pauses) = (0, 0)
    for look in 0..<looks {
      let hasPaused = moderation.hasPaused(at: position, pays: pays)
      if hasPaused && look >= looks / 2 { pauses += 1 }
      position += hasPaused ? bytesAfterPause : bytesAtOnce
      // A publisher takes its time, too.
      let start = MonotonicTime.now.nanoseconds
      while MonotonicTime.now.nanoseconds < start + 300 {}
    }
    return pauses
  }

  @Test func `a reader whose pauses bring much pauses most of the time`() {
    let looks = 40_000
    #expect(pauses(looks: looks, bytesAtOnce: 64, bytesAfterPause: 640_000) > looks / 4)
  }

  @Test func `a reader whose pauses bring nothing hardly pauses`() {
    let looks = 400_000
    let pauses = pauses(looks: looks, bytesAtOnce: 64, bytesAfterPause: 64)
    #expect(pauses < looks / 20)
  }

  @Test func `a reader that sleeps does not pause`() {
    #expect(pauses(looks: 10_000, bytesAtOnce: 64, bytesAfterPause: 640_000, pays: false) == 0)
  }
}
