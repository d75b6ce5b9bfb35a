// The layout's page against the constants of the container: tables, magic numbers and sizes.

import PatchbaySpool
import Testing

@Suite struct ContainerPageTests {
  private let page: Page

  init() throws { page = try Page("Layout") }

  private static let records: [(section: String, fields: [ByteField], byteCount: Int)] = [
    ("Container header", HeaderField.all, HeaderField.byteCountOfAll),
    ("Segment lead", LeadField.all, LeadField.byteCountOfAll),
    ("Segment tail", TailField.all, TailField.byteCountOfAll),
    ("Scratch head", ScratchField.all, ScratchField.byteCountOfAll),
  ]

  @Test func `the fields of a container on the layout page are the code's, without a gap`() {
    for record in Self.records {
      let rows = page.rows(under: record.section)
      let fields = record.fields.map { [$0.name, "\($0.offset)", "\($0.byteCount)"] }
      #expect(rows.map { Array($0.prefix(3)) } == fields, "\(record.section)")
      var next = 0
      for field in record.fields {
        #expect(field.offset == next, "\(record.section) \(field.name)")
        next += field.byteCount
      }
      #expect(next == record.byteCount, "\(record.section)")
    }
  }

  @Test func `the header area on the layout page is the code's, without a gap`() throws {
    let rows = page.rows(under: "Header area")
    for (index, offset) in ContainerLayout.copyOffsets.enumerated() {
      let row = try #require(rows.first { $0[0] == "copy \(index)" })
      #expect(row == ["copy \(index)", "\(offset)", "\(ContainerLayout.copyByteLimit)"])
    }
    var next = 0
    for row in rows {
      #expect(row[1] == "\(next)", "\(row[0])")
      next += try #require(Int(row[2]))
    }
    #expect(next == ContainerLayout.areaByteCount)
  }

  @Test func `the magic numbers of containers on the layout page are the code's`() throws {
    let rows = page.rows(under: "Containers of the spool")
    let magics = [
      ContainerLayout.areaFrame, ContainerLayout.leadFrame, ContainerLayout.restFrame,
      ContainerLayout.missingFrame,
    ]
    #expect(
      rows.map { $0[1] } == magics.map { "0x\(String($0, radix: 16, uppercase: true))" })
    let frame = try #require(page.rows(under: "Segment lead").first { $0[0] == "frame_magic" })
    #expect(frame[3] == "0x\(String(ContainerLayout.frame, radix: 16, uppercase: true))")
    let name = String(
      decoding: (0..<8).map { UInt8(truncatingIfNeeded: ContainerLayout.magic >> (8 * $0)) },
      as: UTF8.self)
    let magic = try #require(page.rows(under: "Container header").first)
    #expect(magic[3] == "the bytes \(name)")
  }

  @Test func `the numbers of scratch files on the layout page are the code's`() throws {
    let name = String(
      decoding: (0..<8).map { UInt8(truncatingIfNeeded: ScratchLayout.magic >> (8 * $0)) },
      as: UTF8.self)
    let rows = page.rows(under: "Scratch head")
    #expect(rows.first?[3] == "the bytes \(name)")
    #expect(rows.dropFirst().first?[3] == "\(ScratchLayout.formatVersion)")
    let text = page.sections.first { $0.title == "Scratch head" }?.lines.joined(separator: " ")
    #expect(text?.contains("each block of \(ScratchLayout.blockByteCount) data bytes") == true)
    let bit = ScratchLayout.presentBit.trailingZeroBitCount
    #expect(text?.contains("bit \(bit) says") == true)
    #expect(text?.contains("a word of \(ScratchLayout.tableWordByteCount) bytes") == true)
    #expect(text?.contains("multiple of \(ScratchLayout.page)") == true)
  }

  @Test func `the limits of containers on the layout page are the code's`() throws {
    let rows = page.rows(under: "Container header")
    let note = try #require(rows.first { $0[0] == "note_byte_count" })
    #expect(note[3] == "at most \(ContainerLayout.noteByteLimit)")
    let digest = try #require(rows.first { $0[0] == "digest_byte_count" })
    #expect(digest[3] == "at most \(ContainerLayout.digestByteLimit)")
    let text = page.sections.first { $0.title == "Containers of the spool" }?.lines
      .joined(separator: " ")
    let sizes = ContainerLayout.segmentByteCounts
    #expect(text?.contains("from \(sizes.lowerBound) to \(sizes.upperBound)") == true)
    let stride = "stride = segment_byte_count + \(ContainerLayout.strideExtra)"
    #expect(text?.contains(stride) == true)
  }
}
