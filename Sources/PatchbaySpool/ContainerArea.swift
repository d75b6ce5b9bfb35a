// The first 64 KiB of a container: one skippable frame around both copies of the header.

import PatchbaySystem
import PatchbayTypes

enum ContainerArea {
  /// The head of the frame.
  static let head: [UInt8] = {
    var bytes = [UInt8](repeating: 0, count: ContainerLayout.skippableHeadByteCount)
    LeadField.leadMagic.store(UInt64(ContainerLayout.areaFrame), in: &bytes)
    LeadField.leadByteCount.store(
      UInt64(ContainerLayout.areaByteCount - bytes.count), in: &bytes)
    return bytes
  }()

  /// The area's bytes, fewer where the file ends.
  static func read(_ file: borrowing Descriptor) throws(PatchbayError) -> [UInt8] {
    try DiskFile.read(file, at: 0, byteCount: ContainerLayout.areaByteCount)
  }

  static func headers(_ file: borrowing Descriptor) throws(PatchbayError) -> ContainerHeaders {
    try ContainerHeaders(try read(file))
  }
}
