// A thread of a test client whose failure is the client's.

import PatchbayTestSupport
import Synchronization

/// Runs beside the thread that makes it, until it is joined.
final class Companion: Sendable {
  private final class Ending: Sendable {
    private let failure = Mutex<String?>(nil)
    func note(_ text: String) { failure.withLock { $0 = text } }
    var text: String? { failure.withLock { $0 } }
  }

  private let ending: Ending
  private let thread: TestThread

  init(_ name: String, _ body: @escaping @Sendable () throws -> Void) {
    let ending = Ending()
    self.ending = ending
    thread = TestThread {
      do { try body() } catch { ending.note("\(name): \(error)") }
    }
  }

  /// Waits for its end.
  /// - Throws: what it has thrown.
  func join() throws {
    thread.join()
    if let text = ending.text { throw HarnessError(text) }
  }
}
