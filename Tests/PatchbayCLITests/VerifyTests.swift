// `patchbay verify` on containers of every kind, as people and as scripts see it.

import Glibc
import PatchbayDigest
import PatchbaySpool
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Testing

@testable import PatchbayCLI

/// A directory with containers of three segments of 4 KiB, 10000 bytes.
private struct Shelf {
  static let byteCount = 10_000
  let temporary: TemporaryDirectory
  var path: String { temporary.path }

  init() throws { temporary = try TemporaryDirectory() }

  func file(_ name: String) -> String { temporary.file(name) }

  /// Writes some of the segments of a blob.
  func add(
    _ name: String, key: BlobKey, segments: [Int] = [0, 1, 2], byteCount: Int? = Self.byteCount,
    digest: String = ""
  ) throws {
    let shape = try ContainerShape(segmentByteCount: 4096)
    let writer = try ContainerWriter.create(
      in: try DiskFile.openDirectory(path), name: name,
      ContainerHeader(
        key: key, generation: Generation(rawValue: 7), shape: shape, compression: .none,
        byteCount: byteCount, isSealed: segments.count == 3, digest: digest))
    for segment in segments {
      try writer.write(
        segment: segment, oracleBytes(7, shape.range(ofSegment: segment, byteCount: byteCount)))
    }
  }

  /// Turns one bit of a file.
  func flip(_ name: String, at offset: Int) throws {
    var bytes = try readBytes(file(name))
    bytes[offset] ^= 0x10
    try writeFile(file(name), bytes)
  }

  /// Where the content of a segment stands.
  func content(ofSegment segment: Int) throws -> Int {
    try ContainerShape(segmentByteCount: 4096).offset(ofSegment: segment) + 4096
  }

  func verify(_ arguments: [String]) throws -> Outcome {
    try runProgram("patchbay", ["verify"] + arguments)
  }
}

extension Outcome {
  fileprivate var lines: [String] { output.split(separator: "\n").map(String.init) }

  /// The line that names a file.
  fileprivate func line(_ name: String) throws -> String {
    try #require(lines.first { $0.contains(name) }, "\(output)")
  }
}

