// The protocol's page against the code: its numbers, its limits, its examples, and its tables of
// fields, by which every golden message is walked from the first byte of its body to the last.

import CPatchbayLayout
import PatchbayTypes
import PatchbayWire
import Testing

/// Walks bodies by the tables of the page, knowing nothing of the code.
private struct TableWalker {
  private let page: Page
  private var rest: ArraySlice<UInt8>
  /// Field names in the order in which they were met.
  private(set) var names: [String] = []

  init(_ page: Page, _ body: ArraySlice<UInt8>) {
    self.page = page
    rest = body
  }

  var isAtEnd: Bool { rest.isEmpty }

  private mutating func skip(_ count: Int) throws {
    try #require(rest.count >= count, "the page's fields go behind the message's end")
    rest = rest.dropFirst(count)
  }

  private mutating func number(_ byteCount: Int) throws -> UInt64 {
    let bytes = rest.prefix(byteCount)
    try skip(byteCount)
    return bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
  }

  /// Walks the fields of a table.
  mutating func walk(_ title: String) throws {
    for row in page.rows(under: title) {
      names.append(row[0])
      try walk(type: row[1], bounds: row[2])
    }
  }

  private mutating func walk(type: String, bounds: String) throws {
    switch type {
    case "u8": try skip(1)
    case "u16": try skip(2)
    case "u32", "i32", "index": try skip(4)
    case "u64", "i64", "position", "position or -1": try skip(8)
    case "flag": #expect(try number(1) <= 1)
    case "bytes", "text", "key":
      let count = Int(try number(4))
      #expect(count <= (type == "key" ? BlobKey.byteLimit : Int(bounds) ?? -1))
      try skip(count)
    case _ where type.hasPrefix("optional "):
      if try number(1) == 1 { try walk(type: String(type.dropFirst(9)), bounds: bounds) }
    case _ where type.hasPrefix("list of "):
      let count = Int(try number(4))
      #expect(count <= Int(bounds) ?? -1)
      for _ in 0..<count { try walk(type: String(type.dropFirst(8)), bounds: "") }
    default:
      try #require(!page.rows(under: "Structure \(type)").isEmpty, "no structure \(type)")
      try walk("Structure \(type)")
    }
  }
}

@Suite struct ProtocolPageTests {
  private let page: Page

  init() throws { page = try Page("ControlProtocol") }

  /// Number and name of each section of a message, such as "3 grow".
  private func numbered(_ range: Range<UInt16>) -> [String] {
    page.sections.map(\.title).filter { title in
      let words = title.split(separator: " ")
      return words.count == 2 && UInt16(words[0]).map(range.contains) == true
    }
  }

  @Test func `every message number and field list in the protocol page is the code's`() throws {
    let requests = Request.Kind.allCases.map { "\($0.rawValue) \($0)" }
    let replies = Reply.Kind.allCases.map { "\($0.rawValue) \($0)" }
    #expect(numbered(1..<256) == requests)
    #expect(numbered(256..<1024) == replies)
    #expect(page.rows(under: "Requests").map { "\($0[0]) \($0[1])" } == requests)
    #expect(page.rows(under: "Replies").map { "\($0[0]) \($0[1])" } == replies)
    for sample in Golden.requests + Extreme.requests {
      let kind = sample.message.kind
      try walk(Frame.encode(sample.message, request: 1), "\(kind.rawValue) \(kind)", sample.name)
    }
    for sample in Golden.replies + Extreme.replies {
      let kind = sample.message.kind
      try walk(Frame.encode(sample.message, request: 1), "\(kind.rawValue) \(kind)", sample.name)
    }
  }

  private func walk(_ packet: [UInt8], _ title: String, _ name: String) throws {
    var walker = TableWalker(page, packet[Frame.headerByteCount...])
    try walker.walk(title)
    #expect(walker.isAtEnd, "\(name) goes on behind the fields of the page")
  }

  @Test func `the reply that the page names for each request is a reply`() {
    let replies = Set(Reply.Kind.allCases.map { "\($0)" })
    #expect(page.rows(under: "Requests").allSatisfy { replies.contains($0[3]) })
  }

