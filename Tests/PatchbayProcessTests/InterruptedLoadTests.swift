// The load tool, interrupted while it goes from one broker to the next: it leaves nothing behind.

import Glibc
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct InterruptedLoadTests {
  /// The processes whose command line says that they serve in a directory.
  private func brokers(in directory: String) -> Set<String> {
    Set(processes(in: directory).filter { $0.value.contains("role=broker") }.keys)
  }

  /// The processes that have a directory in their command line, and that command line.
  private func processes(in directory: String) -> [String: String] {
    var found: [String: String] = [:]
    for process in names(in: "/proc") where Int(process) != nil {
      guard let bytes = try? readBytes("/proc/\(process)/cmdline") else { continue }
      let line = String(decoding: bytes, as: UTF8.self)
      if line.contains(directory) { found[process] = line }
    }
    return found
  }

  @Test(arguments: 0..<4)
  func `an interrupt between two brokers starts none, and leaves nothing behind`(
    round: Int
  ) throws {
    let place = try TemporaryDirectory()
    let rings = names(in: "/dev/shm")
    let tool = try ChildProcess(
      program("patchbay-load"), ["start", "--blobs", "20", "--repeats", "1000"],
      environment: ["TMPDIR": place.path], errorPath: "/dev/null")
    try eventually("the first broker serves") { !brokers(in: place.path).isEmpty }
    let first = brokers(in: place.path)
    try eventually("another one does") { !brokers(in: place.path).subtracting(first).isEmpty }
    // In other rounds while a broker serves.
    if round < 2 {
      try eventually("no broker is there") { brokers(in: place.path).isEmpty }
    }
    tool.kill(SIGINT)
    #expect(try tool.waitForExit() == 128 + SIGINT)
    try eventually("no process is left") { processes(in: place.path).isEmpty }
    #expect(names(in: place.path) == [])
    #expect(Set(names(in: "/dev/shm")).subtracting(rings) == [])
  }
}
