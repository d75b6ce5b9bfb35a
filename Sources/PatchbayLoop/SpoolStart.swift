// What a broker finds in its spool when it starts. The directory is this user's, nobody else may write
// into it, and this broker has its lock: so what bears exactly our names is ours. Complete blobs are
// served again; what the broker before this one has left unfinished is removed; what bears the name of
// a complete blob and is none is put aside under another name; everything else is left as it is. Where
// this broker takes the place of another, the unfinished files of that one's blobs stay, too.

import PatchbayLedger
import PatchbaySpool
import PatchbaySystem
import PatchbayTypes

struct SpoolFindings: Sendable {
  /// Complete blobs, one of each key, and the names of their containers.
  var blobs: [StoredBlob] = []
  var names: [Generation: String] = [:]
  /// No file bears the number of a later generation, whatever it is.
  var last = Generation(rawValue: 0)
  /// Unfinished files that stay: containers, and scratch files by the indices of their extents.
  var parts: Set<Generation> = []
  var scratches: [Generation: Set<Int>] = [:]
  /// Unfinished files of the broker before, which are gone now.
  var sweptCount = 0
  /// What is said about the rest, a line for each.
  var warnings: [String] = []

  /// The same without the blobs that are known from elsewhere.
  func without(_ generations: Set<Generation>) -> SpoolFindings {
    var rest = self
    rest.blobs.removeAll { generations.contains($0.generation) }
    return rest
  }

  /// Bytes of disk that the blobs take.
  var byteCount: Int { blobs.reduce(0) { $0 + $1.containerByteCount } }
}

/// Files of the broker before this one on the socket that stay.
struct KeptFiles: Sendable {
  /// Its instance.
  var instance: UInt64?
  /// Whether nobody knows any more what stands on its unfinished files: all of them stay.
  var areUnknown = false
  /// Unfinished files that blobs stand on which go on. Others it had begun, and nothing that anybody was
  /// told stands in them.
  var containers: Set<Generation> = []
  var scratches: [Generation: Set<Int>] = [:]
  /// The blobs that go on. A container of one of their numbers may be another's: brokers whose spools
  /// were never the same give out the same numbers.
  var births: [Generation: BlobBirth] = [:]

  /// What there is to know in a spool that was not that broker's, or in which nothing is left to do.
  var inAnotherSpool: KeptFiles {
    var kept = KeptFiles()
    kept.births = births
    return kept
  }
}

/// What tells a blob from others of its generation.
struct BlobBirth: Sendable, Hashable {
  var key: BlobKey
  var created: WallTime
}

struct SpoolStart: ~Copyable {
  private let path: String
  private let directory: Descriptor
  private let boot: String
  private var findings = SpoolFindings()
  private var foreign: [String] = []
  private var namesThere: Set<String> = []
  private let kept: KeptFiles

  /// Of names that are not ours, so many are listed.
  private static let listLimit = 8
  static let completeSuffix = ".blob"
  static let pinnedSuffix = ".pinned"
  private static let partSuffix = ".part"
  private static let asideSuffix = ".quarantined"
  /// Numbers beyond it were never given out.
  static let generationLimit: UInt64 = 1 << 62

  private init(
    _ path: String, _ directory: consuming Descriptor, boot: String, _ kept: KeptFiles
  ) {
    self.path = path
    self.kept = kept
    self.directory = directory
    self.boot = boot
  }

  /// Looks at everything in a spool.
  /// - Parameters:
  ///   - previous: the instance that had the lock and did not clear up.
  ///   - kept: its unfinished files that stay.
  static func look(
    _ path: String, _ directory: borrowing Descriptor, previous: UInt64?, kept: KeptFiles,
    boot: String
  ) throws(PatchbayError) -> SpoolFindings {
    var start = SpoolStart(path, try directory.duplicate(), boot: boot, kept)
    let entries = try DiskFile.entries(of: directory)
    start.namesThere = Set(entries.map(\.name))
    for entry in entries { start.take(entry, previous: previous) }
    start.keepLaterLives()
    start.reportForeign()
    return start.findings
  }

