// Messages to bytes and back: the exact bytes, the bounds, and what becomes of bytes that are wrong.

import CPatchbayLayout
import PatchbayTestSupport
import PatchbayTypes
import PatchbayWire
import Testing

/// The bytes that a text of hexadecimal digits and white space stands for.
func bytes(ofHex text: String) -> [UInt8] {
  let digits = text.compactMap(\.hexDigitValue)
  return stride(from: 0, to: digits.count - 1, by: 2).map {
    UInt8(digits[$0] << 4 | digits[$0 + 1])
  }
}

func hex(_ bytes: [UInt8]) -> String {
  bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}

func decodeRequest(_ packet: [UInt8]) throws(PatchbayError) -> Request {
  try Frame(parsing: packet).decodeRequest(packet)
}

func decodeReply(_ packet: [UInt8]) throws(PatchbayError) -> Reply {
  try Frame(parsing: packet).decodeReply(packet)
}

/// The packet with the length in its header made true.
func relabelled(_ packet: [UInt8]) -> [UInt8] {
  var packet = packet
  for index in 0..<4 {
    packet[Int(PB_FRAME_BYTE_COUNT_AT) + index] = UInt8(
      truncatingIfNeeded: packet.count >> (8 * index))
  }
  return packet
}

private let allRequests = (Golden.requests + Extreme.requests).map {
  Frame.encode($0.message, request: $0.number)
}
private let allReplies = (Golden.replies + Extreme.replies).map {
  Frame.encode($0.message, request: $0.number)
}

/// The code that decoding ends with; nil when it succeeds.
private func refusal(_ body: () throws(PatchbayError) -> Void) -> PatchbayError.Code? {
  do throws(PatchbayError) {
    try body()
    return nil
  } catch {
    return error.code
  }
}

