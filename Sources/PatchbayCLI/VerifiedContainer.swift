// What `patchbay verify` says of one file: a verdict, a row for people, an object for scripts. The
// names in the object are a contract.

import Patchbay
import PatchbayDigest
import PatchbaySpool

/// The digest that a sealed blob was given, and whether its bytes still have it.
struct VerifiedDigest: Equatable {
  let recorded: ContentDigest
  /// Nil when not all bytes are there.
  let found: ContentDigest?

  var matches: Bool? { found.map { $0 == recorded } }

  /// - Parameter state: behind the last byte that was verified; nil when there was none.
  init?(_ report: ContainerReport, _ state: DigestState?) {
    guard let header = try? report.header.get(), let recorded = Self.recorded(in: header) else {
      return nil
    }
    self.recorded = recorded
    found = report.isComplete ? (state ?? DigestState(recorded.algorithm)).digest : nil
  }

  /// Nil for a blob that is not sealed or has none, and for a digest that is of no known kind.
  static func recorded(in header: ContainerHeader) -> ContentDigest? {
    header.isSealed ? try? ContentDigest(header.digest) : nil
  }

  var mismatch: String {
    "the \(recorded.algorithm) of its bytes is \(found?.hex ?? "unknown") and should be "
      + recorded.hex
  }
}

/// A file and what was found in it.
struct VerifiedContainer {
  enum Verdict: String {
    /// The blob's length is known and every byte of it is there, verified.
    case sound
    /// What is there is sound; segments are missing, or the length is not known.
    case incomplete
    /// Something that was written is not what was written.
    case damaged
    /// Nothing can be said of the blob: no whole header, or the file cannot be opened.
    case unreadable
    /// By its name or its kind no container.
    case leftAlone
  }

  enum Finding {
    case report(ContainerReport, VerifiedDigest?)
    case refused(PatchbayError)
    case leftAlone
  }

  let path: String
  let finding: Finding

  var verdict: Verdict {
    switch finding {
    case .leftAlone: return .leftAlone
    case .refused: return .unreadable
    case .report(let report, let digest):
      guard case .success = report.header else { return .unreadable }
      guard report.isSound, digest?.matches != false else { return .damaged }
      return report.isComplete ? .sound : .incomplete
    }
  }

  /// Whether what stands in the file is not what ought to stand there.
  var hasFailed: Bool {
    guard case .report = finding else { return false }
    return verdict == .damaged || verdict == .unreadable
  }

  /// Why the file could not be looked at.
  var refusal: PatchbayError? {
    guard case .refused(let error) = finding else { return nil }
    return error
  }

  private var report: ContainerReport? {
    guard case .report(let report, _) = finding else { return nil }
    return report
  }

  private var digest: VerifiedDigest? {
    guard case .report(_, let digest) = finding else { return nil }
    return digest
  }

  private var header: ContainerHeader? { try? report?.header.get() }

  // MARK: Damage

  /// Something that is wrong, and in which segment.
  struct Damage {
    let segment: Int?
    let what: String

    var text: String { Shown.plain(segment.map { "segment \($0): \(what)" } ?? what) }
    var json: JSON {
      .object(JSONFields([("segment", .optional(segment)), ("what", .string(what))]))
    }
  }

  /// The first few things that are wrong.
  var damage: [Damage] {
    if let refusal { return [Damage(segment: nil, what: refusal.message)] }
    guard let report else { return [] }
    if case .failure(let error) = report.header {
      return [Damage(segment: nil, what: error.message)]
    }
    var damage: [Damage] = []
    if report.damagedCopyCount > 0 {
      damage.append(
        Damage(segment: nil, what: "one copy of the header is damaged; the other one was used"))
    }
    damage += report.corrupt.sorted { $0.key < $1.key }
      .map { Damage(segment: $0.key, what: $0.value) }
    if let digest, digest.matches == false {
      damage.append(Damage(segment: nil, what: digest.mismatch))
    }
    damage += report.framing.map { Damage(segment: nil, what: $0) }
    return damage
  }

  /// For people, each on a line.
  var reasons: [String] {
    var lines = damage.map(\.text)
    if let report, report.corruptCount > report.corrupt.count {
      lines.append("and \(report.corruptCount - report.corrupt.count) more damaged segments")
    }
    return lines.map { "  " + $0 }
  }

  // MARK: A row

  static let columns: [(title: String, alignment: TextTable.Alignment)] = [
    ("VERDICT", .left), ("SEGMENTS", .right), ("DAMAGED", .right), ("LENGTH", .right),
    ("ON DISK", .right), ("GENERATION", .right), ("FILE", .left), ("KEY", .left),
  ]

  var row: [String] {
    let whole = header == nil ? nil : report
    return [
      verdict.rawValue, whole.map { "\($0.presentCount)/\($0.segmentCount)" } ?? "-",
      whole.map { "\($0.corruptCount)" } ?? "-", header?.byteCount.map { "\($0)" } ?? "-",
      report.map { Shown.bytes($0.allocatedByteCount) } ?? "-",
      header.map { "\($0.generation)" } ?? "-", Shown.plain(path),
      header.map { $0.key.description } ?? "-",
    ]
  }

  // MARK: JSON

  /// All members are there for every file; what is not known is null.
  var json: JSONFields {
    let whole = header == nil ? nil : report
    var fields = JSONFields([
      ("file", .string(path)), ("verdict", .string(verdict.rawValue)),
    ])
    fields.append(key: header?.key)
    fields["generation"] = header.map { .unsigned($0.generation.rawValue) } ?? .null
    fields["length"] = .optional(header?.byteCount)
    fields["sealed"] = header.map { .boolean($0.isSealed) } ?? .null
    fields["compression"] = .optional(header.map { "\($0.compression)" })
    fields["segments"] = .optional(whole?.segmentCount)
    fields["presentSegments"] = .optional(whole?.presentCount)
    fields["missingSegments"] = .optional(whole?.missingCount)
    fields["damagedSegments"] = .optional(whole?.corruptCount)
    fields["verifiedBytes"] = .optional(whole?.verifiedByteCount)
    fields["fileBytes"] = .optional(report?.fileByteCount)
    fields["diskBytes"] = .optional(report?.allocatedByteCount)
    fields["digest"] = .optional(header.flatMap { $0.digest.isEmpty ? nil : $0.digest })
    fields["digestMatches"] = digest?.matches.map(JSON.boolean) ?? .null
    fields["missing"] = .array((whole?.missing ?? []).map(JSON.integer))
    fields["damage"] = .array(damage.map(\.json))
    return fields
  }
}
