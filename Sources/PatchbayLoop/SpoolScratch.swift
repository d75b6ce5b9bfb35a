// Scratch files: what is covered of extents that left memory before all of it was. One for each such
// extent, beside the containers and swept with them; written, read back and removed by the spool's worker.

import PatchbayLayout
import PatchbayLedger
import PatchbayRing
import PatchbaySpool
import PatchbaySystem
import PatchbayTypes

/// A scratch file that is open.
struct OpenScratch: Sendable {
  let reader: ScratchReader
  let map: MapSnapshot

  /// - Throws: `corrupt`, `inputOutput`.
  init(_ file: consuming Descriptor, _ shape: ScratchShape) throws(PatchbayError) {
    let geometry = try RingGeometry(dataByteCount: shape.dataByteCount, hasMap: true)
    reader = try ScratchReader(file, shape, wordLimit: MapSnapshot.wordLimit(geometry))
    map = try MapSnapshot(geometry, words: reader.mapWords)
  }

  /// The runs of covered bytes of a block: their offsets in the extent, and the bytes.
  func runs(of block: Int) throws(PatchbayError) -> [(offset: Int, bytes: ArraySlice<UInt8>)] {
    let range = reader.shape.range(ofBlock: block)
    guard map.uncoveredEnd(from: range.lowerBound, limit: range.upperBound) < range.upperBound
    else { return [] }
    let bytes = try reader.read(block: block)
    return map.runs(in: range).map {
      ($0.lowerBound, bytes[$0.lowerBound - range.lowerBound..<$0.upperBound - range.lowerBound])
    }
  }
}

extension Spool {
  static let scratchSuffix = ".scratch"

  private func scratchName(_ generation: Generation, _ index: Int) -> String {
    "\(stem(generation))-\(index)\(Self.scratchSuffix)"
  }

  /// A descriptor for a reader.
  func openScratch(_ generation: Generation, _ index: Int) throws(PatchbayError) -> Descriptor {
    try DiskFile.open(in: directory, name: scratchName(generation, index), isWritable: false)
  }

  /// Bytes of disk that a scratch file takes.
  func byteCountOfScratch(_ generation: Generation, _ index: Int) throws(PatchbayError) -> Int {
    try DiskFile.facts(of: openScratch(generation, index)).allocatedByteCount
  }

  // MARK: By the worker

  /// Copies what is covered of an extent into a scratch file.
  func spillPartly(
    _ order: SpillOrder, _ ring: borrowing Descriptor, _ place: RingPlace
  ) throws(PatchbayError) -> SpillResult {
    let map = try MapSnapshot(ring, place.geometry)
    let data = place.geometry.dataByteCount
    let found = map.coverage(upTo: data, missingLimit: 1)
    guard found.coveredByteCount > 0 else { return .empty }
    try checkFloor(data)
    let shape = ScratchShape(
      generation: order.generation, index: order.extent.index, dataByteCount: data)
    let name = scratchName(order.generation, order.extent.index)
    scratches[order.generation, default: []].insert(order.extent.index)
    do throws(PatchbayError) {
      let writer = try ScratchWriter(in: directory, name: name, shape, mapWords: map.words)
      try copyBlocks(ring, place, map, shape, to: writer)
      return .partial(
        ScratchStanding(
          fileByteCount: try writer.finish(), coveredByteCount: found.coveredByteCount,
          frontier: found.missing.first?.lowerBound ?? data))
    } catch {
      removeScratch(order.generation, order.extent.index)
      throw error
    }
  }

  private func copyBlocks(
    _ ring: borrowing Descriptor, _ place: RingPlace, _ map: MapSnapshot, _ shape: ScratchShape,
    to writer: ScratchWriter
  ) throws(PatchbayError) {
    for block in 0..<shape.blockCount {
      let range = shape.range(ofBlock: block)
      guard map.uncoveredEnd(from: range.lowerBound, limit: range.upperBound) < range.upperBound
      else { continue }
      try writer.write(block: block, bytes(of: range, ring, place, map))
    }
  }