@Suite struct GoldenTests {
  @Test(arguments: Golden.requests)
  func `a request has the golden bytes, and they decode to it`(_ sample: Sample<Request>) throws {
    let golden = bytes(ofHex: try #require(GoldenBytes.requests[sample.name]))
    #expect(hex(Frame.encode(sample.message, request: sample.number)) == hex(golden))
    let frame = try Frame(parsing: golden)
    #expect(frame.request == sample.number)
    #expect(try frame.decodeRequest(golden) == sample.message)
  }

  @Test(arguments: Golden.replies)
  func `a reply has the golden bytes, and they decode to it`(_ sample: Sample<Reply>) throws {
    let golden = bytes(ofHex: try #require(GoldenBytes.replies[sample.name]))
    #expect(hex(Frame.encode(sample.message, request: sample.number)) == hex(golden))
    let frame = try Frame(parsing: golden)
    #expect(frame.request == sample.number)
    #expect(try frame.decodeReply(golden) == sample.message)
  }

  @Test func `every kind of message has golden bytes, and no golden bytes lack a message`() {
    #expect(Set(Golden.requests.map(\.message.kind)) == Set(Request.Kind.allCases))
    #expect(Set(Golden.replies.map(\.message.kind)) == Set(Reply.Kind.allCases))
    #expect(Set(Golden.requests.map(\.name)) == Set(GoldenBytes.requests.keys))
    #expect(Set(Golden.replies.map(\.name)) == Set(GoldenBytes.replies.keys))
  }
}

@Suite struct RoundTripTests {
  @Test(arguments: Extreme.requests)
  func `a request at the bounds of its fields comes back as it was`(
    _ sample: Sample<Request>
  ) throws {
    let packet = Frame.encode(sample.message, request: sample.number)
    #expect(packet.count <= Frame.byteLimit)
    #expect(try Frame(parsing: packet).request == sample.number)
    #expect(try decodeRequest(packet) == sample.message)
  }

  @Test(arguments: Extreme.replies)
  func `a reply at the bounds of its fields comes back as it was`(_ sample: Sample<Reply>) throws {
    let packet = Frame.encode(sample.message, request: sample.number)
    #expect(packet.count <= Frame.byteLimit)
    #expect(try Frame(parsing: packet).request == sample.number)
    #expect(try decodeReply(packet) == sample.message)
  }

  @Test func `every kind of message is tried at its bounds`() {
    #expect(Set(Extreme.requests.map(\.message.kind)) == Set(Request.Kind.allCases))
    #expect(Set(Extreme.replies.map(\.message.kind)) == Set(Reply.Kind.allCases))
  }

  @Test func `an error's texts are cut at a character, not refused, when they are too long`() throws
  {
    let long = String(repeating: "ü", count: WireLimit.message)
    let packet = Frame.encode(
      .failure(PatchbayError(.blobFailed, long, cause: "x" + long)), request: 1)
    guard case .failure(let error) = try decodeReply(packet) else {
      Issue.record("a failure became something else")
      return
    }
    #expect(error.message == String(repeating: "ü", count: WireLimit.message / 2))
    #expect(error.cause == "x" + String(repeating: "ü", count: WireLimit.cause / 2 - 1))
  }
}

@Suite struct DamagedMessageTests {
  /// Every length of a short message, and many of a long one.
  private func cuts(_ packet: [UInt8]) -> [Int] {
    packet.indices.filter { $0 < 512 || $0 % 61 == 0 || $0 + 64 > packet.count }
  }

  /// Decodes a message cut short, once as it came and once with its header's length made true.
  private func checkCuts(
    _ packet: [UInt8], _ decode: ([UInt8]) throws(PatchbayError) -> Void
  ) {
    for count in cuts(packet) {
      let cut = Array(packet.prefix(count))
      let code = refusal { () throws(PatchbayError) in try decode(cut) }
      if code != .protocolViolation { Issue.record("cut at \(count): \(code as Any)") }
      guard count >= Frame.headerByteCount else { continue }
      let honest = refusal { () throws(PatchbayError) in try decode(relabelled(cut)) }
      if honest != .protocolViolation && honest != .invalidKey {
        Issue.record("honestly cut at \(count): \(honest as Any)")
      }
    }
  }

  @Test func `a message that ends too early is refused, at every length`() {
    for packet in allRequests {
      checkCuts(packet) { (cut) throws(PatchbayError) in _ = try decodeRequest(cut) }
    }
    for packet in allReplies {
      checkCuts(packet) { (cut) throws(PatchbayError) in _ = try decodeReply(cut) }
    }
  }

  @Test func `a byte after the last field is refused`() {
    for packet in allRequests {
      let code = refusal { () throws(PatchbayError) in
        _ = try decodeRequest(relabelled(packet + [0]))
      }
      #expect(code == .protocolViolation)
    }
    for packet in allReplies {
      let code = refusal { () throws(PatchbayError) in
        _ = try decodeReply(relabelled(packet + [0]))
      }
      #expect(code == .protocolViolation)
    }
  }

  /// Calls `check` with each packet that differs from a golden one in one byte, all 255 ways.
  private func forEachChange(_ packet: [UInt8], _ check: ([UInt8]) -> Void) {
    var changed = packet
    for index in packet.indices {
      for change in 1...UInt8.max {
        changed[index] = packet[index] ^ change
        check(changed)
      }
      changed[index] = packet[index]
    }
  }

  @Test func `no change of a single byte traps, and what still decodes has exactly those bytes`() {
    for sample in Golden.requests {
      forEachChange(Frame.encode(sample.message, request: sample.number)) { changed in
        guard let frame = try? Frame(parsing: changed),
          let message = try? frame.decodeRequest(changed)
        else { return }
        if Frame.encode(message, request: frame.request) != changed {
          Issue.record("\(sample.name) decodes, but means other bytes than \(hex(changed))")
        }
      }
    }
    for sample in Golden.replies {
      forEachChange(Frame.encode(sample.message, request: sample.number)) { changed in
        guard let frame = try? Frame(parsing: changed),
          let message = try? frame.decodeReply(changed)
        else { return }
        // A refusal is readable in every version.
        if Frame.encode(message, request: frame.request, version: frame.version) != changed {
          Issue.record("\(sample.name) decodes, but means other bytes than \(hex(changed))")
        }
      }
    }
  }

  @Test func `random bytes under a good header never trap`() {
    var random = SeededRandom(seed: 0x5eed)
    for turn in 0..<5_000 {
      var packet = Frame.encode(.ping, request: UInt64(turn) + 1)
      let count = Int.random(in: 0...96, using: &random)
      packet += (0..<count).map { _ in
        Bool.random(using: &random) ? 0 : UInt8.random(in: .min ... .max, using: &random)
      }
      packet[Int(PB_FRAME_TYPE_AT)] = UInt8.random(in: 0...40, using: &random)
      packet[Int(PB_FRAME_TYPE_AT) + 1] = UInt8.random(in: 0...1, using: &random)
      _ = try? decodeRequest(relabelled(packet))
      _ = try? decodeReply(relabelled(packet))
    }
  }
}

@Suite struct BoundTests {
  private func body(_ put: (inout WireWriter) -> Void) -> WireReader {
    var writer = WireWriter()
    put(&writer)
    return WireReader(writer.bytes[...])
  }

  @Test(arguments: [UInt32.max, 1 << 31, 1 << 24, 65537])
  func `a count beyond what is left is refused before anything is reserved`(_ count: UInt32) {
    var block = body { $0.put(count) }
    #expect(
      refusal { () throws(PatchbayError) in _ = try block.takeBlock(atMost: .max, "x") }
        == .protocolViolation)
    // The list's entries are taken one by one; the first that is not there ends it.
    var taken = 0
    var list = body { writer in
      writer.put(count)
      writer.put(7 as UInt8)
    }
    let code = refusal { () throws(PatchbayError) in
      _ = try list.takeList(atMost: .max, "x") { (reader) throws(PatchbayError) -> UInt8 in
        taken += 1
        return try reader.take()
      }
    }
    #expect(code == .protocolViolation)
    #expect(taken == 2)
  }

  @Test func `a count above a field's limit is refused although the bytes are there`() {
    func check(_ request: Request, sourceLocation: SourceLocation = #_sourceLocation) {
      let packet = Frame.encode(request, request: 1)
      #expect(packet.count <= Frame.byteLimit, sourceLocation: sourceLocation)
      #expect(
        refusal { () throws(PatchbayError) in _ = try decodeRequest(packet) } == .protocolViolation,
        sourceLocation: sourceLocation)
    }
    func text(_ count: Int) -> String { String(repeating: "x", count: count) }
    let reference = BlobReference(generation: Generation(rawValue: 1), epoch: 1)
    let prefix = [UInt8](repeating: 1, count: 1025)
    check(.watch(WatchRequest(prefix: prefix, after: nil, wantsProgress: true)))
    check(.hello(Hello(oldestVersion: 1, newestVersion: 1, token: .none, name: text(65))))
    check(.fail(FailRequest(blob: reference, cause: text(1025))))
    check(.list(ListRequest(prefix: [UInt8](repeating: 1, count: 1025), after: [], limit: 1)))
    check(.list(ListRequest(prefix: [], after: [UInt8](repeating: 1, count: 1025), limit: 1)))
    for index in [Int(UInt32.max), .max] {
      check(.grow(GrowRequest(blob: reference, index: index)))
      check(.attachExtent(ExtentRequest(generation: Generation(rawValue: 1), index: index)))
    }
    var create = CreateRequest(key: "k")
    create.type = text(256)
    check(.create(create))
    create.type = ""
    create.inlineBytes = [UInt8](repeating: 1, count: Frame.inlineByteLimit + 1)
    check(.create(create))
    create.inlineBytes = nil
    create.labels = [BlobInfo.Label](repeating: BlobInfo.Label(name: "", value: ""), count: 33)
    check(.create(create))
    create.labels = [BlobInfo.Label(name: text(256), value: "")]
    check(.create(create))
    create.labels = [BlobInfo.Label(name: "", value: text(256))]
    check(.create(create))
    create.labels = []
    create.byteCount = ExtentPlan.positionLimit + 1
    check(.create(create))
    create.byteCount = -2
    check(.create(create))
    create.byteCount = nil
    create.firstExtent = -1
    check(.create(create))
    create.firstExtent = 0
    create.extentLimit = ExtentPlan.positionLimit + 1
    check(.create(create))
  }

