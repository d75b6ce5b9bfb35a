// `patchbay write`: a part of a blob that several processes write.

import ArgumentParser
import Patchbay

struct WriteVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "write",
    abstract: "Writes a file or standard input into a blob, at a position.",
    discussion: """
      For blobs made by `create`. The bytes are readable as they come; what was written before an \
      error or a signal stays. Other processes may write other parts at the same time. A byte that \
      is written never changes: writing over it is refused, before the first byte of a regular \
      file and before each piece of a pipe, unless --skip-covered is given.

      Example: patchbay write up/1 part2 --at 5MiB

      Exits with 0; 64 usage, or outside of the blob's length; 66 no such key; 69 no broker; 73 \
      bytes are written already, or another process is writing there; 74 the input cannot be read; \
      77 only its creator may write it; 79 the blob has ended; 81 no space; 130 interrupted; 143 \
      terminated.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key.", transform: Typed.key)
  var key: BlobKey

  @Argument(help: "What to write; - or nothing: standard input.")
  var file = "-"

  @Option(
    help: ArgumentHelp("Where in the blob the first byte goes.", valueName: "position"),
    transform: Typed.size)
  var at: Int

  @Flag(help: "Writes only what is not written yet.")
  var skipCovered = false

  private static let piece = 256 * 1024

  func perform() throws {
    let source = try PutSource(file, length: nil, isShuffled: false)
    let client = try common.connect()
    Interruption.react { _, index in index == 0 ? .grace(.seconds(5)) : .end }
    let publisher = try Failure.about(key) { try client.join(key) }
    do {
      let counts = try Failure.about(key) { try write(source, publisher) }
      try Failure.about(key) { try publisher.leave() }
      try report(publisher.generation, counts)
    } catch {
      // The blob goes on without this process, whatever stopped it.
      try? publisher.leave(deadline: .after(.seconds(3)))
      throw error
    }
  }

  private struct Counts {
    /// Bytes taken from the input.
    var read = 0
    /// Of them, those that were not there already.
    var written = 0
  }

  private func write(
    _ source: borrowing PutSource, _ publisher: Publisher
  ) throws -> Counts {
    // All of a file is claimed, and looked at, before its first byte is written.
    let claim = try claim(source.byteCount ?? 0, publisher)
    defer { withExtendedLifetime(claim) {} }
    var counts = Counts()
    var buffer = [UInt8](repeating: 0, count: Self.piece)
    while true {
      try Interruption.check()
      let count = try unsafe buffer.withUnsafeMutableBytes { try unsafe source.read(into: $0) }
      guard count > 0 else { break }
      let position = at + counts.read
      counts.written += try publisher.write(
        buffer.span.extracting(0..<count), at: position, skippingCovered: skipCovered)
      counts.read += count
    }
    if let announced = source.byteCount, counts.read != announced {
      throw source.shrunk(to: counts.read)
    }
    return counts
  }

  /// - Throws: `rangeOverlap` when a byte of the range is written already and may not be skipped.
  private func claim(_ byteCount: Int, _ publisher: Publisher) throws -> RangeClaim? {
    guard byteCount > 0 else { return nil }
    let (end, overflow) = at.addingReportingOverflow(byteCount)
    guard !overflow else {
      throw PatchbayError(.rangeOutOfBounds, "No blob is so long that \(at) lies within it.")
    }
    let claim = try publisher.claim(at..<end)
    guard !skipCovered else { return claim }
    if let covered = try publisher.writtenRanges(in: at..<end).first {
      throw PatchbayError(
        .rangeOverlap,
        "Writing \(byteCount) bytes at \(at) of the blob \(key) touches bytes "
          + "\(covered.lowerBound) to \(covered.upperBound), which are written already. Write what "
          + "is missing, or give --skip-covered.", resumePosition: covered.lowerBound)
    }
    return claim
  }

  private func report(_ generation: Generation, _ counts: Counts) throws {
    guard common.json else { return }
    var fields = JSONFields()
    fields.append(key: key)
    fields["generation"] = .unsigned(generation.rawValue)
    fields["position"] = .integer(at)
    fields["byteCount"] = .integer(counts.read)
    fields["written"] = .integer(counts.written)
    try StandardOutput.line(JSON.object(fields).text)
  }
}
