// A broker that does not answer, a client that is out of something: calls end, handles stay usable,
// and when the hard times are over nothing is lost.

import Glibc
import Patchbay
import PatchbayTestSupport
import Synchronization
import Testing

@Suite struct HardTimesTests {
  /// A broker with a sealed blob `old` and a client in this process.
  private func withStoppableBroker(
    _ body: (BrokerProcess, PatchbayClient) throws -> Void
  ) throws {
    let broker = try BrokerProcess()
    try body(broker, try PatchbayClient(socketPath: broker.socket))
    try broker.stop()
  }

  /// Extents of one page: each of the first positions needs one of its own.
  private var paged: BlobOptions {
    var options = BlobOptions(order: .appendOnly)
    options.firstExtentByteCount = 4096
    options.extentByteLimit = 4096
    return options
  }

  @Test func `a read keeps its deadline though the broker is stopped`() throws {
    try withStoppableBroker { broker, client in
      let publisher = try client.publisher("k", paged)
      try publisher.append(oracleBytes(1, 0..<10_000))
      let reader = try client.open("k")
      try broker.suspend()
      // The reader has not mapped this extent: it has to ask, and nobody answers.
      let error = #expect(throws: PatchbayError.self) {
        try reader.readFully(5000..<5010, deadline: .after(.milliseconds(100)))
      }
      #expect(error?.code == .timedOut)
      broker.process.kill(SIGCONT)
      #expect(try reader.readFully(5000..<5010) == oracleBytes(1, 5000..<5010))
    }
  }

  @Test func `a close wakes a read that asks a stopped broker`() throws {
    try withStoppableBroker { broker, client in
      let publisher = try client.publisher("k", paged)
      try publisher.append(oracleBytes(1, 0..<10_000))
      let reader = try client.open("k")
      try broker.suspend()
      let code = Mutex<PatchbayError.Code?>(nil)
      let thread = TestThread {
        do throws(PatchbayError) { _ = try reader.readFully(5000..<5010) } catch {
          code.withLock { $0 = error.code }
        }
      }
      // By the time this one has given up, the other has asked.
      let error = #expect(throws: PatchbayError.self) {
        try reader.readFully(9000..<9001, deadline: .after(.zero))
      }
      #expect(error?.code == .timedOut)
      reader.close()
      thread.join()
      #expect(code.withLock { $0 } == .closed)
      broker.process.kill(SIGCONT)
    }
  }

  @Test func `a seal without an answer can be repeated, and nothing is written meanwhile`() throws {
    try withStoppableBroker { broker, client in
      let publisher = try client.publisher("k")
      try publisher.append(oracleBytes(1, 0..<10_000))
      try broker.suspend()
      let error = #expect(throws: PatchbayError.self) {
        try publisher.seal(deadline: .after(.milliseconds(100)))
      }
      #expect(error?.code == .timedOut)
      let refusal = #expect(throws: PatchbayError.self) { try publisher.append([1]) }
      #expect(refusal?.code == .closed)
      broker.process.kill(SIGCONT)
      try publisher.seal()
      #expect(publisher.isEnded)
      #expect(try client.info("k").byteCount == 10_000)
    }
  }

  @Test func `closes that a stopped broker does not take are told later`() throws {
    try withStoppableBroker { broker, client in
      try client.publish(oracleBytes(1, 0..<20_000), as: "k")
      let readers = try (0..<1500).map { _ in try client.open("k") }
      let publisher = try client.publisher("abandoned")
      try broker.suspend()
      for reader in readers { reader.close() }
      publisher.close()
      broker.process.kill(SIGCONT)
      #expect(try client.info("k").subscriberCount == 0)
      #expect(try client.info("abandoned").state == .failed)
    }
  }

  @Test func `a publisher out of descriptors fails one call and goes on`() throws {
    let broker = try BrokerProcess()
    let peer = try broker.peer()
    try peer.ask("publish k - append")
    try peer.ask("append k 1000")
    let used = Set(names(in: "/proc/\(peer.process.pid)/fd").compactMap { Int($0) })
    let free = (0...).first { !used.contains($0) } ?? 0
    try limit(peer, "nofile", "\(free)")
    let error = try peer.askForError("append k 100000")
    #expect(error.code == "limitReached", "\(error)")
    #expect(try peer.ask("append k 5") == "", "the extent it has takes more")
    try limit(peer, "nofile", "1000")
    try peer.ask("append k 99995")
    try peer.ask("seal k")
    let reader = try broker.peer()
    try reader.ask("open k")
    #expect(try reader.ask("stream k 0") == "101000")
    try broker.stop()
  }

  @Test func `a ring that could not be mapped at first is begun by who can`() throws {
    let broker = try BrokerProcess()
    let peer = try broker.peer()
    try peer.ask("publish k - append")
    // Fills the extents up to 64 MiB; the next one is as large again.
    try peer.ask("zeros k 67043328")
    let kibibytes = processFigure(peer.process.pid, "VmSize") ?? 0
    try limit(peer, "as", "\(kibibytes * 1024 + (16 << 20))")
    let error = try peer.askForError("zeros k 1000000")
    #expect(error.code == "limitReached", "\(error)")
    try limit(peer, "as", "unlimited")
    try peer.ask("zeros k 1000000")
    let reader = try broker.peer()
    try reader.ask("open k")
    try peer.ask("seal k")
    #expect(try reader.ask("count k 0") == "68043328")
    try broker.stop()
  }

  /// Sets a process's soft limit.
  private func limit(_ peer: Peer, _ resource: String, _ value: String) throws {
    let outcome = try runProgram(
      "/usr/bin/prlimit", ["--pid", "\(peer.process.pid)", "--\(resource)=\(value):"])
    if outcome.exitCode != 0 { throw HarnessError("no limit: \(outcome.error)") }
  }
}
