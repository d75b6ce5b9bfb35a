// The containers of a spool: one file for each blob that has extents on disk. They are written by
// one worker thread, in the order in which the ledger wants it; clients get descriptors for reading.
//
// A container whose blob is complete, and was to outlive its broker, has a name of its own and is found
// by the next broker. All others go with their broker: in order when it ends, and when it was killed by
// the next one that takes the directory's lock.

import Glibc
import PatchbayLedger
import PatchbayRing
import PatchbaySpool
import PatchbaySystem
import PatchbayTypes
import Synchronization

/// The writers belong to the spool's worker thread; everything else does not change, or is locked.
@safe final class Spool: @unchecked Sendable {
  private let path: String
  private let instance: UInt64
  /// Bytes of the disk that are left to others.
  private let floorByteCount: Int
  let directory: Descriptor
  private let lock: InstanceLock
  /// The running boot of the machine.
  let boot: String
  /// Containers that the next broker finds, by name. A name changes under the lock.
  let complete: Mutex<[Generation: String]>
  /// Of the worker thread: what was written last, and what is known to be there.
  private var writers: [Generation: ContainerWriter] = [:]
  private var known: Set<Generation> = []
  /// Of all threads: containers whose blobs are gone.
  private let leaving = Mutex<[Generation]>([])
  /// One segment on its way.
  @unsafe private var buffer = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)

  /// The most files that are kept open between two spills.
  private static let writerLimit = 64
  static let lockName = "broker.lock"

  private init(
    _ place: SpoolPlace, instance: UInt64, _ directory: consuming Descriptor, _ lock: InstanceLock,
    boot: String, _ names: [Generation: String], floorByteCount: Int
  ) {
    path = place.directory
    self.instance = instance
    self.floorByteCount = floorByteCount
    self.directory = directory
    self.lock = lock
    self.boot = boot
    complete = Mutex(names)
    known = Set(names.keys)
  }

  /// Takes the directory, which is made if it is not there, for this broker alone, and looks what is in
  /// it. Blocks as long as that takes: three reads for each complete blob.
  /// - Throws: `limitReached` when another broker has it, `notPermitted` when it is not ours,
  ///   `inputOutput`.
  static func open(
    _ place: SpoolPlace, instance: UInt64
  ) throws(PatchbayError) -> (spool: Spool, findings: SpoolFindings) {
    let directory = try DiskFile.ownDirectory(place.directory)
    let lock = try InstanceLock(
      "\(place.directory)/\(lockName)",
      taken:
        "Another broker has the spool \(place.directory). Use another directory with --spool, or "
        + "stop it.")
    let boot = try ContainerNote.runningBoot()
    let findings = try SpoolStart.look(
      place.directory, directory, previous: lock.previous, boot: boot)
    let floor = try place.chosenFloor()
    try lock.note(instance)
    return (
      Spool(
        place, instance: instance, directory, lock, boot: boot, findings.names,
        floorByteCount: floor), findings
    )
  }

  deinit { unsafe buffer.deallocate() }

  func partName(_ generation: Generation) -> String { "\(stem(generation)).part" }

  func completeName(_ generation: Generation) -> String {
    complete.withLock { $0[generation] } ?? stem(generation) + SpoolStart.completeSuffix
  }

  func stem(_ generation: Generation) -> String {
    ObjectName.prefix(instance: instance) + ObjectName.hex(generation.rawValue)
  }

  static func gone(_ generation: Generation) -> PatchbayError {
    PatchbayError(.closed, "The container of generation \(generation) is gone; so is its blob.")
  }

  /// A descriptor for a reader.
  func open(_ generation: Generation) throws(PatchbayError) -> Descriptor {
    try complete.withLock { (complete) throws(PatchbayError) in
      try DiskFile.open(
        in: directory, name: complete[generation] ?? partName(generation), isWritable: false)
    }
  }

  // MARK: By the worker

  /// Copies an extent into its blob's container, segment by segment, if all of it is covered.
  func spill(_ order: SpillOrder, from place: RingPlace?) -> SpillResult {
    _ = removeLeaving()
    do throws(PatchbayError) {
      guard let place else {
        throw PatchbayError(.inputOutput, "The ring of extent \(order.extent.index) is gone.")
      }
      let ring = try place.open(isWritable: false)
      let found = try RingInspector.coverage(
        ring, place.geometry, upTo: order.range.count, missingLimit: 1)
      guard found.coveredByteCount == order.range.count, found.missing.isEmpty else {
        return .incomplete
      }
      try checkFloor(order.range.count)
      let writer = try writer(
        for: ContainerHeader(
          key: order.key, generation: order.generation,
          shape: try ContainerShape(segmentByteCount: order.segmentByteCount),
          compression: order.compression, byteCount: order.byteCount))
      try copy(order.range, ring, place, to: writer)
      return .done(containerByteCount: try writer.allocatedByteCount())
    } catch {
      return .failed(error, containerByteCount: takenByteCount(order.generation))
    }
  }

  /// Bytes of disk that a container takes; nil when nobody knows.
  func takenByteCount(_ generation: Generation) -> Int? {
    (try? writers[generation]?.allocatedByteCount()) ?? nil
  }

  /// - Throws: `noSpaceSpool` when too little of the disk would be left to others.
  func checkFloor(_ byteCount: Int) throws(PatchbayError) {
    let free = try DiskFile.space(at: path).freeByteCount
    guard free - byteCount < floorByteCount else { return }
    throw PatchbayError(
      .noSpaceSpool,
      "\(byteCount) bytes were to be written to the spool \(path), where \(free) are free and "
        + "\(floorByteCount) are left to others. Make room on that disk, remove blobs, or lower the "
        + "broker's --spool-floor.")
  }

  /// Copies positions of an extent into the container, segment by segment.
  func copy(
    _ range: Range<Int>, _ ring: borrowing Descriptor, _ place: RingPlace,
    to writer: ContainerWriter
  ) throws(PatchbayError) {
    let shape = writer.shape
    if unsafe buffer.count < shape.segmentByteCount {
      unsafe buffer.deallocate()
      unsafe buffer = .allocate(byteCount: shape.segmentByteCount, alignment: 64)
    }
    var at = range.lowerBound
    while at < range.upperBound {
      let end = min(range.upperBound, at + shape.segmentByteCount)
      let offset = place.geometry.dataOffset + at - range.lowerBound
      let piece = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[..<(end - at)])
      try unsafe SharedObject.read(ring, at: offset, into: piece)
      try unsafe writer.write(segment: shape.segment(of: at), UnsafeRawBufferPointer(piece))
      at = end
    }
  }

  /// The writer of a blob's container, which is begun if it is not there. It knows the blob's length: it
  /// is told before the last segment, which may be short.
  func writer(for header: ContainerHeader) throws(PatchbayError) -> ContainerWriter {
    let writer = try anyWriter(for: header)
    if writer.header.byteCount != header.byteCount {
      var told = writer.header
      told.byteCount = header.byteCount
      try writer.write(header: told)
    }
    return writer
  }

  private func anyWriter(for header: ContainerHeader) throws(PatchbayError) -> ContainerWriter {
    let generation = header.generation
    if let writer = writers[generation] { return writer }
    if writers.count >= Self.writerLimit { writers = [:] }
    let name = partName(generation)
    let writer: ContainerWriter
    if known.contains(generation) {
      writer = try ContainerWriter.open(in: directory, name: name)
    } else {
      writer = try ContainerWriter.create(in: directory, name: name, header)
      known.insert(generation)
    }
    writers[generation] = writer
    return writer
  }

  /// A container is of no use any more.
  func forget(_ generation: Generation) {
    writers[generation] = nil
    guard known.remove(generation) != nil else { return }
    try? complete.withLock { (complete) throws(PatchbayError) in
      let name = complete.removeValue(forKey: generation) ?? partName(generation)
      try DiskFile.remove(in: directory, name: name)
    }
  }

  /// Takes containers away whose blobs are gone; readers that have a descriptor keep it.
  func removeLeaving() -> WorkResult {
    let gone = leaving.withLock { leaving in
      defer { leaving = [] }
      return leaving
    }
    for generation in gone { forget(generation) }
    return .containersRemoved
  }

  // MARK: By anybody

  /// A blob is gone; its container goes with the next job.
  func leaves(_ generation: Generation) { leaving.withLock { $0.append(generation) } }

  /// At the end, when the worker has stopped.
  func leave() {
    writers = [:]
    let complete = complete.withLock { Set($0.keys) }
    for generation in known.subtracting(complete) {
      try? DiskFile.remove(in: directory, name: partName(generation))
    }
    known = []
    lock.clear()
  }
}
