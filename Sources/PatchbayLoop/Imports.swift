// The descriptors that clients have sent: of files that are offered, and of those that became
// blobs; only the broker's own user and root send any that come in. A file may be on a disk far away,
// or be served by another process; so nothing is asked of it here that could wait for them. It is
// looked at as far as this machine knows it, handed on as it is, and closed by a thread that does
// nothing else: closing may wait. Nothing is ever read or written.

import CPatchbaySystem
import Glibc
import PatchbayLedger
import PatchbaySystem
import PatchbayTypes
import Synchronization

final class Imports {
  /// Descriptors that are held or wait to be closed.
  let limit: Int
  private var offers: [FileOffer: Int32] = [:]
  private var files: [Generation: Int32] = [:]
  private var paths: [Generation: String] = [:]
  private var lastOffer: UInt64 = 0
  private let closer: FileCloser

  init(limit: Int) throws(PatchbayError) {
    self.limit = limit
    closer = try FileCloser()
  }

  /// Whether one more descriptor may come in.
  var hasRoom: Bool { offers.count + files.count + closer.pendingCount < limit }

  /// Takes a descriptor over, if one came; what it is, or why it will not do.
  func offer(
    _ offered: ControlSocket.Offered, of key: BlobKey
  ) -> (FileOffer, Result<FileStamp, PatchbayError>) {
    lastOffer += 1
    let offer = FileOffer(rawValue: lastOffer)
    guard case .one(let descriptor) = offered else {
      return (offer, .failure(offered == .nothing ? .noDescriptor(key) : noneLeft))
    }
    offers[offer] = descriptor
    do throws(PatchbayError) {
      return (offer, .success(try Self.check(descriptor, key)))
    } catch {
      return (offer, .failure(error))
    }
  }

  private var noneLeft: PatchbayError {
    PatchbayError(
      .limitReached,
      "The broker holds as many imported files as it can (\(limit)), or has no descriptor left. Remove "
        + "some imported blobs, or raise its limit of open files (ulimit -n).", systemErrno: EMFILE)
  }

  /// - Throws: `notPermitted` for a descriptor that is no read-only one of a regular file with a
  ///   name.
  private static func check(
    _ descriptor: Int32, _ key: BlobKey
  ) throws(PatchbayError) -> FileStamp {
    let look = try FileLook(at: descriptor, .known)
    guard look.isRegular else {
      throw unfit(key, "is not a regular file. Publish what it gives with a copy")
    }
    guard look.readsOnly else {
      throw unfit(
        key, "was not opened for plain reading (O_RDONLY, without O_DIRECT and O_PATH). Open it so")
    }
    guard look.hasName else {
      throw unfit(
        key,
        "has no name: it was removed, or is memory (memfd), and would take room for as long as the "
          + "blob lives that nobody could find. Give it a name, or publish it with a copy")
    }
    return look.stamp
  }

  private static func unfit(_ key: BlobKey, _ how: String) -> PatchbayError {
    PatchbayError(.notPermitted, "What is to be imported as \(key) \(how).")
  }

  func keep(_ generation: Generation, _ offer: FileOffer) {
    guard let descriptor = offers.removeValue(forKey: offer) else { return }
    files[generation] = descriptor
    paths[generation] = FileLook.path(of: descriptor)
  }

  /// Where a blob's file was when it was imported; nil where the system does not tell.
  func path(of generation: Generation) -> String? { paths[generation] }

  /// Several at once, since one may hang.
  private static let openerLimit = 8

  /// Opens files again that a broker before this one has held, those that are what they were. Waits for
  /// them so long and no longer: whoever serves one may not answer.
  /// - Returns: the blobs whose files are there.
  func reopen(_ lost: [LostFile], within duration: Duration) -> Set<Generation> {
    guard !lost.isEmpty else { return [] }
    let reopening = Reopening(lost)
    guard let isDone = try? Alarm() else { return [] }
    let openerCount = (0..<min(Self.openerLimit, lost.count)).count { _ in
      (try? SystemThread.detached("opening files") {
        if reopening.openAll() { isDone.raise() }
      }) != nil
    }
    if openerCount > 0 { _ = isDone.wait(until: MonotonicTime.now.advanced(by: duration)) }
    let opened = reopening.end()
    for (generation, descriptor) in opened { files[generation] = descriptor }
    for file in lost where opened[file.generation] != nil { paths[file.generation] = file.path }
    return Set(opened.keys)
  }

  func drop(_ offer: FileOffer) {
    if let descriptor = offers.removeValue(forKey: offer) { closer.close(descriptor) }
  }

