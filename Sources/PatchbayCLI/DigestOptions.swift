// What may be said about a blob's content when it is created.

import ArgumentParser
import Patchbay

struct DigestOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Seals only content with this digest: sha256:HEX, sha384:HEX or sha512:HEX.",
      discussion: "With any other content the blob has failed, and nobody new gets it.",
      valueName: "digest"),
    transform: Typed.digest)
  var expect: ContentDigest?

  @Option(
    help: ArgumentHelp(
      "Computes this digest for `info` to show: sha256, sha384 or sha512.",
      valueName: "algorithm"),
    transform: Typed.digestAlgorithm)
  var digest: ContentDigest.Algorithm?

  var isWished: Bool { expect != nil || digest != nil }

  func validate() throws {
    guard let expect, let digest, expect.algorithm != digest else { return }
    throw ValidationError(
      "--expect compares the \(expect.algorithm), which is then the digest that is shown; a second "
        + "one, \(digest), is not computed. Leave --digest out.")
  }

  func apply(to options: inout BlobOptions) {
    options.expect = expect
    options.digest = digest
  }

  /// How long a seal may take: the broker hashes what it has not hashed yet.
  var sealDeadline: Deadline { isWished ? .never : .standard }
}