  /// The covered bytes of a range at their places, zeros elsewhere: what a ring holds there is what an
  /// earlier use has left.
  private func bytes(
    of range: Range<Int>, _ ring: borrowing Descriptor, _ place: RingPlace, _ map: MapSnapshot
  ) throws(PatchbayError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: range.count)
    var at = range.lowerBound
    while at < range.upperBound {
      let start = map.uncoveredEnd(from: at, limit: range.upperBound)
      at = map.coveredEnd(from: start, limit: range.upperBound)
      guard start < at else { break }
      var run = [UInt8](repeating: 0, count: at - start)
      try SharedObject.read(ring, at: place.geometry.dataOffset + start, into: &run)
      bytes.replaceSubrange(start - range.lowerBound..<at - range.lowerBound, with: run)
    }
    return bytes
  }

  /// Fills a ring that nobody was given with what a scratch file holds; nil when all is there.
  func restore(_ order: RestoreOrder, into place: RingPlace?) -> PatchbayError? {
    do throws(PatchbayError) {
      guard let place else {
        throw PatchbayError(.inputOutput, "The ring of extent \(order.index) is gone.")
      }
      let scratch = try OpenScratch(
        openScratch(order.generation, order.index),
        ScratchShape(
          generation: order.writer, index: order.index,
          dataByteCount: place.geometry.dataByteCount))
      let ring = try place.open(isWritable: true)
      try fill(ring, place.geometry, from: scratch)
      return nil
    } catch {
      return error
    }
  }

  private func fill(
    _ ring: borrowing Descriptor, _ geometry: RingGeometry, from scratch: OpenScratch
  ) throws(PatchbayError) {
    for block in 0..<scratch.reader.shape.blockCount {
      for (offset, bytes) in try scratch.runs(of: block) {
        try SharedObject.write(ring, at: geometry.dataOffset + offset, Array(bytes))
      }
    }
    try scratch.map.put(into: ring)
  }

  /// Copies an extent of a sealed blob from its scratch file into the container.
  func convert(
    _ order: SpillOrder, writtenAs scratchWriter: Generation
  ) throws(PatchbayError) -> SpillResult {
    let writer = try writer(for: order.header, isDurable: order.isDurable)
    let shape = ScratchShape(
      generation: scratchWriter, index: order.extent.index,
      dataByteCount: order.extent.dataByteCount)
    guard try copyScratch(shape, of: order.generation, order.range, to: writer) else {
      return .incomplete
    }
    return .done(containerByteCount: try writer.allocatedByteCount())
  }

  /// Copies some positions from a scratch file into a container; false when not all are covered.
  func copyScratch(
    _ shape: ScratchShape, of generation: Generation, _ range: Range<Int>,
    to writer: ContainerWriter
  ) throws(PatchbayError) -> Bool {
    try checkFloor(range.count)
    let scratch = try OpenScratch(openScratch(generation, shape.index), shape)
    guard scratch.map.coveredEnd(from: 0, limit: range.count) == range.count else { return false }
    var content: [UInt8] = []
    content.reserveCapacity(range.count)
    for block in 0..<scratch.reader.shape.blockCount {
      for (offset, bytes) in try scratch.runs(of: block) {
        content += bytes.prefix(max(0, range.count - offset))
      }
    }
    for at in stride(from: 0, to: content.count, by: writer.shape.segmentByteCount) {
      let end = min(content.count, at + writer.shape.segmentByteCount)
      try writer.write(
        segment: writer.shape.segment(of: range.lowerBound + at), Array(content[at..<end]))
    }
    return true
  }

  /// Gives a scratch file a second name, that of another generation.
  func linkScratch(
    _ index: Int, from source: Generation, to target: Generation
  ) throws(PatchbayError) {
    scratches[target, default: []].insert(index)
    try DiskFile.link(
      in: directory, name: scratchName(source, index), as: scratchName(target, index))
  }

  /// Takes a scratch file away; readers that have a descriptor keep it.
  func removeScratch(_ generation: Generation, _ index: Int) {
    scratches[generation]?.remove(index)
    if scratches[generation]?.isEmpty == true { scratches[generation] = nil }
    try? DiskFile.remove(in: directory, name: scratchName(generation, index))
  }

  func removeScratches(of generation: Generation) {
    for index in scratches.removeValue(forKey: generation) ?? [] {
      try? DiskFile.remove(in: directory, name: scratchName(generation, index))
    }
  }
}

extension SpillOrder {
  /// The header of the container, if it is begun for this extent.
  var header: ContainerHeader {
    get throws(PatchbayError) {
      ContainerHeader(
        key: key, generation: generation,
        shape: try ContainerShape(segmentByteCount: segmentByteCount), compression: compression,
        byteCount: byteCount)
    }
  }
}
