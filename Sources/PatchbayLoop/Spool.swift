// The containers of this instance: one file for each blob that has extents on disk. They are written by
// one worker thread, in the order in which the ledger wants it; clients get descriptors for reading.
//
// Containers that nobody asked to keep go with their broker: in order when it ends, and when it was
// killed by the next one that takes the directory's lock.

import Glibc
import PatchbayLedger
import PatchbayRing
import PatchbaySpool
import PatchbaySystem
import PatchbayTypes
import Synchronization

/// The writers belong to the spool's worker thread; everything else does not change.
@safe final class Spool: @unchecked Sendable {
  private let path: String
  let instance: UInt64
  let directory: Descriptor
  private let lock: InstanceLock
  /// Of the worker thread: what was written last, and what is known to be there.
  private var writers: [Generation: ContainerWriter] = [:]
  private var known: Set<Generation> = []
  /// Of the worker thread, too: scratch files that are there, by the indices of their extents.
  var scratches: [Generation: Set<Int>] = [:]
  /// Of all threads: containers whose blobs are gone.
  private let leaving = Mutex<[Generation]>([])
  /// One segment on its way.
  @unsafe private var buffer = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)

  /// The most files that are kept open between two spills.
  private static let writerLimit = 64

  /// Takes the directory, which is made if it is not there, for this broker alone.
  /// - Throws: `limitReached` when another broker has it, `notPermitted` when it is not ours,
  ///   `inputOutput`.
  init(_ place: SpoolPlace, instance: UInt64) throws(PatchbayError) {
    path = place.directory
    self.instance = instance
    let directory = try DiskFile.ownDirectory(place.directory)
    lock = try InstanceLock(
      place.directory + "/broker.lock",
      taken:
        "Another broker has the spool \(place.directory). Use another directory with --spool, or "
        + "stop it.")
    if let previous = lock.previous {
      _ = InstanceLock.sweep(place.directory, ObjectName.prefix(instance: previous))
    }
    try lock.note(instance)
    self.directory = directory
  }

  deinit { unsafe buffer.deallocate() }

  private func name(_ generation: Generation) -> String {
    "\(ObjectName.prefix(instance: instance))\(ObjectName.hex(generation.rawValue)).part"
  }

  static func gone(_ generation: Generation) -> PatchbayError {
    PatchbayError(.closed, "The container of generation \(generation) is gone; so is its blob.")
  }

  /// A descriptor for a reader.
  func open(_ generation: Generation) throws(PatchbayError) -> Descriptor {
    try DiskFile.open(in: directory, name: name(generation), isWritable: false)
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
      let writer = try writer(for: order)
      try copy(order, ring, place, to: writer)
      return .done(containerByteCount: try writer.allocatedByteCount())
    } catch {
      let byteCount = (try? writers[order.generation]?.allocatedByteCount()) ?? nil
      return .failed(error, containerByteCount: byteCount)
    }
  }

  private func copy(
    _ order: SpillOrder, _ ring: borrowing Descriptor, _ place: RingPlace,
    to writer: ContainerWriter
  ) throws(PatchbayError) {
    let shape = writer.shape
    if unsafe buffer.count < shape.segmentByteCount {
      unsafe buffer.deallocate()
      unsafe buffer = .allocate(byteCount: shape.segmentByteCount, alignment: 64)
    }
    var at = order.range.lowerBound
    while at < order.range.upperBound {
      let end = min(order.range.upperBound, at + shape.segmentByteCount)
      let offset = place.geometry.dataOffset + at - order.range.lowerBound
      let piece = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[..<(end - at)])
      try unsafe SharedObject.read(ring, at: offset, into: piece)
      try unsafe writer.write(segment: shape.segment(of: at), UnsafeRawBufferPointer(piece))
      at = end
    }
  }

  func writer(for order: SpillOrder) throws(PatchbayError) -> ContainerWriter {
    let writer = try anyWriter(for: order)
    // Told before the last segment, which may be short.
    if writer.header.byteCount != order.byteCount {
      var header = writer.header
      header.byteCount = order.byteCount
      try writer.write(header: header)
    }
    return writer
  }

  private func anyWriter(for order: SpillOrder) throws(PatchbayError) -> ContainerWriter {
    if let writer = writers[order.generation] { return writer }
    if writers.count >= Self.writerLimit { writers = [:] }
    let writer: ContainerWriter
    if known.contains(order.generation) {
      writer = try ContainerWriter.open(in: directory, name: name(order.generation))
    } else {
      let header = ContainerHeader(
        key: order.key, generation: order.generation,
        shape: try ContainerShape(segmentByteCount: order.segmentByteCount),
        compression: order.compression, byteCount: order.byteCount, isSealed: false, digest: "",
        note: [])
      writer = try ContainerWriter.create(
        in: directory, name: name(order.generation), header)
      known.insert(order.generation)
    }
    writers[order.generation] = writer
    return writer
  }

  /// Gives a container a second name, that of another generation, whose header it has from then on.
  func adoptContainer(_ order: AdoptOrder) throws(PatchbayError) {
    writers[order.source] = nil
    known.insert(order.target)
    try DiskFile.link(in: directory, name: name(order.source), as: name(order.target))
    let writer = try ContainerWriter.open(in: directory, name: name(order.target))
    let old = writer.header
    let header = ContainerHeader(
      key: order.key, generation: order.target, shape: old.shape, compression: old.compression,
      byteCount: old.byteCount, isSealed: false, digest: old.digest, note: old.note)
    // Both copies.
    try writer.write(header: header)
    try writer.write(header: header)
    writers[order.target] = writer
  }

  /// Bytes of disk that a container takes; 0 when there is none.
  func containerByteCount(_ generation: Generation) throws(PatchbayError) -> Int {
    try writers[generation]?.allocatedByteCount() ?? 0
  }

  /// Takes containers away whose blobs are gone; readers that have a descriptor keep it.
  func removeLeaving() -> WorkResult {
    let gone = leaving.withLock { leaving in
      defer { leaving = [] }
      return leaving
    }
    for generation in gone {
      writers[generation] = nil
      removeScratches(of: generation)
      guard known.remove(generation) != nil else { continue }
      try? DiskFile.remove(in: directory, name: name(generation))
    }
    return .containersRemoved
  }

  // MARK: By anybody

  /// A blob is gone; its container goes with the next job.
  func leaves(_ generation: Generation) { leaving.withLock { $0.append(generation) } }

  /// At the end, when the worker has stopped.
  func leave() {
    writers = [:]
    for generation in scratches.keys { removeScratches(of: generation) }
    for generation in known { try? DiskFile.remove(in: directory, name: name(generation)) }
    known = []
    lock.clear()
  }
}
