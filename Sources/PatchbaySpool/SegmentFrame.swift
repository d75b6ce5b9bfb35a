// The bytes around a segment's block: what stands before and behind it, made and checked. They are
// determined by the segment's size and the block's, so a check compares each field with the one
// value that it may have.

import PatchbayTypes

/// The frames of one container's segments.
struct SegmentFrame: Sendable {
  let shape: ContainerShape

  /// Set in the block word of a block that is stored as it is.
  static let storedBit: UInt64 = 0x8000_0000
  /// Version 1, independent blocks, with content size and content checksum.
  private static let flags: UInt64 = 0x6c

  /// The smallest standard block (64 KiB, 256 KiB, 1 MiB, 4 MiB) that holds a segment: 4 to 7 in
  /// the upper half of the byte.
  private var blockSizeClass: UInt64 {
    let limits = [65_536, 262_144, 1_048_576]
    return UInt64(4 + limits.count { $0 < shape.segmentByteCount }) << 4
  }

  /// The most bytes of a compressed block; with more it would not take a page less than a stored
  /// one. Nil for content that cannot save a page.
  static func compressedLimit(contentByteCount: Int) -> Int? {
    let limit = diskByteCount(block: contentByteCount) - 2 * ContainerLayout.page
    return limit > TailField.byteCountOfAll ? limit - TailField.byteCountOfAll : nil
  }

  /// What a written segment takes on disk: whole pages.
  static func diskByteCount(block byteCount: Int) -> Int {
    let end = LeadField.byteCountOfAll + byteCount + TailField.byteCountOfAll
    return (end + ContainerLayout.page - 1) / ContainerLayout.page * ContainerLayout.page
  }

  // MARK: Making

  /// The beginning of a segment that is not there: a skippable frame over the whole stride.
  var missingHead: [UInt8] {
    skippableHead(ContainerLayout.missingFrame, byteCount: shape.stride)
  }

  /// The page before the block.
  func lead(contentByteCount: Int, blockWord: UInt64) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: LeadField.byteCountOfAll)
    let head = skippableHead(ContainerLayout.leadFrame, byteCount: LeadField.frameMagic.offset)
    bytes.replaceSubrange(..<head.count, with: head)
    LeadField.frameMagic.store(UInt64(ContainerLayout.frame), in: &bytes)
    LeadField.flags.store(Self.flags, in: &bytes)
    LeadField.blockSizeClass.store(blockSizeClass, in: &bytes)
    LeadField.contentByteCount.store(UInt64(contentByteCount), in: &bytes)
    LeadField.headChecksum.store(Self.headChecksum(bytes), in: &bytes)
    LeadField.blockWord.store(blockWord, in: &bytes)
    return bytes
  }

  /// What stands behind the block: the frame's end, and a skippable frame up to the next stride.
  func tail(blockByteCount: Int, contentChecksum: UInt32) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: TailField.byteCountOfAll)
    TailField.contentChecksum.store(UInt64(contentChecksum), in: &bytes)
    TailField.restMagic.store(UInt64(ContainerLayout.restFrame), in: &bytes)
    TailField.restByteCount.store(restByteCount(blockByteCount), in: &bytes)
    return bytes
  }

  private func restByteCount(_ blockByteCount: Int) -> UInt64 {
    UInt64(
      shape.stride - LeadField.byteCountOfAll - blockByteCount - TailField.byteCountOfAll)
  }

  private func skippableHead(_ magic: UInt32, byteCount: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: ContainerLayout.skippableHeadByteCount)
    LeadField.leadMagic.store(UInt64(magic), in: &bytes)
    LeadField.leadByteCount.store(
      UInt64(byteCount - ContainerLayout.skippableHeadByteCount), in: &bytes)
    return bytes
  }

  /// The second byte of the XXH32 over the frame's description.
  private static func headChecksum(_ lead: [UInt8]) -> UInt64 {
    let described = LeadField.flags.offset..<LeadField.headChecksum.offset
    return UInt64(XXH32.of(Array(lead[described])) >> 8 & 0xff)
  }

  // MARK: Checking

  /// What a lead says about the block behind it.
  struct Block: Sendable, Hashable {
    let contentByteCount: Int
    let byteCount: Int
    let isCompressed: Bool
  }

  /// What the first bytes of a stride say.
  enum Beginning: Sendable, Hashable {
    case missing
    case written(Block)
    /// Neither; why.
    case damaged(String)
  }

  /// Reads the first bytes of a stride, fewer than a page where the file ends.
  /// - Parameter expected: bytes of content that there must be, or nil: up to a full segment.
  func beginning(_ bytes: [UInt8], expected: Int?) -> Beginning {
    if bytes.isEmpty || bytes.starts(with: missingHead) { return .missing }
    guard bytes.count >= LeadField.byteCountOfAll else {
      return .damaged("the file ends after \(bytes.count) bytes of it")
    }
    let content = LeadField.contentByteCount.load(bytes)
    guard let contentByteCount = Int(exactly: content),
      (1...shape.segmentByteCount).contains(contentByteCount),
      contentByteCount == expected ?? contentByteCount
    else {
      return .damaged("it says that it holds \(content) bytes, not \(expected.text)")
    }
    let word = LeadField.blockWord.load(bytes)
    let block = Block(
      contentByteCount: contentByteCount, byteCount: Int(word & ~Self.storedBit),
      isCompressed: word & Self.storedBit == 0)
    let wanted = lead(contentByteCount: contentByteCount, blockWord: word)
    for field in LeadField.all where field != LeadField.lead {
      guard field.load(bytes) == field.load(wanted) else {
        return .damaged(
          "its \(field.name) is \(field.load(bytes)) and should be \(field.load(wanted))")
      }
    }
    return Self.isPossible(block)
      ? .written(block) : .damaged("its block has \(block.byteCount) bytes")
  }

  private static func isPossible(_ block: Block) -> Bool {
    guard block.isCompressed else { return block.byteCount == block.contentByteCount }
    let limit = compressedLimit(contentByteCount: block.contentByteCount) ?? 0
    return block.byteCount > 0 && block.byteCount <= limit
  }

  /// Whether the skippable frame behind a block is as it was made. No byte of the blob depends on it.
  func isRestWhole(_ bytes: [UInt8], behind block: Block) -> Bool {
    let start = LeadField.byteCountOfAll + block.byteCount
    return TailField.restMagic.load(bytes, at: start) == UInt64(ContainerLayout.restFrame)
      && TailField.restByteCount.load(bytes, at: start) == restByteCount(block.byteCount)
  }
}

extension Int? {
  fileprivate var text: String { map(String.init) ?? "1 up to a full segment" }
}
