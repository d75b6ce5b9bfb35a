// `patchbay get`: a blob, or a part of it, into a file that appears only when it is complete.

import ArgumentParser
import Glibc
import Patchbay
import PatchbaySystem

struct GetVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "get",
    abstract: "Copies a blob into a file as it is being written.",
    discussion: """
      The bytes go to FILE.part.<pid> beside the file, which is renamed over it when complete and \
      removed when that fails. With --json it prints what it did, also how far the blob was when \
      reading began (attachedState, frontierAtAttach, coveredAtAttach).

      With --parallel several threads copy pieces of the blob at once. That pays where reading takes \
      longer than writing: for blobs on disk above all, compressed ones most.

      With --expect the file is read back before it gets its name; one with another digest is \
      removed.

      Example: patchbay get models/v7 weights.bin --wait-for 1m
      Example: patchbay get models/v7 weights.bin --parallel 4

      Exits with 0 complete; 64 usage; 65 not the expected digest; 66 no such key; 69 no broker; 74 \
      the file cannot be written; 75 time-out; 77 --parallel with a blob that keeps its last bytes \
      only; 79 the blob failed, or was abandoned or removed; 130 interrupted; 143 terminated.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key.", completion: .keys, transform: Typed.key)
  var key: BlobKey

  @Argument(help: "The file to make, or -: standard output.", completion: .file())
  var file: String

  @Option(
    help: ArgumentHelp("The position of the first byte to copy.", valueName: "position"),
    transform: Typed.size)
  var from = 0

  @Option(
    help: ArgumentHelp(
      "Copies so many bytes, fewer where the blob ends before.", valueName: "size"),
    transform: Typed.size)
  var count: Int?

  @Option(
    help: ArgumentHelp("Copies with so many threads, 1 to 64.", valueName: "count"))
  var parallel = 1

  @Option(
    help: ArgumentHelp(
      "Makes the file only if what it holds has this digest: sha256:HEX, sha384:HEX or sha512:HEX.",
      valueName: "digest"),
    transform: Typed.digest)
  var expect: ContentDigest?

  @OptionGroup var reading: ReadingOptions

  static let parallelLimit = 64

  func validate() throws {
    guard (1...Self.parallelLimit).contains(parallel) else {
      throw ValidationError("--parallel takes 1 to \(Self.parallelLimit) threads.")
    }
    guard file != "-" || expect == nil else {
      throw ValidationError(
        "What has gone to standard output cannot be taken back; --expect needs a FILE.")
    }
    if parallel > 1, file == "-" {
      throw ValidationError("Standard output takes the bytes in order; leave --parallel out.")
    }
  }

  func perform() throws {
    let client = try common.connect()
    try Failure.reading(key) {
      let subscriber = try reading.open(key, client)
      let started = ContinuousClock.now
      let standing = try Standing(of: subscriber)
      let byteCount =
        file == "-"
        ? try copyToStandardOutput(subscriber)
        : try PartialFile.fill(file) { (file) throws(PatchbayError) in
          if expect != nil { try FileDigest.checkKind(of: file, name: self.file) }
          let byteCount =
            try parallel > 1
            ? copyInParallel(subscriber, to: file.rawValue) : copy(subscriber, to: file.rawValue)
          if let expect { try FileDigest.check(file, is: expect, name: self.file) }
          return byteCount
        }
      try report(subscriber, standing, byteCount, ContinuousClock.now - started)
    }
  }

  private func copyToStandardOutput(_ subscriber: Subscriber) throws(PatchbayError) -> Int {
    do throws(PatchbayError) {
      return try copy(subscriber, to: STDOUT_FILENO)
    } catch {
      throw error.ofOutput("standard output")
    }
  }

  private func copy(_ subscriber: Subscriber, to descriptor: Int32) throws(PatchbayError) -> Int {
    let isAlone = file != "-" || StandardOutput.isRegularFile
    var progress = Progress("\(key)", quiet: common.quiet || !isAlone)
    do throws(PatchbayError) {
      let byteCount = try subscriber.copy(
        to: descriptor, from: from, byteCount: count, deadline: reading.deadline
      ) { progress.update($0, of: wanted(of: subscriber.byteCount)) }
      progress.finish(byteCount, of: wanted(of: subscriber.byteCount))
      return byteCount
    } catch {
      progress.clear()
      throw error
    }
  }

  private func copyInParallel(
    _ subscriber: Subscriber, to descriptor: Int32
  ) throws(PatchbayError) -> Int {
    guard try FileLook(at: descriptor).isRegular else {
      throw PatchbayError(
        .inputOutput, "\(file) is not a regular file; --parallel needs one. Leave it out.")
    }
    guard subscriber.policy == .keep else {
      throw PatchbayError(
        .notPermitted,
        "The blob \(key) keeps its last bytes only and is read in sequence; leave --parallel out.")
    }
    let progress = SharedProgress(Progress("\(key)", quiet: common.quiet))
    let (start, count) = (from, count)
    let (end, overflow) = start.addingReportingOverflow(count ?? .max)
    let total: @Sendable () -> Int? = { Self.wanted(count, from: start, of: subscriber.byteCount) }
    let copy = ParallelCopy(
      subscriber, to: descriptor, start..<(overflow ? .max : end), deadline: reading.deadline
    ) { progress.update($0, of: total()) }
    do throws(PatchbayError) {
      let byteCount = try copy.run(threadCount: parallel)
      progress.finish(byteCount, of: total())
      return byteCount
    } catch {
      progress.clear()
      throw error
    }
  }

  private func wanted(of byteCount: Int?) -> Int? {
    Self.wanted(count, from: from, of: byteCount)
  }

  private static func wanted(_ count: Int?, from: Int, of byteCount: Int?) -> Int? {
    guard let byteCount else { return count }
    return min(count ?? .max, max(0, byteCount - from))
  }

  /// One object; on standard error when the bytes are on standard output.
  private func report(
    _ subscriber: Subscriber, _ standing: Standing, _ byteCount: Int, _ duration: Duration
  ) throws {
    guard common.json else { return }
    var fields = JSONFields()
    fields.append(key: key)
    fields["generation"] = .unsigned(subscriber.generation.rawValue)
    fields["byteCount"] = .integer(byteCount)
    fields["from"] = .integer(from)
    fields["attachedState"] = .string("\(standing.state)")
    fields["frontierAtAttach"] = .integer(standing.frontier)
    fields["coveredAtAttach"] = .integer(standing.coveredByteCount)
    fields["seconds"] = .seconds(duration)
    let line = JSON.object(fields).text
    if file == "-" { StandardError.write(line + "\n") } else { try StandardOutput.line(line) }
  }
}
