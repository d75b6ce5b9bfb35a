// Verifies a whole container, whatever it holds: every byte of every segment is read and checked.
// Holes are passed by, so that a file takes as long as its bytes, not as long as its length.

import PatchbaySystem
import PatchbayTypes

/// What was found in a container.
package struct ContainerReport: Sendable, Hashable {
  /// The newest whole header, or why there is none; then nothing else could be looked at.
  package let header: Result<ContainerHeader, PatchbayError>
  /// Copies of the header that are neither whole nor unwritten.
  package fileprivate(set) var damagedCopyCount = 0
  /// Segments of the blob; while its length is unknown, those that the file has room for.
  package fileprivate(set) var segmentCount = 0
  package fileprivate(set) var presentCount = 0
  package fileprivate(set) var missingCount = 0
  package fileprivate(set) var corruptCount = 0
  /// The first few of them.
  package fileprivate(set) var missing: [Int] = []
  /// The first few of them, and what is wrong with each.
  package fileprivate(set) var corrupt: [Int: String] = [:]
  /// Verified bytes of the blob.
  package fileprivate(set) var verifiedByteCount = 0
  /// The file's length, holes included.
  package let fileByteCount: Int
  /// What it takes on disk.
  package let allocatedByteCount: Int
  /// What is wrong between the segments, the first few: no byte of the blob is lost by it, but `lz4`
  /// stumbles.
  package fileprivate(set) var framing: [String] = []

  /// How many indices and reasons are kept.
  package static let listLimit = 8

  /// Whether nothing is damaged. Segments may be missing.
  package var isSound: Bool {
    guard case .success = header else { return false }
    return corruptCount == 0 && framing.isEmpty && damagedCopyCount == 0
  }
  /// Whether the blob's length is known and all its bytes are there.
  package var isComplete: Bool {
    guard case .success(let header) = header else { return false }
    return header.byteCount == verifiedByteCount && corruptCount == 0
  }
}

/// Verifies containers.
package enum ContainerScan {
  /// Verifies a file of a directory, changing nothing. Blocks while it reads all of it.
  /// - Parameters:
  ///   - onContent: given the verified bytes of each segment, in order.
  ///   - onProgress: told behind each segment how much of the file, holes included, is done.
  /// - Throws: `inputOutput`, `notPermitted` when it cannot be opened or is no regular file.
  package static func scan(
    in directory: borrowing Descriptor, name: String,
    onContent: (ContainerHeader, [UInt8]) -> Void = { _, _ in },
    onProgress: (Int) -> Void = { _ in }
  ) throws(PatchbayError) -> ContainerReport {
    try scan(
      try DiskFile.open(in: directory, name: name, isWritable: false), onContent: onContent,
      onProgress: onProgress)
  }

  /// Verifies an open file.
  package static func scan(
    _ file: consuming Descriptor, onContent: (ContainerHeader, [UInt8]) -> Void = { _, _ in },
    onProgress: (Int) -> Void = { _ in }
  ) throws(PatchbayError) -> ContainerReport {
    let facts = try DiskFile.facts(of: file)
    let area = try ContainerArea.read(file)
    let headers: ContainerHeaders
    do throws(PatchbayError) { headers = try ContainerHeaders(area) } catch {
      return ContainerReport(
        header: .failure(error), fileByteCount: facts.byteCount,
        allocatedByteCount: facts.allocatedByteCount)
    }
    var report = ContainerReport(
      header: .success(headers.header), fileByteCount: facts.byteCount,
      allocatedByteCount: facts.allocatedByteCount)
    report.damagedCopyCount = headers.damagedCopyCount
    if !area.starts(with: ContainerArea.head) || area.count < ContainerLayout.areaByteCount {
      report.note("the frame around the header is damaged")
    }
    var walk = try SegmentWalk(file, headers.header, report)
    try walk.run(onContent, onProgress)
    return walk.report
  }
}

