// `patchbay ls`: the keys there are.

import ArgumentParser
import Patchbay

struct ListVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "ls",
    abstract: "Lists blobs in the order of their keys.",
    discussion: """
      Example: patchbay ls models/ -l

      Exits with 0, also when there are none; 64 usage; 69 no broker.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "Only keys that begin so; %XX stands for one byte.", transform: Typed.key)
  var prefix: BlobKey?

  @Flag(
    name: .short,
    help: """
      State, sizes, writers, readers, owner, mode, whether it is pinned or imported, and time of \
      the last change as well.
      """)
  var long = false

  func perform() throws {
    let client = try common.connect()
    var table = TextTable([
      ("STATE", .left), ("LENGTH", .right), ("COVERED", .right), ("MEMORY", .right),
      ("WRITERS", .right), ("READERS", .right), ("OWNER", .right), ("MODE", .left),
      ("KEPT", .left), ("MODIFIED", .left), ("KEY", .left),
    ])
    try client.forEachBlob(prefix: prefix) { blob in
      if common.json {
        try StandardOutput.line(JSON.object(blob.json).text)
      } else if long {
        table.append(Self.row(blob))
      } else {
        try StandardOutput.line(blob.key.description)
      }
    }
    if long, !common.json { try StandardOutput.write(table.lines.map { $0 + "\n" }.joined()) }
  }

  private static func kept(_ blob: BlobInfo) -> String {
    let words = (blob.isPinned ? ["pinned"] : []) + (blob.isImported ? ["imported"] : [])
    return words.isEmpty ? "-" : words.joined(separator: ",")
  }

  private static func row(_ blob: BlobInfo) -> [String] {
    [
      blob.stateWord, blob.byteCount.map { "\($0)" } ?? "-", "\(blob.coveredByteCount)",
      Shown.bytes(blob.residentByteCount), "\(blob.publisherCount)", "\(blob.subscriberCount)",
      "\(blob.access.uid)", blob.octalMode, kept(blob), Shown.time(blob.modified),
      blob.key.description,
    ]
  }
}

extension PatchbayClient {
  /// Calls `body` with each blob whose key begins so, in the order of the keys.
  func forEachBlob(prefix: BlobKey?, _ body: (BlobInfo) throws -> Void) throws {
    var last: BlobKey?
    while true {
      let page = try list(prefix: prefix?.bytes ?? [], after: last)
      for blob in page.blobs { try body(blob) }
      guard page.hasMore, let next = page.blobs.last?.key else { return }
      last = next
    }
  }
}
