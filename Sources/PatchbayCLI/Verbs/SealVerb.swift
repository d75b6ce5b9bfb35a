// `patchbay seal` and `patchbay fail`: the two ends of a blob that no process owns.

import ArgumentParser
import Patchbay

struct SealVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "seal",
    abstract: "Completes a blob that several processes have written.",
    discussion: """
      For blobs made by `create`. Its length and bytes never change again. Refused while bytes are \
      missing, or while another process is writing; the blob stays as it is then. Sealing a blob \
      that is sealed already is done.

      Example: patchbay seal up/1

      Exits with 0 sealed; 64 usage; 65 bytes are missing; 66 no such key; 69 no broker; 73 another \
      process is writing; 77 only its creator may seal it; 79 the blob has failed.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key.", transform: Typed.key)
  var key: BlobKey

  func perform() throws {
    let client = try common.connect()
    try Failure.about(key) { try seal(client) }
    guard common.json else { return }
    let info = try Failure.about(key) { try client.info(key) }
    var fields = JSONFields()
    fields.append(key: key)
    fields["generation"] = .unsigned(info.generation.rawValue)
    fields["byteCount"] = .optional(info.byteCount)
    try StandardOutput.line(JSON.object(fields).text)
  }

  private func seal(_ client: PatchbayClient) throws {
    let publisher: Publisher
    do throws(PatchbayError) {
      publisher = try client.join(key)
    } catch {
      guard error.code == .closed, try client.info(key).state == .sealed else { throw error }
      return
    }
    do {
      // As long as the broker has to hash what was written, and the disk to take it.
      try publisher.seal(deadline: .never)
    } catch {
      try? publisher.leave(deadline: .after(.seconds(3)))
      throw error
    }
  }
}

struct FailVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "fail",
    abstract: "Ends a blob that several processes write, as failed.",
    discussion: """
      For blobs made by `create`. Readers get what is written, then the reason. The key can be \
      created again; with --resume it begins with what was written.

      Example: patchbay fail up/1 --why "the sender gave up"

      Exits with 0; 64 usage; 66 no such key; 69 no broker; 77 only its creator may fail it; 79 the \
      blob has ended already.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key.", transform: Typed.key)
  var key: BlobKey

  @Option(help: ArgumentHelp("What readers are told.", valueName: "text"))
  var why: String

  func perform() throws {
    let client = try common.connect()
    let publisher = try Failure.about(key) { try client.join(key) }
    try Failure.about(key) { try publisher.fail(why) }
    guard common.json else { return }
    var fields = JSONFields()
    fields.append(key: key)
    fields["generation"] = .unsigned(publisher.generation.rawValue)
    fields["failed"] = .boolean(true)
    try StandardOutput.line(JSON.object(fields).text)
  }
}
