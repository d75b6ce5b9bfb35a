// Warnings that a client could provoke at will: at most one line a second, and a count of the rest.

import Logging
import PatchbaySystem

struct RateLimitedLog {
  private let logger: Logger
  private var quietUntil = MonotonicTime(nanoseconds: 0)
  private var suppressedCount = 0

  init(_ logger: Logger) { self.logger = logger }

  mutating func warn(_ message: @autoclosure () -> String) {
    let now = MonotonicTime.now
    guard now >= quietUntil else {
      suppressedCount += 1
      return
    }
    let rest = suppressedCount == 0 ? "" : " (and \(suppressedCount) more since the last line)"
    logger.warning("\(message())\(rest)")
    suppressedCount = 0
    quietUntil = now.advanced(by: .seconds(1))
  }
}
