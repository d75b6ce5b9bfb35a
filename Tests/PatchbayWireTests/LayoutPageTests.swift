// The layout's page against the header: every offset and size of every table, and every constant of
// the header that names an offset.

import CPatchbayLayout
import PatchbayLayout
import PatchbayTestSupport
import PatchbayTypes
import Testing

@Suite struct LayoutPageTests {
  private let page: Page

  init() throws { page = try Page("Layout") }

  /// The header's names of offsets, with the row of the page that each stands for.
  private static let constants: [(name: String, value: Int, section: String, field: String)] = [
    ("PB_FRAME_MAGIC_AT", Int(PB_FRAME_MAGIC_AT), "Frame header", "magic"),
    ("PB_FRAME_VERSION_AT", Int(PB_FRAME_VERSION_AT), "Frame header", "version"),
    ("PB_FRAME_TYPE_AT", Int(PB_FRAME_TYPE_AT), "Frame header", "type"),
    ("PB_FRAME_BYTE_COUNT_AT", Int(PB_FRAME_BYTE_COUNT_AT), "Frame header", "byte_count"),
    ("PB_FRAME_FLAGS_AT", Int(PB_FRAME_FLAGS_AT), "Frame header", "flags"),
    ("PB_FRAME_REQUEST_AT", Int(PB_FRAME_REQUEST_AT), "Frame header", "request"),
    ("PB_RING_TAG_AT", Int(PB_RING_TAG_AT), "Ring header", "tag"),
    ("PB_RING_BASE_AT", Int(PB_RING_BASE_AT), "Ring header", "base"),
    ("PB_RING_INTENT_AT", Int(PB_RING_INTENT_AT), "Ring header", "intent"),
    ("PB_RING_FRONTIER_AT", Int(PB_RING_FRONTIER_AT), "Ring header", "frontier"),
    ("PB_RING_COVERED_BYTES_AT", Int(PB_RING_COVERED_BYTES_AT), "Ring header", "covered_bytes"),
    ("PB_RING_MARK_COUNT_AT", Int(PB_RING_MARK_COUNT_AT), "Ring header", "mark_count"),
    ("PB_RING_MARKS_AT", Int(PB_RING_MARKS_AT), "Ring header", "marks"),
    ("PB_BELL_WAITING_AT", Int(PB_BELL_WAITING_AT), "Bell", "waiting"),
    ("PB_BELL_SEQ_AT", Int(PB_BELL_SEQ_AT), "Bell", "seq"),
    ("PB_BELL_WAKES_AT", Int(PB_BELL_WAKES_AT), "Bell", "wakes"),
    ("PB_BELL_NEEDLESS_WAKES_AT", Int(PB_BELL_NEEDLESS_WAKES_AT), "Bell", "needless_wakes"),
    ("PB_BELL_RESCUED_WAITS_AT", Int(PB_BELL_RESCUED_WAITS_AT), "Bell", "rescued_waits"),
    ("PB_BELL_SPACE_AT", Int(PB_BELL_SPACE_AT), "Bell pair", "space"),
    ("PB_ENTRY_STATUS_AT", Int(PB_ENTRY_STATUS_AT), "Board entry", "status"),
    ("PB_ENTRY_BYTE_COUNT_AT", Int(PB_ENTRY_BYTE_COUNT_AT), "Board entry", "byte_count"),
    (
      "PB_ENTRY_EXTENT_VERSION_AT", Int(PB_ENTRY_EXTENT_VERSION_AT), "Board entry", "extent_version"
    ),
    (
      "PB_ENTRY_SUBSCRIPTION_VERSION_AT", Int(PB_ENTRY_SUBSCRIPTION_VERSION_AT), "Board entry",
      "subscription_version"
    ),
    ("PB_ENTRY_IS_PAUSED_AT", Int(PB_ENTRY_IS_PAUSED_AT), "Board entry", "is_paused"),
    ("PB_ENTRY_CAUSE_CODE_AT", Int(PB_ENTRY_CAUSE_CODE_AT), "Board entry", "cause_code"),
    (
      "PB_ENTRY_CAUSE_BYTE_COUNT_AT", Int(PB_ENTRY_CAUSE_BYTE_COUNT_AT), "Board entry",
      "cause_byte_count"
    ),
    ("PB_ENTRY_CAUSE_AT", Int(PB_ENTRY_CAUSE_AT), "Board entry", "cause"),
    ("PB_TABLE_VIEWS_AT", Int(PB_TABLE_VIEWS_AT), "Client table", "views"),
    ("PB_TABLE_POSITIONS_AT", Int(PB_TABLE_POSITIONS_AT), "Client table", "positions"),
    ("PB_VIEW_RING_ID_AT", Int(PB_VIEW_RING_ID_AT), "View entry", "ring_id"),
    ("PB_VIEW_USE_NUMBER_AT", Int(PB_VIEW_USE_NUMBER_AT), "View entry", "use_number"),
    (
      "PB_POSITION_GENERATION_AT", Int(PB_POSITION_GENERATION_AT), "Position entry", "generation"
    ),
    ("PB_POSITION_POSITION_AT", Int(PB_POSITION_POSITION_AT), "Position entry", "position"),
    ("PB_CHUNK_RECORDS_AT", Int(PB_CHUNK_RECORDS_AT), "Journal chunk", "records"),
    ("PB_CHUNK_BODIES_AT", Int(PB_CHUNK_BODIES_AT), "Journal chunk", "bodies"),
    ("PB_RECORD_CHECKSUM_AT", Int(PB_RECORD_CHECKSUM_AT), "Journal record", "checksum"),
    ("PB_RECORD_SEQUENCE_AT", Int(PB_RECORD_SEQUENCE_AT), "Journal record", "sequence"),
  ]

