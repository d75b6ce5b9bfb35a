// Where everything stands in a container: the constants of the documentation's page on layout,
// "Containers of the spool", which says what they are for.

/// Sizes and numbers of the whole file.
package enum ContainerLayout {
  package static let page = 4096
  /// One skippable frame with both copies of the header.
  package static let areaByteCount = 65_536
  /// Where the two copies begin.
  package static let copyOffsets = [4096, 32_768]
  /// The most bytes of a copy.
  package static let copyByteLimit = 28_672
  /// A stride has this many bytes more than a segment.
  package static let strideExtra = 8192
  package static let segmentByteCounts = 4096...4_194_304

  /// `PBAYSPOL`.
  package static let magic: UInt64 = 0x4c4f_5053_5941_4250
  package static let formatVersion: UInt32 = 1
  package static let digestByteLimit = 256
  package static let noteByteLimit = 20_480

  /// The kinds of skippable frames.
  package static let areaFrame: UInt32 = 0x184d_2a50
  package static let leadFrame: UInt32 = 0x184d_2a51
  package static let restFrame: UInt32 = 0x184d_2a52
  package static let missingFrame: UInt32 = 0x184d_2a53
  /// A frame with bytes.
  package static let frame: UInt32 = 0x184d_2204
  /// Magic and size.
  package static let skippableHeadByteCount = 8
}

/// A copy of the header. Key, digest and note follow the fields, in this order.
package enum HeaderField {
  package static let magic = ByteField("magic", at: 0, 8)
  package static let formatVersion = ByteField("format_version", at: 8, 4)
  package static let copyByteCount = ByteField("copy_byte_count", at: 12, 4)
  package static let sequence = ByteField("sequence", at: 16, 8)
  package static let checksum = ByteField("checksum", at: 24, 8)
  package static let generation = ByteField("generation", at: 32, 8)
  package static let byteCount = ByteField("byte_count", at: 40, 8)
  package static let segmentByteCount = ByteField("segment_byte_count", at: 48, 4)
  package static let noteByteCount = ByteField("note_byte_count", at: 52, 4)
  package static let keyByteCount = ByteField("key_byte_count", at: 56, 2)
  package static let digestByteCount = ByteField("digest_byte_count", at: 58, 2)
  package static let state = ByteField("state", at: 60, 1)
  package static let compression = ByteField("compression", at: 61, 1)
  package static let reserved = ByteField("reserved", at: 62, 2)

  package static let all = [
    magic, formatVersion, copyByteCount, sequence, checksum, generation, byteCount,
    segmentByteCount, noteByteCount, keyByteCount, digestByteCount, state, compression, reserved,
  ]
  /// Where the key begins.
  package static let byteCountOfAll = 64
}

/// The first page of a written segment: what stands before its bytes.
package enum LeadField {
  package static let leadMagic = ByteField("lead_magic", at: 0, 4)
  package static let leadByteCount = ByteField("lead_byte_count", at: 4, 4)
  package static let lead = ByteField("lead", at: 8, 4069)
  package static let frameMagic = ByteField("frame_magic", at: 4077, 4)
  package static let flags = ByteField("flags", at: 4081, 1)
  package static let blockSizeClass = ByteField("block_size_class", at: 4082, 1)
  package static let contentByteCount = ByteField("content_byte_count", at: 4083, 8)
  package static let headChecksum = ByteField("head_checksum", at: 4091, 1)
  package static let blockWord = ByteField("block_word", at: 4092, 4)

  package static let all = [
    leadMagic, leadByteCount, lead, frameMagic, flags, blockSizeClass, contentByteCount,
    headChecksum, blockWord,
  ]
  /// Where the block begins.
  package static let byteCountOfAll = 4096
}

/// What stands behind the block of a written segment.
package enum TailField {
  package static let endMark = ByteField("end_mark", at: 0, 4)
  package static let contentChecksum = ByteField("content_checksum", at: 4, 4)
  package static let restMagic = ByteField("rest_magic", at: 8, 4)
  package static let restByteCount = ByteField("rest_byte_count", at: 12, 4)

  package static let all = [endMark, contentChecksum, restMagic, restByteCount]
  package static let byteCountOfAll = 16
}
