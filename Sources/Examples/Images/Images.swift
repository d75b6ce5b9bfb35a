// Publishes a picture, and tells its size from its first bytes without waiting for the others.
//
//   Images publish FILE KEY     publishes the file; who reads the key sees it as it is read
//   Images size KEY             prints width and height of the PNG picture under the key, as soon as
//                               its first 24 bytes are there; waits up to 30 seconds for the key
//
// The broker is found as the command finds it: $PATCHBAY_SOCKET, else the usual place.

import Glibc
import Patchbay

@main enum Images {
  static func main() async {
    let words = CommandLine.arguments
    do {
      switch words.count {
      case 4 where words[1] == "publish": try await publish(words[2], as: BlobKey(words[3]))
      case 3 where words[1] == "size": print(try await size(of: BlobKey(words[2])))
      default: end("usage: Images publish FILE KEY | Images size KEY", 64)
      }
    } catch {
      end("Images: \(error)", 1)
    }
  }

  static func publish(_ path: String, as key: BlobKey) async throws {
    let client = try await PatchbayClient()
    try await client.publish(contentsOf: path, as: key)
  }

  static func size(of key: BlobKey) async throws -> String {
    let client = try await PatchbayClient()
    let picture = try await client.open(key, waitUntil: .after(.seconds(30)))
    let header = try await picture.readFully(0..<24)  // waits for these bytes only
    guard header[..<4] == [0x89, 0x50, 0x4e, 0x47] else { return "not a PNG picture" }
    return "\(number(header[16..<20])) x \(number(header[20..<24]))"
  }

  /// Bytes as a number, the most significant first.
  static func number(_ bytes: ArraySlice<UInt8>) -> Int { bytes.reduce(0) { $0 << 8 | Int($1) } }

  /// Says on standard error why the program ends.
  static func end(_ words: String, _ status: Int32) -> Never {
    _ = unsafe write(2, words + "\n", words.utf8.count + 1)
    exit(status)
  }
}
