// Files that become blobs as they are, and blobs that are kept.

import Glibc
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

/// How a file is to be imported.
public struct ImportOptions: Sendable, Hashable {
  /// Permission bits of the blob, as of a file; the file's own do not matter to its readers.
  public var mode: UInt16
  /// Takes the place of a blob that has the key.
  public var replaces: Bool
  /// Media type of the bytes.
  public var type: String
  /// Labels that travel with the blob.
  public var labels: [BlobInfo.Label]

  /// Options; by default for the owner alone, under a key that is free.
  public init(
    mode: UInt16 = 0o600, replaces: Bool = false, type: String = "",
    labels: [BlobInfo.Label] = []
  ) {
    self.mode = mode
    self.replaces = replaces
    self.type = type
    self.labels = labels
  }

  fileprivate func request(_ key: BlobKey) -> Request {
    var request = ImportRequest(key: key)
    request.mode = mode
    request.replaces = replaces
    request.type = type
    request.labels = labels
    return .import(request)
  }
}

extension PatchbayClient {
  /// Publishes a file as it is, without copying it: sealed at once, with the length that the file
  /// has, however long that is. Readers read the file itself; the broker never writes to it, and it
  /// stays when the blob goes. Only the broker's own user and root may import. Blocks for the file's
  /// system and the broker's answer, and until the file has not been changed for 20 ms.
  ///
  /// The file must not be changed any more. A change is noticed by its times and its length: then
  /// reads throw `corrupt`, and the blob fails when it is next opened. Renaming, linking or
  /// removing the file and a new mode or owner count as changes. A file that is changed between the
  /// last look before the import and the first one after it is not imported: the blob is removed
  /// again, one that it has replaced stays gone, and `corrupt` is thrown. A blob that came into
  /// being too late for the deadline, or for a task that is cancelled, is removed, too, when the
  /// broker's answer is read: by the next call of this client. If the process ends before, it stays.
  /// - Parameters:
  ///   - path: a regular file. A symbolic link is followed.
  ///   - key: the blob's name.
  ///   - options: what the blob is to be.
  ///   - deadline: when to give up waiting for the file to rest, and for the broker.
  /// - Returns: the blob's generation.
  /// - Throws: `inputOutput` when it is no regular file or has not the length that it says,
  ///   `notPermitted` for the file or this user, or when the system lets this process send no
  ///   descriptor; `corrupt`; `keyExists`, `limitReached` when the broker holds as many files as it
  ///   can, `noBroker`, `timedOut`, also when the file is being written to.
  @available(*, noasync)
  @discardableResult
  public func importFile(
    _ path: String, as key: BlobKey, _ options: ImportOptions = ImportOptions(),
    deadline: Deadline = .standard
  ) throws(PatchbayError) -> Generation {
    let source = try ImportSource(path)
    try source.waitForRest(deadline) { usleep(UInt32($0.wholeNanoseconds / 1000)) }
    let imported = try session.connection.call(
      options.request(key), deadline: deadline, with: source.file
    ).created.blob.generation
    do throws(PatchbayError) {
      try source.checkUnchanged(as: key)
    } catch {
      try? session.perform(Self.removal(of: key, imported), deadline: .after(Self.removalLimit))
      throw error
    }
    return imported
  }

  /// Publishes a file as it is; as the blocking `importFile`. The file is opened and looked at by
  /// threads that do nothing else.
  /// - Throws: as the blocking `importFile`; `cancelled`.
  @discardableResult
  public func importFile(
    _ path: String, as key: BlobKey, _ options: ImportOptions = ImportOptions(),
    deadline: Deadline = .standard
  ) async throws(PatchbayError) -> Generation {
    let source = try await FileThreads.shared.run { () throws(PatchbayError) in
      try ImportSource(path)
    }
    // Cancelled meanwhile, the call says so.
    try await source.waitForRest(deadline) { try? await Task.sleep(for: $0) }
    let imported = try await session.connection.call(
      options.request(key), deadline: deadline, with: source.file
    ).created.blob.generation
    do throws(PatchbayError) {
      try await FileThreads.shared.run { () throws(PatchbayError) in
        try source.checkUnchanged(as: key)
      }
    } catch {
      await remove(imported, of: key)
      throw error
    }
    return imported
  }

  /// How long the removal of what should not have been imported may take.
  private static let removalLimit = Duration.seconds(5)

  private static func removal(of key: BlobKey, _ generation: Generation) -> Request {
    .remove(RemoveRequest(key: key, generation: generation))
  }

  /// Removes what was just imported, also for a task that is cancelled.
  private func remove(_ generation: Generation, of key: BlobKey) async {
    await Task { [session] in
      try? await session.perform(
        Self.removal(of: key, generation), deadline: .after(Self.removalLimit))
    }.value
  }

  /// Keeps a blob from being evicted, until it is unpinned or removed. Its bytes may move to the
  /// spool all the same. A blob that is pinned already stays so. Blocks for the broker's answer.
  /// - Throws: `noSuchKey`, `notPermitted` (another user's blob), `noBroker`, `timedOut`.
  @available(*, noasync)
  public func pin(_ key: BlobKey, deadline: Deadline = .standard) throws(PatchbayError) {
    try session.perform(.pin(PinRequest(key: key, isPinned: true)), deadline: deadline)
  }

  /// Keeps a blob from being evicted; as the blocking `pin`.
  /// - Throws: as the blocking `pin`; `cancelled`.
  public func pin(_ key: BlobKey, deadline: Deadline = .standard) async throws(PatchbayError) {
    try await session.perform(.pin(PinRequest(key: key, isPinned: true)), deadline: deadline)
  }

  /// Lets a blob be evicted again. One that is not pinned stays so. Blocks for the broker's answer.
  /// - Throws: as `pin`.
  @available(*, noasync)
  public func unpin(_ key: BlobKey, deadline: Deadline = .standard) throws(PatchbayError) {
    try session.perform(.pin(PinRequest(key: key, isPinned: false)), deadline: deadline)
  }

  /// Lets a blob be evicted again; as the blocking `unpin`.
  /// - Throws: as the blocking `pin`; `cancelled`.
  public func unpin(_ key: BlobKey, deadline: Deadline = .standard) async throws(PatchbayError) {
    try await session.perform(.pin(PinRequest(key: key, isPinned: false)), deadline: deadline)
  }
}
