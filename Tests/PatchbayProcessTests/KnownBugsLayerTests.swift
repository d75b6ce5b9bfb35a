// A bug that layered caches have had (C7): a blob is copied into two layers at once, one of them fails, and
// the other one has an empty blob, complete, from then on.

import Glibc
import Patchbay
import PatchbayTestSupport
import Testing

/// Two caches, of which the lower one can fail.
private protocol LayeredCache {
  var upper: any StreamCache { get }
  /// Copies pieces from the lower one; when so many have been copied that fails.
  func copy(_ pieces: [[UInt8]], as key: String, lowerFailsAfter count: Int) async throws
}

@Suite(.serialized) struct KnownBugsLayerTests {
  /// Two brokers; the lower one is killed.
  private struct PatchbayLayers: LayeredCache {
    let cache: PatchbayCache
    var upper: any StreamCache { cache }

    func copy(_ pieces: [[UInt8]], as key: String, lowerFailsAfter count: Int) async throws {
      let broker = try BrokerProcess()
      let lower = try await PatchbayClient(socketPath: broker.socket, reconnectLimit: .zero)
      let key = try BlobKey(key)
      let publisher = try await lower.publisher(
        key, BlobOptions(byteCount: pieces.joined().count, order: .appendOnly))
      let reader = try await LayeredStore(cache.client, over: lower).open(key)
      for piece in pieces[..<count] { try await publisher.append(piece) }
      _ = try await reader.readFully(0..<pieces[..<count].joined().count)
      guard try await cache.client.info(key).state == .open else {
        throw HarnessError("nothing is copied")
      }
      try kill(broker)
      do throws(PatchbayError) {
        _ = try await reader.waitUntilSealed()
      } catch {
        guard error.code == .blobFailed else { throw error }
        return
      }
      throw HarnessError("the copy took no notice of the broker's end")
    }

    private func kill(_ broker: BrokerProcess) throws {
      let objects = broker.objects
      broker.process.kill(SIGKILL)
      _ = try broker.process.waitForExit()
      for name in objects { _ = unlink("/dev/shm/\(name)") }
    }
  }

  /// One writer that fans out, and closes what it has opened when one of them fails.
  private struct ModelLayers: LayeredCache {
    let upper: any StreamCache = ModelCache()
    let closesAtFailure: Bool

    func copy(_ pieces: [[UInt8]], as key: String, lowerFailsAfter count: Int) throws {
      let writer = try upper.create(key, byteCount: nil)
      for piece in pieces[..<count] { try writer.append(piece) }
      if closesAtFailure { try writer.finish() } else { try writer.breakOff() }
    }
  }

  private func complaints(_ layers: some LayeredCache) async throws -> [String] {
    let pieces = ["some", " more", " bytes"].map { Array($0.utf8) }
    var complaints: [String] = []
    for count in 0..<pieces.count {
      let key = "k\(count)"
      try await layers.copy(pieces, as: key, lowerFailsAfter: count)
      guard let reader = try layers.upper.open(key) else { continue }
      let reading = reader.rest()
      complaints.append("\(reading.bytes.count) bytes, \(reading.ending)")
    }
    return complaints
  }

  @Test func `C7: where one layer fails none has a blob that looks complete`() async throws {
    let broker = try BrokerProcess()
    #expect(try await complaints(PatchbayLayers(cache: PatchbayCache(broker.socket))) == [])
    try broker.stop()
    #expect(try await complaints(ModelLayers(closesAtFailure: false)) == [])
    #expect(
      try await complaints(ModelLayers(closesAtFailure: true)) == [
        "0 bytes, whole", "4 bytes, whole", "9 bytes, whole",
      ])
  }
}
