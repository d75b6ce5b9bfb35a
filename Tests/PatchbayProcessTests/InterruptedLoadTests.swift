// The load tool, interrupted while it goes from one broker to the next: it leaves nothing behind.

import Glibc
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct InterruptedLoadTests {
  /// The processes that have a directory in their command line, and that command line.
  private func processes(in directory: String) -> [Int32: String] {
    var found: [Int32: String] = [:]
    for process in names(in: "/proc").compactMap({ Int32($0) }) {
      guard let bytes = try? readBytes("/proc/\(process)/cmdline") else { continue }
      let line = String(decoding: bytes, as: UTF8.self)
      if line.contains(directory) { found[process] = line }
    }
    return found
  }

  private func brokers(in directory: String) -> Set<Int32> {
    Set(processes(in: directory).filter { $0.value.contains("role=broker") }.keys)
  }

  /// The process that has started another one; nil: that has gone.
  private func parent(of process: Int32) -> Int32? {
    guard let bytes = try? readBytes("/proc/\(process)/status") else { return nil }
    let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
    return lines.first { $0.hasPrefix("PPid:") }.flatMap { Int32($0.split(separator: "\t")[1]) }
  }

  /// The tool with a /dev/shm that nobody else has. A shell tells how it has ended, and, asked, what
  /// is in there.
  private func startTool(in directory: String) throws -> ChildProcess {
    let script = """
      mount -t tmpfs none /dev/shm || exit
      "$0" start --blobs 20 --repeats 1000 2> /dev/null
      echo $?
      read question
      ls -A /dev/shm
      """
    return try ChildProcess(
      "/usr/bin/unshare", ["-m", "/bin/sh", "-c", script, try program("patchbay-load")],
      environment: ["TMPDIR": directory])
  }

  @Test(arguments: 0..<12)
  func `an interrupt between two brokers starts none, and leaves nothing behind`(
    round: Int
  ) throws {
    let place = try TemporaryDirectory()
    let shell = try startTool(in: place.path)
    var (first, found): (Set<Int32>, Int32?) = ([], nil)
    // No broker serves for long: the one that is seen may have gone when its parent is looked for.
    try eventually("a broker serves") {
      first = brokers(in: place.path)
      found = first.first.flatMap { parent(of: $0) }
      return found != nil
    }
    let tool = try #require(found)
    try eventually("another one does") { !brokers(in: place.path).subtracting(first).isEmpty }
    // In some rounds while a broker serves.
    if round % 4 > 0 {
      try eventually("no broker is there") { brokers(in: place.path).isEmpty }
    }
    try #require(kill(tool, SIGINT) == 0)
    #expect(try shell.line() == "\(128 + SIGINT)")
    try eventually("no process is left") { processes(in: place.path).isEmpty }
    #expect(names(in: place.path) == [])
    try shell.send("\n")
    #expect(try shell.rest() == [])
    #expect(try shell.waitForExit() == 0)
  }
}