  func release(_ generation: Generation) {
    paths[generation] = nil
    if let descriptor = files.removeValue(forKey: generation) { closer.close(descriptor) }
  }

  /// Closes what came where nothing was to come.
  func refuse(_ offered: ControlSocket.Offered) {
    switch offered {
    case .one(let descriptor), .tooMany(let descriptor?): closer.close(descriptor)
    case .nothing, .tooMany(nil), .starved: break
    }
  }

  /// The stamp of a blob's file, as this machine knows it now.
  func look(at generation: Generation) -> Result<FileStamp, PatchbayError> {
    Result { () throws(PatchbayError) in
      try FileLook(at: descriptor(of: generation), .known).stamp
    }
  }

  /// The descriptor of a blob's file, which stays this object's.
  func descriptor(of generation: Generation) throws(PatchbayError) -> Int32 {
    guard let descriptor = files[generation] else {
      throw PatchbayError(
        .closed, "The file of generation \(generation) is not held any more: the blob has gone.")
    }
    return descriptor
  }

  /// Closes everything, and waits for a while that it is.
  func leave() {
    for descriptor in files.values { closer.close(descriptor) }
    for descriptor in offers.values { closer.close(descriptor) }
    (files, offers) = ([:], [:])
    closer.finish(within: .seconds(1))
  }
}

/// A file that a broker before this one has held for a blob.
struct LostFile: Sendable {
  let generation: Generation
  let path: String
  let stamp: FileStamp
}

/// Files that are being opened, until nobody waits for them any more.
private final class Reopening: Sendable {
  private struct State {
    var rest: [LostFile]
    var underWayCount = 0
    var opened: [Generation: Int32] = [:]
    var isOver = false
  }

  private let state: Mutex<State>

  init(_ lost: [LostFile]) { state = Mutex(State(rest: lost.reversed())) }

  /// Opens one after another until none is left.
  /// - Returns: whether this was the last one of those that do so.
  func openAll() -> Bool {
    while let file = next() {
      let descriptor = Self.open(file)
      let isTaken = state.withLock { state in
        state.underWayCount -= 1
        if !state.isOver, let descriptor { state.opened[file.generation] = descriptor }
        return !state.isOver
      }
      if !isTaken, let descriptor { _ = Glibc.close(descriptor) }
    }
    return state.withLock { $0.underWayCount == 0 }
  }

  private func next() -> LostFile? {
    state.withLock { state in
      guard !state.isOver, let file = state.rest.popLast() else { return nil }
      state.underWayCount += 1
      return file
    }
  }

  /// Nil: it is not what it was.
  private static func open(_ file: LostFile) -> Int32? {
    guard let descriptor = try? DiskFile.openForReading(file.path),
      let look = try? FileLook(descriptor, .now), look.stamp == file.stamp, look.isRegular
    else { return nil }
    return descriptor.release()
  }

  /// What has been opened by now; nothing more is.
  func end() -> [Generation: Int32] {
    state.withLock { state in
      defer { state.isOver = true }
      return state.opened
    }
  }
}

/// Closes descriptors elsewhere, in the order of coming. Its thread is there while it has some.
final class FileCloser: Sendable {
  private struct State {
    var descriptors: [Int32] = []
    var isClosing = false
    var isRunning = false
  }

  private let state = Mutex(State())
  /// Raised when everything is closed.
  private let isDone: Alarm

  init() throws(PatchbayError) { isDone = try Alarm() }

  /// Descriptors that are not closed yet.
  var pendingCount: Int {
    state.withLock { $0.descriptors.count + ($0.isClosing ? 1 : 0) }
  }

  func close(_ descriptor: Int32) {
    let begins = state.withLock { state in
      state.descriptors.append(descriptor)
      defer { state.isRunning = true }
      return !state.isRunning
    }
    guard begins else { return }
    do throws(PatchbayError) {
      try SystemThread.detached("closing files") { [self] in run() }
    } catch {
      // The next one to be closed tries again.
      state.withLock { $0.isRunning = false }
    }
  }

  private func run() {
    while let descriptor = next() {
      _ = Glibc.close(descriptor)
    }
    isDone.raise()
  }

  private func next() -> Int32? {
    state.withLock { state in
      state.isClosing = !state.descriptors.isEmpty
      guard state.isClosing else {
        state.isRunning = false
        return nil
      }
      return state.descriptors.removeFirst()
    }
  }

  /// Waits until everything is closed, or for so long.
  func finish(within duration: Duration) {
    let until = MonotonicTime.now.advanced(by: duration)
    while pendingCount > 0, isDone.wait(until: until) { isDone.lower() }
  }
}
