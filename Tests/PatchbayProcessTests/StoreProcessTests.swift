// Stores that several processes use as one.

import Glibc
import Patchbay
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct StoreProcessTests {
  @Test func `keys belong to the same partitions in every process`() throws {
    let broker = try BrokerProcess()
    let client = try PatchbayClient(socketPath: broker.socket)
    let store = try PartitionedStore([
      .init("disk2", client), .init("disk1", weight: 3, client), .init("ü", weight: 2, client),
    ])
    let keys = (0..<300).map { "key \($0)" }
    let here = try keys.map { store.partition(of: try BlobKey($0)).name }
    for order in ["disk1=3,disk2=1,ü=2", "ü=2,disk2=1,disk1=3"] {
      let outcome = try runProgram("patchbay-peer", ["place", broker.socket, order] + keys)
      #expect(outcome.output.split(separator: "\n").map(String.init) == here, "\(outcome.error)")
    }
    #expect(Set(here).count == 3)
    // They belong there for ever: whoever changes that loses what was put there.
    let first = ["disk2", "disk1", "disk1", "ü", "disk2", "ü", "ü", "disk2"]
    #expect(Array(here.prefix(8)) == first)
    try broker.stop()
  }

  @Test func `a copy goes on when the process that makes it is killed`() throws {
    let (above, below) = (try BrokerProcess(), try BrokerProcess())
    let lower = try PatchbayClient(socketPath: below.socket)
    let upper = try PatchbayClient(socketPath: above.socket)
    let publisher = try lower.publisher("k", BlobOptions(byteCount: 500_000, order: .appendOnly))
    try publisher.append(oracleBytes(1, 0..<200_000))
    let directory = try TemporaryDirectory()
    let readers = try (0..<3).map { index in
      let reader = try ChildProcess(
        try program("patchbay-peer"), ["layers", above.socket, below.socket, "k"],
        errorPath: directory.file("errors"))
      #expect(try reader.line(within: 60) == "open")
      return reader
    }
    try eventually("the first one copies") { try upper.info("k").coveredByteCount == 200_000 }
    let generation = try upper.info("k").generation
    readers[0].kill(SIGKILL)
    _ = try readers[0].waitForExit()
    try publisher.append(oracleBytes(1, 200_000..<500_000))
    try publisher.seal()
    for reader in readers[1...] {
      #expect(try reader.line(within: 60) == "500000")
      #expect(try reader.waitForExit() == 0)
    }
    #expect(try upper.info("k").generation == generation && upper.info("k").state == .sealed)
    try below.stop()
    try above.stop()
  }
}
