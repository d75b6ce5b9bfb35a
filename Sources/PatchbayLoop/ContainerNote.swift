// What a broker notes in the container of a complete blob, beside what the container's header says
// anyway: all that another broker needs to serve the blob. Reading it back treats it as input.

import Glibc
import PatchbayLedger
import PatchbaySpool
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

struct ContainerNote: Sendable, Hashable {
  var blob: StoredBlob
  /// The boot of the machine in which it was written. What was not made durable is known to be whole
  /// only as long as the machine runs.
  var boot: String

  private static let formatVersion: UInt16 = 1
  private static let bootLimit = 64

  /// The running boot, by the kernel's random name for it; empty where that is hidden.
  static func runningBoot() -> String {
    do throws(PatchbayError) {
      let directory = try DiskFile.openDirectory("/proc/sys/kernel/random")
      let file = try DiskFile.open(in: directory, name: "boot_id", isWritable: false)
      let bytes = try DiskFile.read(file, at: 0, byteCount: bootLimit)
      return String(decoding: bytes.prefix { $0 > 0x20 }, as: UTF8.self)
    } catch {
      return ""
    }
  }

  var bytes: [UInt8] {
    let request = blob.request
    var writer = WireWriter()
    writer.put(Self.formatVersion)
    writer.put(request.byteCount != nil)
    writer.put(request.order.rawValue)
    writer.put(request.acknowledgement.rawValue)
    writer.put(request.isCache)
    writer.put(blob.access.uid)
    writer.put(blob.access.gid)
    writer.put(blob.access.mode)
    writer.put(Int64(blob.plan.first))
    writer.put(Int64(blob.plan.limit))
    writer.put(blob.created.rawValue)
    writer.put(blob.modified.rawValue)
    writer.put(boot)
    writer.put(request.type)
    writer.put(labels: request.labels)
    blob.lifetime.encode(&writer)
    return writer.bytes
  }

  /// What a container says of its blob.
  /// - Throws: `versionMismatch` for a note of another version; `corrupt`, `protocolViolation` for
  ///   one that makes no sense.
  init(_ header: ContainerHeader, containerByteCount: Int) throws(PatchbayError) {
    var reader = WireReader(header.note[...])
    let version: UInt16 = try reader.take()
    guard version == Self.formatVersion else {
      throw PatchbayError(
        .versionMismatch,
        "A spool file has a note of version \(version); this Patchbay reads version "
          + "\(Self.formatVersion). Use the version that wrote it.")
    }
    guard let byteCount = header.byteCount else {
      throw PatchbayError(.corrupt, "A spool file is complete and has no length.")
    }
    var request = CreateRequest(key: header.key)
    request.byteCount = try reader.takeFlag() ? byteCount : nil
    request.order = try reader.takeCase("a write order")
    request.acknowledgement = try reader.takeCase("an acknowledgement level")
    request.isCache = try reader.takeFlag()
    let access = Access(
      uid: try reader.take(), gid: try reader.take(), mode: try reader.take())
    request.mode = access.mode
    let plan = try ExtentPlan(
      first: try reader.takePosition("an extent's size"),
      limit: try reader.takePosition("an extent's size"))
    let created = WallTime(rawValue: try reader.take())
    let modified = WallTime(rawValue: try reader.take())
    boot = try reader.takeText(atMost: Self.bootLimit, "a boot")
    request.type = try reader.takeText(atMost: WireLimit.type, "a media type")
    request.labels = try reader.takeLabels()
    let lifetime = try LifetimeTerms(from: &reader)
    try reader.finish()
    blob = StoredBlob(
      request: request, generation: header.generation, access: access, plan: plan,
      byteCount: byteCount, digest: try? ContentDigest(header.digest),
      segmentByteCount: header.shape.segmentByteCount, created: created,
      modified: modified, containerByteCount: containerByteCount)
    blob.lifetime = lifetime
    try checkShape()
  }

  init(_ blob: StoredBlob, boot: String) {
    self.blob = blob
    self.boot = boot
  }

  /// Readers are told the size of a segment, which follows from the plan, and ask for extents by index.
  private func checkShape() throws(PatchbayError) {
    let extentCount = blob.byteCount == 0 ? 0 : blob.plan.index(of: blob.byteCount - 1) + 1
    guard (1...SpoolStart.generationLimit).contains(blob.generation.rawValue),
      extentCount <= JournalCoding.extentLimit,
      blob.plan.segmentByteCount(byteCount: blob.request.byteCount) == blob.segmentByteCount
    else {
      throw PatchbayError(
        .corrupt,
        "A spool file has segments of \(blob.segmentByteCount) bytes and a blob of "
          + "\(extentCount) extents, from \(blob.plan.first) to \(blob.plan.limit) bytes.")
    }
  }
}
