// Completing a container, so that the next broker finds the blob. The order of the steps, and what holds
// when the broker, or for `durable` the machine, stops after each:
//
//   1 the segments that stand in memory        the file is incomplete, by name and by header
//   2 the header that says complete, twice     incomplete, by name
//   3 the file written through (durable)       incomplete, by name
//   4 the new name                             complete, or not, as the file system pleases
//   5 the directory written through (durable)  complete
//
// The seal is answered after the last one.

import PatchbayLedger
import PatchbayRing
import PatchbaySpool
import PatchbaySystem
import PatchbayTypes
import Synchronization

extension Spool {
  /// Makes a blob's container complete.
  /// - Parameter places: where the rings of the order's extents are, in their order.
  func persist(_ order: PersistOrder, from places: [RingPlace?]) -> PersistResult {
    _ = removeLeaving()
    let generation = order.blob.generation
    let writer: ContainerWriter
    do throws(PatchbayError) {
      writer = try incompleteWriter(for: order)
      for (extent, place) in zip(order.extents, places) {
        guard let place else {
          throw PatchbayError(.inputOutput, "The ring of extent \(extent.index) is gone.")
        }
        let range = order.range(of: extent)
        try checkFloor(range.count)
        try copy(range, try place.open(isWritable: false), place, to: writer)
      }
    } catch {
      return .failed(error, containerByteCount: takenByteCount(generation))
    }
    do throws(PatchbayError) {
      try complete(writer, order)
      return .done(containerByteCount: try writer.allocatedByteCount())
    } catch {
      // A header that says complete, bytes that may not be on the device: nothing of it is used.
      lose(generation)
      return .lost(error)
    }
  }

  private func incompleteWriter(
    for order: PersistOrder
  ) throws(PatchbayError) -> ContainerWriter {
    try writer(
      for: ContainerHeader(
        key: order.blob.request.key, generation: order.blob.generation,
        shape: try ContainerShape(segmentByteCount: order.blob.segmentByteCount),
        compression: order.compression, byteCount: order.blob.byteCount))
  }

  private func complete(
    _ writer: ContainerWriter, _ order: PersistOrder
  ) throws(PatchbayError) {
    var header = writer.header
    header.isSealed = true
    header.digest = order.blob.digest?.description ?? ""
    header.note = ContainerNote(order.blob, boot: boot).bytes
    try writer.write(header: header)
    try writer.write(header: header)
    if order.isDurable { try writer.synchronize() }
    try rename(order.blob.generation, isComplete: true)
    if order.isDurable { try DiskFile.synchronizeDirectory(directory) }
  }

  /// Gives the container of a blob the name of a complete one, or takes that away. Quick: who opens the
  /// container meanwhile waits.
  private func rename(_ generation: Generation, isComplete: Bool) throws(PatchbayError) {
    try complete.withLock { (complete) throws(PatchbayError) in
      let part = partName(generation)
      if isComplete {
        let name = stem(generation) + SpoolStart.completeSuffix
        try DiskFile.rename(in: directory, from: part, to: name)
        complete[generation] = name
      } else if let name = complete[generation] {
        try DiskFile.rename(in: directory, from: name, to: part)
        complete[generation] = nil
      }
    }
  }

  /// No broker finds the container from now on; readers that have it open do not mind. By any thread.
  func withdraw(_ generation: Generation) throws(PatchbayError) {
    try rename(generation, isComplete: false)
  }

  private func lose(_ generation: Generation) {
    // Under which of both names it stands may not be known.
    try? DiskFile.remove(in: directory, name: completeName(generation))
    complete.withLock { $0[generation] = nil }
    forget(generation)
  }
}
