// Digests to bytes and back: the algorithm's number, 0 for none, then a block. A value that has not
// the bytes of its algorithm is none.

import PatchbayTypes

extension WireWriter {
  package mutating func put(_ digest: ContentDigest?) {
    put(digest?.algorithm.rawValue ?? 0)
    put(digest?.bytes ?? [])
  }

  package mutating func put(_ wish: DigestWish?) {
    put(wish?.algorithm.rawValue ?? 0)
    put(wish?.expected?.bytes ?? [])
  }
}

extension WireReader {
  package mutating func takeDigest() throws(PatchbayError) -> ContentDigest? {
    let (algorithm, bytes) = try takeDigestParts()
    guard let algorithm else { return nil }
    return try ContentDigest(algorithm, bytes)
  }

  /// A wish without a value is one for whatever the digest is.
  package mutating func takeDigestWish() throws(PatchbayError) -> DigestWish? {
    let (algorithm, bytes) = try takeDigestParts()
    guard let algorithm else { return nil }
    guard !bytes.isEmpty else { return DigestWish(algorithm) }
    return DigestWish(expecting: try ContentDigest(algorithm, bytes))
  }

  private mutating func takeDigestParts() throws(PatchbayError) -> (
    ContentDigest.Algorithm?, [UInt8]
  ) {
    let number = try take(UInt8.self)
    let bytes = try takeBlock(atMost: WireLimit.digest, "a digest")
    guard number != 0 else {
      guard bytes.isEmpty else {
        throw PatchbayError(
          .protocolViolation, "A digest of no algorithm has \(bytes.count) bytes; it has none.")
      }
      return (nil, [])
    }
    guard let algorithm = ContentDigest.Algorithm(rawValue: number) else {
      throw PatchbayError(
        .protocolViolation, "A digest algorithm has the unknown number \(number).")
    }
    return (algorithm, bytes)
  }
}
