// A file that is to be imported. Who reads the blob later tells a change of the file by its stamp, so
// the broker must not take a stamp that the next change could leave as it is. The clocks of file
// systems go in ticks: so a file is handed over only when it has been left alone for longer than one.
// And it must be that stamp which the broker takes: the file is looked at again once the broker has
// it. A stamp never goes back, so what is the same before and after is what was taken in between.

import PatchbaySystem
import PatchbayTypes
import Synchronization

/// A file that is to be imported, opened. Calls block for the file's system. One thread at a time asks
/// for a pause; others may, and would only wait longer.
final class ImportSource: Sendable {
  let file: CarriedFile
  private let path: String
  private let lastLook = Mutex<FileStamp?>(nil)

  /// No clock of a file system of Linux itself goes in longer ticks.
  static let tick = Duration.milliseconds(20)

  /// - Throws: `inputOutput` when there is no regular file, `notPermitted`.
  init(_ path: String) throws(PatchbayError) {
    let file = try DiskFile.openForReading(path)
    guard try FileLook(file).isRegular else {
      throw PatchbayError(
        .inputOutput, "\(path) is not a regular file, and only such can be imported.")
    }
    self.path = path
    self.file = CarriedFile(file)
  }

  /// Looks at the file.
  /// - Returns: how long to wait before it is to be looked at again; nil: it can be handed over now.
  /// - Throws: `timedOut` when that would be too late; `inputOutput` when it has other bytes than it
  ///   says.
  func pause(_ deadline: Deadline) throws(PatchbayError) -> Duration? {
    guard let pause = try neededPause() else { return nil }
    guard let left = deadline.remaining, left < pause else { return pause }
    throw PatchbayError(
      .timedOut,
      "\(path) is being written to: it was changed less than \(Self.tick) ago, and the deadline comes "
        + "before it was left alone for so long. Import it when nobody writes to it, or publish it with "
        + "a copy.")
  }

  /// As the blocking `pause`, by threads that do nothing else.
  func pause(_ deadline: Deadline) async throws(PatchbayError) -> Duration? {
    try await FileThreads.shared.run { () throws(PatchbayError) in try self.pause(deadline) }
  }

  /// Looks at the file until it can be handed over.
  /// - Parameter pausing: waits for so long.
  /// - Throws: as `pause`.
  func waitForRest(
    _ deadline: Deadline, pausing: (Duration) -> Void
  ) throws(PatchbayError) {
    while let needed = try pause(deadline) { pausing(needed) }
  }

  /// As the blocking `waitForRest`; also returns when the task is cancelled.
  func waitForRest(
    _ deadline: Deadline, pausing: (Duration) async -> Void
  ) async throws(PatchbayError) {
    while !Task.isCancelled, let needed = try await pause(deadline) { await pausing(needed) }
  }

  private func neededPause() throws(PatchbayError) -> Duration? {
    let stamp = try FileLook(file.descriptor).stamp
    let before = lastLook.withLock { last in
      defer { last = stamp }
      return last
    }
    if let pause = Self.pause(for: stamp, before: before, now: .now) { return pause }
    guard let lie = try wrongLength(stamp.byteCount) else { return nil }
    // Its end may have moved between the two looks: then its stamp has, too.
    guard try FileLook(file.descriptor).stamp == stamp else { return Self.tick }
    throw lie
  }

  /// How long a file still has to be left alone; nil: long enough.
  /// - Parameters:
  ///   - stamp: what it has now.
  ///   - before: what it had at the last look, at least the pause ago that was wanted then.
  static func pause(
    for stamp: FileStamp, before: FileStamp?, now: WallTime
  ) -> Duration? {
    let age = now.rawValue &- stamp.changed
    let tick = Self.tick.wholeNanoseconds
    if (0..<tick).contains(age) { return .nanoseconds(tick - age) }
    // By a clock that goes otherwise than ours a change may look old, and a file may look as if it
    // came from the future: there it counts that nothing changes for a tick of ours.
    let isAtRest = before.map { $0 == stamp } ?? (age >= 0)
    return isAtRest ? nil : Self.tick
  }

  /// What to say of a file that has more or fewer bytes than it says, as the kernel's own do.
  private func wrongLength(_ byteCount: Int) throws(PatchbayError) -> PatchbayError? {
    let last = min(1, byteCount)
    let end = try DiskFile.read(file.descriptor, at: byteCount - last, byteCount: last + 1)
    guard end.count != last else { return nil }
    return PatchbayError(
      .inputOutput,
      "\(path) says that it has \(byteCount) bytes, and has \(end.count > last ? "more" : "fewer"): it "
        + "is one of the kernel's files, or the like. Publish it with a copy.")
  }

  /// - Throws: `corrupt` when the file is not what it was when it could be handed over.
  func checkUnchanged(as key: BlobKey) throws(PatchbayError) {
    let found = try FileLook(file.descriptor).stamp
    guard let before = lastLook.withLock({ $0 }), let difference = found.difference(from: before)
    else { return }
    throw PatchbayError(
      .corrupt,
      "\(path) \(difference) while it was imported as \(key), so the blob is removed again. Import it "
        + "when nobody changes it, or publish it with a copy.")
  }
}