  private static func field<Record, Value>(
    _ section: String, _ name: String, _ path: KeyPath<Record, Value>
  ) -> (section: String, field: String, offset: Int, size: Int) {
    (section, name, MemoryLayout<Record>.offset(of: path) ?? -1, MemoryLayout<Value>.size)
  }

  /// Fields that no constant names, as the compiler lays them out.
  private static let fields: [(section: String, field: String, offset: Int, size: Int)] = [
    field("Ring header", "magic", \pb_ring_header.magic),
    field("Ring header", "layout_version", \pb_ring_header.layout_version),
    field("Ring header", "features", \pb_ring_header.features),
    field("Ring header", "instance", \pb_ring_header.instance),
    field("Ring header", "ring_id", \pb_ring_header.ring_id),
    field("Ring header", "data_byte_count", \pb_ring_header.data_byte_count),
    field("Ring header", "data_at", \pb_ring_header.data_at),
    field("Ring header", "tag", \pb_ring_header.tag),
    field("Ring header", "base", \pb_ring_header.base),
    field("Ring header", "intent", \pb_ring_header.intent),
    field("Ring header", "frontier", \pb_ring_header.frontier),
    field("Ring header", "covered_bytes", \pb_ring_header.covered_bytes),
    field("Ring header", "mark_count", \pb_ring_header.mark_count),
    field("Ring header", "marks", \pb_ring_header.marks),
    field("Board header", "magic", \pb_board_header.magic),
    field("Board header", "layout_version", \pb_board_header.layout_version),
    field("Board header", "entry_count", \pb_board_header.entry_count),
    field("Board header", "instance", \pb_board_header.instance),
    field("Board header", "board_id", \pb_board_header.board_id),
    field("Board entry", "status", \pb_board_entry.status),
    field("Board entry", "byte_count", \pb_board_entry.byte_count),
    field("Board entry", "extent_version", \pb_board_entry.extent_version),
    field("Board entry", "subscription_version", \pb_board_entry.subscription_version),
    field("Board entry", "cause_code", \pb_board_entry.cause_code),
    field("Board entry", "cause_byte_count", \pb_board_entry.cause_byte_count),
    field("Board entry", "cause", \pb_board_entry.cause),
    field("Bell", "waiting", \pb_bell.waiting),
    field("Bell", "seq", \pb_bell.seq),
    field("Bell", "wakes", \pb_bell.wakes),
    field("Bell", "needless_wakes", \pb_bell.needless_wakes),
    field("Bell", "rescued_waits", \pb_bell.rescued_waits),
    field("Bell pair", "bytes", \pb_bell_pair.bytes),
    field("Bell pair", "space", \pb_bell_pair.space),
    field("Client table", "magic", \pb_client_table.magic),
    field("Client table", "layout_version", \pb_client_table.layout_version),
    field("Client table", "reserved", \pb_client_table.reserved),
    field("Client table", "client_id", \pb_client_table.client_id),
    field("Client table", "views", \pb_client_table.views),
    field("Client table", "positions", \pb_client_table.positions),
    field("View entry", "ring_id", \pb_view_entry.ring_id),
    field("View entry", "use_number", \pb_view_entry.use_number),
    field("Position entry", "generation", \pb_position_entry.generation),
    field("Position entry", "position", \pb_position_entry.position),
    field("Journal header", "magic", \pb_journal_header.magic),
    field("Journal header", "layout_version", \pb_journal_header.layout_version),
    field("Journal header", "chunk_index", \pb_journal_header.chunk_index),
    field("Journal header", "instance", \pb_journal_header.instance),
    field("Journal record", "checksum", \pb_journal_record.checksum),
    field("Journal record", "sequence", \pb_journal_record.sequence),
    field("Journal record", "kind", \pb_journal_record.kind),
    field("Journal record", "body_chunk", \pb_journal_record.body_chunk),
    field("Journal record", "body_granule", \pb_journal_record.body_granule),
    field("Journal record", "body_byte_count", \pb_journal_record.body_byte_count),
    field("Journal record", "body_checksum", \pb_journal_record.body_checksum),
    field("Journal record", "identity", \pb_journal_record.identity),
    field("Journal record", "state", \pb_journal_record.state),
    field("Journal record", "policy", \pb_journal_record.policy),
    field("Journal record", "acknowledgement", \pb_journal_record.acknowledgement),
    field("Journal record", "order", \pb_journal_record.order),
    field("Journal record", "flags", \pb_journal_record.flags),
    field("Journal record", "uid", \pb_journal_record.uid),
    field("Journal record", "gid", \pb_journal_record.gid),
    field("Journal record", "mode", \pb_journal_record.mode),
    field("Journal record", "epoch", \pb_journal_record.epoch),
    field("Journal record", "byte_count", \pb_journal_record.byte_count),
    field("Journal record", "first_extent", \pb_journal_record.first_extent),
    field("Journal record", "extent_limit", \pb_journal_record.extent_limit),
    field("Journal record", "created", \pb_journal_record.created),
    field("Journal record", "modified", \pb_journal_record.modified),
    field("Journal record", "last_read", \pb_journal_record.last_read),
    field("Journal record", "token", \pb_journal_record.token),
    field("Journal record", "request", \pb_journal_record.request),
    field("Journal record", "pid", \pb_journal_record.pid),
    field("Journal record", "hand_over_phase", \pb_journal_record.hand_over_phase),
    field("Journal record", "start_time", \pb_journal_record.start_time),
    field("Journal record", "next_generation", \pb_journal_record.next_generation),
    field("Journal record", "next_ring", \pb_journal_record.next_ring),
    field("Journal record", "next_client", \pb_journal_record.next_client),
    field("Journal record", "digest", \pb_journal_record.digest),
    field("Journal record", "digest_kind", \pb_journal_record.digest_kind),
    field("Journal record", "segment", \pb_journal_record.segment),
    field("Frame header", "magic", \pb_frame_header.magic),
    field("Frame header", "version", \pb_frame_header.version),
    field("Frame header", "type", \pb_frame_header.type),
    field("Frame header", "byte_count", \pb_frame_header.byte_count),
    field("Frame header", "flags", \pb_frame_header.flags),
    field("Frame header", "request", \pb_frame_header.request),
  ]

