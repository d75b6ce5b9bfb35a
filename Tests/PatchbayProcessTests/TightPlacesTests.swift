// A broker that was promised more than the system has: files that may not grow, a /dev/shm smaller
// than its memory limit. Who asks is told, everything else goes on, and when there is room again it is
// used.

import Glibc
import PatchbayTestSupport
import Testing

@Suite struct TightPlacesTests {
  private static let isRoot = geteuid() == 0

  /// A file of so many bytes that do not repeat.
  private func makeFile(_ place: TemporaryDirectory, _ byteCount: Int) throws -> String {
    let path = place.file("source")
    let outcome = try runProgram("/bin/sh", ["-c", "head -c \(byteCount) /dev/urandom > \(path)"])
    try #require(outcome.exitCode == 0, "\(outcome.error)")
    return path
  }

  // MARK: Files that may not grow

  private func limitFiles(of broker: BrokerProcess, to limit: String) throws {
    let outcome = try runProgram(
      "/usr/bin/prlimit", ["--pid", "\(broker.process.pid)", "--fsize=\(limit):"])
    try #require(outcome.exitCode == 0, "\(outcome.error)")
  }

  @Test func `a broker whose files may not grow refuses, and goes on afterwards`() throws {
    let place = try TemporaryDirectory()
    let file = try makeFile(place, 48 << 20)
    let broker = try BrokerProcess(memory: "32MiB", options: ["--spool", place.file("spool")])
    #expect(try broker.run(["put", "before"], input: "x").exitCode == 0)
    try limitFiles(of: broker, to: "6000000")
    // Its containers end at the limit, and its memory is full then.
    let spilled = try broker.run(["put", "big", file, "-q"])
    #expect(spilled.exitCode == 81, "\(spilled.exitCode) \(spilled.error)")
    #expect(!spilled.error.isEmpty)
    // Rings are files, too.
    let ring = try broker.run(["put", "ring", file, "-q", "--ring", "8MiB"])
    #expect([74, 81].contains(ring.exitCode), "\(ring.exitCode) \(ring.error)")
    #expect(try broker.run(["cat", "before"]).output == "x")
    #expect(broker.process.isRunning)
    try limitFiles(of: broker, to: "unlimited")
    #expect(try broker.run(["rm", "-f", "big", "ring"]).exitCode == 0)
    // A disk that was full is asked again in a while.
    try eventually("there is room again") {
      try broker.run(["put", "after", file, "-q", "--replace"]).exitCode == 0
    }
    #expect(try broker.statistic("spills") > 0)
    #expect(try broker.run(["stats"]).exitCode == 0)
    try broker.stop()
  }

  // MARK: A /dev/shm that is too small

  /// A broker with a /dev/shm of its own of 16 MiB, which it takes for 256 MiB; every time it asks the
  /// system for memory is written down.
  private func withSmallMemory(
    _ body: (
      BrokerProcess, _ refusals: () throws -> Int, _ objects: () -> [String]
    ) throws -> Void
  ) throws {
    let place = try TemporaryDirectory()
    let trace = place.file("trace")
    let broker = try BrokerProcess(
      memory: "256MiB",
      wrapper: [
        "/usr/bin/strace", "-D", "-f", "-qq", "-o", trace, "-e", "trace=fallocate",
        "/usr/bin/unshare", "-m", "/bin/sh", "-c",
        "mount -t tmpfs -o size=16m,mode=1777 none /dev/shm && exec \"$@\"", "sh",
      ])
    let refusals = { () throws in
      try readFile(trace).split(separator: "\n").count { $0.contains("ENOSPC") }
    }
    let objects = {
      names(in: "/proc/\(broker.process.pid)/root/dev/shm").filter { $0.hasPrefix("patchbay-") }
    }
    try body(broker, refusals, objects)
    #expect(!broker.log.contains("SIGBUS") && broker.process.isRunning)
    try broker.stop()
  }

  @Test(.enabled(if: isRoot, "a mount namespace of one's own needs root"))
  func `shared memory smaller than the limit is told to the writer, and used again once free`()
    throws
  {
    let place = try TemporaryDirectory()
    let file = try makeFile(place, 64 << 20)
    try withSmallMemory { broker, refusals, objects in
      let (free, calm) = (objects(), try refusals())
      // Announced, appended, and in any order: refused by the system, once each.
      for (round, options) in [
        [], ["--length", "64MiB"], ["--ring", "1MiB"], ["--shuffle", "5", "--ring", "1MiB"],
      ].enumerated() {
        let before = try refusals()
        let put = try broker.run(["put", "big", file, "-q"] + options)
        #expect(put.exitCode == 81, "\(options): \(put.exitCode) \(put.error)")
        #expect(put.error.contains("/dev/shm"), "\(put.error)")
        #expect(try broker.run(["ping"]).exitCode == 0)
        // Asked once more when the pool had something to give back; never again and again.
        #expect((1...2).contains(try refusals() - before), "round \(round)")
        let asked = try refusals()
        #expect(try broker.run(["rm", "-f", "big"]).exitCode == 0)
        #expect(try refusals() == asked, "nobody asks while nobody waits")
      }
      #expect(try refusals() > calm)
      try recover(broker, refusals, file)
      _ = try broker.run(["rm", "-f", "small", "other", "third"])
      try eventually("everything is given back") { objects() == free }
      #expect(try broker.statistic("memoryBytes") < 16 << 20)
    }
  }

  /// What is removed is room for others, of whatever size.
  private func recover(
    _ broker: BrokerProcess, _ refusals: () throws -> Int, _ file: String
  ) throws {
    let shell = { (script: String) in
      try runProgram(
        "/bin/sh", ["-c", script],
        environment: ["PATCHBAY_SOCKET": broker.socket, "PATCHBAY": try program("patchbay")])
    }
    for byteCount in [10 << 20, 6 << 20, 9 << 20] {
      let put = try shell(
        "head -c \(byteCount) \(file) > \(file).part && \"$PATCHBAY\" put small \(file).part -q && "
          + "\"$PATCHBAY\" cat small | cmp - \(file).part && \"$PATCHBAY\" rm small")
      #expect(put.exitCode == 0, "\(byteCount): \(put.error)")
    }
    #expect(try shell("\"$PATCHBAY\" put small \(file).part -q").exitCode == 0)
    let tooMuch = try shell("\"$PATCHBAY\" put other \(file).part -q")
    #expect(tooMuch.exitCode == 81, "\(tooMuch.error)")
    #expect(try shell("\"$PATCHBAY\" cat small | cmp - \(file).part").exitCode == 0)
  }
}
