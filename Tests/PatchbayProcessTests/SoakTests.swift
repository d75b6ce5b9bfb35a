// The soak itself: that it holds, and that it can fail. What it has to find is done to it from outside, by
// a process that it knows nothing of.

import Glibc
import Patchbay
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct SoakTests {
  private static let roles = [
    "stream", "window", "patch", "shared", "small", "cache", "keep", "produce", "fetch",
    "follow", "live", "random", "views", "tasks", "watch", "wait", "look", "audit",
  ]

  @Test func `everything may be killed and stopped, and every byte is right`() throws {
    let place = try TemporaryDirectory()
    let seed = announcedSeed("soak") & 0x7fff_ffff
    // What is looked at before, between and afterwards makes it a minute and more.
    let seconds = isFullTier ? 600 : 40
    let outcome = try runProgram(
      "/usr/bin/unshare",
      [
        "-m", "/bin/sh", "-c",
        "mount -t tmpfs none /dev/shm && \"$0\" soak --seconds \(seconds) --seed \(seed) --json"
          + " && ls -A /dev/shm", try program("patchbay-load"),
      ],
      environment: ["TMPDIR": place.path], within: Double(seconds) + 400)
    #expect(outcome.exitCode == 0, "\(outcome.error)\n\(outcome.output)")
    #expect(names(in: place.path) == [])
    let lines = outcome.output.split(separator: "\n").map(String.init)
    for role in Self.roles {
      let line = lines.first { $0.contains("{\"role\":\"\(role)\"") } ?? ""
      for name in ["killed", "stopped", "steps"] {
        #expect(jsonNumber(line, name) ?? 0 > 0, "\(role): \(line)")
      }
    }
    let brokers = lines.first { $0.contains("{\"broker\"") } ?? ""
    for name in ["killed", "stopped", "drained", "handed over"] {
      #expect(jsonNumber(brokers, name) ?? 0 > 0, "\(brokers)")
    }
    let promises = lines.first { $0.contains("{\"promises\"") } ?? ""
    for name in ["made", "looked at meanwhile", "and afterwards"] {
      #expect(jsonNumber(promises, name) ?? 0 > 0, "\(promises)")
    }
    let own = lines.first { $0.contains("{\"figures\"") } ?? ""
    for name in ["spills", "restores", "reuses"] {
      #expect(jsonNumber(own, name) ?? 0 > 0, "\(own)")
    }
  }

  // MARK: What it has to find

  /// A soak under way.
  private final class Run {
    let place: TemporaryDirectory
    private let tool: ChildProcess
    private let errorPath: String

    init(_ arguments: [String] = [], patience: String = "40s") throws {
      place = try TemporaryDirectory()
      let errors = try TemporaryDirectory()
      errorPath = errors.file("errors")
      tool = try ChildProcess(
        try program("patchbay-load"),
        ["soak", "--seconds", "60", "--patience", patience] + arguments,
        environment: ["TMPDIR": place.path], errorPath: errorPath)
      self.errors = errors
    }

    private let errors: TemporaryDirectory

    private func mustRun() throws {
      guard isRunning else { throw HarnessError("it has ended: \(try readFile(errorPath))") }
    }

    /// Its processes whose command line has this word.
    func processes(_ word: String) -> [Int32] {
      names(in: "/proc").compactMap { Int32($0) }.filter { process in
        let line = (try? readFile("/proc/\(process)/cmdline"))?.split(separator: "\0") ?? []
        return line.contains { $0 == word } && line.contains { $0.contains(place.path) }
      }
    }

    func process(_ word: String) throws -> Int32 {
      try eventually("there is a \(word)", within: 60) {
        try mustRun()
        return !processes(word).isEmpty
      }
      return try #require(processes(word).first)
    }

    /// A client of its broker, as soon as there is one.
    func client() throws -> PatchbayClient {
      var client: PatchbayClient?
      try eventually("its broker answers", within: 60) {
        try mustRun()
        guard let name = names(in: place.path).first else { return false }
        client = try? PatchbayClient(socketPath: "\(place.path)/\(name)/control.sock")
        return client != nil
      }
      return try #require(client)
    }

    var isRunning: Bool { tool.isRunning }

    func interrupt() { tool.kill(SIGINT) }

    /// How it ended, and what it said; nothing may be left of it.
    func end(within seconds: Double = 180) throws -> (code: Int32, errors: String) {
      _ = try tool.rest(within: seconds)
      let code = try tool.waitForExit()
      #expect(names(in: place.path) == [])
      return (code, try readFile(errorPath))
    }
  }

  @Test(arguments: ["follow", "stream", "audit"])
  func `a worker that dies by another hand fails the soak, which says who and how`(
    _ role: String
  ) throws {
    let run = try Run(["--seed", "5"])
    let process = try run.process("part=\(role)")
    #expect(kill(process, SIGSEGV) == 0)
    let end = try run.end()
    #expect(end.code == 70)
    for text in ["seed 5", "\(role) (process \(process))", "signal 11"] {
      #expect(end.errors.contains(text), "\(end.errors)")
    }
  }

  @Test func `a broker that dies by another hand fails the soak`() throws {
    let run = try Run()
    _ = try run.client()
    let process = try run.process("role=soak-broker")
    #expect(kill(process, SIGKILL) == 0)
    let end = try run.end()
    #expect(end.code == 70)
    #expect(
      end.errors.contains("process \(process), was ended by signal 9"), "\(end.errors)")
  }

  @Test func `a worker that comes no further fails the soak, which says what it was about to do`()
    throws
  {
    let run = try Run(patience: "20s")
    let process = try run.process("part=look")
    #expect(kill(process, SIGSTOP) == 0)
    let end = try run.end()
    #expect(end.code == 70)
    #expect(
      end.errors.contains("look (process \(process)): has come no further"), "\(end.errors)")
    #expect(end.errors.contains("it was about to: "), "\(end.errors)")
  }

  /// Writes other bytes where a role has published some, as long as the soak goes on.
  private func spoil(
    _ run: Run, _ change: (inout [UInt8]) -> Void
  ) throws -> (code: Int32, errors: String) {
    let client = try run.client()
    var slot = 0
    while run.isRunning {
      slot = (slot + 1) % 40
      let key = try BlobKey("soak/small/\(slot)")
      do throws(PatchbayError) {
        let reader = try client.open(key)
        var bytes = try reader.readFully(0..<(reader.byteCount ?? 0))
        change(&bytes)
        try client.publish(bytes, as: key, BlobOptions(replaces: true))
      } catch {
        guard run.isRunning else { break }
      }
    }
    return try run.end()
  }

  @Test func `a wrong byte fails the soak, which says where it stands`() throws {
    let end = try spoil(try Run()) { bytes in bytes[bytes.count / 2] = 0 }
    #expect(end.code == 70)
    #expect(end.errors.contains("of soak/small/"), "\(end.errors)")
    #expect(end.errors.contains("generation"), "\(end.errors)")
    #expect(end.errors.contains("is 0, which is wrong"), "\(end.errors)")
  }

  @Test func `an early end fails the soak`() throws {
    let end = try spoil(try Run()) { bytes in bytes.removeLast(min(bytes.count, 1)) }
    #expect(end.code == 70)
    #expect(end.errors.contains("ends at position"), "\(end.errors)")
  }

  @Test func `a promised blob that is lost fails the soak`() throws {
    let run = try Run()
    let client = try run.client()
    while run.isRunning {
      for slot in 0..<8 { try? client.remove(try BlobKey("soak/kept/\(slot)")) }
    }
    let end = try run.end()
    #expect(end.code == 70)
    #expect(end.errors.contains("the promised blob soak/kept/"), "\(end.errors)")
    #expect(end.errors.contains("is lost"), "\(end.errors)")
  }

  @Test func `what somebody still holds in the end fails the soak, which says what has grown`()
    throws
  {
    let run = try Run(["--seconds", "10", "--settling", "5s"])
    _ = try run.process("part=keep")
    // What there is in the beginning is looked at when everybody has gone for the first time.
    try eventually("the workers have gone", within: 120) { run.processes("part=keep").isEmpty }
    _ = try run.process("part=keep")
    // One client, through all brokers; another one only when that is at its end.
    var held = try run.client()
    while run.isRunning {
      _ = poll(nil, 0, 50)
      do throws(PatchbayError) {
        try held.ping()
      } catch {
        if run.isRunning, let next = try? run.client() { held = next }
      }
    }
    let end = try run.end()
    #expect(end.code == 70)
    #expect(end.errors.contains("clients: 1 before, 2 after"), "\(end.errors)")
  }

  @Test func `an interrupt leaves nothing behind, whoever is stopped at the moment`() throws {
    let run = try Run()
    _ = try run.client()
    for word in ["part=views", "role=soak-broker"] {
      #expect(kill(try run.process(word), SIGSTOP) == 0)
    }
    run.interrupt()
    #expect(try run.end().code == 128 + SIGINT)
    #expect(run.processes("role=soak").isEmpty && run.processes("role=soak-broker").isEmpty)
  }

  @Test func `what cannot be asked for is refused`() throws {
    let refused = try runProgram("patchbay-load", ["soak", "--seconds", "0"])
    #expect(refused.exitCode == 64 && refused.error.contains("--seconds"), "\(refused.error)")
  }
}
