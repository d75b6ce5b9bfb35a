// `patchbay pin` and `patchbay unpin`: what eviction must not take.

import ArgumentParser
import Patchbay

struct PinVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "pin",
    abstract: "Keeps a blob from being evicted.",
    discussion: """
      A pinned blob stays until it is unpinned or removed, however short memory, disk or places \
      are. It is the blob that stays, not its memory: with a spool its bytes may move to disk. What \
      is pinned cannot make room for others. Pinning what is pinned is done.

      Example: patchbay pin models/v7

      Exits with 0; 64 usage; 66 no such key; 69 no broker; 77 another user's blob.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key.", completion: .keys, transform: Typed.key)
  var key: BlobKey

  func perform() throws {
    let client = try common.connect()
    try Failure.about(key) { try client.pin(key) }
    try reportPin(key, true, common)
  }
}

struct UnpinVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "unpin",
    abstract: "Lets a blob be evicted again.",
    discussion: """
      The blob is as it was; it goes when memory is short and others have been read since. Unpinning \
      what is not pinned is done.

      Example: patchbay unpin models/v7

      Exits with 0; 64 usage; 66 no such key; 69 no broker; 77 another user's blob.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key.", completion: .keys, transform: Typed.key)
  var key: BlobKey

  func perform() throws {
    let client = try common.connect()
    try Failure.about(key) { try client.unpin(key) }
    try reportPin(key, false, common)
  }
}

private func reportPin(
  _ key: BlobKey, _ isPinned: Bool, _ common: CommonOptions
) throws(PatchbayError) {
  guard common.json else { return }
  var fields = JSONFields()
  fields.append(key: key)
  fields["pinned"] = .boolean(isPinned)
  try StandardOutput.line(JSON.object(fields).text)
}
