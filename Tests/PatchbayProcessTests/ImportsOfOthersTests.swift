// Imports on a broker that serves several users: other users read them, and import nothing.

import CPatchbaySystem
import Glibc
import PatchbaySystem
import PatchbayTestSupport
import Synchronization
import Testing

@Suite(
  .serialized,
  .enabled(if: OtherUser.isPossible, "needs root, setpriv, and a build that others can run"))
struct ImportsOfOthersTests {
  /// A file that only its owner may read.
  private func file(_ broker: BrokerProcess, _ name: String, _ count: Int) throws -> String {
    let path = broker.directory.file(name)
    try writeFile(path, oracleBytes(1, 0..<count))
    return path
  }

  @Test func `other users read imports by the blob's mode alone, whatever the file's`() throws {
    let (alice, bob) = (OtherUser(2000, groups: [200, 300]), OtherUser(3000))
    let broker = try BrokerProcess(memory: "64MiB", options: ["--shared"])
    let path = try file(broker, "file", 300_000)
    for (key, mode) in [("own", "0600"), ("all", "0644")] {
      #expect(try broker.run(["import", key, path, "--mode", mode]).exitCode == 0)
    }
    let member = OtherUser(0, gid: 300)
    #expect(
      try broker.run(as: member, ["import", "group", path, "--mode", "0640"]).exitCode == 0)
    // The file itself is for its owner alone.
    for user in [alice, bob] {
      #expect(try broker.run(as: user, ["cat", "all"]).bytes == oracleBytes(1, 0..<300_000))
      #expect(try broker.run(as: user, ["cat", "own"]).exitCode == 66)
      let counted = try broker.run(as: user, ["with", "all", "--", "wc", "-c", "{}"])
      #expect(counted.output.hasPrefix("300000 "), "\(counted.error)")
      #expect(try broker.run(as: user, ["pin", "all"]).exitCode == 77)
      #expect(try broker.run(as: user, ["rm", "all"]).exitCode == 77)
    }
    #expect(try broker.run(as: alice, ["cat", "group"]).bytes == oracleBytes(1, 0..<300_000))
    #expect(try broker.run(as: bob, ["cat", "group"]).exitCode == 66)
    try broker.stop()
  }

  @Test func `another user's import is refused, and says who may and what to do instead`() throws {
    let alice = OtherUser(2000)
    let broker = try BrokerProcess(memory: "64MiB", options: ["--shared"])
    let path = try file(broker, "file", 1000)
    #expect(chmod(path, 0o644) == 0)
    #expect(try broker.run(["import", "root", path, "--mode", "0644"]).exitCode == 0)
    #expect(try broker.run(["import", "own", path]).exitCode == 0)
    for arguments in [
      ["new", path], ["root", path], ["root", path, "--replace"], ["own", path, "--replace"],
    ] {
      let refused = try broker.run(as: alice, ["import"] + arguments)
      #expect(refused.exitCode == 77 && refused.bytes.isEmpty)
      for words in [
        "User 2000 may not import a file as \(arguments[0])", "user (0) and root may",
        "patchbay put",
      ] {
        #expect(refused.error.contains(words), "\(refused.error)")
      }
    }
    let json = try broker.run(as: alice, ["import", "new", path, "--json"])
    #expect(json.exitCode == 77 && json.error.contains("\"code\":\"notPermitted\""))
    #expect(try broker.run(["ls", "--json"]).output.split(separator: "\n").count == 2)
    #expect(try broker.run(["cat", "root"]).bytes == oracleBytes(1, 0..<1000))
    // What it says to do is possible.
    #expect(try broker.run(as: alice, ["put", "new", path]).exitCode == 0)
    try broker.stop()
  }

  /// How many descriptors a process has of a file at some moment, at most, as far as looks can tell.
  private final class DescriptorWatch: Sendable {
    private let isOver = Atomic<Bool>(false)
    private let most = Atomic<Int>(0)
    private let looks = Atomic<Int>(0)

    func watch(_ pid: Int32, _ path: String) {
      // relaxed: an end that comes a look later is as good; the figures are read behind a join.
      while !isOver.load(ordering: .relaxed) {
        let count = openDescriptorCount(of: path, in: pid)
        // relaxed: as above.
        most.max(count, ordering: .relaxed)
        // relaxed: as above.
        looks.add(1, ordering: .relaxed)
      }
    }

    // relaxed: as above.
    func end() { isOver.store(true, ordering: .relaxed) }
    // relaxed: as above.
    var mostSeen: Int { most.load(ordering: .relaxed) }
    // relaxed: as above.
    var lookCount: Int { looks.load(ordering: .relaxed) }
  }

  /// As a kernel before 6.16: it lets everybody send descriptors.
  private static let oldKernel = [
    "/usr/bin/strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=setsockopt", "-e",
    "inject=setsockopt:error=ENOPROTOOPT",
  ]

  @Test(arguments: [[], oldKernel])
  func `no descriptor of another user's gets into the broker, however many are sent`(
    wrapper: [String]
  ) throws {
    let broker = try BrokerProcess(memory: "64MiB", wrapper: wrapper, options: ["--shared"])
    let path = try file(broker, "file", 1000)
    #expect(chmod(path, 0o644) == 0)
    let pid = broker.process.pid
    // The watch sees what is there: the test can fail.
    #expect(try broker.run(["import", "f", path]).exitCode == 0)
    #expect(openDescriptorCount(of: path, in: pid) == 1)
    #expect(try broker.run(["rm", "f"]).exitCode == 0)
    try eventually("it is closed") { openDescriptorCount(of: path, in: pid) == 0 }
    let alice = try broker.peer(OtherUser(2000).wrapper)
    try alice.ask("imports \(path) 1")
    let before = descriptorCount(of: pid)
    let watch = DescriptorWatch()
    let watcher = TestThread { watch.watch(pid, path) }
    try alice.tell("imports \(path) 2000")
    let answer = Result { try alice.answer(within: 120) }
    watch.end()
    watcher.join()
    #expect(try answer.get() == "notPermitted 2000")
    #expect(watch.mostSeen == 0 && watch.lookCount > 0)
    #expect(descriptorCount(of: pid) == before)
    if !wrapper.isEmpty { #expect(try alice.ask("sendDescriptor \(broker.socket)") == "sent") }
    #expect(try broker.statistic("blobs") == 0)
    try broker.stop()
  }

  /// Whether this kernel can keep descriptors away from a socket: Linux 6.16 and later.
  private static let canRefuse: Bool = {
    guard let (one, other) = try? ControlSocket.pair() else { return false }
    defer { for socket in [one, other] { _ = close(socket) } }
    return pb_take_descriptors(one, 0) == 0
  }()

  /// Closing a descriptor that nobody has installed may wait, too: a socket may linger for hours.
  @Test(.enabled(if: canRefuse, "needs Linux 6.16"))
  func `another user's descriptors do not even leave it, with whatever message`() throws {
    let broker = try BrokerProcess(memory: "64MiB", options: ["--shared"])
    let alice = try broker.peer(OtherUser(2000).wrapper)
    for _ in 0..<20 {
      #expect(try alice.ask("sendDescriptor \(broker.socket)") == "\(EPERM)")
    }
    // Those of the broker's user do, once the broker has seen whose they are.
    let own = try broker.peer()
    let path = try file(broker, "file", 10)
    #expect(try own.ask("imports \(path) 1") == "imported 1")
    try broker.stop()
  }
}