  private mutating func take(_ entry: DiskFile.Entry, previous: UInt64?) {
    let name = entry.name
    note(name)
    if name == Spool.lockName || name.contains(Self.asideSuffix) { return }
    let pinned = Self.generation(of: name, Self.pinnedSuffix)
    let isOurs = entry.isRegular && entry.isOwn
    guard isOurs, let number = pinned ?? Self.generation(of: name, Self.completeSuffix)
    else {
      if isOurs, Self.isUnfinished(name), let previous,
        name.hasPrefix(ObjectName.prefix(instance: previous))
      {
        return keeps(name) ? () : sweep(name)
      }
      foreign.append(name)
      return
    }
    do throws(PatchbayError) {
      var blob = try stored(name)
      blob.isPinned = pinned != nil
      guard blob.generation == number, findings.names[number] == nil else {
        throw PatchbayError(
          .corrupt, "it says that it is generation \(blob.generation), which has another name.")
      }
      try checkBirth(of: blob)
      findings.blobs.append(blob)
      findings.names[number] = name
    } catch {
      refuse(name, error)
    }
  }

  /// - Throws: `limitReached` for a blob whose number is another's.
  private func checkBirth(of blob: StoredBlob) throws(PatchbayError) {
    guard let other = kept.births[blob.generation],
      other != BlobBirth(key: blob.request.key, created: blob.created)
    else { return }
    throw PatchbayError(
      .limitReached,
      "its blob \(blob.request.key) was put here by a broker with another spool, and its number "
        + "\(blob.generation) is that of \(other.key), which is in memory. It is left alone; a broker "
        + "that has nothing in memory serves it.")
  }

  /// Takes in an unfinished file of a blob that goes on; false when it is another's.
  private mutating func keeps(_ name: String) -> Bool {
    if let generation = Self.generation(of: name, Self.partSuffix),
      kept.containers.contains(generation)
    {
      findings.parts.insert(generation)
      return true
    }
    guard let scratch = Self.scratch(of: name),
      kept.scratches[scratch.generation]?.contains(scratch.index) == true
    else { return false }
    findings.scratches[scratch.generation, default: []].insert(scratch.index)
    return true
  }

  private mutating func sweep(_ name: String) {
    do throws(PatchbayError) {
      try DiskFile.remove(in: directory, name: name)
      findings.sweptCount += 1
    } catch {
      findings.warnings.append("The spool file \(path)/\(name) stays: \(error.message)")
    }
  }

  /// A container without the name of a complete one, or the scratch file of one of its extents:
  /// `-`, an index, `.scratch`.
  static func isUnfinished(_ name: String) -> Bool {
    generation(of: name, partSuffix) != nil || scratch(of: name) != nil
  }

  /// Whose scratch file a name stands for.
  private static func scratch(of name: String) -> (generation: Generation, index: Int)? {
    guard let dash = name.lastIndex(of: "-") else { return nil }
    let index = name[name.index(after: dash)...].dropLast(Spool.scratchSuffix.count)
    guard let number = UInt32(index), name[dash...] == "-\(number)\(Spool.scratchSuffix)",
      let generation = generation(of: name[..<dash] + partSuffix, partSuffix)
    else { return nil }
    return (generation, Int(number))
  }

  /// Whatever becomes of a file, its number is taken.
  private mutating func note(_ name: String) {
    let stem = name.firstRange(of: Self.asideSuffix).map { String(name[..<$0.lowerBound]) } ?? name
    for suffix in [Self.completeSuffix, Self.pinnedSuffix, Self.partSuffix] {
      if let number = Self.generation(of: stem, suffix) {
        findings.last = max(findings.last, number)
      }
    }
  }

  /// `patchbay-`, an instance, `-`, a generation, a suffix: nothing else is a container's name.
  static func generation(of name: String, _ suffix: String) -> Generation? {
    guard name.hasSuffix(suffix) else { return nil }
    let digits = name.dropLast(suffix.count).suffix(16)
    guard let number = UInt64(digits, radix: 16), number <= generationLimit,
      let instance = UInt64(name.dropFirst("patchbay-".count).prefix(16), radix: 16),
      name == ObjectName.prefix(instance: instance) + ObjectName.hex(number) + suffix
    else { return nil }
    return Generation(rawValue: number)
  }

