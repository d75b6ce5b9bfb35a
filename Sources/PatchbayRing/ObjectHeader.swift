// The first bytes of shared objects, as the broker writes them before a descriptor leaves. They are
// for people and tools; nothing is decided by them but by a ring's tag.

import CPatchbayLayout
import PatchbayLayout
import PatchbaySystem
import PatchbayTypes

package enum ObjectHeader {
  /// The identity of a ring and the tag of its first use, for offset 0.
  static func ring(
    instance: UInt64, ringID: UInt64, _ geometry: RingGeometry, tag: UInt64
  ) -> [UInt8] {
    var header = pb_ring_header()
    header.magic = UInt64(PB_RING_MAGIC)
    header.layout_version = UInt32(PB_LAYOUT_VERSION)
    header.features = geometry.hasMap ? UInt32(PB_RING_HAS_MAP) : 0
    header.instance = instance
    header.ring_id = ringID
    header.data_byte_count = UInt64(geometry.dataByteCount)
    header.data_at = UInt64(geometry.dataOffset)
    header.tag = tag
    return bytes(of: &header).prefix(Int(PB_RING_BASE_AT)).map { $0 }
  }

  static func board(
    magic: UInt64, _ entryCount: Int, instance: UInt64, board: UInt32
  ) -> [UInt8] {
    var header = pb_board_header()
    header.magic = magic
    header.layout_version = UInt32(PB_LAYOUT_VERSION)
    header.entry_count = UInt32(entryCount)
    header.instance = instance
    header.board_id = board
    return bytes(of: &header)
  }

  static func clientTable(clientID: UInt64) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 24)
    unsafe bytes.withUnsafeMutableBytes { raw in
      unsafe raw.storeBytes(of: UInt64(PB_TABLE_MAGIC), toByteOffset: 0, as: UInt64.self)
      unsafe raw.storeBytes(of: UInt32(PB_LAYOUT_VERSION), toByteOffset: 8, as: UInt32.self)
      unsafe raw.storeBytes(of: clientID, toByteOffset: 16, as: UInt64.self)
    }
    return bytes
  }

  private static func bytes<Header>(of header: inout Header) -> [UInt8] {
    unsafe withUnsafeBytes(of: &header) { unsafe Array($0) }
  }
}
