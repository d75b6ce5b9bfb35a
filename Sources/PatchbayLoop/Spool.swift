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
  /// Under which names containers stand.
  struct Names: Sendable {
    /// Those that the next broker finds.
    var complete: [Generation: String] = [:]
    /// Those that are not to be found any more, however far their completion is.
    var barred: Set<Generation> = []
    /// Those that had the name of a complete one, and may have it on the device.
    var withdrawn: Set<Generation> = []
  }

  /// What goes with the next job.
  private struct Leaving: Sendable {
    /// Blobs that are gone.
    var blobs: [Generation] = []
    /// Containers that are lost, of blobs that are not.
    var containers: [Generation] = []
    var scratches: [(generation: Generation, index: Int)] = []
  }

  /// A container that is open for writing.
  private struct OpenContainer {
    let writer: ContainerWriter
    /// Whether its blob is to survive loss of power.
    let isDurable: Bool
    var lastUse: UInt64
  }

  private let path: String
  let instance: UInt64
  /// Bytes of the disk that are left to others.
  private let floorByteCount: Int
  let directory: Descriptor
  private let lock: InstanceLock
  /// The running boot of the machine; empty when nobody knows.
  let boot: String
  let names: Mutex<Names>
  /// Of the worker thread: what is being written, and what is known to be there.
  private var open: [Generation: OpenContainer] = [:]
  private var useCount: UInt64 = 0
  private var known: Set<Generation> = []
  /// Of the worker thread: what the device may have lost unnoticed.
  private var suspects: [Generation: PatchbayError] = [:]
  /// Of the worker thread, too: scratch files that are there, by the indices of their extents.
  var scratches: [Generation: Set<Int>] = [:]
  /// Of all threads: containers whose blobs are gone, or that are lost.
  private let leaving = Mutex(Leaving())
  /// One segment on its way.
  @unsafe private var buffer = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)

  /// The most files that are kept open between two spills.
  private static let writerLimit = 64
  static let lockName = "broker.lock"

  private init(
    _ place: SpoolPlace, instance: UInt64, _ directory: consuming Descriptor, _ lock: InstanceLock,
    boot: String, _ findings: SpoolFindings, floorByteCount: Int
  ) {
    path = place.directory
    self.instance = instance
    self.floorByteCount = floorByteCount
    self.directory = directory
    self.lock = lock
    self.boot = boot
    names = Mutex(Names(complete: findings.names))
    known = findings.parts.union(findings.names.keys)
    scratches = findings.scratches
  }

  /// Takes the directory, which is made if it is not there, for this broker alone, and looks what is in
  /// it. Blocks as long as that takes: three reads for each complete blob.
  /// - Parameter kept: files of the broker before on this socket that go on.
  /// - Throws: `limitReached` when another broker has it, `notPermitted` when it is not ours,
  ///   `inputOutput`.
  static func open(
    _ place: SpoolPlace, instance: UInt64, kept: KeptFiles = KeptFiles()
  ) throws(PatchbayError) -> (spool: Spool, findings: SpoolFindings) {
    let directory = try DiskFile.ownDirectory(place.directory)
    let lock = try InstanceLock(
      "\(place.directory)/\(lockName)",
      taken:
        "Another broker has the spool \(place.directory). Use another directory with --spool, or "
        + "stop it.")
    let boot = ContainerNote.runningBoot()
    let isTheirs = lock.previous != nil && lock.previous == kept.instance
    let findings = try SpoolStart.look(
      place.directory, directory, previous: isTheirs && kept.areUnknown ? nil : lock.previous,
      kept: isTheirs ? kept : kept.inAnotherSpool, boot: boot)
    // A killed broker may have given a file its name and not waited for the device to know it; who asks
    // again is told that it is durable.
    if lock.previous != nil { try DiskFile.synchronizeDirectory(directory) }
    let floor = try place.chosenFloor()
    try lock.note(instance)
    return (
      Spool(
        place, instance: instance, directory, lock, boot: boot, findings,
        floorByteCount: floor), findings
    )
  }

  deinit { unsafe buffer.deallocate() }

  func partName(_ generation: Generation) -> String { "\(stem(generation)).part" }

  func stem(_ generation: Generation) -> String {
    ObjectName.prefix(instance: instance) + ObjectName.hex(generation.rawValue)
  }

  static func gone(_ generation: Generation) -> PatchbayError {
    PatchbayError(.closed, "The container of generation \(generation) is gone; so is its blob.")
  }

  /// A descriptor for a reader.
  func open(_ generation: Generation) throws(PatchbayError) -> Descriptor {
    try names.withLock { (names) throws(PatchbayError) in
      try DiskFile.open(
        in: directory, name: names.complete[generation] ?? partName(generation),
        isWritable: false)
    }
  }

  // MARK: By the worker

  /// Copies an extent into its blob's container, segment by segment, if all of it is covered.
  func spill(_ order: SpillOrder, from place: RingPlace?) -> SpillResult {
    _ = removeLeaving()
    do throws(PatchbayError) {
      if let writer = order.scratchWriter { return try convert(order, writtenAs: writer) }
      guard let place else {
        throw PatchbayError(.inputOutput, "The ring of extent \(order.extent.index) is gone.")
      }
      let ring = try place.open(isWritable: false)
      let found = try RingInspector.coverage(
        ring, place.geometry, upTo: order.range.count, missingLimit: 1)
      guard found.coveredByteCount == order.range.count, found.missing.isEmpty else {
        return order.mayLeavePartly ? try spillPartly(order, ring, place) : .incomplete
      }
      if order.goesToScratch { return try spillPartly(order, ring, place) }
      try checkFloor(order.range.count)
      let writer = try writer(for: order.header, isDurable: order.isDurable)
      try copy(order.range, ring, place, to: writer)
      return .done(containerByteCount: try writer.allocatedByteCount())
    } catch {
      return .failed(error, containerByteCount: takenByteCount(order.generation))
    }
  }

  /// Bytes of disk that an unfinished container takes that the broker before has left.
  func byteCountOfPart(_ generation: Generation) throws(PatchbayError) -> Int {
    let file = try DiskFile.open(in: directory, name: partName(generation), isWritable: false)
    return try DiskFile.facts(of: file).allocatedByteCount
  }

  /// Bytes of disk that a container takes; nil when nobody knows.
  func takenByteCount(_ generation: Generation) -> Int? {
    (try? open[generation]?.writer.allocatedByteCount()) ?? nil
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
  /// is told before the last segment, which may be short. Its header says that it is not complete.
  func writer(
    for header: ContainerHeader, isDurable: Bool
  ) throws(PatchbayError) -> ContainerWriter {
    let generation = header.generation
    if let error = suspects[generation] { throw error }
    try forgetOldName(generation)
    let writer = try anyWriter(for: header, isDurable)
    if writer.header.byteCount != header.byteCount || writer.header.isSealed {
      var told = writer.header
      told.byteCount = header.byteCount
      told.isSealed = false
      told.note = []
      try writer.write(header: told)
      try writer.write(header: told)
    }
    return writer
  }

  /// A container that was complete, and is to be written again, first loses that name on the device, too:
  /// or what it holds after a loss of power would be neither.
  private func forgetOldName(_ generation: Generation) throws(PatchbayError) {
    guard names.withLock({ $0.withdrawn.contains(generation) }) else { return }
    try DiskFile.synchronizeDirectory(directory)
    _ = names.withLock { $0.withdrawn.remove(generation) }
  }

  private func anyWriter(
    for header: ContainerHeader, _ isDurable: Bool
  ) throws(PatchbayError) -> ContainerWriter {
    let generation = header.generation
    useCount += 1
    if let container = open[generation] {
      open[generation]?.lastUse = useCount
      return container.writer
    }
    if open.count >= Self.writerLimit { closeOldest() }
    let name = partName(generation)
    let writer: ContainerWriter
    if known.contains(generation) {
      writer = try ContainerWriter.open(in: directory, name: name)
    } else {
      writer = try ContainerWriter.create(in: directory, name: name, header)
      known.insert(generation)
    }
    open[generation] = OpenContainer(writer: writer, isDurable: isDurable, lastUse: useCount)
    return writer
  }

  /// Gives a container a second name, that of another generation, whose header it has from then on.
  func adoptContainer(_ order: AdoptOrder) throws(PatchbayError) {
    _ = removeLeaving()
    close(order.source)
    if let error = suspects[order.source] { throw error }
    try forgetOldName(order.source)
    known.insert(order.target)
    try DiskFile.link(in: directory, name: partName(order.source), as: partName(order.target))
    let writer = try ContainerWriter.open(in: directory, name: partName(order.target))
    let old = writer.header
    let header = ContainerHeader(
      key: order.key, generation: order.target, shape: old.shape, compression: old.compression,
      byteCount: old.byteCount, isSealed: false, digest: old.digest, note: old.note)
    // Both copies.
    try writer.write(header: header)
    try writer.write(header: header)
    useCount += 1
    // Whether it is, is not known here.
    open[order.target] = OpenContainer(writer: writer, isDurable: true, lastUse: useCount)
  }

  /// Bytes of disk that a container takes; 0 when there is none.
  func containerByteCount(_ generation: Generation) throws(PatchbayError) -> Int {
    try open[generation]?.writer.allocatedByteCount() ?? 0
  }

  private func closeOldest() {
    if let oldest = open.min(by: { $0.value.lastUse < $1.value.lastUse }) { close(oldest.key) }
  }

  /// What the device refuses while nobody has a file open may never be told: so it is asked before.
  private func close(_ generation: Generation) {
    guard let container = open.removeValue(forKey: generation), container.isDurable else { return }
    do throws(PatchbayError) {
      try container.writer.synchronize()
    } catch {
      suspects[generation] = error
    }
  }

  /// Somebody else writes a container through.
  func handOver(_ generation: Generation) { open[generation] = nil }

  /// Why nothing that a container holds may be promised; nil: nothing is known against it.
  func suspicion(of generation: Generation) -> PatchbayError? { suspects[generation] }

  /// A container is of no use any more. Its space is freed without anybody waiting for it but this thread.
  private func forget(_ generation: Generation) {
    open[generation] = nil
    suspects[generation] = nil
    guard known.remove(generation) != nil else { return }
    let name = names.withLock { names in
      names.barred.remove(generation)
      names.withdrawn.remove(generation)
      return names.complete.removeValue(forKey: generation)
    }
    try? DiskFile.remove(in: directory, name: name ?? partName(generation))
  }

  /// Takes containers away whose blobs are gone; readers that have a descriptor keep it.
  func removeLeaving() -> WorkResult {
    let gone = leaving.withLock { leaving in
      defer { leaving = Leaving() }
      return leaving
    }
    for (generation, index) in gone.scratches { removeScratch(generation, index) }
    for generation in gone.containers { forget(generation) }
    for generation in gone.blobs {
      forget(generation)
      removeScratches(of: generation)
    }
    return .containersRemoved
  }

  // MARK: By anybody

  /// A blob is gone; its container goes with the next job.
  func leaves(_ generation: Generation) { leaving.withLock { $0.blobs.append(generation) } }

  /// A container is lost; what stands in memory and in scratch files is not.
  func losesContainer(_ generation: Generation) {
    leaving.withLock { $0.containers.append(generation) }
  }

  /// A scratch file is of no use any more.
  func drops(_ generation: Generation, _ index: Int) {
    leaving.withLock { $0.scratches.append((generation, index)) }
  }

  /// At the end, when the worker has stopped: everything stays for the next broker.
  func leaveAll() {
    for generation in open.keys.sorted() { close(generation) }
    known = []
    scratches = [:]
  }

  /// At the end, when the worker has stopped.
  func leave() {
    open = [:]
    for generation in scratches.keys { removeScratches(of: generation) }
    let complete = names.withLock { Set($0.complete.keys) }
    for generation in known.subtracting(complete) {
      try? DiskFile.remove(in: directory, name: partName(generation))
    }
    known = []
    lock.clear()
  }
}