@Suite struct VerifyTests {
  @Test func `sound and incomplete containers line up in a table, and all is well`() throws {
    let shelf = try Shelf()
    try shelf.add("a.part", key: "whole")
    try shelf.add("b.blob", key: "with/a hole", segments: [0, 2])
    try shelf.add("c.part", key: "open", segments: [0], byteCount: nil)
    let outcome = try shelf.verify(["--spool", shelf.path])
    #expect(outcome.exitCode == 0 && outcome.error == "", "\(outcome.error)")
    let lines = outcome.lines
    try #require(lines.count == 4, "\(outcome.output)")
    #expect(
      lines[0].split(separator: " ").joined(separator: " ")
        == "VERDICT SEGMENTS DAMAGED LENGTH ON DISK GENERATION FILE KEY")
    for (line, words) in zip(
      lines.dropFirst(),
      [
        ["sound", "3/3", "0", "10000"], ["incomplete", "2/3", "0", "10000"],
        ["incomplete", "1/1", "0", "-"],
      ])
    {
      #expect(line.split(separator: " ").prefix(4).map(String.init) == words)
    }
    let places = try zip(lines, ["KEY", "whole", "with/a hole", "open"]).map { line, key in
      try #require(line.firstRange(of: key)).lowerBound.utf16Offset(in: line)
    }
    #expect(Set(places).count == 1, "\(outcome.output)")
  }

  @Test func `a flipped bit is found, and the segment and the reason are told`() throws {
    let shelf = try Shelf()
    try shelf.add("a.part", key: "hurt")
    try shelf.add("b.part", key: "whole")
    try shelf.flip("a.part", at: try shelf.content(ofSegment: 1) + 99)
    let outcome = try shelf.verify(["--spool", shelf.path])
    #expect(outcome.exitCode == ExitStatus.contentFailed)
    #expect(try outcome.line("a.part").hasPrefix("damaged "))
    #expect(try outcome.line("b.part").hasPrefix("sound "))
    #expect(outcome.lines[2].hasPrefix("  segment 1: the checksum of its content is "))
    #expect(outcome.error.contains("1 of 2 containers is damaged or unreadable;"))
    let json = try shelf.verify(["--json", shelf.file("a.part")])
    #expect(json.exitCode == ExitStatus.contentFailed)
    #expect(json.error.hasPrefix(#"{"error":{"code":"corrupt","#))
    #expect(json.output.contains(#""damagedSegments":1,"#))
    #expect(json.output.contains(#""damage":[{"segment":1,"what":"the checksum of its content"#))
  }

  @Test func `a damaged copy of the header is damage, though the other copy serves`() throws {
    let shelf = try Shelf()
    try shelf.add("a.part", key: "hurt")
    try shelf.flip("a.part", at: ContainerLayout.copyOffsets[0] + HeaderField.generation.offset)
    let outcome = try shelf.verify(["--spool", shelf.path])
    #expect(outcome.exitCode == ExitStatus.contentFailed)
    #expect(
      outcome.output.contains("\n  one copy of the header is damaged; the other one was used\n"))
    #expect(outcome.output.contains(" hurt\n"))
  }

  @Test func `what has only the name of a container is unreadable, else left alone`() throws {
    let shelf = try Shelf()
    try writeFile(shelf.file("broker.lock"), [])
    let alone = try shelf.verify(["--spool", shelf.path])
    #expect(alone.exitCode == 0)
    #expect(alone.lines == ["no containers", "1 other file is no container and was left alone"])
    try writeFile(shelf.file("a.part"), Array("no container at all".utf8))
    try writeFile(shelf.file("empty.blob"), [])
    let outcome = try shelf.verify(["--spool", shelf.path])
    #expect(outcome.exitCode == ExitStatus.contentFailed)
    #expect(try outcome.line("a.part").hasPrefix("unreadable "))
    #expect(try outcome.line("empty.blob").hasPrefix("unreadable "))
    #expect(outcome.lines.last == alone.lines.last)
    #expect(outcome.error.contains("2 of 2 containers are damaged or unreadable;"))
    let quiet = try shelf.verify(["-q", "--spool", shelf.path])
    #expect(quiet.lines.count == 5 && !quiet.output.contains("left alone"))
    let named = try shelf.verify([shelf.file("broker.lock")])
    #expect(named.exitCode == ExitStatus.contentFailed)
  }

  @Test(arguments: ContentDigest.Algorithm.allCases)
  func `the digest of a sealed container is compared with its content`(
    _ algorithm: ContentDigest.Algorithm
  ) throws {
    let shelf = try Shelf()
    let right = DigestState.digest(of: oracleBytes(7, 0..<Shelf.byteCount), algorithm)
    let wrong = DigestState.digest(of: oracleBytes(8, 0..<Shelf.byteCount), algorithm)
    try shelf.add("a.blob", key: "right", digest: "\(right)")
    try shelf.add("b.blob", key: "wrong", digest: "\(wrong)")
    try shelf.add("c.part", key: "not sealed", segments: [0, 2], digest: "\(wrong)")
    try shelf.add("d.blob", key: "of another kind", digest: "blake3:00")
    let outcome = try shelf.verify(["--spool", shelf.path])
    #expect(outcome.exitCode == ExitStatus.contentFailed)
    #expect(outcome.error.contains("1 of 4 containers is damaged"), "\(outcome.error)")
    #expect(try outcome.line("a.blob").hasPrefix("sound "))
    #expect(try outcome.line("b.blob").hasPrefix("damaged "))
    #expect(try outcome.line("c.part").hasPrefix("incomplete "))
    #expect(try outcome.line("d.blob").hasPrefix("sound "))
    let reason = "  the \(algorithm) of its bytes is \(right.hex) and should be \(wrong.hex)"
    #expect(outcome.lines.contains(reason), "\(outcome.output)")
    let json = try shelf.verify(["--json", shelf.file("a.blob"), shelf.file("b.blob")]).lines
    #expect(json[0].contains(#""digest":"\#(right)","digestMatches":true"#))
    #expect(json[1].contains(#""digest":"\#(wrong)","digestMatches":false"#))
  }

  @Test func `every file has one object with the same members`() throws {
    let shelf = try Shelf()
    try shelf.add("a.part", key: "whole")
    try shelf.add("b.part", key: "hole", segments: [2])
    try writeFile(shelf.file("c.part"), [1, 2, 3])
    try writeFile(shelf.file("d"), [])
    let outcome = try shelf.verify(["--json", "--spool", shelf.path + "/"])
    #expect(outcome.exitCode == ExitStatus.contentFailed)
    let lines = outcome.lines
    try #require(lines.count == 4)
    #expect(
      lines[0].hasPrefix(
        #"{"file":"\#(shelf.file("a.part"))","verdict":"sound","key":"whole","generation":7,"#
          + #""length":10000,"sealed":true,"compression":"none","segments":3,"presentSegments":3,"#
          + #""missingSegments":0,"damagedSegments":0,"verifiedBytes":10000,"fileBytes":"#))
    let noDigest = #","digest":null,"digestMatches":null"#
    #expect(lines[0].hasSuffix(noDigest + #","missing":[],"damage":[]}"#))
    #expect(lines[1].contains(#""verdict":"incomplete","key":"hole","#))
    #expect(lines[1].hasSuffix(#","missing":[0,1],"damage":[]}"#))
    #expect(
      lines[2].contains(#""verdict":"unreadable","key":null,"generation":null,"length":null,"#))
    #expect(
      lines[3]
        == #"{"file":"\#(shelf.file("d"))","verdict":"leftAlone","key":null,"generation":null,"#
        + #""length":null,"sealed":null,"compression":null,"segments":null,"presentSegments":null,"#
        + #""missingSegments":null,"damagedSegments":null,"verifiedBytes":null,"fileBytes":null,"#
        + #""diskBytes":null,"digest":null,"digestMatches":null,"missing":[],"damage":[]}"#)
    let names = lines.map { line in
      line.matches(of: /"([A-Za-z]+)":/).map { String($0.1) }
        .filter { $0 != "segment" && $0 != "what" }
    }
    #expect(Set(names).count == 1)
  }

  @Test func `an empty directory is well, one that is not there is an error`() throws {
    let shelf = try Shelf()
    let empty = try shelf.verify(["--spool", shelf.path])
    #expect(empty.exitCode == 0 && empty.output == "no containers\n" && empty.error == "")
    #expect(try shelf.verify(["--json", "--spool", shelf.path]).output == "")
    let missing = try shelf.verify(["--spool", shelf.file("none")])
    #expect(missing.exitCode == ExitStatus.inputOutput && missing.output == "")
    #expect(missing.error.contains("\(shelf.file("none")) failed: No such file or directory."))
    try writeFile(shelf.file("file"), [])
    #expect(try shelf.verify(["--spool", shelf.file("file")]).exitCode == ExitStatus.inputOutput)
    let usage = try shelf.verify([])
    #expect(usage.exitCode == ExitStatus.usage && usage.error.contains("--spool DIR"))
  }

  @Test func `symbolic links are not followed`() throws {
    let shelf = try Shelf()
    let elsewhere = try Shelf()
    try elsewhere.add("a.part", key: "whole")
    try elsewhere.flip("a.part", at: try elsewhere.content(ofSegment: 0))
    #expect(symlink(elsewhere.file("a.part"), shelf.file("link.part")) == 0)
    #expect(mkdir(shelf.file("directory.part"), 0o700) == 0)
    let outcome = try shelf.verify(["--spool", shelf.path])
    #expect(outcome.exitCode == 0)
    #expect(
      outcome.lines == ["no containers", "2 other files are no containers and were left alone"])
    let json = try shelf.verify(["--json", "--spool", shelf.path])
    #expect(json.lines.count == 2)
    #expect(json.lines.allSatisfy { $0.contains(#""verdict":"leftAlone""#) })
    let named = try shelf.verify([shelf.file("link.part")])
    #expect(named.exitCode == ExitStatus.inputOutput)
    #expect(named.error.contains("is a symbolic link, which is not followed."))
  }

  @Test func `a file that is not there keeps no other from being checked`() throws {
    let shelf = try Shelf()
    try shelf.add("a.part", key: "whole")
    let outcome = try shelf.verify([shelf.file("none"), shelf.file("a.part")])
    #expect(outcome.exitCode == ExitStatus.inputOutput)
    #expect(try outcome.line("none").hasPrefix("unreadable "))
    #expect(try outcome.line("a.part").hasPrefix("sound "))
    #expect(outcome.error.contains("1 of 2 files could not be looked at. "))
    try shelf.flip("a.part", at: try shelf.content(ofSegment: 0))
    let both = try shelf.verify([shelf.file("none"), shelf.file("a.part")])
    #expect(both.exitCode == ExitStatus.contentFailed, "damage comes first")
  }

  @Test func `what a file is called and says reaches no terminal as commands`() throws {
    let shelf = try Shelf()
    try writeFile(shelf.file("\u{1b}[31m.part"), [])
    let outcome = try shelf.verify(["--spool", shelf.path])
    #expect(outcome.output.contains("\u{fffd}[31m.part"))
    #expect(!outcome.output.contains("\u{1b}"))
  }

  @Test func `progress that is to wait is not drawn before its time, then ten times a second`() {
    func isDue(_ elapsed: Double, _ sinceDrawn: Double?) -> Bool {
      Progress.isDue(
        in: .seconds(elapsed), after: .seconds(1), sinceDrawn: sinceDrawn.map { .seconds($0) })
    }
    #expect(!isDue(0, nil) && !isDue(0.999, nil) && isDue(1, nil))
    #expect(!isDue(1.05, 0.05) && isDue(1.1, 0.1))
    #expect(Progress.isDue(in: .zero, after: .zero, sinceDrawn: nil))
  }
}
