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
      file with exactly the blob's bytes and length that the command can read anywhere and map, and \
      cannot write. It is not to be run, and has no other name.

      A blob is waited for until it is sealed, for --timeout at most. It costs one copy: each blob is \
      copied into memory of this command's own, beside what the broker has, before the command \
      starts; the memory is free when the command has ended. An imported blob (`patchbay import`) \
      costs nothing: the command gets the file itself. When that is changed while the command runs, \
      which nothing prevents its owner from, a good end of the command becomes 65.

      Signals are passed on, and the command decides what they mean.

      Example: patchbay with models/v7 -- sha256sum {}
      Example: patchbay with a b --wait-for 1m -- cmp {} {}

      Exits as the command does, with 128 + the signal that ended it; or, before the command was \
      started, with 64 usage; 66 no such key; 69 no broker; 74 the command cannot be started; 75 \
      time-out; 79 a blob has failed, or was abandoned or removed; 81 no memory for a copy.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The keys, one for each {}.", completion: .keys, transform: Typed.key)
  var keys: [BlobKey]

  @Argument(parsing: .postTerminator, help: "Behind --: the command, with a {} for each key.")
  var command: [String] = []

  @OptionGroup var reading: ReadingOptions

  func validate() throws {
    guard !command.isEmpty else {
      throw ValidationError("Behind -- stands the COMMAND to run; there is none.")
    }
    let placeCount = command.reduce(0) { $0 + PlacedFiles.placeCount(in: $1) }
    guard placeCount == keys.count else {
      throw ValidationError(
        "\(keys.count) keys were given, and the command has {} \(placeCount) times: each key needs "
          + "its own {}.")
    }
  }

  func perform() throws {
    let client = try common.connect()
    let deadline = reading.deadline
    var files = PlacedFiles()
    for key in keys {
      try Failure.about(key) {
        files.add(try BlobFile(reading.open(key, client), deadline: deadline))
      }
    }
    Interruption.react { _, _ in .goOn }
    let child = try ChildCommand(files.words(of: command))
    let status = child.exitCode()
    guard status == 0 else { throw ExitCode(status) }
    for (key, file) in zip(keys, files.files) {
      try Failure.about(key) { try file.checkUnchanged() }
    }
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
