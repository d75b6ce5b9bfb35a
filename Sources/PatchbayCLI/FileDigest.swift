// The digest of a file that was just written, read back: what is compared is what is there.

import Glibc
import PatchbayDigest
import PatchbaySystem
import PatchbayTypes

enum FileDigest {
  private static let chunkByteCount = 256 * 1024

  /// Compares an open file with what was expected of it.
  /// - Throws: `digestMismatch`, `inputOutput`.
  static func check(
    _ file: borrowing Descriptor, is expected: ContentDigest, name: String
  ) throws(PatchbayError) {
    let (found, byteCount) = try compute(file, expected.algorithm, name: name)
    guard found != expected else { return }
    throw PatchbayError(
      .digestMismatch,
      "\(name) was not made: the \(byteCount) bytes that were read have the \(found.algorithm) "
        + "\(found.hex), not \(expected.hex) as expected. Get the blob that was meant, or expect "
        + "what this one has.")
  }

  /// Only a regular file can be read back.
  /// - Throws: `inputOutput`.
  static func checkKind(of file: borrowing Descriptor, name: String) throws(PatchbayError) {
    var facts = stat()
    guard unsafe fstat(file.rawValue, &facts) == 0 else {
      throw .system("Looking at \(name)", errno: errno)
    }
    guard facts.st_mode & S_IFMT == S_IFREG else {
      throw PatchbayError(
        .inputOutput,
        "\(name) is no regular file: what goes there cannot be read back and compared. Leave "
          + "--expect out, or name a file.")
    }
  }

  private static func compute(
    _ file: borrowing Descriptor, _ algorithm: ContentDigest.Algorithm, name: String
  ) throws(PatchbayError) -> (ContentDigest, byteCount: Int) {
    var state = DigestState(algorithm)
    var chunk = [UInt8](repeating: 0, count: chunkByteCount)
    while true {
      let count = unsafe chunk.withUnsafeMutableBytes { bytes in
        unsafe pread(file.rawValue, bytes.baseAddress, bytes.count, off_t(state.byteCount))
      }
      if count < 0 && errno == EINTR { continue }
      guard count >= 0 else { throw .system("Reading \(name) back", errno: errno) }
      guard count > 0 else { return (state.digest, state.byteCount) }
      state.update(chunk[..<count])
    }
  }
}
