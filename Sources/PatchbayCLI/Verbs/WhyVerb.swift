// `patchbay why`: who waits for what, on whom, since when.

import ArgumentParser
import Glibc
import Patchbay
import PatchbaySystem

struct WhyVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "why",
    abstract: "Shows who waits for what of a key, on whom, and since when.",
    discussion: """
      Also for a key that somebody waits for and nobody has created. Shows its publishers and \
      readers by process, which of them are stopped, the bytes that readers sleep for, and \
      requests that the broker has not answered. Of a blob that is being written it looks twice, \
      to tell whether anything comes. Where readers sleep is a hint: one may have given up.

      Example: patchbay why models/v7

      Exits with 0; 64 usage; 66 no blob has the key and nobody waits for one; 69 no broker.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "The key.", completion: .keys, transform: Typed.key)
  var key: BlobKey

  func perform() throws {
    let client = try common.connect()
    try Failure.about(key) {
      let look = try look(client)
      guard look.info != nil || look.situation.waitCount > 0 else {
        throw PatchbayError(
          .noSuchKey, "No blob has the key \(key), and nobody waits for one to be created.")
      }
      try StandardOutput.write(
        common.json
          ? JSON.object(look.json).text + "\n" : look.lines.map { $0 + "\n" }.joined())
    }
  }

  /// Between the two looks at a blob that is being written.
  private static let pause = Duration.milliseconds(500)

  private func look(_ client: PatchbayClient) throws -> WhyLook {
    let first = try client.situation(of: key)
    guard let before = first.info, before.state == .open else { return try look(first, client) }
    let started = ContinuousClock.now
    try Interruption.sleep(Self.pause)
    let second = try client.situation(of: key)
    var look = try look(second, client)
    guard let after = second.info, after.generation == before.generation else { return look }
    let seconds = Double((ContinuousClock.now - started).wholeNanoseconds) / 1e9
    let count = max(0, after.coveredByteCount - before.coveredByteCount)
    look.bytesPerSecond = Int(Double(count) / seconds)
    return look
  }

  private func look(_ situation: BlobSituation, _ client: PatchbayClient) throws -> WhyLook {
    var look = WhyLook(key: key, situation: situation, now: WallTime.now)
    if situation.sleepingClasses != 0 {
      // The key may have passed on, or the blob be gone: then nothing is said of where.
      let observer = try? client.observe(key)
      if let observer, observer.generation == situation.info?.generation {
        look.written = (try? observer.writtenRanges()) ?? []
      }
    }
    let processes =
      (situation.publishers + situation.subscribers).map(\.process)
      + situation.waits.map(\.process)
    // A process outside of the broker's namespace has no number to look it up by.
    for process in processes where process != 0 {
      look.processes[process] = Self.state(of: process)
    }
    return look
  }

  /// What /proc says of a process.
  private static func state(of process: Int32) -> WhyLook.ProcessState {
    guard let text = SmallFile.text("/proc/\(process)/stat"),
      let end = text.lastIndex(of: ")")
    else { return .gone }
    switch text[end...].dropFirst(2).first {
    case "T", "t": return .stopped
    case "Z", "X": return .zombie
    default: return .running
    }
  }
}

/// Files of the kernel that say little.
enum SmallFile {
  /// The first page of a file; nil when it cannot be read.
  static func text(_ path: String) -> String? {
    let number = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard number >= 0 else { return nil }
    let file = Descriptor(owning: number)
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = unsafe read(file.rawValue, &bytes, bytes.count)
    return count > 0 ? String(decoding: bytes.prefix(count), as: UTF8.self) : nil
  }
}
