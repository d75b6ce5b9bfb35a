// Journal chunks as named shared memory of the broker's own, mode 0600, reserved as a whole. They
// outlive the process: the next start finds them by their names, so they are unlinked only when the
// journal gives one up or the broker ends on purpose. Their numbers may have gaps.
//
// The first chunk is made before all others, and its name goes before theirs when the broker ends on
// purpose: chunks without it are what such an end has left when it was cut short, and are nothing.

import Glibc
import PatchbaySystem
import PatchbayTypes

@safe package final class SharedJournalStorage: JournalStorage {
  /// Numbers of chunks are below it; so many are 256 GiB.
  private static let chunkLimit = 65536

  private let instance: UInt64
  /// By number.
  private var mappings: [SharedMapping?] = []

  package init(instance: UInt64) { self.instance = instance }

  private func name(_ chunk: Int) -> String {
    ObjectName.journal(instance: instance, chunk: chunk)
  }

  package func addChunk(
    _ chunk: Int, header: [UInt8], byteCount: Int
  ) throws(PatchbayError) {
    guard chunk < Self.chunkLimit else {
      throw PatchbayError(
        .noSpaceMemory, "The journal has \(chunk) chunks, as many as it can have; remove blobs.")
    }
    let name = name(chunk)
    var inode: UInt64 = 0
    let descriptor = try SharedObject.create(
      name: name, mode: 0o600, byteCount: byteCount, inode: &inode)
    do throws(PatchbayError) {
      try map(chunk, descriptor, byteCount: byteCount)
    } catch {
      try SharedObject.unlink(name: name)
      throw error
    }
    write(header, chunk: chunk, at: 0)
  }

  private func map(
    _ chunk: Int, _ descriptor: borrowing Descriptor, byteCount: Int
  ) throws(PatchbayError) {
    let mapping = try SharedMapping(
      descriptor, byteCount: byteCount, isWritable: true, what: "the journal \(name(chunk))")
    while mappings.count <= chunk { mappings.append(nil) }
    mappings[chunk] = mapping
  }

  package func removeChunk(_ chunk: Int) throws(PatchbayError) {
    try SharedObject.unlink(name: name(chunk))
    if mappings.indices.contains(chunk) { mappings[chunk] = nil }
  }

  package func write(_ bytes: [UInt8], chunk: Int, at offset: Int) {
    guard let mapping = mappings[chunk] else {
      preconditionFailure("chunk \(chunk) of the journal is gone")
    }
    precondition(offset >= 0 && offset + bytes.count <= mapping.byteCount)
    unsafe bytes.withUnsafeBytes { source in
      guard let from = source.baseAddress else { return }
      unsafe (mapping.base + offset).copyMemory(from: from, byteCount: source.count)
    }
  }

  /// Takes the names away, the first chunk's first; the chunks go with this object.
  package func unlinkAll() {
    for chunk in mappings.indices where mappings[chunk] != nil {
      try? SharedObject.unlink(name: name(chunk))
    }
  }

  // MARK: Going on

  /// The chunks that a killed broker has left, ready to be written, with a private copy of the bytes
  /// of each by number; one without any was being made. Nil: it has left no journal, or one in which
  /// nothing can have been recorded; its chunks are gone then.
  /// - Throws: `notPermitted` for a chunk that is not a file of this user alone, `corrupt` and
  ///   `versionMismatch` for one of another size, or a first one of another broker or version;
  ///   nothing is touched then. `limitReached`, `inputOutput`.
  package static func open(
    instance: UInt64, shape: JournalShape = .standard
  ) throws(PatchbayError) -> (storage: SharedJournalStorage, chunks: [Int: [UInt8]])? {
    let storage = SharedJournalStorage(instance: instance)
    var chunks: [Int: [UInt8]] = [:]
    for chunk in try numbers(instance) {
      chunks[chunk] = try storage.takeUp(chunk, shape)
    }
    guard let first = chunks[0],
      chunks.count > 1 || !JournalReader.isUnborn(first, index: 0, shape, instance)
    else {
      for chunk in chunks.keys.sorted() { try storage.removeChunk(chunk) }
      return nil
    }
    guard try JournalReader.checkHeader(first, index: 0, shape) == instance else {
      throw PatchbayError(
        .corrupt,
        "The chunk \(storage.name(0)) says that it is of another broker. \(remedy(instance))")
    }
    return (storage, chunks)
  }

  private static func remedy(_ instance: UInt64) -> String {
    "Remove /dev/shm/\(ObjectName.prefix(instance: instance))* to give its blobs up."
  }

  /// The numbers of the chunks that have names, in order.
  private static func numbers(_ instance: UInt64) throws(PatchbayError) -> [Int] {
    let prefix = ObjectName.journalPrefix(instance: instance)
    return try SharedObject.names(prefix: prefix).compactMap { name in
      let digits = name.dropFirst(prefix.utf8.count)
      guard let number = Int(digits), String(number) == digits,
        (0..<chunkLimit).contains(number)
      else { return nil }
      return number
    }.sorted()
  }

  private func takeUp(_ chunk: Int, _ shape: JournalShape) throws(PatchbayError) -> [UInt8] {
    let name = name(chunk)
    var byteCount = 0
    let descriptor = try SharedObject.openOwn(name: name, mode: 0o600, byteCount: &byteCount)
    guard byteCount > 0 else { return [] }
    guard byteCount == shape.chunkByteCount else {
      // What its head says tells another version from damage.
      var head = [UInt8](repeating: 0, count: min(byteCount, shape.chunkByteCount))
      try SharedObject.read(descriptor, at: 0, into: &head)
      _ = try JournalReader.checkHeader(head, index: chunk, shape)
      throw PatchbayError(
        .corrupt,
        "The chunk \(name) of the journal has \(byteCount) bytes, not \(shape.chunkByteCount). "
          + Self.remedy(instance))
    }
    try map(chunk, descriptor, byteCount: byteCount)
    return try SharedObject.contents(descriptor, byteCount: byteCount)
  }
}
