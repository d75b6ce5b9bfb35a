// Every line of the documentation and of the helps that shows a command is one that the command
// takes.

import ArgumentParser
import PatchbayTestSupport
import Testing

@testable import PatchbayCLI

/// What a shell would make of a line, as far as the examples go: commands of words, with pipes,
/// lists, redirections, quotes and comments.
struct ShellLine {
  private(set) var commands: [[String]] = [[]]

  init(_ text: String) {
    var word = ""
    var isWord = false
    var quote: Character?
    var rest = text[...]
    func isSeparator(_ character: Character) -> Bool { "|&;()".contains(character) }
    while let character = rest.popFirst() {
      if let open = quote {
        if character == open { quote = nil } else { word.append(character) }
      } else if character == "'" || character == "\"" {
        quote = character
        isWord = true
      } else if character == " " || isSeparator(character) || character == "#" && !isWord {
        if isWord { commands[commands.count - 1].append(word) }
        (word, isWord) = ("", false)
        if isSeparator(character) { commands.append([]) }
        if character == "#" { break }
      } else {
        word.append(character)
        isWord = true
      }
    }
    if isWord { commands[commands.count - 1].append(word) }
    commands = commands.map(Self.withoutRedirections).filter { !$0.isEmpty }
  }

  private static func withoutRedirections(_ words: [String]) -> [String] {
    var kept: [String] = []
    var index = 0
    while index < words.count {
      if words[index] == ">" || words[index] == "<" || words[index] == "2>" {
        index += 2
      } else {
        kept.append(words[index])
        index += 1
      }
    }
    return kept
  }

  /// The arguments of each `patchbay` in it, also behind a program that runs it.
  var arguments: [[String]] {
    commands.compactMap { words in
      let place = words.indices.first { index in
        let isName = index > 0 && words[index - 1] == "--name"
        let isCommand = words[index] == "patchbay" || words[index].hasSuffix("/bin/patchbay")
        return isCommand && !isName
      }
      return place.map { Array(words[($0 + 1)...]) }
    }
  }
}

@Suite struct ExampleLineTests {
  private static let root = #filePath.split(separator: "/").dropLast(3)
    .reduce("") { "\($0)/\($1)" }

  /// Lines behind a prompt, and what units start.
  private func lines(of path: String) throws -> [String] {
    try readFile("\(Self.root)/\(path)").split(separator: "\n").compactMap { line in
      if line.hasPrefix("$ ") { return String(line.dropFirst(2)) }
      if line.hasPrefix("ExecStart=") { return String(line.dropFirst("ExecStart=".count)) }
      return nil
    }
  }

  private func check(_ line: String, _ place: String) -> Int {
    let arguments = ShellLine(line).arguments
    for words in arguments {
      #expect(throws: Never.self, "\(place): \(line)") {
        _ = try PatchbayCommand.parseAsRoot(words)
      }
    }
    return arguments.count
  }

  @Test func `every command line of the pages is one that the command takes`() throws {
    let catalog = "Sources/Patchbay/Patchbay.docc"
    let pages = names(in: "\(Self.root)/\(catalog)").filter { $0.hasSuffix(".md") }
      .map { "\(catalog)/\($0)" }
    var count = 0
    for page in pages + ["README.md"] {
      for line in try lines(of: page) { count += check(line, page) }
    }
    #expect(count > 40)
  }

  @Test(arguments: PatchbayCommand.configuration.subcommands.map { $0.configuration })
  func `every example of the helps is one that the command takes`(
    configuration: CommandConfiguration
  ) {
    let name = configuration.commandName ?? ""
    let text = configuration.discussion
    var count = 0
    for part in text.split(separator: "\n") where part.hasPrefix("Example: ") {
      let line = part.dropFirst("Example: ".count)
      count += check(String(line), name)
    }
    #expect(count > 0, "\(name)")
  }

  @Test func `a line is split as a shell splits it`() {
    let line = ShellLine("A=1 patchbay put k -- echo 'a b' | patchbay cat k > f && x # patchbay y")
    #expect(line.arguments == [["put", "k", "--", "echo", "a b"], ["cat", "k"]])
    let inside = ShellLine("docker run --name patchbay -v /a:/run/patchbay IMAGE patchbay ls -l")
    #expect(inside.arguments == [["ls", "-l"]])
    #expect(throws: (any Error).self) { try PatchbayCommand.parseAsRoot(["ls", "--long"]) }
  }
}
