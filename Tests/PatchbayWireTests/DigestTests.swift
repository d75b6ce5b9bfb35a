// Digests as people and messages write them: right ones come back, wrong ones are errors.

import PatchbayTypes
import PatchbayWire
import Testing

@Suite struct DigestTests {
  private static let algorithms = ContentDigest.Algorithm.allCases

  private func digest(_ algorithm: ContentDigest.Algorithm) throws -> ContentDigest {
    try ContentDigest(algorithm, (0..<algorithm.byteCount).map { UInt8($0 * 5 & 0xff) })
  }

  @Test(arguments: algorithms)
  func `what is printed is read back, whatever the case of its digits`(
    _ algorithm: ContentDigest.Algorithm
  ) throws {
    let digest = try digest(algorithm)
    #expect(digest.description == "\(algorithm):\(digest.hex)")
    #expect(digest.hex.hasPrefix("00050a0f14"))
    #expect(try ContentDigest(digest.description) == digest)
    #expect(try ContentDigest("\(algorithm):\(digest.hex.uppercased())") == digest)
  }

  @Test func `each algorithm takes its own digits`() throws {
    #expect(try ContentDigest.sha256(digest(.sha256).hex) == digest(.sha256))
    #expect(try ContentDigest.sha384(digest(.sha384).hex) == digest(.sha384))
    #expect(try ContentDigest.sha512(digest(.sha512).hex) == digest(.sha512))
  }

  @Test(arguments: [
    ("", "no colon"), ("9f86d081", "no colon"), ("sha256", "no colon"),
    ("md5:d41d8cd98f00b204e9800998ecf8427e", "\"md5\" is no digest algorithm"),
    ("SHA256:00", "\"SHA256\" is no digest algorithm"), ("sha256:", "0 were given"),
    ("sha256:" + String(repeating: "0", count: 63), "63 were given"),
    ("sha256:" + String(repeating: "0", count: 65), "65 were given"),
    ("sha512:" + String(repeating: "0", count: 64), "128 hexadecimal digits; 64 were"),
    ("sha256:" + String(repeating: "0", count: 63) + "g", "something else at digit 63"),
    ("sha256: " + String(repeating: "0", count: 63), "something else at digit 0"),
    ("sha256:0x" + String(repeating: "0", count: 62), "something else at digit 1"),
    ("sha256:é" + String(repeating: "0", count: 62), "something else at digit 0"),
    (String(repeating: "x", count: 99) + ":00", "\"" + String(repeating: "x", count: 32) + "...\""),
  ])
  func `what is no digest is refused with what is wrong`(text: String, words: String) {
    let error = #expect(throws: PatchbayError.self) { try ContentDigest(text) }
    #expect(error?.code == .protocolViolation)
    #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
  }

  // MARK: In messages

  private func read<Part>(
    _ bytes: [UInt8], _ take: (inout WireReader) throws(PatchbayError) -> Part
  ) throws -> Part {
    var reader = WireReader(bytes[...])
    let part = try take(&reader)
    try reader.finish()
    return part
  }

  @Test(arguments: algorithms)
  func `digests and wishes come back from their bytes`(
    _ algorithm: ContentDigest.Algorithm
  ) throws {
    for digest in [nil, try digest(algorithm)] {
      var writer = WireWriter()
      writer.put(digest)
      let back = try read(writer.bytes) { (reader) throws(PatchbayError) in
        try reader.takeDigest()
      }
      #expect(back == digest)
    }
    for wish in [nil, DigestWish(algorithm), DigestWish(expecting: try digest(algorithm))] {
      var writer = WireWriter()
      writer.put(wish)
      let back = try read(writer.bytes) { (reader) throws(PatchbayError) in
        try reader.takeDigestWish()
      }
      #expect(back == wish)
    }
  }

  @Test(
    arguments: [
      [0, 1, 0, 0, 0, 9], [4, 0, 0, 0, 0], [1, 31, 0, 0, 0] + [UInt8](repeating: 1, count: 31),
      [2, 32, 0, 0, 0] + [UInt8](repeating: 1, count: 32),
      [3, 65, 0, 0, 0] + [UInt8](repeating: 1, count: 65), [1, 255, 255, 255, 255], [1], [],
    ] as [[UInt8]])
  func `bytes that are no digest are refused`(_ bytes: [UInt8]) {
    for take in [false, true] {
      let error = #expect(throws: PatchbayError.self) {
        _ = try read(bytes) { (reader) throws(PatchbayError) in
          if take { _ = try reader.takeDigest() } else { _ = try reader.takeDigestWish() }
        }
      }
      #expect(error?.code == .protocolViolation)
    }
  }

  @Test func `an empty value is a wish for any digest, and none of a blob`() throws {
    let bytes: [UInt8] = [2, 0, 0, 0, 0]
    let wish = try read(bytes) { (reader) throws(PatchbayError) in try reader.takeDigestWish() }
    #expect(wish == DigestWish(.sha384))
    #expect(throws: PatchbayError.self) {
      _ = try read(bytes) { (reader) throws(PatchbayError) in try reader.takeDigest() }
    }
  }
}
