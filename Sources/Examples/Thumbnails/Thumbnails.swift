// Makes each thumbnail once on this machine, however many processes want it at the same time: one
// of them renders, the others wait for what it renders.
//
//   Thumbnails NAME...     prints for each name who made it, its size and a checksum
//
// The broker is found as the command finds it: $PATCHBAY_SOCKET, else the usual place.

import Glibc
import Patchbay

@main enum Thumbnails {
  static func main() async {
    let names = CommandLine.arguments.dropFirst()
    guard !names.isEmpty else { end("usage: Thumbnails NAME...", 64) }
    do {
      let client = try await PatchbayClient()
      for name in names {
        let (bytes, maker) = try await thumbnail(name, client)
        print(name, maker, bytes.count, bytes.reduce(0) { ($0 * 31 + Int($1)) % 1_000_003 })
      }
    } catch {
      end("Thumbnails: \(error)", 1)
    }
  }

  static func thumbnail(
    _ name: String, _ client: PatchbayClient
  ) async throws -> (bytes: [UInt8], maker: String) {
    switch try await client.openOrCreate(BlobKey("thumbnails/\(name)")) {
    case .existing(let subscriber):
      let size = try await subscriber.waitUntilSealed()
      return (try await subscriber.readFully(0..<size), "found")
    case .created(let publisher, _):
      let bytes = render(name)
      try await publisher.append(bytes)
      try await publisher.seal()
      return (bytes, "rendered")
    }
  }

  /// A picture of 64 by 64 grey pixels, in the format PGM; each name has its own.
  static func render(_ name: String) -> [UInt8] {
    let seed = name.utf8.reduce(7) { ($0 * 31 + Int($1)) % 65521 }
    return Array("P5 64 64 255\n".utf8)
      + (0..<64 * 64).map { UInt8(($0 / 64 * seed + $0 % 64 * 3) % 256) }
  }

  /// Says on standard error why the program ends.
  static func end(_ words: String, _ status: Int32) -> Never {
    _ = unsafe write(2, words + "\n", words.utf8.count + 1)
    exit(status)
  }
}
