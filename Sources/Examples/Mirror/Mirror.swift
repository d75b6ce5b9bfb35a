// Copies a blob from one broker to another, several pieces at a time, in whatever order they come:
// a patchwork. The copy can be read while it grows, and begins before the original is complete.
//
//   Mirror KEY FROM-SOCKET TO-SOCKET

import Glibc
import Patchbay

@main enum Mirror {
  /// Pieces that are fetched at the same time; so much memory is used, whatever the blob's length.
  static let width = 4

  static func main() async {
    let words = CommandLine.arguments
    guard words.count == 4 else { end("usage: Mirror KEY FROM-SOCKET TO-SOCKET", 64) }
    do {
      try await copy(BlobKey(words[1]), from: words[2], to: words[3])
    } catch {
      end("Mirror: \(error)", 1)
    }
  }

  static func copy(_ key: BlobKey, from source: String, to target: String) async throws {
    let original = try await PatchbayClient(socketPath: source)
      .open(key, waitUntil: .after(.seconds(30)))
    let size = try await original.waitForByteCount()
    let client = try await PatchbayClient(socketPath: target)
    try await client.withPublisher(key, BlobOptions(byteCount: size)) { blob in
      try await withThrowingTaskGroup(of: Void.self) { group in
        for (index, range) in try await blob.missing(inPiecesOf: 1 << 20).enumerated() {
          if index >= width { try await group.next() }
          group.addTask {
            try await blob.write(try await original.readFully(range), at: range.lowerBound)
          }
        }
        try await group.waitForAll()
      }
    }
  }

  /// Says on standard error why the program ends.
  static func end(_ words: String, _ status: Int32) -> Never {
    _ = unsafe write(2, words + "\n", words.utf8.count + 1)
    exit(status)
  }
}
