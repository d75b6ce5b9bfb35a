// What people and scripts read: JSON, figures, times, tables, exit codes.

import PatchbayTypes
import Testing

@testable import PatchbayCLI

@Suite struct OutputTests {
  @Test(arguments: [
    ("", #""""#), ("plain", #""plain""#), ("a\"b\\c", #""a\"b\\c""#),
    ("\n\r\t", #""\n\r\t""#), ("\u{0}\u{1f}\u{7f}", #""\u0000\u001f\u007f""#),
    ("\u{2028}", #""\u2028""#), ("ä€😀/", #""ä€😀/""#),
  ])
  func `a JSON string escapes what it must and nothing else`(text: String, literal: String) {
    #expect(JSON.quoted(text) == literal)
  }

  @Test func `a JSON object is one line with its members in order`() {
    let fields = JSONFields([
      ("z", .integer(-1)), ("a", .null), ("b", .boolean(true)), ("c", .ranges([0..<4, 8..<9])),
      ("d", .array([])), ("e", .object(JSONFields())), ("f", .unsigned(.max)),
      ("g", .seconds(.milliseconds(1050))),
    ])
    #expect(
      JSON.object(fields).text
        == #"{"z":-1,"a":null,"b":true,"c":[[0,4],[8,9]],"d":[],"e":{},"f":18446744073709551615,"#
        + #""g":1.050000}"#)
  }

  @Test func `a member set twice has its last value`() {
    #expect(JSON.object(JSONFields([("a", .integer(1)), ("a", .integer(2))])).text == #"{"a":2}"#)
  }

  @Test func `a key that is not UTF-8 comes in base 64 besides`() throws {
    var fields = JSONFields()
    fields.append(key: try BlobKey([0x61, 0xff]))
    #expect(JSON.object(fields).text == #"{"key":"a%FF","keyBase64":"Yf8="}"#)
    fields = JSONFields()
    fields.append(key: "a/b")
    #expect(JSON.object(fields).text == #"{"key":"a/b"}"#)
  }

  @Test(arguments: [
    ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="),
    ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy"),
  ])
  func `base 64 is that of RFC 4648`(text: String, encoded: String) {
    #expect(JSON.base64(Array(text.utf8)) == encoded)
  }

  @Test func `an error in JSON has code, message, key and cause`() {
    #expect(
      Failure.json(code: "blobFailed", message: "m", key: "k", cause: "c")
        == #"{"error":{"code":"blobFailed","message":"m","key":"k","cause":"c"}}"#)
    #expect(
      Failure.json(code: "noBroker", message: "m", key: nil, cause: nil)
        == #"{"error":{"code":"noBroker","message":"m","key":null,"cause":null}}"#)
  }

  @Test func `a warning is told from an error`() {
    let error = PatchbayError(.inputOutput, "It may be.")
    #expect(Failure.warning(error, key: "k", asJSON: false).hasSuffix(" warning: It may be."))
    #expect(
      Failure.warning(error, key: "k", asJSON: true)
        == #"{"warning":{"code":"inputOutput","message":"It may be.","key":"k","cause":null}}"#)
  }

  @Test func `only a file that has changed for certain spoils a good end, and nothing a bad one`() {
    let changed = Finding("k", PatchbayError(.corrupt, "It has changed."))
    let unknown = [PatchbayError.Code.inputOutput, .noBroker, .timedOut, .closed, .notPermitted]
      .map { Finding("k", PatchbayError($0, "Who knows.")) }
    #expect(Finding.exitCode([], afterStatus: 0) == 0)
    #expect(Finding.exitCode(unknown, afterStatus: 0) == 0)
    #expect(Finding.exitCode(unknown + [changed], afterStatus: 0) == 65)
    for status in [1, 7, 137] as [Int32] {
      #expect(Finding.exitCode(unknown + [changed], afterStatus: status) == status)
    }
  }

  @Test func `an error in words has its cause on a line of its own`() {
    let error = PatchbayError(.blobFailed, "It failed.", cause: "no more paper")
    #expect(Failure.text(error).hasSuffix(" It failed.\n  cause: no more paper"))
  }

  @Test func `every code of the library has an exit code of the contract`() {
    let contract: Set<Int32> = [64, 65, 66, 69, 70, 73, 74, 75, 76, 77, 79, 80, 81]
    var number: UInt16 = 1
    // Known codes have a name; the first number without one ends them.
    while !"\(PatchbayError.Code(rawValue: number))".hasPrefix("code") {
      let exitCode = ExitStatus.table[PatchbayError.Code(rawValue: number)]
      #expect(exitCode.map(contract.contains) == true, "code \(number)")
      number += 1
    }
    #expect(Int(number) - 1 == ExitStatus.table.count)
    #expect(ExitStatus.of(PatchbayError.Code(rawValue: 999)) == 70)
  }

  @Test func `a broken pipe is quiet and looks like SIGPIPE`() {
    let failure = Failure(PatchbayError(.inputOutput, "gone", systemErrno: 32))
    #expect(failure.isBrokenPipe)
    #expect(failure.exitCode == 141)
  }

  @Test(arguments: [
    (0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (65536, "64.0 KiB"),
    (1_048_575, "1.00 MiB"), (1_342_177_280, "1.25 GiB"), (250 << 20, "250.0 MiB"),
  ])
  func `bytes are shown short`(count: Int, shown: String) {
    #expect(Shown.bytes(count) == shown)
  }

  @Test func `percent is 100 only when all is there`() {
    #expect(Shown.percent(0, of: 3) == "0 %")
    #expect(Shown.percent(999_999, of: 1_000_000) == "99 %")
    #expect(Shown.percent(5, of: 5) == "100 %")
    #expect(Shown.percent(0, of: 0) == "100 %")
  }

  @Test(arguments: [
    (0, "1970-01-01T00:00:00.000Z"), (951_782_400_000_000_000, "2000-02-29T00:00:00.000Z"),
    (1_795_233_599_999_999_999, "2026-11-21T03:59:59.999Z"), (-1, "1969-12-31T23:59:59.999Z"),
    (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000Z"),
  ])
  func `a time is RFC 3339 in UTC with milliseconds`(nanoseconds: Int64, shown: String) {
    #expect(Shown.time(WallTime(rawValue: nanoseconds)) == shown)
  }

  @Test func `columns line up and lines end without blanks`() {
    var table = TextTable([("NAME", .left), ("SIZE", .right), ("KEY", .left)])
    table.append(["a", "1", "x"])
    table.append(["longer", "1000000", ""])
    #expect(
      table.lines == [
        "NAME       SIZE  KEY",
        "a             1  x",
        "longer  1000000",
      ])
  }

  @Test func `progress tells bytes, percent where the length is known, and the rate`() {
    #expect(
      Progress.line("k", 1 << 20, of: 4 << 20, in: .seconds(2))
        == "k  1.00 MiB of 4.00 MiB  25 %  512.0 KiB/s")
    #expect(Progress.line("k", 1 << 20, of: nil, in: .seconds(1)) == "k  1.00 MiB  1.00 MiB/s")
  }
}
