// A broker as a value to hold: started, drained, stopped. All its work happens on the loop's own
// thread; the calls here may come from any.

import PatchbaySystem
import PatchbayTypes
import Synchronization

package final class BrokerLoop: Sendable {
  /// The loop's state belongs to whoever runs it: this object until `start`, then the thread.
  private struct Confined: @unchecked Sendable {
    let loop: EventLoop
  }

  package let socketPath: String
  package let memoryLimit: Int
  package let instance: UInt64
  private let drainLimit: Duration
  private let control: LoopControl
  private let waiting: Mutex<Confined?>
  private let thread = Mutex<SystemThread?>(nil)

  /// Takes the lock and the socket of the path, clears up behind a broker that was killed there,
  /// and makes the journal. Clients can connect from now on and are answered after `start`.
  /// - Throws: `limitReached` when another broker serves the path, `notPermitted` when the path or
  ///   its directory is not ours to use, `noSpaceMemory`, `inputOutput`.
  package init(_ configuration: LoopConfiguration) throws(PatchbayError) {
    control = try LoopControl()
    let loop = try EventLoop(configuration, control)
    instance = loop.instance
    socketPath = configuration.socketPath.path
    memoryLimit = loop.memoryLimit
    drainLimit = configuration.drainLimit
    waiting = Mutex(Confined(loop: loop))
  }

  deinit { stopNow() }

  /// Starts the thread. A second call does nothing.
  /// - Throws: `limitReached` when the system has no more threads.
  package func start() throws(PatchbayError) {
    guard let confined = waiting.withLock({ $0.take() }) else { return }
    let control = control
    let started = try SystemThread("the broker") {
      confined.loop.run()
      control.end()
    }
    thread.withLock { $0 = started }
  }

  /// Asks for the end after open blobs have finished, at most the configured time from now.
  /// Returns at once; a write to a descriptor and nothing that a signal handler may not do.
  package func requestDrain() {
    control.limitDrain(to: MonotonicTime.now.advanced(by: drainLimit))
    control.request(.drain)
  }

  /// Asks for the end at once, leaving everything to the next broker on the path. Returns at once, and
  /// is as safe as `requestDrain`.
  package func requestHandOver() { control.request(.handOver) }

  /// Asks for the end at once. Returns at once, and is as safe as `requestDrain`.
  package func requestStop() { control.request(.stop) }

  /// Takes no new blobs and readers, lets what is open finish, and ends. Blocks until everything is
  /// cleared up, at most a little longer than the time.
  @available(*, noasync)
  package func drain(timeout: Duration) {
    control.limitDrain(to: MonotonicTime.now.advanced(by: timeout))
    control.request(.drain)
    waitUntilEnded()
  }

  /// Ends at once: connections are closed, open blobs are lost. Blocks until all is cleared up.
  package func stopNow() {
    control.request(.stop)
    waitUntilEnded()
  }

  /// As `drain(timeout:)`, without holding a thread.
  package func drain(timeout: Duration) async {
    control.limitDrain(to: MonotonicTime.now.advanced(by: timeout))
    control.request(.drain)
    await untilEnded()
  }

  /// As `waitUntilEnded`, without holding a thread.
  package func untilEnded() async {
    await withCheckedContinuation { continuation in
      control.whenEnded { continuation.resume() }
    }
  }

  /// Blocks until the loop has ended, for whatever reason.
  package func waitUntilEnded() {
    // A loop that was never started is torn down with its last reference.
    if waiting.withLock({ $0.take() }) != nil { return control.end() }
    _ = control.ended.wait(until: .distantFuture)
    let ended = thread.withLock { $0.take() }
    ended?.join()
  }
}
