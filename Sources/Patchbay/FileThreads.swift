// Reads and writes of files for tasks. The system cannot be asked to read a file without holding a
// thread, so a few threads do nothing else. They never wait for a peer: whether a pipe or a socket is
// ready is for the courier to find out, and only then a job touches it.

import Glibc
import PatchbaySystem
import PatchbayTypes
import Synchronization

final class FileThreads: Sendable {
  static let shared = FileThreads()
  private typealias Job = @Sendable () -> Void

  private struct State {
    var jobs: [Job] = []
    var threadCount = 0
    var idleCount = 0
    var line = WaitingLine()
  }

  private let state = Mutex(State())
  private let signal = LineSignal()
  static let threadLimit = 4
  private static let idleLimit = Duration.seconds(5)

  /// Runs a job and waits for its result, without holding a thread of the caller's. Once begun a job
  /// runs to its end, whatever becomes of the task: it may use what the caller lends it.
  /// - Throws: what the job throws; `limitReached` without a thread for it.
  func run<Result: Sendable>(
    _ job: @escaping @Sendable () throws(PatchbayError) -> Result
  ) async throws(PatchbayError) -> Result {
    let awaited = Awaited<Result>()
    let call = try state.withLock { (state) throws(PatchbayError) in
      if state.idleCount <= state.jobs.count, state.threadCount < Self.threadLimit {
        do throws(PatchbayError) {
          try SystemThread.detached("reading and writing files") { [self] in work() }
          state.threadCount += 1
        } catch {
          // One thread does it as well, only later.
          guard state.threadCount > 0 else { throw error }
        }
      }
      state.jobs.append {
        do throws(PatchbayError) { awaited.finish(.success(try job())) } catch {
          awaited.finish(.failure(error))
        }
      }
      return state.line.call()
    }
    signal.wake(call)
    return try await awaited.outcome {}.get()
  }

  private func work() {
    var idleEnd = MonotonicTime.now.advanced(by: Self.idleLimit)
    while true {
      let before = signal.now
      if let job = next() {
        job()
        idleEnd = MonotonicTime.now.advanced(by: Self.idleLimit)
        continue
      }
      let isAwake = signal.sleep(since: before, until: idleEnd)
      if leavesLine(for: isAwake) { return }
    }
  }

  /// The next job; nil: this thread stands in line for one.
  private func next() -> Job? {
    state.withLock { state in
      guard state.jobs.isEmpty else { return state.jobs.removeFirst() }
      state.line.addThread()
      state.idleCount += 1
      return nil
    }
  }

  /// After a sleep; whether this thread ends, as nobody has had a job for it for long.
  private func leavesLine(for isAwake: Bool) -> Bool {
    state.withLock { state in
      state.line.removeThread()
      state.idleCount -= 1
      guard !isAwake, state.jobs.isEmpty else { return false }
      state.threadCount -= 1
      return true
    }
  }
}

/// A descriptor of a caller's, read or written for a task.
struct TaskFile: Sendable {
  let descriptor: Int32
  /// What is always ready: its reads and writes wait for a disk at most.
  private let isRegular: Bool

  init(_ descriptor: Int32) {
    self.descriptor = descriptor
    var facts = stat()
    isRegular =
      unsafe fstat(descriptor, &facts) == 0 && facts.st_mode & S_IFMT == S_IFREG
  }

  /// Does something with the descriptor once it can be read.
  func read<Result: Sendable>(
    _ job: @escaping @Sendable () throws(PatchbayError) -> Result
  ) async throws(PatchbayError) -> Result {
    while true {
      if !isRegular { try await Courier.shared.waitUntilReady(descriptor, forReading: true) }
      do throws(PatchbayError) {
        return try await FileThreads.shared.run(job)
      } catch  where error.systemErrno == EAGAIN {
        // Somebody else took what was there.
        continue
      }
    }
  }

  /// Writes a piece, without blocking on a reader: a pipe or a socket that is ready takes this much.
  private static let readyByteCount = 4096

  /// Writes as much as the descriptor takes without waiting for a peer.
  /// - Parameter piece: gives the bytes from an index on, at most so many; called on another thread.
  /// - Returns: how many bytes were written, in all of `count`.
  func write(
    _ count: Int,
    _ put: @escaping @Sendable (_ from: Int, _ limit: Int) throws(PatchbayError) -> Int
  ) async throws(PatchbayError) {
    var done = 0
    while done < count {
      if !isRegular { try await Courier.shared.waitUntilReady(descriptor, forReading: false) }
      let start = done
      done = try await FileThreads.shared.run { () throws(PatchbayError) in
        try writeWhatFits(start, count, put)
      }
    }
  }

  /// Until everything is written or the descriptor takes no more for now; how far that was.
  private func writeWhatFits(
    _ start: Int, _ count: Int, _ put: (Int, Int) throws(PatchbayError) -> Int
  ) throws(PatchbayError) -> Int {
    var done = start
    repeat {
      done += try put(done, min(count - done, isRegular ? count : Self.readyByteCount))
    } while done < count && (isRegular || isWritable(descriptor))
    return done
  }
}