  /// Each table of the page, and the bytes of the record that it shows whole.
  private static let records: [(section: String, byteCount: Int)] = [
    ("Ring header", Int(PB_RING_HEADER_BYTES)), ("Board header", Int(PB_BOARD_HEADER_BYTES)),
    ("Board entry", Int(PB_ENTRY_BYTES)), ("Bell", MemoryLayout<pb_bell>.size),
    ("Bell pair", Int(PB_BELL_PAIR_BYTES)),
    ("Client table", Int(PB_TABLE_BYTES)), ("View entry", Int(PB_VIEW_BYTES)),
    ("Position entry", Int(PB_POSITION_BYTES)),
    ("Journal chunk", Int(PB_CHUNK_BYTES)), ("Journal header", Int(PB_JOURNAL_HEADER_BYTES)),
    ("Journal record", Int(PB_RECORD_BYTES)), ("Frame header", Int(PB_FRAME_HEADER_BYTES)),
  ]

  /// The row of a field. Of two sections with one title, the one with a table counts.
  private func line(_ section: String, _ field: String) -> [String]? {
    rows(section).first { $0[0] == field }
  }

  private func rows(_ section: String) -> [[String]] {
    page.sections.filter { $0.title == section }.map { Page.rows($0.lines) }
      .first { !$0.isEmpty } ?? []
  }

