// `patchbay verify`: whether the containers of a spool hold what was written into them. Reads files
// and asks no broker; one may be running.

import ArgumentParser
import Glibc
import Patchbay
import PatchbayDigest
import PatchbaySpool
import PatchbaySystem

struct VerifyVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Checks the containers of a spool, also without a broker.",
    discussion: """
      Reads every byte of every container (a file that ends in .part or .blob) and compares it with \
      its checksums, and all bytes of a sealed blob with its digest, where one was asked for when it \
      was created. Changes nothing, asks no broker, and may run beside one. Symbolic links are not \
      followed. A file is sound (all bytes of its blob are there), incomplete (what is there is \
      sound), damaged (the reasons stand below it), or unreadable (no whole header, or it cannot be \
      opened).

      With --json, one object for each file: file, verdict (sound, incomplete, damaged, unreadable, \
      leftAlone: a file of the directory that is no container), key, generation, length, sealed, \
      compression, segments, presentSegments, missingSegments, damagedSegments, verifiedBytes, \
      fileBytes (holes included), diskBytes, digest, digestMatches (null where not all bytes are \
      there), missing (the first few segments), damage (the first \
      few: segment or null, and what). What is not known is null.

      Example: patchbay verify --spool /var/spool/patchbay

      Example: patchbay verify --json copy.part

      Exits with 0 all are sound or incomplete, also when there are none; 64 usage; 65 one is \
      damaged or unreadable; 74 the directory or a file is not there or cannot be read; 77 not \
      permitted.
      """)

  @OptionGroup var common: CommonOptions

  @Option(
    help: ArgumentHelp("The directory of a spool: all its containers.", valueName: "dir"),
    completion: .directory)
  var spool: String?

  @Argument(help: "Containers, whatever their names.", completion: .file())
  var files: [String] = []

  func validate() throws {
    guard spool != nil || !files.isEmpty else {
      throw ValidationError(
        "Say what to check: a spool with --spool DIR, or containers by their names.")
    }
  }

  func perform() throws {
    var check = ContainerCheck(common)
    if let spool { try check.visit(spool: spool) }
    for file in files { try check.visit(file) }
    try check.conclude()
  }
}

extension DiskFile.Entry {
  fileprivate var isContainer: Bool {
    isRegular && (name.hasSuffix(".part") || name.hasSuffix(".blob"))
  }
}

/// One run over some files.
private struct ContainerCheck {
  private let isJSON: Bool
  private let isQuiet: Bool
  private var progress: Progress
  private var doneByteCount = 0
  /// Bytes of the containers that are visited, holes included; nil where that is not known.
  private var totalByteCount: Int?
  /// The containers, for the table.
  private var found: [VerifiedContainer] = []
  private var leftAloneCount = 0
  private var containerCount = 0
  private var failedCount = 0
  private var refusals: [PatchbayError] = []

  init(_ common: CommonOptions) {
    isJSON = common.json
    isQuiet = common.quiet
    progress = Progress("verify", quiet: common.quiet, after: .seconds(1))
  }

  // MARK: Files

  /// All that a directory has.
  mutating func visit(spool: String) throws {
    let directory = try DiskFile.openDirectory(spool)
    let entries = try DiskFile.entries(of: directory)
    totalByteCount = entries.filter(\.isContainer).reduce(0) { $0 + $1.byteCount }
    for entry in entries { try visit(entry, in: directory, at: spool) }
    totalByteCount = nil
  }

  private mutating func visit(
    _ entry: DiskFile.Entry, in directory: borrowing Descriptor, at place: String
  ) throws {
    let path = place.hasSuffix("/") ? place + entry.name : "\(place)/\(entry.name)"
    guard entry.isContainer else {
      return try note(VerifiedContainer(path: path, finding: .leftAlone))
    }
    let finding = look(in: directory, entry.name)
    doneByteCount += entry.byteCount
    // A broker takes containers away while it runs.
    if case .refused(let error) = finding, error.systemErrno == ENOENT { return }
    try note(VerifiedContainer(path: path, finding: finding))
  }

