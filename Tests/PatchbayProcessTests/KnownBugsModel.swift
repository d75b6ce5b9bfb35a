// The faulty twins of a cache of streams: models in memory that nobody waits in. The first has the bug it is
// told to have and no other, so what a check finds in it comes from that bug.

/// A cache of files, each with a name on a disk that survives a crash.
final class ModelCache: RestartedCache {
  enum Bug: CaseIterable {
    case closeMeansComplete
    case adoptsLeftovers
    case keepsScratchFiles
    case reopensByName
    case diesSilently
    case ignoresEarlyEnds
    case removalWaitsForReaders
  }

  fileprivate final class File {
    var bytes: [UInt8] = []
    var ending: Ending?
    var readerCount = 0
    var isUnlinkedAtClose = false
  }

  fileprivate let bug: Bug?
  private var entries: [String: File] = [:]
  fileprivate var disk: [String: File] = [:]

  init(_ bug: Bug? = nil) { self.bug = bug }

  func create(_ key: String, byteCount: Int?) throws -> any StreamWriter {
    let file = fileToCreate(key)
    entries[key] = file
    disk[key] = file
    return ModelWriter(file: file, byteCount: byteCount, bug: bug)
  }

  private func fileToCreate(_ key: String) -> File {
    guard bug == .reopensByName, let file = disk[key] else { return File() }
    // The name leads to the file of those that read it still, and creating truncates.
    file.bytes = []
    return file
  }

  func open(_ key: String) throws -> (any StreamReader)? {
    guard let file = entries[key], disk[key] != nil, file.ending != .failed else { return nil }
    file.readerCount += 1
    return ModelReader(cache: self, key: key, file: file)
  }

  func remove(_ key: String) throws {
    guard let file = entries.removeValue(forKey: key) else { return }
    if bug == .removalWaitsForReaders, file.readerCount > 0 { throw WaitsForEver() }
    file.isUnlinkedAtClose = bug == .reopensByName
    if !file.isUnlinkedAtClose { disk[key] = nil }
  }

  func crashAndStart() {
    entries = [:]
    for (name, file) in disk {
      if bug == .adoptsLeftovers { file.ending = .whole }
      if file.ending == .whole {
        entries[name] = file
      } else if bug != .keepsScratchFiles {
        disk[name] = nil
      }
    }
  }

  var leftovers: [String] { disk.keys.filter { entries[$0] == nil } }
}

private struct ModelWriter: StreamWriter {
  let file: ModelCache.File
  let byteCount: Int?
  let bug: ModelCache.Bug?

  func append(_ bytes: [UInt8]) { file.bytes += bytes }

  func finish() {
    if file.bytes.count == byteCount ?? file.bytes.count {
      file.ending = .whole
    } else if bug != .ignoresEarlyEnds {
      file.ending = .failed
    }
  }

  func breakOff() { file.ending = bug == .closeMeansComplete ? .whole : .failed }
  func die() { if bug != .diesSilently { file.ending = .failed } }
}

private struct ModelReader: StreamReader {
  let cache: ModelCache
  let key: String
  let file: ModelCache.File

  func rest() -> Reading { Reading(bytes: file.bytes, ending: file.ending ?? .waitsForEver) }

  func close() {
    file.readerCount -= 1
    // By its name, whatever has that by now.
    if file.readerCount == 0, file.isUnlinkedAtClose { cache.disk[key] = nil }
  }
}

// MARK: Counting chunks

/// Tells its readers how many chunks there are, through a channel for each, and nothing else.
final class ChunkCounter: StreamCache {
  fileprivate static let chunk = 4

  struct Panic: Error {}

  fileprivate final class Channel {
    var latest = 0
    var isClosed = false
  }

  fileprivate final class Stream {
    let chunkCount: Int
    var file: [UInt8] = []
    var channels: [Channel] = []

    init(_ byteCount: Int) { chunkCount = Self.chunks(byteCount) }

    /// A short one counts as any other.
    static func chunks(_ byteCount: Int) -> Int {
      (byteCount + ChunkCounter.chunk - 1) / ChunkCounter.chunk
    }
    var latest: Int { Self.chunks(file.count) }
  }

  private var streams: [String: Stream] = [:]

  func create(_ key: String, byteCount: Int?) -> any StreamWriter {
    let stream = Stream(byteCount ?? 0)
    streams[key] = stream
    return Writer(stream: stream)
  }

  func open(_ key: String) -> (any StreamReader)? {
    guard let stream = streams[key] else { return nil }
    let channel = Channel()
    channel.latest = stream.latest
    stream.channels.append(channel)
    return Reader(stream: stream, channel: channel)
  }

  func remove(_ key: String) { streams[key] = nil }

  private struct Writer: StreamWriter {
    let stream: Stream

    func append(_ bytes: [UInt8]) throws {
      stream.file += bytes
      for channel in stream.channels {
        guard !channel.isClosed else { throw Panic() }
        channel.latest = stream.latest
      }
    }

    func finish() {}
    func breakOff() {}
    func die() {}
  }

  private struct Reader: StreamReader {
    let stream: Stream
    let channel: Channel

    func rest() -> Reading {
      // It ends behind the last chunk that it is told of: without any it is never told.
      let isTold = channel.latest > 0 && channel.latest == stream.chunkCount
      return Reading(
        bytes: Array(stream.file.prefix(channel.latest * ChunkCounter.chunk)),
        ending: isTold ? .whole : .waitsForEver)
    }

    func close() { channel.isClosed = true }
  }
}
