// What one client may have in memory of what it writes, between processes.

import Patchbay
import PatchbayTestSupport
import Testing

@Suite struct ClientShareTests {
  private var options: BlobOptions {
    var options = BlobOptions()
    options.order = .appendOnly
    return options
  }

  @Test func `a client that races ahead is stopped at its share, and the others write on`() throws {
    let broker = try BrokerProcess(memory: "64MiB", options: ["--client-memory", "8MiB"])
    let greedy = try PatchbayClient(socketPath: broker.socket)
    let publisher = try greedy.publisher("greedy", options)
    let part = [UInt8](repeating: 7, count: 1 << 20)
    var error: PatchbayError?
    for _ in 0..<64 where error == nil {
      do throws(PatchbayError) { try publisher.append(part) } catch let refused { error = refused }
    }
    let refused = try #require(error)
    #expect(refused.code == .noSpaceMemory)
    #expect(refused.message.contains("--client-memory") && refused.message.contains("8388608"))
    let statistics = try greedy.statistics()
    #expect(statistics.clientMemoryLimit == 8 << 20)
    #expect((1...8 << 20).contains(statistics.clientMemoryByteCount))
    let other = try PatchbayClient(socketPath: broker.socket)
    try other.publish(part, as: "other")
    #expect(try other.open("other").readFully(0..<part.count) == part)
    #expect(try broker.run(["stats"]).output.contains("at most 8.00 MiB in blobs that it writes"))
    publisher.close()
    try broker.stop()
  }

  @Test func `with a spool a stream far longer than its share goes through it`() throws {
    let place = try TemporaryDirectory()
    let broker = try BrokerProcess(
      memory: "64MiB",
      options: ["--client-memory", "8MiB", "--spool", place.file("spool")])
    let writer = try PatchbayClient(socketPath: broker.socket)
    let publisher = try writer.publisher("stream", options)
    var highest: UInt64 = 0
    for number in 0..<96 {
      try publisher.append([UInt8](repeating: UInt8(number), count: 1 << 20))
      highest = max(highest, try writer.statistics().clientMemoryByteCount)
    }
    try publisher.seal()
    #expect(highest > 0 && highest <= 8 << 20)
    let subscriber = try PatchbayClient(socketPath: broker.socket).open("stream")
    for number in 0..<96 {
      let bytes = try subscriber.readFully(number << 20..<(number + 1) << 20)
      #expect(bytes == [UInt8](repeating: UInt8(number), count: 1 << 20), "part \(number)")
    }
    try broker.stop()
  }

  @Test(arguments: [["--client-memory", "4MiB"], []])
  func `a batch longer than what there is for it is refused, and nobody waits in vain`(
    more: [String]
  ) throws {
    let place = try TemporaryDirectory()
    let broker = try BrokerProcess(
      memory: "16MiB", options: ["--spool", place.file("spool")] + more)
    let client = try PatchbayClient(socketPath: broker.socket)
    let publisher = try client.publisher("stream", options)
    let part = [UInt8](repeating: 7, count: 1 << 20)
    var refused: PatchbayError?
    do {
      try publisher.withBatch {
        for _ in 0..<32 { try publisher.append(part) }
      }
    } catch let error as PatchbayError {
      refused = error
    }
    #expect(refused?.code == .noSpaceMemory, "not timedOut: \(String(describing: refused))")
    publisher.close()
    try broker.stop()
  }

  @Test func `a share that nothing fits into is refused when the broker starts`() throws {
    let place = try TemporaryDirectory()
    let outcome = try runProgram(
      "patchbay", ["serve", "--socket", place.file("socket"), "--client-memory", "64KiB"])
    #expect(outcome.exitCode == 81, "\(outcome.error)")
    #expect(outcome.error.contains("65536") && outcome.error.contains("--client-memory"))
  }
}
