// What is looked at before and after a file becomes a blob: that nobody writes to it, and that it is as
// long as it says.

import Glibc
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Synchronization
import Testing

@testable import Patchbay
@testable import PatchbayBroker

@Suite struct ImportSourceTests {
  private func withFile(_ body: (PatchbayClient, String) throws -> Void) throws {
    let directory = try TemporaryDirectory()
    try writeFile(directory.file("file"), pattern(0..<100))
    try withBroker { _, client in try body(client, directory.file("file")) }
  }

  /// A file of the kernel that says that it has a page of bytes, and has fewer.
  private static let shortFile: String? = {
    let candidates: [String] = [
      "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/devices/system/cpu/online",
      "/sys/kernel/uevent_seqnum",
    ]
    return candidates.first { access($0, R_OK) == 0 }
  }()

  @Test func `a file with other bytes than it says is refused, and its message says which`() throws
  {
    try withFile { client, path in
      let long = message(client, "/proc/self/maps")
      #expect(long.contains("/proc/self/maps says that it has 0 bytes, and has more"), "\(long)")
      // A hole at the end is as good as bytes.
      try #require(truncate(path, 101) == 0)
      try client.importFile(path, as: "f")
      #expect(try client.open("f").readFully(100..<101) == [0])
    }
  }

  @Test(.enabled(if: shortFile != nil, "needs a file of /sys"))
  func `a file with fewer bytes than it says is refused, too`() throws {
    let path = try #require(Self.shortFile)
    let bytes = try readBytes(path)
    try #require(!bytes.isEmpty && bytes.count < 4096, "the test can fail")
    try withFile { client, _ in
      let short = message(client, path)
      #expect(short.contains("\(path) says that it has 4096 bytes, and has fewer"), "\(short)")
      #expect(short.contains("copy") && short.hasPrefix("inputOutput"), "\(short)")
      let isThere = try client.exists("f")
      #expect(!isThere)
    }
  }

  /// Code and message of a refused import.
  private func message(_ client: PatchbayClient, _ path: String) -> String {
    do throws(PatchbayError) {
      try client.importFile(path, as: "f")
      return ""
    } catch {
      return "\(error.code) \(error.message)"
    }
  }

  // MARK: Files that are being written to

  @Test func `a file rests for a tick of its clock, whatever that shows`() {
    let tick = ImportSource.tick.wholeNanoseconds
    func pause(_ age: Int64, before: Bool? = nil) -> Int64? {
      let now = WallTime(rawValue: 1_000_000_000_000)
      let stamp = FileStamp(
        device: 1, inode: 2, byteCount: 3, modified: 4, changed: now.rawValue &- age)
      var other = stamp
      other.byteCount = 2
      let last = before.map { $0 ? stamp : other }
      return ImportSource.pause(for: stamp, before: last, now: now)?.wholeNanoseconds
    }
    // At the first look a file of some age is at rest, one from the future is not.
    #expect(pause(tick) == nil && pause(1 << 50) == nil)
    #expect(pause(0) == tick && pause(1) == tick - 1 && pause(tick - 1) == 1)
    #expect(pause(-1) == tick && pause(-1 << 50) == tick)
    // After a pause what has changed waits again, however old it says that it is.
    for age in [tick, 1 << 50, -1, -1 << 50] as [Int64] {
      #expect(pause(age, before: false) == tick && pause(age, before: true) == nil)
    }
    #expect(pause(5, before: true) == tick - 5 && pause(5, before: false) == tick - 5)
    #expect(pause(.min) != nil && pause(.max) == nil)
  }

  /// Makes a file one byte longer.
  private func lengthen(_ path: String) throws {
    let file = Descriptor(owning: unsafe open(path, O_WRONLY | O_APPEND | O_CLOEXEC))
    try #require(unsafe write(file.rawValue, "x", 1) == 1)
  }

  @Test func `an import waits for as long as a file is written to, and for its deadline at most`()
    throws
  {
    try withFile { _, path in
      let source = try ImportSource(path)
      _ = try source.pause(.never)
      for _ in 0..<10 {
        try lengthen(path)
        let pause = try #require(try source.pause(.never))
        #expect(pause > .zero && pause <= ImportSource.tick)
      }
      try lengthen(path)
      do throws(PatchbayError) {
        _ = try source.pause(.after(.zero))
        Issue.record("the deadline had passed")
      } catch {
        #expect(error.code == .timedOut && error.message.contains("\(path) is being written to"))
      }
      try eventually("the file is at rest") { try source.pause(.never) == nil }
      try source.checkUnchanged(as: "f")
      try lengthen(path)
      #expect(code { try source.checkUnchanged(as: "f") } == .corrupt)
    }
  }

