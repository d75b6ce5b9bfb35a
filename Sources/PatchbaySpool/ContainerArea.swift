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
    try ContainerHeaders(try readCopies(file))
  }

  /// As `read`, without what neither copy needs: two pages are usually all.
  private static func readCopies(_ file: borrowing Descriptor) throws(PatchbayError) -> [UInt8] {
    guard try DiskFile.facts(of: file).byteCount >= ContainerLayout.areaByteCount else {
      return try read(file)
    }
    var area = [UInt8](repeating: 0, count: ContainerLayout.areaByteCount)
    for start in ContainerLayout.copyOffsets {
      let page = try DiskFile.read(file, at: start, byteCount: ContainerLayout.page)
      guard page.count == ContainerLayout.page else { return try read(file) }
      let said = Int(HeaderField.copyByteCount.load(page))
      let byteCount = min(max(said, page.count), ContainerLayout.copyByteLimit)
      let copy = try DiskFile.read(
        file, at: start + page.count, byteCount: byteCount - page.count, behind: page)
      area.replaceSubrange(start..<start + copy.count, with: copy)
    }
    return area
  }
}
