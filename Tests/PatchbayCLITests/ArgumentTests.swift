// What people type: sizes, durations, keys, positions.

import ArgumentParser
import Patchbay
import PatchbayTypes
import Testing

@testable import PatchbayCLI

@Suite struct ArgumentTests {
  @Test(arguments: [
    ("0", 0), ("4096", 4096), ("17B", 17), ("64KiB", 65536), ("1MiB", 1 << 20),
    ("4GiB", 4 << 30), ("2TiB", 2 << 40), ("1.5KiB", 1536), ("0.25GiB", 1 << 28),
  ])
  func `a size is whole bytes or binary units`(text: String, size: Int) throws {
    #expect(try Typed.size(text) == size)
  }

  @Test(arguments: [
    "", "x", "-1", "+1", "1 KiB", "1KB", "1k", "KiB", "1.5", "0.1KiB", "1.KiB", ".5KiB", "1e3",
    "1.2.3MiB", "9000000TiB", "99999999999999999999", "٤",
  ])
  func `what is not exactly a size is refused`(text: String) {
    #expect(throws: ValidationError.self) { try Typed.size(text) }
  }

  @Test func `a size that must be positive refuses zero`() throws {
    #expect(throws: ValidationError.self) { try Typed.positiveSize("0MiB") }
    #expect(try Typed.positiveSize("1") == 1)
  }

  @Test(arguments: [
    ("250ms", Duration.milliseconds(250)), ("10s", .seconds(10)), ("0s", .zero),
    ("5m", .seconds(300)), ("2h", .seconds(7200)), ("1.5s", .milliseconds(1500)),
  ])
  func `a duration has a unit`(text: String, duration: Duration) throws {
    #expect(try Typed.duration(text) == duration)
  }

  @Test(arguments: ["", "10", "s", "-1s", "1d", "1 s", "5min", "9999999999999h"])
  func `what is not exactly a duration is refused`(text: String) {
    #expect(throws: ValidationError.self) { try Typed.duration(text) }
  }

  @Test func `a key is typed percent-encoded`() throws {
    #expect(try Typed.key("a%20b%FF").bytes == [0x61, 0x20, 0x62, 0xff])
    #expect(throws: ValidationError.self) { try Typed.key("") }
    #expect(throws: ValidationError.self) { try Typed.key("a%2") }
    #expect(throws: ValidationError.self) { try Typed.key(String(repeating: "k", count: 1025)) }
  }

  @Test func `a mode is octal permission bits`() throws {
    #expect(try Typed.mode("640") == 0o640)
    #expect(try Typed.mode("0600") == 0o600)
    for text in ["", "8", "1777", "rw-", "-1"] {
      #expect(throws: ValidationError.self) { try Typed.mode(text) }
    }
  }

  @Test func `a label is split at its first equals sign`() throws {
    #expect(try Typed.label("a=b=c") == BlobInfo.Label(name: "a", value: "b=c"))
    #expect(try Typed.label("a=") == BlobInfo.Label(name: "a", value: ""))
    #expect(throws: ValidationError.self) { try Typed.label("=b") }
    #expect(throws: ValidationError.self) { try Typed.label("ab") }
  }

  @Test func `a description that no broker would take is refused with its bounds`() throws {
    let long = String(repeating: "x", count: 256)
    #expect(try Typed.mediaType("text/plain") == "text/plain")
    #expect(throws: ValidationError.self) { try Typed.mediaType(long) }
    #expect(throws: ValidationError.self) { try Typed.label("a=" + long) }
    #expect(throws: ValidationError.self) { try Typed.label(long + "=a") }
    #expect(try Typed.label("a=" + long.dropLast()).value.count == 255)
  }

  @Test func `a start is a word or a position`() throws {
    #expect(try StartPoint.typed("start") == .start)
    #expect(try StartPoint.typed("live") == .live)
    #expect(try StartPoint.typed("1KiB") == .position(1024))
    #expect(throws: ValidationError.self) { try StartPoint.typed("end") }
  }

  @Test(arguments: [
    ["put", "k", "--spool", "d"], ["put", "-", "--shuffle"], ["put", "k", "--shuffle", "1"],
    ["put", "k", "f", "--block", "4096"], ["put", "k", "--label", "a=1", "--label", "a=2"],
    ["cat"], ["cat", "k", "--no-wait", "--timeout", "1s"], ["get", "k"],
    ["put", "k", "f", "--", "c"], ["put", "k", "--shuffle", "1", "--", "c"], ["put", "--", "c"],
    ["put", "k", "f", "--shuffle", "1", "--tee"], ["completion"], ["completion", "tcsh"],
    ["verify"], ["verify", "--spool"],
    ["serve", "--idle-exit", "0s"], ["serve", "--idle-exit", "5"],
    ["serve", "--transfers", "0"],
    ["watch", "--from", "now"], ["watch", "--count", "0"], ["why"], ["top", "--interval", "0s"],
    ["wait", "k", "--for", "gone"], ["serve", "--memory", "0"], ["nothing"],
  ])
  func `wrong usage exits with 64`(arguments: [String]) {
    #expect {
      _ = try PatchbayCommand.parseAsRoot(arguments)
    } throws: {
      PatchbayCommand.exitCode(for: $0).rawValue == ExitStatus.usage
    }
  }

  @Test func `what stands behind the two dashes is the command, its own flags included`() throws {
    let put = try #require(
      try PatchbayCommand.parseAsRoot(["put", "k", "--tee", "--", "make", "-k", "--tee", "--", "x"])
        as? PutVerb)
    #expect(put.command == ["make", "-k", "--tee", "--", "x"])
    #expect(put.file == nil && put.tee)
  }

  @Test(arguments: [
    (0, nil), (3 << 8, "exited with status 3"), (255 << 8, "exited with status 255"),
    (9, "was ended by signal 9 (Killed)"), (0x80 | 6, "was ended by signal 6 (Aborted)"),
  ])
  func `how a command ended is said in words, unless it succeeded`(status: Int32, words: String?) {
    #expect(ChildCommand.words(for: status) == words)
  }

  @Test(arguments: PatchbayCommand.configuration.subcommands.map { $0.configuration })
  func `each verb says what it does, shows an example, and tells its exit codes`(
    configuration: CommandConfiguration
  ) {
    #expect(!configuration.abstract.isEmpty)
    #expect(
      configuration.discussion.contains("Example: patchbay \(configuration.commandName ?? "")"))
    #expect(configuration.discussion.contains("Exits with 0"))
  }
}
