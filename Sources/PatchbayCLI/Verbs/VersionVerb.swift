// `patchbay version`: what runs here. Asks no broker.

import ArgumentParser
import CLZ4
import Glibc
import Patchbay
import PatchbayWire

struct VersionVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "version",
    abstract: "Shows the versions of patchbay, its protocol, liblz4 and the kernel.",
    discussion: """
      Example: patchbay version --json

      Exits with 0; 64 usage.
      """)

  @OptionGroup var common: CommonOptions

  func perform() throws {
    let liblz4 = unsafe String(cString: LZ4_versionString())
    if common.json {
      let fields = JSONFields([
        ("patchbay", .string(Version.patchbay)),
        ("protocol", .integer(Int(Frame.protocolVersion))), ("liblz4", .string(liblz4)),
        ("kernel", .string(Self.kernel)),
      ])
      try StandardOutput.line(JSON.object(fields).text)
      return
    }
    let pairs = [
      (name: "patchbay", value: Version.patchbay),
      (name: "protocol", value: "\(Frame.protocolVersion)"), (name: "liblz4", value: liblz4),
      (name: "kernel", value: Self.kernel),
    ]
    try StandardOutput.write(aligned(pairs).map { $0 + "\n" }.joined())
  }

  /// The system's name and release, as `uname -sr` prints them.
  private static var kernel: String {
    var names = utsname()
    guard unsafe uname(&names) == 0 else { return "unknown" }
    let name = unsafe withUnsafeBytes(of: &names.sysname) { unsafe text($0) }
    let release = unsafe withUnsafeBytes(of: &names.release) { unsafe text($0) }
    return "\(name) \(release)"
  }

  private static func text(_ bytes: UnsafeRawBufferPointer) -> String {
    unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
  }
}
