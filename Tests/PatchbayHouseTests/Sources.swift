// The project's own files, as the tests of the house read them.

import PatchbayTestSupport

/// The package's directory, from this file's place in it.
let packageRoot = #filePath.split(separator: "/").dropLast(3).reduce("") { "\($0)/\($1)" }

/// A source file by its path below the package.
struct SourceFile {
  let path: String
  let lines: [String]

  init(_ path: String) throws {
    self.path = path
    lines = try readFile("\(packageRoot)/\(path)").split(
      separator: "\n", omittingEmptySubsequences: false
    ).map(String.init)
  }
}

/// All files with one of these endings below some directories, but build folders.
func files(below directories: [String], endings: [String]) -> [String] {
  var found: [String] = []
  var open = directories
  while let path = open.popLast() {
    for name in names(in: "\(packageRoot)/\(path)") where !name.hasPrefix(".") {
      let inner = "\(path)/\(name)"
      if endings.contains(where: { name.hasSuffix($0) }) {
        found.append(inner)
      } else if !name.contains(".") || name.hasSuffix(".docc") {
        open.append(inner)
      }
    }
  }
  return found.sorted()
}
