// Journal chunks as named shared memory of the broker's own, mode 0600, reserved as a whole. They
// outlive the process: the next start finds them by their names, so they are unlinked only when the
// broker ends on purpose.

import PatchbaySystem
import PatchbayTypes

@safe final class SharedJournalStorage: JournalStorage {
  private let instance: UInt64
  private var mappings: [SharedMapping] = []

  init(instance: UInt64) { self.instance = instance }

  private func name(_ chunk: Int) -> String {
    ObjectName.journal(instance: instance, chunk: chunk)
  }

  func addChunk(header: [UInt8], byteCount: Int) throws(PatchbayError) {
    let name = name(mappings.count)
    var inode: UInt64 = 0
    let descriptor = try SharedObject.create(
      name: name, mode: 0o600, byteCount: byteCount, inode: &inode)
    do throws(PatchbayError) {
      let mapping = try SharedMapping(
        descriptor, byteCount: byteCount, isWritable: true, what: "the journal \(name)")
      mappings.append(mapping)
    } catch {
      try SharedObject.unlink(name: name)
      throw error
    }
    write(header, chunk: mappings.count - 1, at: 0)
  }

  func write(_ bytes: [UInt8], chunk: Int, at offset: Int) {
    let mapping = mappings[chunk]
    precondition(offset >= 0 && offset + bytes.count <= mapping.byteCount)
    unsafe bytes.withUnsafeBytes { source in
      guard let from = source.baseAddress else { return }
      unsafe (mapping.base + offset).copyMemory(from: from, byteCount: source.count)
    }
  }

  /// Takes the names away; the chunks go with this object.
  func unlinkAll() {
    for chunk in mappings.indices { try? SharedObject.unlink(name: name(chunk)) }
  }
}
