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
  /// stays when the blob goes. Blocks for the file's system and the broker's answer.
  ///
  /// The file must not be changed any more. A change is noticed by its times and its length: then
  /// reads throw `corrupt`, and the blob fails when it is next opened. Renaming, linking or
  /// removing the file and a new mode or owner count as changes.
  /// - Parameters:
  ///   - path: a regular file. A symbolic link is followed.
  ///   - key: the blob's name.
  ///   - options: what the blob is to be.
  ///   - deadline: when to give up waiting for the broker.
  /// - Returns: the blob's generation.
  /// - Throws: `inputOutput`, `notPermitted` for the file; `keyExists`, `limitReached` when the
  ///   broker holds as many files as it can, `noBroker`, `timedOut`.
  @available(*, noasync)
  @discardableResult
  public func importFile(
    _ path: String, as key: BlobKey, _ options: ImportOptions = ImportOptions(),
    deadline: Deadline = .standard
  ) throws(PatchbayError) -> Generation {
    let source = try ImportSource(path)
    if let pause = source.pause { usleep(UInt32(pause.wholeNanoseconds / 1000)) }
    return try session.connection.call(
      options.request(key), deadline: deadline, with: source.file
    ).created.blob.generation
  }

  /// Publishes a file as it is; as the blocking `importFile`. The file is opened by threads that do
  /// nothing else.
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
    if let pause = source.pause { try? await Task.sleep(for: pause) }
    return try await session.connection.call(
      options.request(key), deadline: deadline, with: source.file
    ).created.blob.generation
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

/// A file that is to be imported, opened.
private struct ImportSource: Sendable {
  let file: CarriedFile
  /// How long to wait before it is handed over. A file's clock may go in ticks: a change within the
  /// tick of the last one could not be told from it.
  let pause: Duration?

  private static let tick = Duration.milliseconds(20)

  init(_ path: String) throws(PatchbayError) {
    let file = try DiskFile.openForReading(path)
    let look = try FileLook(file)
    guard look.isRegular else {
      throw PatchbayError(
        .inputOutput, "\(path) is not a regular file, and only such can be imported.")
    }
    if look.stamp.byteCount == 0, try !DiskFile.read(file, at: 0, byteCount: 1).isEmpty {
      throw PatchbayError(
        .inputOutput,
        "\(path) says that it is empty and is not: it is one of the kernel's files. Publish it with a "
          + "copy.")
    }
    let age = WallTime.now.rawValue &- look.stamp.changed
    let tick = Self.tick.wholeNanoseconds
    pause = (0..<tick).contains(age) ? .nanoseconds(tick - age) : nil
    self.file = CarriedFile(file)
  }
}
