// The examples of the guides, as their readers would write them.

import Glibc
import Patchbay
import PatchbayBroker
import PatchbayTestSupport
import Testing

@Suite struct GuideTests {
  @Test func `a publisher that waits for its slowest reader`() throws {
    try withBroker { _, client in
      var options = BlobOptions(policy: .backpressure)
      options.ringByteCount = 8 << 20
      let publisher = try client.publisher("frames", options)
      let reader = TestThread {
        let cursor = try? client.open("frames", waitUntil: .after(.seconds(30))).cursor()
        try? cursor?.attach()
      }
      reader.join()
      try publisher.append(pattern(0..<100_000))
      try publisher.seal()
    }
  }

  @Test func `a blob that other users may read`() throws {
    let directory = try TemporaryDirectory()
    _ = chmod(directory.path, 0o755)
    var configuration = BrokerConfiguration(socketPath: directory.file("control.sock"))
    configuration.isShared = true
    configuration.userMemoryLimit = 1 << 30
    configuration.memoryLimit = 64 << 20
    let broker = try Broker(configuration)
    let client = try broker.makeClient()
    let weights = pattern(0..<100_000)
    var options = BlobOptions()
    options.mode = 0o640
    try client.publish(weights, as: "models/v7", options)
    let access = try client.info("models/v7").access
    #expect(access == Access(uid: getuid(), gid: getgid(), mode: 0o640))
    broker.drain()
  }

  @Test func `a reader that goes on after it has lost bytes`() throws {
    try withBroker { _, client in
      let publisher = try client.publisher("log", BlobOptions(policy: .dropOldest))
      let record = [UInt8](repeating: 7, count: 100)
      for _ in 0..<30_000 {
        try publisher.mark()
        try publisher.append(record)
      }
      try publisher.seal()
      var cursor = try client.open("log").cursor()
      var (shown, overruns) = (0, 0)
      do {
        while let bytes = try cursor.read(upTo: 65536) { shown += bytes.count }
      } catch let error as PatchbayError where error.code == .overrun {
        overruns += 1
        try cursor.seek(to: .start, offset: error.resumePosition ?? 0)
      }
      #expect(overruns == 1 && shown == 0 && cursor.position % 100 == 0)
      while let bytes = try cursor.read(upTo: 65536) { shown += bytes.count }
      #expect(shown > 0 && shown % 100 == 0)
      var late = try client.open("log").cursor(from: .live)
      #expect(try late.read(upTo: 1000) == record)
    }
  }
}
