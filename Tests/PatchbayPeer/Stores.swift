// One of several processes that use the same stores as one.

import Glibc
import Patchbay
import PatchbayTestSupport

/// `place SOCKET NAME=WEIGHT,... KEY...`: says the name of the partition that each key belongs to.
func place(_ arguments: [String]) throws {
  guard arguments.count > 3 else { throw HarnessError("place SOCKET NAME=WEIGHT,... KEY...") }
  let client = try PatchbayClient(socketPath: arguments[1])
  let partitions = arguments[2].split(separator: ",").map { part in
    let words = part.split(separator: "=").map(String.init)
    return PartitionedStore.Partition(words[0], weight: Int(words[1]) ?? 0, client)
  }
  let store = try PartitionedStore(partitions)
  for key in arguments[3...] { say(store.partition(of: try BlobKey(key)).name) }
}

/// `layers UPPER LOWER KEY`: opens a key through two layers; says `open`, then how many bytes it had,
/// or why not.
func readLayers(_ arguments: [String]) throws {
  guard arguments.count == 4 else { throw HarnessError("layers UPPER LOWER KEY") }
  let store = LayeredStore(
    try PatchbayClient(socketPath: arguments[1]), over: try PatchbayClient(socketPath: arguments[2])
  )
  let key = try BlobKey(arguments[3])
  Task.detached {
    do {
      let reader = try await store.open(key)
      say("open")
      let byteCount = try await reader.waitUntilSealed()
      let bytes = try await reader.readFully(0..<byteCount)
      say(bytes == oracleBytes(1, 0..<byteCount) ? "\(byteCount)" : "WRONG BYTES")
    } catch {
      say("\(error)")
    }
    exit(0)
  }
  while true { pause() }
}