  // MARK: One file

  /// What a file says, if it is the container of a complete blob.
  private func stored(_ name: String) throws(PatchbayError) -> StoredBlob {
    let file = try DiskFile.open(in: directory, name: name, isWritable: false)
    let header = try ContainerReader.headers(file).header
    guard header.isSealed else {
      throw PatchbayError(.corrupt, "its header says that the blob is not complete.")
    }
    let facts = try DiskFile.facts(of: file)
    let note = try ContainerNote(header, containerByteCount: facts.allocatedByteCount)
    let segmentCount = header.shape.segmentCount(byteCount: note.blob.byteCount)
    let byteCount = header.shape.offset(ofSegment: segmentCount)
    guard facts.byteCount == byteCount else {
      throw PatchbayError(
        .corrupt, "it has \(facts.byteCount) bytes and should have \(byteCount).")
    }
    let isSure = note.blob.request.acknowledgement == .durable || note.boot == boot && !boot.isEmpty
    if !isSure { try verify(name, note) }
    return note.blob
  }

  /// The machine was started again, and nobody has waited for these bytes to be on the device. If they
  /// are, that need not be found out again.
  private func verify(_ name: String, _ note: ContainerNote) throws(PatchbayError) {
    let report = try ContainerScan.scan(in: directory, name: name)
    guard report.isComplete else {
      throw PatchbayError(
        .corrupt,
        "of its \(report.segmentCount) segments \(report.missingCount) are missing and "
          + "\(report.corruptCount) damaged after a restart of the machine.")
    }
    guard !boot.isEmpty else { return }
    let writer = try ContainerWriter.open(in: directory, name: name)
    var header = writer.header
    header.note = ContainerNote(note.blob, boot: boot).bytes
    try writer.write(header: header)
    try writer.write(header: header)
  }

  // MARK: What is no blob

  /// A file of another version, or one that cannot be read now, is left alone; damage is put aside.
  private mutating func refuse(_ name: String, _ error: PatchbayError) {
    let isDamage = [.corrupt, .protocolViolation].contains(error.code)
    findings.warnings.append(
      "The spool file \(path)/\(name) is not served: \(error.message)"
        + (isDamage ? putAside(name) : ""))
  }

  private mutating func putAside(_ name: String) -> String {
    var aside = name + Self.asideSuffix
    var count = 1
    while !namesThere.insert(aside).inserted {
      count += 1
      aside = "\(name)\(Self.asideSuffix).\(count)"
    }
    do throws(PatchbayError) {
      try DiskFile.rename(in: directory, from: name, to: aside)
      return " (It is \(aside) now.)"
    } catch {
      return " (It could not be put aside: \(error.message))"
    }
  }

  /// Of two lives of a key both may be there when the power went as the later one took its place.
  private mutating func keepLaterLives() {
    var latest: [BlobKey: Generation] = [:]
    for blob in findings.blobs {
      latest[blob.request.key] = max(latest[blob.request.key] ?? blob.generation, blob.generation)
    }
    guard latest.count < findings.blobs.count else { return }
    let earlier = findings.blobs.filter { latest[$0.request.key] != $0.generation }
    findings.blobs.removeAll { latest[$0.request.key] != $0.generation }
    for blob in earlier {
      guard let name = findings.names.removeValue(forKey: blob.generation) else { continue }
      findings.warnings.append(
        "The spool file \(path)/\(name) is not served: there is a later blob of its key "
          + "\(blob.request.key).\(putAside(name))")
    }
  }

  private mutating func reportForeign() {
    guard !foreign.isEmpty else { return }
    let listed = foreign.prefix(Self.listLimit).joined(separator: ", ")
    let more = foreign.count > Self.listLimit ? ", ..." : ""
    findings.warnings.append(
      "In the spool \(path) \(foreign.count) files are not this broker's and are left alone: "
        + "\(listed)\(more).")
  }
}
