// The checksum of LZ4 frames against values of the reference implementation.

import PatchbaySpool
import PatchbayTypes
import Testing

@Suite struct ChecksumTests {
  @Test(
    arguments: [
      ("", 0x02cc_5d05), ("a", 0x550d_7456), ("abc", 0x32d1_53ff),
      ("Nobody inspects the spammish repetition", 0xe229_3b2f),
    ] as [(String, UInt32)])
  func `texts have the sums that the reference gives them`(_ text: String, _ sum: UInt32) {
    #expect(XXH32.of(Array(text.utf8)) == sum)
  }

  @Test(
    arguments: [(0, 0x02cc_5d05), (1, 0xcf65_b03e), (14, 0x1208_e7e2), (222, 0x5bd1_1dbd)]
      as [(Int, UInt32)])
  func `the vectors of the reference's own sanity check hold`(_ byteCount: Int, _ sum: UInt32) {
    var state: UInt64 = 0x9e37_79b1
    let bytes = (0..<byteCount).map { _ in
      defer { state &*= 0x9e37_79b1_85eb_ca8d }
      return UInt8(truncatingIfNeeded: state >> 56)
    }
    #expect(XXH32.of(bytes) == sum)
  }
}