/// The way along the segments of one file.
private struct SegmentWalk: ~Copyable {
  var report: ContainerReport
  private let header: ContainerHeader
  private let shape: ContainerShape
  private let reader: ContainerReader
  /// To look for holes with.
  private let file: Descriptor
  /// Segments that begin inside of the file.
  private let begunCount: Int

  init(
    _ file: borrowing Descriptor, _ header: ContainerHeader, _ report: ContainerReport
  ) throws(PatchbayError) {
    let forReader = try file.duplicate()
    let forHoles = try file.duplicate()
    self.header = header
    shape = header.shape
    self.report = report
    reader = ContainerReader(forReader, shape: shape, compression: header.compression)
    self.file = forHoles
    let room = max(report.fileByteCount - ContainerLayout.areaByteCount, 0)
    begunCount = min(
      room / shape.stride + (room % shape.stride == 0 ? 0 : 1), shape.segmentLimit)
  }

  mutating func run(
    _ onContent: (ContainerHeader, [UInt8]) -> Void, _ onProgress: (Int) -> Void
  ) throws(PatchbayError) {
    report.segmentCount = header.byteCount.map(shape.segmentCount) ?? begunCount
    let count = min(report.segmentCount, begunCount)
    var segment = 0
    while segment < count {
      segment += try visit(segment, limit: count, onContent)
      onProgress(shape.offset(ofSegment: segment))
    }
    report.addMissing(count..<report.segmentCount)
    let end = shape.offset(ofSegment: max(count, 0))
    if report.fileByteCount < end {
      report.note("the file ends at \(report.fileByteCount), within its last segment")
    } else if report.fileByteCount > end {
      report.note("\(report.fileByteCount - end) bytes stand behind the last segment")
    }
  }

  /// Looks at a segment; how many it has dealt with.
  private mutating func visit(
    _ segment: Int, limit: Int, _ onContent: (ContainerHeader, [UInt8]) -> Void
  ) throws(PatchbayError) -> Int {
    let sight: ContainerReader.Sight
    do throws(PatchbayError) {
      sight = try reader.look(segment: segment, expected: expectedByteCount(segment))
    } catch { sight = .damaged(error.message) }
    switch sight {
    case .missing: report.addMissing(segment..<segment + 1)
    case .written(let bytes, let isRestWhole):
      report.presentCount += 1
      report.verifiedByteCount += bytes.count
      onContent(header, bytes)
      if !isRestWhole { report.note("the frame behind segment \(segment) is damaged") }
    case .damaged(let how):
      let next = try nextWithData(behind: segment, limit: limit)
      report.addCorrupt(segment..<next, how)
      return next - segment
    }
    return 1
  }

  /// What a segment must hold; nil for the last one of a blob of unknown length.
  private func expectedByteCount(_ segment: Int) -> Int? {
    if header.byteCount == nil && segment == begunCount - 1 { return nil }
    return shape.range(ofSegment: segment, byteCount: header.byteCount).count
  }

  /// The next segment to look at: all up to it lie in one hole, without so much as a head.
  private func nextWithData(behind segment: Int, limit: Int) throws(PatchbayError) -> Int {
    let offset = shape.offset(ofSegment: segment + 1)
    guard segment + 1 < limit else { return limit }
    guard let data = try DiskFile.firstData(file, from: offset) else { return limit }
    return min(limit, (data - ContainerLayout.areaByteCount) / shape.stride)
  }
}

extension ContainerReport {
  fileprivate mutating func note(_ problem: String) {
    if framing.count < Self.listLimit { framing.append(problem) }
  }

  fileprivate mutating func addMissing(_ segments: Range<Int>) {
    missingCount += segments.count
    missing += segments.prefix(Self.listLimit - missing.count)
  }

  fileprivate mutating func addCorrupt(_ segments: Range<Int>, _ how: String) {
    corruptCount += segments.count
    for segment in segments.prefix(Self.listLimit - corrupt.count) { corrupt[segment] = how }
  }
}
