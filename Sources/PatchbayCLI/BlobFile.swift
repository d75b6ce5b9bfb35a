// A sealed blob as a descriptor that children inherit: the file itself when the blob was imported,
// else a copy in anonymous memory that nobody can write any more. A ring cannot be handed out
// instead: its pages hold other things besides, and serve other blobs later.

import CPatchbaySystem
import Glibc
import Patchbay
import PatchbaySystem

final class BlobFile {
  private let descriptor: Descriptor
  /// What the descriptor is of; nil: a copy, which nobody can change.
  private let file: ImportedFile?
  /// Open as long as the command runs: a reader among the blob's others.
  private let subscriber: Subscriber

  /// Waits until the blob is sealed and makes a file of it.
  /// - Throws: as `Subscriber.copy`; `noSpaceMemory`, `limitReached` for the copy.
  init(_ subscriber: Subscriber, deadline: Deadline) throws(PatchbayError) {
    let byteCount = try subscriber.waitUntilSealed(deadline: deadline)
    self.subscriber = subscriber
    let file = try subscriber.importedFile(deadline: .standard)
    try file?.checkUnchanged()
    if let file, let reopened = try? file.reopened() {
      descriptor = try Self.inherited(reopened)
      self.file = file
    } else {
      descriptor = try Self.inherited(Self.copy(subscriber, byteCount, deadline))
      self.file = nil
    }
  }

  /// What the child finds it under.
  var path: String { "/dev/fd/\(descriptor.rawValue)" }

  /// Looks whether what the child was given is still the blob; asks no broker.
  /// - Throws: `corrupt` when it is not; `inputOutput` when nobody can say.
  func checkUnchanged() throws(PatchbayError) { try file?.checkUnchanged() }

  /// A copy whose bytes and length are fixed, for reading only.
  private static func copy(
    _ subscriber: Subscriber, _ byteCount: Int, _ deadline: Deadline
  ) throws(PatchbayError) -> Descriptor {
    let memory = Descriptor(
      owning: try checked(unsafe pb_memfd_empty("patchbay-with"), "Making a file in memory"))
    let copied: Int
    do throws(PatchbayError) {
      copied = try subscriber.copy(to: memory.rawValue, deadline: deadline)
    } catch {
      guard [ENOSPC, ENOMEM].contains(error.systemErrno) else { throw error }
      throw noMemory(subscriber.key, byteCount)
    }
    guard copied == byteCount else {
      throw PatchbayError(
        .corrupt,
        "The sealed blob \(subscriber.key) has \(byteCount) bytes, and \(copied) could be read.")
    }
    _ = try checked(pb_seal_content(memory.rawValue), "Sealing a file in memory")
    return try DiskFile.reopened(memory.rawValue)
  }

  private static func noMemory(_ key: BlobKey, _ byteCount: Int) -> PatchbayError {
    PatchbayError(
      .noSpaceMemory,
      "There is no memory for a copy of the blob \(key), which has \(byteCount) bytes. Write it to a "
        + "disk with `patchbay get`, and run the command on that.")
  }

  /// The same, open in children too, and not one of the numbers that shells use.
  private static func inherited(
    _ file: borrowing Descriptor
  ) throws(PatchbayError) -> Descriptor {
    let number = fcntl(file.rawValue, F_DUPFD, 10)
    guard number >= 0 else { throw .system("Preparing a file for the command", errno: errno) }
    return Descriptor(owning: number)
  }
}
