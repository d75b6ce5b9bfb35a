// A blob into a file by several threads at once, each piece to its place, also while the blob is
// still being written. The threads take the pieces in order, so those that find nothing yet wait
// where the writer will be next. The first error ends them all.

import Glibc
import Patchbay
import PatchbaySystem
import Synchronization

final class ParallelCopy: Sendable {
  /// Whole segments of a spool, and enough of them that a thread has something to do.
  static let pieceByteCount = 4 * 1024 * 1024

  private struct State {
    var nextPiece = 0
    var byteCount = 0
    /// Whether a piece was found to be behind the blob's end.
    var isAtEnd = false
    var error: PatchbayError?
  }

  private let subscriber: Subscriber
  private let file: Int32
  private let range: Range<Int>
  private let deadline: Deadline
  private let state = Mutex(State())
  private let onProgress: @Sendable (Int) -> Void

  /// - Parameters:
  ///   - file: a regular file, whose first byte is to be the first of `range`.
  ///   - range: ends behind the blob's end to have all of it.
  ///   - onProgress: called by any of the threads, with the bytes written so far.
  init(
    _ subscriber: Subscriber, to file: Int32, _ range: Range<Int>, deadline: Deadline,
    onProgress: @escaping @Sendable (Int) -> Void
  ) {
    self.subscriber = subscriber
    self.file = file
    self.range = range
    self.deadline = deadline
    self.onProgress = onProgress
  }

  /// Copies, and returns when all threads have ended.
  /// - Returns: how many bytes were written.
  /// - Throws: as `Subscriber.copy`; `notPermitted` for a blob that keeps its last bytes only. The
  ///   subscriber is closed then.
  func run(threadCount: Int) throws(PatchbayError) -> Int {
    var threads: [SystemThread] = []
    do throws(PatchbayError) {
      for _ in 0..<threadCount {
        threads.append(try SystemThread("copying a blob") { [self] in work() })
      }
    } catch {
      end(with: error)
    }
    for thread in threads { thread.join() }
    return try state.withLock { (state) throws(PatchbayError) in
      if let error = state.error { throw error }
      return state.byteCount
    }
  }

  private func work() {
    do throws(PatchbayError) {
      // An offset of its own.
      let own = try DiskFile.reopened(file, isWritable: true)
      while let piece = next() {
        try DiskFile.seek(own, to: piece.lowerBound - range.lowerBound)
        let count = try subscriber.copy(
          to: own.rawValue, from: piece.lowerBound, byteCount: piece.count, deadline: deadline)
        note(count, of: piece.count)
      }
    } catch {
      end(with: error)
    }
  }

  private func next() -> Range<Int>? {
    state.withLock { state in
      let (offset, overflow) = state.nextPiece.multipliedReportingOverflow(by: Self.pieceByteCount)
      guard !overflow, offset < range.count, !state.isAtEnd, state.error == nil else { return nil }
      state.nextPiece += 1
      let start = range.lowerBound + offset
      return start..<start + min(Self.pieceByteCount, range.upperBound - start)
    }
  }

  private func note(_ byteCount: Int, of wanted: Int) {
    let sum = state.withLock { state in
      state.byteCount += byteCount
      if byteCount < wanted { state.isAtEnd = true }
      return state.byteCount
    }
    onProgress(sum)
  }

  /// The first error counts; who still waits is woken by it.
  private func end(with error: PatchbayError) {
    let isFirst = state.withLock { state in
      defer { state.error = state.error ?? error }
      return state.error == nil
    }
    if isFirst { subscriber.close() }
  }
}

/// A progress line that several threads draw.
final class SharedProgress: Sendable {
  private let progress: Mutex<Progress>

  init(_ progress: Progress) { self.progress = Mutex(progress) }

  func update(_ done: Int, of total: Int?) { progress.withLock { $0.update(done, of: total) } }
  func finish(_ done: Int, of total: Int?) { progress.withLock { $0.finish(done, of: total) } }
  func clear() { progress.withLock { $0.clear() } }
}
