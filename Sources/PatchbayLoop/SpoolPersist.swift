// Completing a container, so that the next broker finds the blob. The order of the steps, and what holds
// when the broker, or for `durable` the machine, stops after each:
//
//   1 the segments that stand in memory        the file is incomplete, by name and by header
//   2 the header that says complete, twice     incomplete, by name
//   3 the file written through (durable)       incomplete, by name
//   4 the new name                             complete, or not, as the file system pleases
//   5 the directory written through (durable)  complete
//
// The seal is answered after the last one. The first two are the worker's that writes the spool, an extent
// at a time, so that others who need it have their turns; the rest, which may wait for the device, is a
// thread's of its own. Nothing is written into the container meanwhile: the ledger sees to that.

import PatchbayLedger
import PatchbayRing
import PatchbaySpool
import PatchbaySystem
import PatchbayTypes
import Synchronization

/// A container whose header says complete, on its way to its name.
final class ReadyContainer: Sendable {
  fileprivate let file: Descriptor
  fileprivate init(_ file: consuming Descriptor) { self.file = file }
}

extension Spool {
  // MARK: By the worker

  /// Copies one of the extents that stand in memory.
  func persist(_ order: PersistOrder, extent: Int, from place: RingPlace?) throws(PatchbayError) {
    _ = removeLeaving()
    let record = order.extents[extent]
    guard let place else {
      throw PatchbayError(.inputOutput, "The ring of extent \(record.index) is gone.")
    }
    let range = order.range(of: record)
    try checkFloor(range.count)
    try copy(range, try place.open(isWritable: false), place, to: try writer(for: order))
  }

  /// Copies what stands in one of the scratch files: it is complete, for the blob is.
  func persist(_ order: PersistOrder, scratch: Int) throws(PatchbayError) {
    _ = removeLeaving()
    let record = order.scratch[scratch]
    let shape = ScratchShape(
      generation: record.writer, index: record.index, dataByteCount: record.dataByteCount)
    let range = order.range(of: record.index, record.dataByteCount)
    let writer = try writer(for: order)
    guard try copyScratch(shape, of: order.blob.generation, range, to: writer) else {
      throw PatchbayError(
        .corrupt, "The scratch file of extent \(record.index) lacks bytes that it was to hold.")
    }
  }

  private func writer(for order: PersistOrder) throws(PatchbayError) -> ContainerWriter {
    try writer(
      for: ContainerHeader(
        key: order.blob.request.key, generation: order.blob.generation,
        shape: try ContainerShape(segmentByteCount: order.blob.segmentByteCount),
        compression: order.compression, byteCount: order.blob.byteCount),
      isDurable: order.isDurable)
  }

  /// Has the header say that the blob is complete. The worker has the file open no more then: what the
  /// device refuses is told to one of those that share an open file only, and that is who keeps it.
  func ready(_ order: PersistOrder) throws(PatchbayError) -> ReadyContainer {
    _ = removeLeaving()
    let writer = try writer(for: order)
    var header = writer.header
    header.isSealed = true
    header.digest = order.blob.digest?.description ?? ""
    header.note = ContainerNote(order.blob, boot: boot).bytes
    try writer.write(header: header)
    try writer.write(header: header)
    let container = ReadyContainer(try writer.descriptor())
    handOver(order.blob.generation)
    return container
  }

  // MARK: By the thread that waits for the device

  /// Gives a container that is ready its name.
  func keep(_ order: PersistOrder, _ container: ReadyContainer) -> PersistResult {
    let generation = order.blob.generation
    do throws(PatchbayError) {
      if order.isDurable { try DiskFile.synchronize(container.file) }
    } catch {
      return lost(generation, error)
    }
    do throws(PatchbayError) {
      try complete(generation)
    } catch {
      return .failed(error, containerByteCount: nil)
    }
    do throws(PatchbayError) {
      if order.isDurable { try DiskFile.synchronizeDirectory(directory) }
      return .done(
        containerByteCount: try DiskFile.facts(of: container.file).allocatedByteCount)
    } catch {
      return lost(generation, error)
    }
  }

  /// The flip. Quick: who opens the container meanwhile waits.
  private func complete(_ generation: Generation) throws(PatchbayError) {
    try names.withLock { (names) throws(PatchbayError) in
      guard !names.barred.contains(generation) else {
        throw PatchbayError(
          .closed, "The blob of generation \(generation) was given up while it was put on disk.")
      }
      let name = stem(generation) + SpoolStart.completeSuffix
      try DiskFile.rename(in: directory, from: partName(generation), to: name)
      names.complete[generation] = name
    }
  }

  /// What the device has not confirmed is never used, and no second question makes it better.
  private func lost(_ generation: Generation, _ error: PatchbayError) -> PersistResult {
    names.withLock { names in
      let name = names.complete.removeValue(forKey: generation)
      if let name { try? DiskFile.rename(in: directory, from: name, to: partName(generation)) }
    }
    losesContainer(generation)
    return .lost(error)
  }

  // MARK: By the loop

  /// A blob's container is to be completed; none of it was under way.
  func unbar(_ generation: Generation) {
    names.withLock { _ = $0.barred.remove(generation) }
  }

  /// Whether a broker finds the blob pinned is part of its name, for a name changes in one step.
  func mark(_ generation: Generation, isPinned: Bool) throws(PatchbayError) {
    try names.withLock { (names) throws(PatchbayError) in
      guard let old = names.complete[generation] else { return }
      let suffix = isPinned ? SpoolStart.pinnedSuffix : SpoolStart.completeSuffix
      let new = old.prefix { $0 != "." } + suffix
      guard new != old else { return }
      try DiskFile.rename(in: directory, from: old, to: String(new))
      names.complete[generation] = String(new)
    }
  }

  /// No broker finds the container from now on, also if it is just being completed; readers that have it
  /// open do not mind.
  func withdraw(_ generation: Generation) throws(PatchbayError) {
    try names.withLock { (names) throws(PatchbayError) in
      names.barred.insert(generation)
      guard let name = names.complete[generation] else { return }
      try DiskFile.rename(in: directory, from: name, to: partName(generation))
      names.complete[generation] = nil
      names.withdrawn.insert(generation)
    }
  }
}
