// Journal chunks as named shared memory of the broker's own, mode 0600, reserved as a whole. They
// outlive the process: the next start finds them by their names, so they are unlinked only when the
// journal gives one up or the broker ends on purpose. Their numbers may have gaps.

import PatchbaySystem
import PatchbayTypes

@safe final class SharedJournalStorage: JournalStorage {
  private let instance: UInt64
  /// By number.
  private var mappings: [SharedMapping?] = []

  init(instance: UInt64) { self.instance = instance }

  private func name(_ chunk: Int) -> String {
    ObjectName.journal(instance: instance, chunk: chunk)
  }

  func addChunk(_ chunk: Int, header: [UInt8], byteCount: Int) throws(PatchbayError) {
    let name = name(chunk)
    var inode: UInt64 = 0
    let descriptor = try SharedObject.create(
      name: name, mode: 0o600, byteCount: byteCount, inode: &inode)
    do throws(PatchbayError) {
      let mapping = try SharedMapping(
        descriptor, byteCount: byteCount, isWritable: true, what: "the journal \(name)")
      while mappings.count <= chunk { mappings.append(nil) }
      mappings[chunk] = mapping
    } catch {
      try SharedObject.unlink(name: name)
      throw error
    }
    write(header, chunk: chunk, at: 0)
  }

  func removeChunk(_ chunk: Int) throws(PatchbayError) {
    try SharedObject.unlink(name: name(chunk))
    mappings[chunk] = nil
  }

  func write(_ bytes: [UInt8], chunk: Int, at offset: Int) {
    guard let mapping = mappings[chunk] else {
      preconditionFailure("chunk \(chunk) of the journal is gone")
    }
    precondition(offset >= 0 && offset + bytes.count <= mapping.byteCount)
    unsafe bytes.withUnsafeBytes { source in
      guard let from = source.baseAddress else { return }
      unsafe (mapping.base + offset).copyMemory(from: from, byteCount: source.count)
    }
  }

  /// Takes the names away; the chunks go with this object.
  func unlinkAll() {
    for chunk in mappings.indices where mappings[chunk] != nil {
      try? SharedObject.unlink(name: name(chunk))
    }
  }
}
