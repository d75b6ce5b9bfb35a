// `patchbay clean`: takes away what nobody wants any more.

import ArgumentParser
import Glibc
import Patchbay

struct CleanVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "clean",
    abstract: "Removes blobs that are stale, or have failed, or all.",
    usage: "patchbay clean [<prefix>] (--expired | --failed | --all) [<options>]",
    discussion: """
      With --expired those go whose time is over and that are served for their grace; with --failed \
      those that have failed, so that whoever asks for them next makes them again at once; with --all \
      every blob, also those that are being written, or pinned. Whoever reads a blob finishes with it. \
      Another user's blobs, and those that go meanwhile, are left out and counted as kept.

      Example: patchbay clean --expired --failed
      Example: patchbay clean build/ --all

      Exits with 0, also when there is nothing to remove; 64 usage; 69 no broker; 75 no answer in time.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "Only keys that begin so; %XX stands for one byte.", transform: Typed.key)
  var prefix: BlobKey?

  @Flag(help: "Removes what is only served for its grace.")
  var expired = false

  @Flag(help: "Removes what has failed.")
  var failed = false

  @Flag(help: "Removes everything.")
  var all = false

  func validate() throws {
    guard expired || failed || all else {
      throw ValidationError("Say what is to go: --expired, --failed or --all.")
    }
    if all, expired || failed {
      throw ValidationError("--all is everything; leave --expired and --failed out.")
    }
  }

  func perform() throws {
    let client = try common.connect()
    let now = WallTime.now
    var (removed, kept) = (0, 0)
    try client.forEachBlob(prefix: prefix) { blob in
      guard isToGo(blob, at: now) else { return }
      if try remove(blob, client) { removed += 1 } else { kept += 1 }
    }
    try report(removed, kept: kept)
  }

  private func isToGo(_ blob: BlobInfo, at now: WallTime) -> Bool {
    all || failed && blob.state == .failed || expired && blob.expires.map { $0 <= now } ?? false
  }

  /// Removes this life of the key only; false: it is gone already, or another user's.
  private func remove(
    _ blob: BlobInfo, _ client: PatchbayClient
  ) throws(PatchbayError) -> Bool {
    do throws(PatchbayError) {
      try client.remove(blob.key, generation: blob.generation)
      return true
    } catch {
      guard [.noSuchKey, .notPermitted].contains(error.code) else { throw error }
      return false
    }
  }

  private func report(_ removed: Int, kept: Int) throws {
    if common.json {
      let fields = JSONFields([("removed", .integer(removed)), ("kept", .integer(kept))])
      try StandardOutput.line(JSON.object(fields).text)
    } else if !common.quiet {
      let rest = kept > 0 ? ", \(kept) kept" : ""
      try StandardOutput.line("\(removed) removed\(rest)")
    }
  }
}

extension WallTime {
  fileprivate static var now: WallTime {
    var time = timespec()
    _ = unsafe clock_gettime(CLOCK_REALTIME, &time)
    return WallTime(rawValue: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
  }
}