  /// A file that was asked for.
  mutating func visit(_ path: String) throws {
    let directory = try DiskFile.openDirectory(path.hasPrefix("/") ? "/" : ".")
    var finding = look(in: directory, path)
    if case .refused(let error) = finding, error.systemErrno == ELOOP {
      finding = .refused(
        PatchbayError(
          .inputOutput,
          "\(path) is a symbolic link, which is not followed. Give the file that it points to.",
          systemErrno: ELOOP))
    }
    if case .report(let report, _) = finding { doneByteCount += report.fileByteCount }
    try note(VerifiedContainer(path: path, finding: finding))
  }

  /// Looks again at what seems damaged as long as it changes: a broker may be writing it, and half a
  /// header or half a segment is damage to who reads it just then.
  private mutating func look(
    in directory: borrowing Descriptor, _ name: String
  ) -> VerifiedContainer.Finding {
    do throws(PatchbayError) {
      var found = try scan(in: directory, name)
      for _ in 0..<Self.lookLimit - 1 where !found.isSound {
        let next = try scan(in: directory, name)
        if next == found { break }
        found = next
      }
      return .report(found.report, found.digest)
    } catch { return .refused(error) }
  }

  private static let lookLimit = 3

  /// What one look at a file has found.
  private struct Look: Equatable {
    let report: ContainerReport
    let digest: VerifiedDigest?
    var isSound: Bool { report.isSound && digest?.matches != false }
  }

  private mutating func scan(
    in directory: borrowing Descriptor, _ name: String
  ) throws(PatchbayError) -> Look {
    let before = doneByteCount
    let total = totalByteCount
    var state: DigestState?
    let report = try ContainerScan.scan(in: directory, name: name) { header, bytes in
      guard let recorded = VerifiedDigest.recorded(in: header) else { return }
      if state == nil { state = DigestState(recorded.algorithm) }
      state?.update(bytes[...])
    } onProgress: { done in
      progress.update(before + done, of: total)
    }
    return Look(report: report, digest: VerifiedDigest(report, state))
  }

  private mutating func note(_ file: VerifiedContainer) throws {
    if file.verdict == .leftAlone { leftAloneCount += 1 } else { containerCount += 1 }
    if file.hasFailed { failedCount += 1 }
    if let refusal = file.refusal { refusals.append(refusal) }
    if isJSON {
      progress.clear()
      try StandardOutput.line(JSON.object(file.json).text)
    } else if file.verdict != .leftAlone {
      found.append(file)
    }
  }

  // MARK: The end

  /// Prints the table, and throws what decides the exit code.
  mutating func conclude() throws {
    progress.clear()
    if !isJSON { try StandardOutput.write(lines.map { $0 + "\n" }.joined()) }
    if failedCount > 0 {
      throw PatchbayError(
        .corrupt,
        "\(failedCount) of \(containerCount) containers \(failedCount == 1 ? "is" : "are") damaged "
          + "or unreadable; the list says what is wrong in which. Sound segments stay readable; to "
          + "have all bytes, remove these files and create the blobs again.")
    }
    if let first = refusals.first {
      throw PatchbayError(
        first.code,
        "\(refusals.count) of \(containerCount) files could not be looked at. \(first.message)",
        systemErrno: first.systemErrno)
    }
  }

  private var lines: [String] {
    var table = TextTable(VerifiedContainer.columns)
    for file in found { table.append(file.row) }
    let rows = table.lines
    var lines = found.isEmpty ? [] : [rows[0]]
    for (row, file) in zip(rows.dropFirst(), found) { lines += [row] + file.reasons }
    guard !isQuiet else { return lines }
    if found.isEmpty { lines.append("no containers") }
    if leftAloneCount > 0 {
      lines.append(
        leftAloneCount == 1
          ? "1 other file is no container and was left alone"
          : "\(leftAloneCount) other files are no containers and were left alone")
    }
    return lines
  }
}