  /// The same for closures that cannot throw.
  private func change(_ path: String) {
    do { try lengthen(path) } catch { Issue.record(error) }
  }

  @Test func `a file that changes in every pause is not handed over, and one that rests is`() throws
  {
    try withFile { _, path in
      let source = try ImportSource(path)
      // From the second look on it counts that a file has changed, whatever its times say.
      _ = try source.pause(.never)
      change(path)
      var count = 0
      try source.waitForRest(.never) { _ in
        count += 1
        if count < 100 { change(path) }
      }
      #expect(count >= 100)
      change(path)
      let endless = code {
        try source.waitForRest(.after(.milliseconds(100))) { _ in change(path) }
      }
      #expect(endless == .timedOut)
    }
  }

  @Test func `a task waits for a file as a thread does, and no longer once it is cancelled`()
    async throws
  {
    let directory = try TemporaryDirectory()
    let path = directory.file("file")
    try writeFile(path, pattern(0..<100))
    let source = try ImportSource(path)
    _ = try await source.pause(.never)
    change(path)
    let endless = await code {
      try await source.waitForRest(.after(.milliseconds(100))) { (_) async in change(path) }
    }
    #expect(endless == .timedOut)
    let count = try await Task {
      var count = 0
      try await source.waitForRest(.never) { (_) async in
        count += 1
        change(path)
        if count == 10 { withUnsafeCurrentTask { unsafe $0?.cancel() } }
      }
      return count
    }.value
    #expect(count == 10)
  }

  /// Two threads that write to a file until they are told to stop.
  private final class Writers: Sendable {
    private let isDone = Atomic<Bool>(false)

    func write(_ path: String) {
      let file = Descriptor(owning: unsafe open(path, O_WRONLY | O_APPEND | O_CLOEXEC))
      // relaxed: an end that comes a write later is as good.
      while !isDone.load(ordering: .relaxed) { _ = unsafe Glibc.write(file.rawValue, "x", 1) }
    }

    // relaxed: as above.
    func end() { isDone.store(true, ordering: .relaxed) }
  }

  /// What an import came to while two threads wrote to its file: by their luck they leave it alone
  /// for a moment.
  private func checkOutcome(
    _ outcome: PatchbayError.Code?, _ client: PatchbayClient, _ key: BlobKey
  ) async throws {
    guard outcome != nil else {
      // It was at rest for a while, and its readers are told that it was not for ever, or have found
      // it before that.
      let read = await code {
        let bytes = try await client.open(key).readFully(0..<100)
        #expect(bytes == pattern(0..<100))
      }
      #expect(read == nil || read == .corrupt)
      return
    }
    #expect(outcome == .timedOut || outcome == .corrupt)
    // An answer that comes too late is taken back.
    try await eventually("nothing is left of it") { try await !client.exists(key) }
  }

  @Test func `a file that two threads write to is imported right, or not at all`() async throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("file")
    try writeFile(path, pattern(0..<100))
    try await withBroker { _, client in
      let writers = Writers()
      let threads = (0..<2).map { _ in TestThread { writers.write(path) } }
      let blocking = importCode(client, path, "thread")
      let task = await code {
        try await client.importFile(path, as: "task", deadline: .after(.milliseconds(100)))
      }
      writers.end()
      for thread in threads { thread.join() }
      try await checkOutcome(blocking, client, "thread")
      try await checkOutcome(task, client, "task")
      try await client.importFile(path, as: "f")
      #expect(try await client.open("f").readFully(0..<100) == pattern(0..<100))
    }
  }

  private func importCode(
    _ client: PatchbayClient, _ path: String, _ key: BlobKey
  ) -> PatchbayError.Code? {
    code { try client.importFile(path, as: key, deadline: .after(.milliseconds(100))) }
  }

  @Test func `a task that is cancelled imports nothing, and says so`() async throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("file")
    try writeFile(path, pattern(0..<100))
    try await withBroker { _, client in
      let task = Task {
        withUnsafeCurrentTask { unsafe $0?.cancel() }
        return await code { try await client.importFile(path, as: "f", deadline: .never) }
      }
      #expect(await task.value == .cancelled)
      let isThere = try await client.exists("f")
      #expect(!isThere)
    }
  }
}
