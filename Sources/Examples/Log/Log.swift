// A log that is read while it is written.
//
//   Log append KEY     publishes the lines of standard input as they come, and seals at its end
//   Log follow KEY     prints what is appended from now on, until the log is sealed; waits up to
//                      30 seconds for the key
//
// The broker is found as the command finds it: $PATCHBAY_SOCKET, else the usual place.

import Glibc
import Patchbay

@main enum Log {
  static func main() async {
    let words = CommandLine.arguments
    do {
      switch words.count {
      case 3 where words[1] == "append": try await append(to: BlobKey(words[2]))
      case 3 where words[1] == "follow": try await follow(BlobKey(words[2]))
      default: end("usage: Log append KEY | Log follow KEY", 64)
      }
    } catch {
      end("Log: \(error)", 1)
    }
  }

  static func append(to key: BlobKey) async throws {
    let client = try await PatchbayClient()
    let lines = AsyncStream(unfolding: { readLine(strippingNewline: false) })
    try await client.withPublisher(key) { log in  // returns: sealed; throws: failed, with the cause
      for await line in lines { try await log.append(Array(line.utf8)) }
    }
  }

  static func follow(_ key: BlobKey) async throws {
    let client = try await PatchbayClient()
    let log = try await client.open(key, waitUntil: .after(.seconds(30)))
    for try await chunk in log.chunks(from: .live) {
      chunk.withBytes { (bytes: Span<UInt8>) in show(bytes) }
    }
  }

  /// Prints bytes at once, as they are.
  static func show(_ bytes: Span<UInt8>) {
    for index in bytes.indices { putchar(Int32(bytes[index])) }
    fflush(nil)
  }

  /// Says on standard error why the program ends.
  static func end(_ words: String, _ status: Int32) -> Never {
    _ = unsafe write(2, words + "\n", words.utf8.count + 1)
    exit(status)
  }
}
