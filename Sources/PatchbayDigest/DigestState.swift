// Digests of bytes that come piece by piece. A state is a value: a copy goes on for itself, so a
// digest can be had in the middle and the bytes behind be added later.

import Crypto
import PatchbayTypes

/// A digest under way.
package struct DigestState: Sendable {
  private enum Hash: Sendable {
    case sha256(SHA256)
    case sha384(SHA384)
    case sha512(SHA512)
  }

  package let algorithm: ContentDigest.Algorithm
  /// Bytes taken so far: the position of the next one.
  package private(set) var byteCount = 0
  private var hash: Hash

  package init(_ algorithm: ContentDigest.Algorithm) {
    self.algorithm = algorithm
    hash =
      switch algorithm {
      case .sha256: .sha256(SHA256())
      case .sha384: .sha384(SHA384())
      case .sha512: .sha512(SHA512())
      }
  }

  /// Takes the next bytes.
  package mutating func update(_ bytes: ArraySlice<UInt8>) {
    unsafe bytes.withUnsafeBytes { unsafe update($0) }
  }

  /// The same for any memory.
  @unsafe package mutating func update(_ bytes: UnsafeRawBufferPointer) {
    switch hash {
    case .sha256(var state):
      unsafe state.update(bufferPointer: bytes)
      hash = .sha256(state)
    case .sha384(var state):
      unsafe state.update(bufferPointer: bytes)
      hash = .sha384(state)
    case .sha512(var state):
      unsafe state.update(bufferPointer: bytes)
      hash = .sha512(state)
    }
    byteCount += bytes.count
  }

  /// The digest of the bytes so far; more may follow.
  package var digest: ContentDigest {
    let bytes =
      switch hash {
      case .sha256(let state): Array(state.finalize())
      case .sha384(let state): Array(state.finalize())
      case .sha512(let state): Array(state.finalize())
      }
    guard let digest = try? ContentDigest(algorithm, bytes) else {
      preconditionFailure("A digest of \(algorithm) has \(bytes.count) bytes.")
    }
    return digest
  }

  /// The digest of bytes that are all there.
  package static func digest(
    of bytes: [UInt8], _ algorithm: ContentDigest.Algorithm
  ) -> ContentDigest {
    var state = DigestState(algorithm)
    state.update(bytes[...])
    return state.digest
  }
}