  @Test func `every offset in the layout page is the header's`() throws {
    for constant in Self.constants {
      let row = try #require(line(constant.section, constant.field), "\(constant.name) has no row")
      #expect(row[1] == "\(constant.value)", "\(constant.name)")
    }
    for field in Self.fields {
      let row = try #require(line(field.section, field.field), "\(field.field) has no row")
      #expect([row[1], row[2]] == ["\(field.offset)", "\(field.size)"], "\(field)")
    }
    let known = Set(Self.fields.map { "\($0.section) \($0.field)" })
      .union(Self.constants.map { "\($0.section) \($0.field)" })
    for record in Self.records {
      for row in rows(record.section) where row[0] != "padding" && row[0] != "header" {
        #expect(known.contains("\(record.section) \(row[0])"), "the page invents \(row[0])")
      }
    }
  }

  @Test func `every table of the layout page shows its record whole`() throws {
    for record in Self.records {
      var next = 0
      for row in rows(record.section) {
        #expect(row[1] == "\(next)", "\(record.section) \(row[0])")
        next += try #require(Int(row[2]))
      }
      #expect(next == record.byteCount, "\(record.section)")
    }
  }

  @Test func `every name of an offset in the header is compared`() throws {
    let root = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3)
    let path = (root + ["Sources", "CPatchbayLayout", "include", "patchbay_layout.h"])
      .joined(separator: "/")
    let text = try readFile(path)
    let words = text.split { !($0.isLetter || $0.isNumber || $0 == "_") }
    let names = Set(words.filter { $0.hasPrefix("PB_") && $0.hasSuffix("_AT") }.map(String.init))
    #expect(names == Set(Self.constants.map(\.name)))
  }

  @Test func `the magic numbers of the page are the header's`() {
    for (section, magic) in [
      ("Ring header", PB_RING_MAGIC), ("Board header", PB_BOARD_MAGIC),
      ("Board header", PB_BELLS_MAGIC),
      ("Client table", PB_TABLE_MAGIC), ("Journal header", PB_JOURNAL_MAGIC),
    ] {
      let text = String(
        decoding: (0..<8).map { UInt8(truncatingIfNeeded: UInt64(magic) >> (8 * $0)) },
        as: UTF8.self)
      let row = line(section, "magic") ?? []
      #expect(row.contains { $0.contains(text) }, "\(section) \(text)")
    }
  }

  @Test func `the geometries that the page computes are the code's`() throws {
    let rows = page.rows(under: "Ring geometry")
    #expect(rows.count == 6)
    for row in rows {
      let geometry = try RingGeometry(
        dataByteCount: try #require(Int(row[0])), hasMap: row[1] == "yes")
      for level in [4, 3, 2] {
        let offset = level < geometry.levelOffsets.count ? "\(geometry.levelOffsets[level])" : ""
        #expect(row[6 - level] == offset)
      }
      #expect(row[5] == (geometry.hasMap ? "\(geometry.touchedOffset)" : ""))
      #expect(row[6] == (geometry.hasMap ? "\(geometry.levelOffsets[1])" : ""))
      #expect(row[7] == (geometry.hasMap ? "\(geometry.levelOffsets[0])" : ""))
      #expect(row[8...] == ["\(geometry.dataOffset)", "\(geometry.objectByteCount)"])
    }
  }

  @Test func `the extents and wake classes that the page computes are the code's`() throws {
    let extents = page.rows(under: "Extent plan")
    #expect(extents.count == 7)
    for row in extents {
      let numbers = row.compactMap { Int($0) }
      let plan = try ExtentPlan(first: numbers[0], limit: numbers[1])
      #expect(plan.range(of: numbers[2]) == numbers[3]..<numbers[3] + numbers[4])
    }
    let classes = page.rows(under: "Wake classes")
    #expect(classes.count == 6)
    for row in classes {
      let numbers = row.compactMap { Int($0) }
      let wakeClasses = WakeClasses(forByteCount: numbers[0] < 0 ? nil : numbers[0])
      #expect(Int(wakeClasses.shift) == numbers[1])
      #expect(1 << numbers[1] == numbers[2])
    }
  }
}