  @Test func `the counters of the page are the broker's, in the order of the wire`() {
    let names = page.rows(under: "265 statistics").map { $0[0] }
    #expect(names == BrokerStatistics.counters.map(\.name) + ["uptime"])
  }

  @Test func `every error code of the page is the code's`() {
    let rows = page.rows(under: "Error codes")
    let codes = (1...UInt16(rows.count)).map { PatchbayError.Code(rawValue: $0) }
    #expect(rows.map { "\($0[0]) \($0[1])" } == codes.map { "\($0.rawValue) \($0)" })
    let next = PatchbayError.Code(rawValue: UInt16(rows.count) + 1)
    #expect(next.description == "code\(next.rawValue)", "the page lacks a code")
  }

  @Test func `the numbers of the terms are the code's`() {
    func shown<Term: CaseIterable & RawRepresentable>(_: Term.Type) -> String
    where Term.RawValue == UInt8 {
      Term.allCases.map { "\($0.rawValue) \($0)" }.joined(separator: ", ")
    }
    #expect(
      page.rows(under: "Numbers of the terms") == [
        ["state", shown(BlobState.self)], ["order", shown(WriteOrder.self)],
        ["policy", shown(FlowPolicy.self)], ["acknowledgement", shown(Acknowledgement.self)],
        ["ownership", shown(Ownership.self)],
        ["whenUnread", shown(UnreadPolicy.self)],
        ["algorithm", shown(ContentDigest.Algorithm.self)],
        ["change", shown(BlobChange.Kind.self)], ["want", shown(BlobSituation.Want.self)],
      ])
  }

  @Test func `every limit of the page is the code's`() {
    let limits: [(String, Int)] = [
      ("bytes of a packet", Frame.byteLimit),
      ("descriptors on a message", Int(PB_DESCRIPTOR_LIMIT)),
      ("bytes of an inline blob", Frame.inlineByteLimit), ("bytes of a key", BlobKey.byteLimit),
      ("bytes of a client's name", WireLimit.name), ("bytes of a media type", WireLimit.type),
      ("bytes of a label's name or value", WireLimit.labelPart),
      ("labels of a blob", WireLimit.labelCount), ("bytes of a cause", WireLimit.cause),
      ("bytes of an error's message", WireLimit.message),
      ("missing ranges in a failure", WireLimit.missing),
      ("entries of a page", WireLimit.pageEntries),
      ("sequential subscribers of a window", WireLimit.subscriptions),
      ("changes in a message", WireLimit.pageChanges),
      ("parties in an answer to why", WireLimit.parties),
      ("bytes of a digest", WireLimit.digest),
      ("highest position", ExtentPlan.positionLimit),
    ]
    #expect(page.rows(under: "Limits") == limits.map { [$0.0, "\($0.1)"] })
    #expect(BlobKey.byteLimit == Int(PB_KEY_LIMIT))
    #expect(Frame.byteLimit == Int(PB_FRAME_LIMIT))
  }

  @Test func `the header of the page is the layout's`() {
    let offsets = [
      PB_FRAME_MAGIC_AT, PB_FRAME_VERSION_AT, PB_FRAME_TYPE_AT, PB_FRAME_BYTE_COUNT_AT,
      PB_FRAME_FLAGS_AT, PB_FRAME_REQUEST_AT,
    ]
    #expect(page.rows(under: "Header").map { $0[1] } == offsets.map { "\($0)" })
  }

  @Test(arguments: [
    ("Saying hello", "hello", "welcome"),
    ("Publishing inline", "create, inline", "created, inline"),
    ("Opening a sealed blob", "open", "opened"),
  ])
  func `the worked example is what the code sends`(
    _ title: String, _ request: String, _ reply: String
  ) throws {
    let dumps = page.dump(under: title).map(hex)
    #expect(
      dumps == [
        hex(bytes(ofHex: try #require(GoldenBytes.requests[request]))),
        hex(bytes(ofHex: try #require(GoldenBytes.replies[reply]))),
      ])
  }
}
