// `patchbay with`: sealed blobs as files for a program that knows nothing of them.

import ArgumentParser
import Patchbay
import PatchbaySystem

struct WithVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "with",
    abstract: "Runs a command with blobs in the place of files.",
    usage: """
      patchbay with <key> ... [<options>] -- <command> ... {} ...
      """,
    discussion: """
      Each {} in the command's words becomes /dev/fd/N, the first for the first key and so on: a \
      file with exactly the blob's bytes and length that the command can read anywhere and map. It is \
      not to be run, and has no other name.

      A blob is waited for until it is sealed, for --timeout at most. It costs one copy: each blob is \
      copied into memory of this command's own, beside what the broker has, before the command \
      starts, and cannot be changed; the memory is free when the command, and whatever it has left \
      running, has ended. An imported blob (`patchbay import`) costs nothing: the command gets the \
      file itself, and writes to your file if it opens {} for writing. When that was changed while the \
      command ran, an error says so, and a good end of the command becomes 65. When nobody can say \
      whether it was, there is a warning, and the command's end stands.

      Signals are passed on, and the command decides what they mean.

      Example: patchbay with models/v7 -- sha256sum {}
      Example: patchbay with a b --wait-for 1m -- cmp {} {}

      Exits with 0 when the command did, else with its status, or 128 + the signal that ended it; \
      with 65 when an imported file has changed and the command did well; or, before the command was \
      started, with 64 usage; 65 an imported file has changed; 66 no such key; 69 no broker; 74 the \
      command cannot be started; 75 time-out; 79 a blob has failed, or was abandoned or removed; 81 \
      no memory for a copy.
      """)

  @OptionGroup var common: CommonOptions

  // The parser knows no two lists in a row; `marked` has left a mark where the second begins.
  @Argument(
    help: ArgumentHelp(
      "The keys; and behind -- the command, with a {} for each key.", valueName: "word"),
    completion: .keys)
  var words: [String]

  private static let mark = "\0"

  /// The arguments of the whole command with a mark behind the -- of this verb. No argument of a
  /// process can be equal to it.
  static func marked(_ arguments: [String]) -> [String] {
    guard arguments.first == configuration.commandName, let end = arguments.firstIndex(of: "--")
    else { return arguments }
    var marked = arguments
    marked.insert(mark, at: end + 1)
    return marked
  }

  private func split() throws -> (keys: [BlobKey], command: [String]) {
    let parts = words.split(separator: Self.mark, maxSplits: 1, omittingEmptySubsequences: false)
    return (try parts[0].map(Typed.key), parts.count > 1 ? Array(parts[1]) : [])
  }

  @OptionGroup var reading: ReadingOptions

  func validate() throws {
    let (keys, command) = try split()
    guard !command.isEmpty else {
      throw ValidationError("Behind -- stands the COMMAND to run; there is none.")
    }
    let placeCount = command.reduce(0) { $0 + PlacedFiles.placeCount(in: $1) }
    guard placeCount == keys.count else {
      throw ValidationError(
        "Each key needs its own {} in the command: \(keys.count) given, \(placeCount) {} found.")
    }
  }

  func perform() throws {
    let client = try common.connect()
    let (keys, command) = try split()
    let deadline = reading.deadline
    var files = PlacedFiles()
    for key in keys {
      try Failure.reading(key) {
        files.add(try BlobFile(reading.open(key, client), deadline: deadline))
      }
    }
    Interruption.react { _, _ in .goOn }
    let child = try ChildCommand(files.words(of: command))
    let status = child.exitCode()
    let findings = zip(keys, files.files).compactMap(Finding.init)
    for finding in findings { finding.report(asJSON: common.json) }
    let code = Finding.exitCode(findings, afterStatus: status)
    guard code == 0 else { throw ExitCode(code) }
  }
}

/// What is not as it should be with a file that a command was given, once the command has ended.
struct Finding {
  let key: BlobKey
  let error: PatchbayError
  /// Whether the file has changed for certain; otherwise it could not be looked at.
  var isChange: Bool { error.code == .corrupt }

  init(_ key: BlobKey, _ error: PatchbayError) {
    self.key = key
    self.error = error
  }

  /// Nil: it is as it was.
  init?(_ key: BlobKey, _ file: BlobFile) {
    do throws(PatchbayError) {
      try file.checkUnchanged()
      return nil
    } catch {
      self.init(key, error)
    }
  }

  /// Only a change that is certain spoils a good end, and nothing a bad one.
  static func exitCode(_ findings: [Finding], afterStatus status: Int32) -> Int32 {
    status == 0 && findings.contains(where: \.isChange) ? ExitStatus.of(.corrupt) : status
  }

  func report(asJSON: Bool) {
    guard !isChange else { return Failure(error, key: key).report(asJSON: asJSON) }
    StandardError.write(Failure.warning(words, key: key, asJSON: asJSON) + "\n")
  }

  private var words: PatchbayError {
    PatchbayError(
      error.code,
      "Nobody can say whether the file of the imported blob \(key) was changed while the command ran: "
        + error.message, systemErrno: error.systemErrno)
  }
}

/// A command's words with files in their places.
struct PlacedFiles {
  private static let place = "{}"
  private(set) var files: [BlobFile] = []

  mutating func add(_ file: BlobFile) { files.append(file) }

  static func placeCount(in word: String) -> Int { word.ranges(of: place).count }

  /// The words, each place in turn replaced by the path of a file.
  func words(of command: [String]) -> [String] {
    Self.words(of: command, paths: files.map(\.path))
  }

  static func words(of command: [String], paths: [String]) -> [String] {
    var rest = paths[...]
    return command.map { word in
      var filled = ""
      var left = word[...]
      while let place = left.firstRange(of: Self.place), let path = rest.popFirst() {
        filled += left[..<place.lowerBound] + path
        left = left[place.upperBound...]
      }
      return filled + left
    }
  }
}