  @Test(arguments: [0, 1025, 4000])
  func `a key of a wrong length is an invalid key, not a breach of the protocol`(_ count: Int) {
    var writer = WireWriter()
    writer.put([UInt8](repeating: 1, count: count))
    let packet = relabelled(
      Frame.encode(.info(InfoRequest(key: "k")), request: 1).prefix(Frame.headerByteCount)
        + writer.bytes)
    #expect(refusal { () throws(PatchbayError) in _ = try decodeRequest(packet) } == .invalidKey)
  }

  @Test func `the outcome of a fetch is one of three, and only the failed one has a cause`() {
    let blob = BlobReference(generation: Generation(rawValue: 1), epoch: 1)
    let settled = SettleDemandRequest(blob: blob, range: 0..<4096, outcome: .fetched)
    let whole = Frame.encode(.settleDemand(settled), request: 1)
    // The last five bytes are the outcome's number and the length of an empty cause.
    let before = whole.dropLast(5)
    for number in UInt8.min...UInt8.max {
      for cause in ["", "no route"] {
        var writer = WireWriter()
        writer.put(number)
        writer.put(cause)
        let packet = relabelled(before + writer.bytes)
        let code = refusal { () throws(PatchbayError) in _ = try decodeRequest(packet) }
        let isFine = number == 1 || number < 3 && cause.isEmpty
        #expect(code == (isFine ? nil : .protocolViolation), "\(number), \(cause)")
      }
    }
  }

