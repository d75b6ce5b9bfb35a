// The examples of the guides are the programs and tests of this package: whoever changes one is told
// of the other.

import Glibc
import PatchbayTestSupport
import Testing

/// A fenced block of a page.
struct CodeBlock {
  let place: String
  let language: String
  let lines: [String]

  /// All blocks of a page, by the package's path.
  static func all(in path: String) throws -> [CodeBlock] {
    var blocks: [CodeBlock] = []
    var open: (start: Int, language: String, lines: [String])?
    for (index, line) in try SourceFile(path).lines.enumerated() {
      if let block = open, line == "```" {
        let place = "\(path):\(block.start)"
        blocks.append(CodeBlock(place: place, language: block.language, lines: block.lines))
        open = nil
      } else if open != nil {
        open?.lines.append(line)
      } else if line.hasPrefix("```") {
        open = (index + 1, String(line.dropFirst(3)), [])
      }
    }
    return blocks
  }
}

@Suite struct GuideTests {
  private static let pages =
    files(below: ["Sources"], endings: [".md"]).filter { $0.contains(".docc/") } + ["README.md"]

  /// Code without what does not make it other code: white space, comments behind it, imports.
  private func essence(_ lines: [String]) -> String {
    lines.filter { !$0.hasPrefix("import ") }.map { line in
      let comment = line.firstRange(of: "  //")?.lowerBound ?? line.endIndex
      let code = line[..<comment].drop { $0 == " " }
      return code.hasPrefix("//") ? "" : code.filter { !$0.isWhitespace }
    }.joined()
  }

  @Test func `every Swift example of the pages is part of a program or a test`() throws {
    let own = try files(below: ["Sources/Examples", "Tests"], endings: [".swift"])
      .map { essence(try SourceFile($0).lines) }
    let examples = try Self.pages.flatMap { try CodeBlock.all(in: $0) }
      .filter { $0.language == "swift" }
    #expect(examples.count > 15)
    for example in examples {
      let code = essence(example.lines)
      #expect(!code.isEmpty && own.contains { $0.contains(code) }, "\(example.place) is nowhere")
    }
  }

  @Test func `every program below Examples is named by a page and run by a test`() throws {
    let pages = try Self.pages.map { try SourceFile($0).lines.joined(separator: "\n") }
    let tests = try SourceFile("Tests/PatchbayProcessTests/ExampleProgramTests.swift").lines
      .joined(separator: "\n")
    let programs = names(in: "\(packageRoot)/Sources/Examples")
    #expect(programs.count >= 5)
    for program in programs {
      #expect(pages.contains { $0.contains("`\(program)`") || $0.contains("Examples/\(program)`") })
      #expect(tests.contains("\"\(program)\""), "\(program)")
    }
  }

  /// A link that leads nowhere, and a page that nothing leads to.
  @Test func `the pages and the landing page name each other`() throws {
    let names = Set(
      Self.pages.filter { $0 != "README.md" }.map {
        String($0.split(separator: "/").last?.dropLast(".md".count) ?? "")
      })
    var linked: Set<String> = []
    for path in Self.pages {
      for line in try SourceFile(path).lines {
        for part in line.components(between: "<doc:", and: ">") {
          linked.insert(part)
          #expect(names.contains(part), "\(path) leads to \(part)")
        }
      }
    }
    #expect(names.subtracting(linked) == ["Patchbay"], "every page but the first is led to")
  }

  private static let analyze = "/usr/bin/systemd-analyze"

  @Test(.enabled(if: access(analyze, X_OK) == 0, "needs systemd-analyze"))
  func `units of the guides are such that systemd takes them`() throws {
    let units = try CodeBlock.all(in: "Sources/Patchbay/Patchbay.docc/Containers.md")
      .filter { $0.language == "ini" }
    #expect(units.count == 2)
    let directory = try TemporaryDirectory()
    let patchbay = try program("patchbay")
    let paths = try units.map { unit in
      let name = try #require(unit.lines.first?.split(separator: " ").last)
      let text = unit.lines.joined(separator: "\n").replacing(
        "/usr/local/bin/patchbay", with: patchbay)
      let path = directory.file(String(name))
      try writeFile(path, Array((text + "\n").utf8))
      return path
    }
    let outcome = try runProgram(
      Self.analyze, ["verify", "--user", "--man=no"] + paths,
      environment: ["XDG_RUNTIME_DIR": directory.path, "SYSTEMD_LOG_LEVEL": "warning"])
    #expect(outcome.exitCode == 0 && outcome.error.isEmpty, "\(outcome.error)")
  }
}

extension String {
  /// What stands between two marks, each time.
  fileprivate func components(between start: String, and end: Character) -> [String] {
    var found: [String] = []
    var rest = self[...]
    while let at = rest.firstRange(of: start) {
      rest = rest[at.upperBound...]
      found.append(String(rest.prefix { $0 != end }))
    }
    return found
  }
}
