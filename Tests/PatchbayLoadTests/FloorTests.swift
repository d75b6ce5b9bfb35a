import CFloor
import Glibc
import Testing

@testable import PatchbayLoad

/// A thread of its own for a body that blocks.
final class TestThread {
  private var thread = pthread_t()
  private final class Body {
    let run: () -> Void
    init(_ run: @escaping () -> Void) { self.run = run }
  }

  init(_ run: @escaping () -> Void) {
    let body = Unmanaged.passRetained(Body(run))
    pthread_create(
      &thread, nil,
      { argument in
        guard let argument else { return nil }
        Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run()
        return nil
      }, body.toOpaque())
  }

  func join() { pthread_join(thread, nil) }
}

@Suite struct FloorTests {
  /// Passes a stream to two readers that check every byte; what they report.
  private func passThrough(capacity: Int, total: Int, piece: Int) throws -> [pf_outcome] {
    let region = try FloorRegion(byteCount: Int(pf_ring_region_bytes(UInt64(capacity))))
    #expect(pf_ring_init(region.base, UInt64(capacity), 2) == 0)
    let content = Content(seed: 7, longest: piece)
    let results = UnsafeMutableBufferPointer<pf_outcome>.allocate(capacity: 2)
    results.initialize(repeating: pf_outcome())
    defer { results.deallocate() }
    let readers = (0..<2).map { reader in
      TestThread {
        let buffer = PrivateBuffer(byteCount: piece)
        var work = pf_work(total: UInt64(total), piece: UInt64(piece), batch: 1, spins: 0)
        var expected = content.forFloor
        pf_ring_read(
          region.base, UInt32(reader), buffer.bytes.baseAddress, Int32(PF_SUM), 1, &expected,
          &work, &results[reader])
      }
    }
    var (work, source, outcome) = (
      pf_work(total: UInt64(total), piece: UInt64(piece), batch: 1, spins: 0), content.forFloor,
      pf_outcome()
    )
    pf_ring_write(region.base, &source, &work, &outcome)
    for reader in readers { reader.join() }
    return Array(results)
  }

  @Test(arguments: [(1 << 20, 1 << 20, 4096), (64 << 10, 4 << 20, 8192), (5000, 1_000_003, 777)])
  func `the floor moves every byte to both readers`(
    capacity: Int, total: Int, piece: Int
  ) throws {
    let outcomes = try passThrough(capacity: capacity, total: total, piece: piece)
    #expect(outcomes.map(\.mismatch) == [-1, -1])
    #expect(outcomes[0].sum != 0)
  }

  @Test func `a wrong byte is found where it is`() {
    let content = Content(seed: 1, longest: 100)
    content.withBytes(at: 5000, count: 100) { bytes in
      var copy = [UInt8](repeating: 0, count: 100)
      for index in bytes.indices { copy[index] = bytes[index] }
      #expect(content.mismatch(copy.span, at: 5000) == nil)
      copy[42] ^= 1
      #expect(content.mismatch(copy.span, at: 5000) == 5042)
    }
  }

  @Test func `content is never zero and repeats only after its period`() {
    let content = Content(seed: 3, longest: 64)
    content.withBytes(at: 0, count: Content.period) { bytes in
      #expect(bytes.indices.allSatisfy { bytes[$0] != 0 })
    }
    content.withBytes(at: 4096, count: 64) { later in
      #expect(content.mismatch(later, at: 0) != nil)
      #expect(content.mismatch(later, at: 4096 + Content.period) == nil)
    }
  }

  @Test func `a message comes back as often as it was sent`() throws {
    let region = try FloorRegion(byteCount: Int(pf_mail_region_bytes()))
    let pong = TestThread { pf_mail_pong(region.base, 500, 0) }
    var samples = [Int64](repeating: 0, count: 500)
    pf_mail_ping(region.base, &samples, 500, 0)
    pong.join()
    #expect(samples.allSatisfy { $0 > 0 })
  }
}
