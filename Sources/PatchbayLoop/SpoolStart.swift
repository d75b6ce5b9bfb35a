// What a broker finds in its spool when it starts. The directory is this user's, nobody else may write
// into it, and this broker has its lock: so what bears exactly our names is ours. Complete blobs are
// served again; what the broker before this one has left unfinished is removed; what bears the name of
// a complete blob and is none is put aside under another name; everything else is left as it is.

import PatchbayLedger
import PatchbaySpool
import PatchbaySystem
import PatchbayTypes

struct SpoolFindings: Sendable {
  /// Complete blobs, and the names of their containers.
  var blobs: [StoredBlob] = []
  var names: [Generation: String] = [:]
  /// Unfinished files of the broker before, which are gone now.
  var sweptCount = 0
  /// What is said about the rest, a line for each.
  var warnings: [String] = []
}

struct SpoolStart: ~Copyable {
  private let path: String
  private let directory: Descriptor
  private let boot: String
  private var findings = SpoolFindings()
  private var foreign: [String] = []

  /// Of names that are not ours, so many are listed.
  private static let listLimit = 8
  static let completeSuffix = ".blob"
  private static let asideSuffix = ".quarantined"

  private init(_ path: String, _ directory: consuming Descriptor, boot: String) {
    self.path = path
    self.directory = directory
    self.boot = boot
  }

  /// Looks at everything in a spool.
  /// - Parameter previous: the instance that had the lock and did not clear up.
  static func look(
    _ path: String, _ directory: borrowing Descriptor, previous: UInt64?, boot: String
  ) throws(PatchbayError) -> SpoolFindings {
    var start = SpoolStart(path, try directory.duplicate(), boot: boot)
    for entry in try DiskFile.entries(of: directory) {
      start.take(entry, previous: previous)
    }
    start.reportForeign()
    return start.findings
  }

  private mutating func take(_ entry: DiskFile.Entry, previous: UInt64?) {
    let name = entry.name
    if name == Spool.lockName || name.hasSuffix(Self.asideSuffix) { return }
    guard entry.isRegular, let number = Self.generation(ofComplete: name) else {
      if entry.isRegular, let previous, name.hasPrefix(ObjectName.prefix(instance: previous)) {
        return sweep(name)
      }
      foreign.append(name)
      return
    }
    do throws(PatchbayError) {
      let blob = try stored(name)
      guard blob.generation == number, findings.names[number] == nil else {
        throw PatchbayError(
          .corrupt, "it is generation \(blob.generation), which has another name")
      }
      findings.blobs.append(blob)
      findings.names[number] = name
    } catch {
      refuse(name, error)
    }
  }

  private mutating func sweep(_ name: String) {
    do throws(PatchbayError) {
      try DiskFile.remove(in: directory, name: name)
      findings.sweptCount += 1
    } catch {
      findings.warnings.append("The spool file \(path)/\(name) stays: \(error.message)")
    }
  }

  /// `patchbay-`, an instance, `-`, a generation, `.blob`: nothing else is a complete blob.
  static func generation(ofComplete name: String) -> Generation? {
    guard name.hasSuffix(completeSuffix) else { return nil }
    let digits = name.dropLast(completeSuffix.count).suffix(16)
    guard let number = UInt64(digits, radix: 16),
      let instance = UInt64(name.dropFirst("patchbay-".count).prefix(16), radix: 16),
      name == ObjectName.prefix(instance: instance) + ObjectName.hex(number) + completeSuffix
    else { return nil }
    return Generation(rawValue: number)
  }

  // MARK: One file

  /// What a file says, if it is the container of a complete blob.
  private func stored(_ name: String) throws(PatchbayError) -> StoredBlob {
    let file = try DiskFile.open(in: directory, name: name, isWritable: false)
    let header = try ContainerReader.headers(file).header
    guard header.isSealed else {
      throw PatchbayError(.corrupt, "its header says that the blob is not complete")
    }
    let facts = try DiskFile.facts(of: file)
    let note = try ContainerNote(header, containerByteCount: facts.allocatedByteCount)
    let segmentCount = header.shape.segmentCount(byteCount: note.blob.byteCount)
    let byteCount = header.shape.offset(ofSegment: segmentCount)
    guard facts.byteCount == byteCount else {
      throw PatchbayError(
        .corrupt, "it has \(facts.byteCount) bytes and should have \(byteCount)")
    }
    if note.blob.request.acknowledgement != .durable, note.boot != boot { try verify(name) }
    return note.blob
  }

  /// The machine was started again, and nobody has waited for these bytes to be on the device.
  private func verify(_ name: String) throws(PatchbayError) {
    let report = try ContainerScan.scan(in: directory, name: name)
    guard report.isComplete else {
      throw PatchbayError(
        .corrupt,
        "of its \(report.segmentCount) segments \(report.missingCount) are missing and "
          + "\(report.corruptCount) damaged after a restart of the machine")
    }
  }

  // MARK: What is no blob

  /// A file of another version is left to that version; damage is put aside.
  private mutating func refuse(_ name: String, _ error: PatchbayError) {
    var line = "The spool file \(path)/\(name) is not served: \(error.message)"
    if [.corrupt, .protocolViolation].contains(error.code) {
      do throws(PatchbayError) {
        try DiskFile.rename(in: directory, from: name, to: name + Self.asideSuffix)
        line += " It is \(name + Self.asideSuffix) now."
      } catch {
        line += " It could not be put aside: \(error.message)"
      }
    }
    findings.warnings.append(line)
  }

  private mutating func reportForeign() {
    guard !foreign.isEmpty else { return }
    let listed = foreign.prefix(Self.listLimit).joined(separator: ", ")
    let more = foreign.count > Self.listLimit ? ", ..." : ""
    findings.warnings.append(
      "The spool \(path) has \(foreign.count) names that are not this broker's; they are left "
        + "alone: \(listed)\(more).")
  }
}
