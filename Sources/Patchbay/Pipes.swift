// From a reader into a publisher, into a file, and from a file that is partly there into a publisher. What
// goes wrong at one end reaches the other: a copy never looks complete that is not.

import Glibc
import PatchbaySystem
import PatchbayTypes

extension Subscriber {
  /// Copies the blob into another one, of this broker or of another, as it comes, and seals that at its end.
  /// No faster than the publisher takes it: the reader waits as others do that read in sequence. When the
  /// blob cannot be read to its end the other one fails with that cause; when the other one cannot be written
  /// this subscriber is closed. Blocks until then.
  /// - Parameters:
  ///   - publisher: of an empty blob.
  ///   - deadline: when to give up waiting for bytes.
  /// - Returns: how many bytes were copied.
  /// - Throws: as `read`, `Publisher.append` and `Publisher.seal`; `rangeOverlap` for a publisher that has
  ///   appended something before. The other blob has failed then.
  @available(*, noasync)
  @discardableResult
  public func pipe(
    to publisher: Publisher, deadline: Deadline = .never
  ) throws(PatchbayError) -> Int {
    do throws(PatchbayError) {
      try publisher.checkEmpty()
      var cursor = cursor()
      while let bytes = try cursor.read(upTo: Self.step, deadline: deadline) {
        try publisher.append(bytes)
      }
      try publisher.seal(deadline: .never)
      return cursor.position
    } catch {
      close()
      if !publisher.isEnded { try? publisher.fail(Self.cause(of: error)) }
      throw error
    }
  }

  /// As the blocking `pipe`.
  /// - Throws: as the blocking `pipe`; `cancelled`.
  @discardableResult
  public func pipe(
    to publisher: Publisher, deadline: Deadline = .never
  ) async throws(PatchbayError) -> Int {
    do throws(PatchbayError) {
      try publisher.checkEmpty()
      var cursor = cursor()
      while let bytes = try await cursor.read(upTo: Self.step, deadline: deadline) {
        try await publisher.append(bytes)
      }
      try await publisher.seal(deadline: .never)
      return cursor.position
    } catch {
      close()
      if !publisher.isEnded { try? await publisher.fail(Self.cause(of: error)) }
      throw error
    }
  }

  /// What the readers of the copy are told: the cause where there is one, not that it was somebody else's.
  private static func cause(of error: PatchbayError) -> String { error.cause ?? error.message }

  // MARK: Into a file

  /// Writes the blob into a file, beside its place until it is complete: at the path stands all of it or
  /// what stood there before. Blocks as the blob and the file do.
  /// - Parameters:
  ///   - path: of a file that may be there; it is replaced.
  ///   - deadline: when to give up waiting for bytes.
  /// - Returns: how many bytes it has.
  /// - Throws: `inputOutput` for the file; else as `read`.
  @available(*, noasync)
  @discardableResult
  public func export(
    to path: String, deadline: Deadline = .never
  ) throws(PatchbayError) -> Int {
    let file = try FileInMaking(path)
    let count = try copy(to: file.descriptor.rawValue, deadline: deadline)
    try file.complete()
    return count
  }

  /// As the blocking `export`; the file is written by threads that do nothing else.
  /// - Throws: as the blocking `export`; `cancelled`.
  @discardableResult
  public func export(
    to path: String, deadline: Deadline = .never
  ) async throws(PatchbayError) -> Int {
    let file = try await FileThreads.shared.run { () throws(PatchbayError) in
      try FileInMaking(path)
    }
    let count = try await copy(to: file.descriptor.rawValue, deadline: deadline)
    try await FileThreads.shared.run { () throws(PatchbayError) in try file.complete() }
    return count
  }
}

/// A file that stands beside its place until it is complete; gone when it never is.
private final class FileInMaking: Sendable {
  let descriptor: Descriptor
  private let path: String
  private let partialPath: String

  init(_ path: String) throws(PatchbayError) {
    self.path = path
    partialPath = "\(path).part.\(UInt32.random(in: 0...UInt32.max))"
    let number = unsafe open(partialPath, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
    guard number >= 0 else { throw .system("Making a file beside \(path)", errno: errno) }
    descriptor = Descriptor(owning: number)
  }

  func complete() throws(PatchbayError) {
    guard unsafe rename(partialPath, path) == 0 else {
      throw .system("Renaming \(partialPath) to \(path)", errno: errno)
    }
  }

  /// After `complete` there is none of this name.
  deinit { _ = unsafe unlink(partialPath) }
}

extension Publisher {
  /// - Throws: `rangeOverlap` when something was appended before: what comes next would stand elsewhere than
  ///   in the original.
  fileprivate func checkEmpty() throws(PatchbayError) {
    guard position == 0 else {
      throw PatchbayError(
        .rangeOverlap,
        "The blob \(key) has \(position) bytes already, and a copy begins with its first one. Pipe into an "
          + "empty blob.")
    }
  }

  /// Writes what a file has already of this blob, at the same positions: it counts as written from then on,
  /// and `missing` leaves it out. What is covered is skipped. Blocks as the file does.
  /// - Parameters:
  ///   - descriptor: of a file with random access.
  ///   - ranges: which of its bytes are the blob's.
  /// - Returns: how many bytes were covered by this call.
  /// - Throws: `inputOutput` for the file, also when it ends inside a range; else as `write`.
  @available(*, noasync)
  @discardableResult
  public func preload(
    from descriptor: Int32, _ ranges: [Range<Int>]
  ) throws(PatchbayError) -> Int {
    var count = 0
    for piece in Self.pieces(of: ranges) {
      let bytes = try Self.read(piece, of: descriptor)
      count += try write(bytes, at: piece.lowerBound, skippingCovered: true)
    }
    return count
  }

  /// As the blocking `preload`; the file is read by threads that do nothing else.
  /// - Throws: as the blocking `preload`; `cancelled`.
  @discardableResult
  public func preload(
    from descriptor: Int32, _ ranges: [Range<Int>]
  ) async throws(PatchbayError) -> Int {
    var count = 0
    for piece in Self.pieces(of: ranges) {
      let bytes = try await FileThreads.shared.run { () throws(PatchbayError) in
        try Self.read(piece, of: descriptor)
      }
      count += try await write(bytes, at: piece.lowerBound, skippingCovered: true)
    }
    return count
  }

  private static func pieces(of ranges: [Range<Int>]) -> [Range<Int>] {
    ranges.flatMap { range in
      stride(from: range.lowerBound, to: range.upperBound, by: step).map {
        $0..<min($0 + step, range.upperBound)
      }
    }
  }

  private static func read(
    _ range: Range<Int>, of descriptor: Int32
  ) throws(PatchbayError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: range.count)
    var done = 0
    while done < range.count {
      let got = unsafe bytes.withUnsafeMutableBytes { all in
        unsafe pread(
          descriptor, all.baseAddress.map { unsafe $0 + done }, range.count - done,
          range.lowerBound + done)
      }
      if got < 0, errno == EINTR { continue }
      guard got >= 0 else { throw .system("Reading what a file has of a blob", errno: errno) }
      guard got > 0 else {
        throw PatchbayError(
          .inputOutput,
          "A file was to have bytes \(range.lowerBound)..<\(range.upperBound) of a blob, and ends at "
            + "\(range.lowerBound + done).")
      }
      done += got
    }
    return bytes
  }
}