  @Test func `a yes-or-no field is 0 or 1 and nothing else`() {
    for value in UInt8.min...UInt8.max {
      var reader = body { $0.put(value) }
      let code = refusal { () throws(PatchbayError) in _ = try reader.takeFlag() }
      #expect(code == (value < 2 ? nil : .protocolViolation))
    }
  }

  @Test func `a position is 0 to the position limit, and only an optional one may be -1`() {
    let top = Int64(ExtentPlan.positionLimit)
    for (number, isPosition, isOptional) in [
      (0, true, true), (top, true, true), (top + 1, false, false), (-1, false, true),
      (-2, false, false), (.min, false, false), (.max, false, false),
    ] {
      var plain = body { $0.put(number) }
      #expect((try? plain.takePosition("x")) == (isPosition ? Int(number) : nil))
      var optional = body { $0.put(number) }
      let code = refusal { () throws(PatchbayError) in _ = try optional.takeOptionalPosition("x") }
      #expect((code == nil) == isOptional)
    }
  }

  @Test func `a text that is not UTF-8 is refused`() {
    for wrong: [UInt8] in [
      [0xff], [0xc3], [0xed, 0xa0, 0x80], [0xc0, 0x80], [0xf5, 0x80, 0x80, 0x80],
    ] {
      var reader = body { $0.put(wrong) }
      #expect(
        refusal { () throws(PatchbayError) in _ = try reader.takeText(atMost: 64, "x") }
          == .protocolViolation)
    }
  }
}

@Suite struct FrameTests {
  private let ping = Frame.encode(.ping, request: 1)

  private func changed(_ offset: Int32, _ value: UInt8) -> [UInt8] {
    var packet = ping
    packet[Int(offset)] = value
    return packet
  }

  @Test func `a header with another magic number, length or flag is refused`() {
    for offset in [PB_FRAME_MAGIC_AT, PB_FRAME_BYTE_COUNT_AT, PB_FRAME_FLAGS_AT] {
      let packet = changed(Int32(offset), 0x77)
      #expect(
        refusal { () throws(PatchbayError) in _ = try Frame(parsing: packet) }
          == .protocolViolation)
    }
  }

  @Test func `another version is refused as such, except for the reply that says so`() throws {
    let packet = changed(Int32(PB_FRAME_VERSION_AT), 2)
    #expect(
      refusal { () throws(PatchbayError) in _ = try decodeRequest(packet) } == .versionMismatch)
    let refused = Reply.failure(PatchbayError(.versionMismatch, "No."))
    let failure = Frame.encode(refused, request: 1, version: 9)
    #expect(try decodeReply(failure) == refused)
    let pong = Frame.encode(.pong, request: 1, version: 9)
    #expect(refusal { () throws(PatchbayError) in _ = try decodeReply(pong) } == .versionMismatch)
  }

  @Test func `a number of no message is refused, and requests are no replies`() {
    let requests = Set(Request.Kind.allCases.map(\.rawValue))
    let replies = Set(Reply.Kind.allCases.map(\.rawValue))
    #expect(requests.isDisjoint(with: replies))
    for type in 0..<UInt16(512) {
      var packet = ping
      packet[Int(PB_FRAME_TYPE_AT)] = UInt8(truncatingIfNeeded: type)
      packet[Int(PB_FRAME_TYPE_AT) + 1] = UInt8(truncatingIfNeeded: type >> 8)
      if !requests.contains(type) {
        #expect(
          refusal { () throws(PatchbayError) in _ = try decodeRequest(packet) }
            == .protocolViolation)
      }
      if !replies.contains(type) {
        #expect(
          refusal { () throws(PatchbayError) in _ = try decodeReply(packet) }
            == .protocolViolation)
      }
    }
  }
}
