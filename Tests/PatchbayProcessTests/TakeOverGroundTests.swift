// What a broker that takes the place of a killed one finds in its spool and its journal: another's blobs,
// a lock, what was not on the device yet, a journal that nobody can read.

import Glibc
import Patchbay
import PatchbaySystem
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct TakeOverGroundTests {
  /// A spool that a broker has ended in order on, with the durable blob `other` of 60,000 bytes,
  /// generation 1; it is put aside.
  private func otherSpool(_ brokers: Succession) throws -> String {
    try brokers.start()
    let client = try PatchbayClient(socketPath: brokers.socket)
    var options = BlobOptions(byteCount: 60_000)
    options.acknowledgement = .durable
    try client.publish(oracleBytes(77, 0..<60_000), as: "other", options)
    #expect(try brokers.end() == 0)
    let aside = brokers.place.file("aside")
    try #require(rename(brokers.spool, aside) == 0)
    return aside
  }

  private func swap(_ brokers: Succession, _ aside: String) throws {
    try #require(rename(brokers.spool, brokers.place.file("first")) == 0)
    try #require(rename(aside, brokers.spool) == 0)
  }

  /// What has the number of another blob is served by the next one that has nothing in memory.
  @Test func `of a spool that is not the same one what is durable stays, whatever its number`()
    throws
  {
    let brokers = try Succession(memory: "32MiB")
    let aside = try otherSpool(brokers)
    try brokers.start()
    let client = try PatchbayClient(socketPath: brokers.socket)
    try client.publish(oracleBytes(5, 0..<200_000), as: "mine", BlobOptions(byteCount: 200_000))
    try brokers.kill()
    try swap(brokers, aside)
    try brokers.start()
    #expect(try brokers.run(["cat", "mine"]).bytes == oracleBytes(5, 0..<200_000))
    #expect(try brokers.run(["cat", "other"]).exitCode == 66)
    #expect(brokers.log.contains("its blob other was put here by a broker with another spool"))
    #expect(try brokers.run(["rm", "mine"]).exitCode == 0)
    #expect(try brokers.end() == 0)
    try brokers.start()
    #expect(try brokers.run(["cat", "other"]).bytes == oracleBytes(77, 0..<60_000))
    #expect(try brokers.end() == 0)
  }

  @Test func `a spool that is not the same one ends no blob that is being written`() throws {
    let brokers = try Succession(memory: "32MiB")
    let aside = try otherSpool(brokers)
    try brokers.start()
    let client = try PatchbayClient(socketPath: brokers.socket)
    let publisher = try client.publisher("mine", BlobOptions(order: .appendOnly))
    try publisher.append(oracleBytes(5, 0..<100_000))
    try brokers.kill()
    try swap(brokers, aside)
    try brokers.start()
    let state = try brokers.run(["ls", "-l"])
    #expect(state.output.contains("open"), "\(state.output)")
    let cat = try brokers.run(["cat", "mine", "--timeout", "2s"])
    #expect(cat.exitCode != 0, "an end that is not one, after \(cat.bytes.count) bytes")
    #expect(throws: Never.self) {
      try publisher.append(oracleBytes(5, 100_000..<150_000))
      try publisher.seal()
    }
  }

  /// A lock that has lost its number makes strangers of the files of the spool.
  @Test(.enabled(if: Succession.canTrace))
  func `a recovery does not write the lock of its spool, and spills where the one before did`()
    throws
  {
    let brokers = try Succession(memory: "16MiB")
    try brokers.start()
    let client = try PatchbayClient(socketPath: brokers.socket)
    let publisher = try client.publisher("mine", BlobOptions(order: .appendOnly))
    let oracle = PeriodicOracle(9)
    let step = 1 << 20
    func append(to end: Int) throws {
      while publisher.position < end {
        try publisher.append(oracle.bytes(publisher.position..<publisher.position + step))
      }
    }
    try append(to: 24 << 20)
    let lock = try readBytes("\(brokers.spool)/broker.lock")
    try brokers.kill()
    try brokers.begin(trace: ["-y", "-e", "trace=ftruncate,pwrite64"])
    #expect(try brokers.becameReady())
    try append(to: 44 << 20)
    try publisher.seal()
    #expect(try readBytes("\(brokers.spool)/broker.lock") == lock)
    #expect(try !readFile(brokers.tracePath).contains("broker.lock>"))
    #expect(try readFile(brokers.tracePath).contains(".part>"))
    #expect(try brokers.run(["rm", "mine"]).exitCode == 0)
    #expect(throws: Never.self) { try brokers.stop() }
  }

  @Test(.enabled(if: Succession.canTrace))
  func `a durable seal is confirmed when the directory is on the device, also by the next broker`()
    throws
  {
    let brokers = try Succession(memory: "16MiB")
    try brokers.start()
    try brokers.attach(trace: KillPoint("fsync", 1).trace)
    let put = try ChildProcess(
      try program("patchbay"),
      ["put", "k", "--ack", "durable", "--socket", brokers.socket, "/usr/bin/strace"],
      errorPath: brokers.place.file("put"))
    try eventually("it was killed behind the rename") { !brokers.isRunning }
    try brokers.reap()
    #expect(names(in: brokers.spool).contains { $0.hasSuffix(".blob") })
    try brokers.begin(trace: ["-y", "-e", "trace=fsync,fdatasync"])
    #expect(try brokers.becameReady())
    #expect(try put.waitForExit() == 0)
    let trace = try readFile(brokers.tracePath)
    #expect(trace.contains("\(brokers.spool)>"), "acknowledged as durable after: \(trace)")
    _ = try brokers.end()
  }

  @Test func `a journal that cannot be read is left alone with all that it speaks of`() throws {
    let brokers = try Succession(memory: "16MiB")
    try brokers.start()
    let client = try PatchbayClient(socketPath: brokers.socket)
    let large = try client.publisher("large", BlobOptions(order: .appendOnly))
    for _ in 0..<24 { try large.append([UInt8](repeating: 7, count: 1 << 20)) }
    try large.seal()
    try brokers.kill()
    let before = names(in: brokers.spool)
    #expect(before.contains { $0.hasSuffix(".part") })
    let journal = "/dev/shm/patchbay-\(brokers.instance)-journal-0"
    var bytes = try readBytes(journal)
    bytes[0] ^= 1
    try writeFile(journal, bytes)
    try brokers.start()
    #expect(names(in: brokers.spool) == before, "\(names(in: brokers.spool))")
    _ = try brokers.end()
  }
}
