// Clients and brokers in containers: namespaces of their own, another /dev/shm, another root, and of
// the host nothing but the directory of the socket.

import Glibc
import PatchbayTestSupport
import Testing

/// What makes a container of a command, with the tools that every Linux has.
private enum Container {
  /// Making one needs root, or user namespaces that may mount; asked of the system once.
  static let isPossible: Bool = {
    let arguments = ["-m", "-p", "-f", "-n", "-i", "-u", "/bin/mount", "-t", "tmpfs", "x", "/mnt"]
    return (try? runProgram("/usr/bin/unshare", arguments).exitCode) == 0
  }()

  static let comment: Comment = "needs to be root, and unshare(1) to be allowed"

  /// The root is a new one. It holds what the programs are loaded from, and of `shared` the contents;
  /// its /dev/shm is its own. For clients that is too small for any blob, and what is shared is
  /// read-only.
  private static let script = """
    set -e
    root=$1 shared=$2 memory=$3 programs=$4
    shift 4
    mount -t tmpfs root "$root"
    for name in usr lib lib64 bin opt home root; do
      if [ -L "/$name" ]; then cp -a "/$name" "$root/$name"
      elif [ -d "/$name" ]; then mkdir "$root/$name" && mount --rbind "/$name" "$root/$name"; fi
    done
    if [ ! -e "$root$programs" ]; then
      mkdir -p "$root$programs" && mount --rbind "$programs" "$root$programs"
    fi
    mkdir -p "$root/proc" "$root/dev/shm" "$root$shared"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o size=$memory shm "$root/dev/shm"
    touch "$root/dev/null" && mount --bind /dev/null "$root/dev/null"
    mount --bind "$shared" "$root$shared"
    [ "$memory" != 16k ] || mount -o remount,bind,ro "$root$shared"
    exec /usr/sbin/chroot "$root" "$@"
    """

  /// What to put in front of a command so that it runs in a container which shares one directory.
  static func wrapper(
    _ root: TemporaryDirectory, sharing shared: String, memory: String = "16k"
  ) throws -> [String] {
    [
      "/usr/bin/unshare", "-m", "-p", "-f", "-n", "-i", "-u", "--kill-child", "/bin/bash", "-c",
      script, "container", root.path, shared, memory, try buildDirectory(),
    ]
  }
}

@Suite(.serialized, .enabled(if: Container.isPossible, Container.comment)) struct ContainerTests {
  @Test func `a client that has the socket and nothing else reads and publishes`() throws {
    let broker = try BrokerProcess()
    let root = try TemporaryDirectory()
    let inside = try broker.peer(Container.wrapper(root, sharing: broker.directory.path))
    let outside = try broker.peer()
    try outside.ask("publish in 3000000 any")
    try inside.ask("open in")
    try inside.tell("stream in 0")
    try outside.ask("patchwork in 0 3000000 60000 5")
    try outside.ask("seal in")
    #expect(try inside.answer() == "3000000")
    try inside.ask("publish out - append")
    try outside.ask("open out")
    try outside.tell("stream out 0")
    try inside.ask("append out 5000000")
    try inside.ask("seal out")
    #expect(try outside.answer() == "5000000")
    try broker.stop()
  }

  @Test func `a container's own shared memory stays empty, and the command works in it`() throws {
    let broker = try BrokerProcess()
    let root = try TemporaryDirectory()
    let content = String(repeating: "0123456789abcdef", count: 10_000)
    #expect(try broker.run(["put", "k"], input: content).exitCode == 0)
    let script = "patchbay cat k | patchbay put copy; ls -A /dev/shm | wc -l; patchbay wait copy"
    let words =
      try Container.wrapper(root, sharing: broker.directory.path) + ["/bin/bash", "-c", script]
    let outcome = try runProgram(
      words[0], Array(words.dropFirst()),
      environment: [
        "PATCHBAY_SOCKET": broker.socket, "PATH": try buildDirectory() + ":/usr/bin:/bin",
      ])
    #expect(outcome.exitCode == 0, "\(outcome.error)")
    #expect(outcome.output == "0\n")
    #expect(try broker.run(["cat", "copy"]).output == content)
    try broker.stop()
  }

  @Test func `a container that is killed has failed what it published, and holds no claim`() throws
  {
    let broker = try BrokerProcess()
    let root = try TemporaryDirectory()
    let inside = try broker.peer(Container.wrapper(root, sharing: broker.directory.path))
    let outside = try broker.peer()
    try inside.ask("publish alone 100000 any")
    try outside.ask("open alone")
    try outside.tell("stream alone 0")
    try inside.ask("share patched 100000 600000")
    try inside.ask("claim patched 1000 2000 c")
    inside.process.kill(SIGKILL)
    let error = try #require(throws: PeerError.self) { try outside.answer() }
    #expect(error.code == "abandoned", "\(error)")
    try outside.ask("join patched")
    try eventually("its claim is free") {
      do {
        _ = try outside.ask("write patched 1500 100")
        return true
      } catch let error as PeerError where error.code == "rangeOverlap" {
        return false
      }
    }
    try outside.ask("leave patched")
    try broker.stop()
  }

  /// Outside of the broker's process namespace processes have no number; their deaths are seen all
  /// the same, by descriptors.
  @Test func `a broker in a container serves processes that it cannot number`() throws {
    let (shared, root) = (try TemporaryDirectory(), try TemporaryDirectory())
    let socket = shared.file("control.sock")
    let words =
      try Container.wrapper(root, sharing: shared.path, memory: "64m")
      + [try program("patchbay"), "serve", "--memory", "32MiB", "--socket", socket]
    let broker = try ChildProcess(
      words[0], Array(words.dropFirst()), errorPath: shared.file("log"))
    let environment = ["PATCHBAY_SOCKET": socket]
    func run(_ arguments: [String], input: String = "") throws -> Outcome {
      try runProgram("patchbay", arguments, input: input, environment: environment)
    }
    let ping = try run(["ping", "--wait", "20s"])
    #expect(ping.exitCode == 0, "\((try? readFile(shared.file("log"))) ?? "")")
    #expect(try run(["put", "k"], input: "hello").exitCode == 0)
    #expect(try run(["cat", "k"]).output == "hello")
    let publisher = try ChildProcess(
      try program("patchbay"), ["put", "open"], environment: environment)
    try eventually("it publishes") { try run(["info", "open"]).exitCode == 0 }
    let why = try run(["why", "open", "--json"]).output
    #expect(why.contains(#""publishers":[{"process":0,"#), "\(why)")
    #expect(!why.contains("gone"), "\(why)")
    publisher.kill(SIGKILL)
    try eventually("its death is seen") {
      try run(["info", "open", "--json"]).output.contains(#""state":"failed""#)
    }
    let child = try readFile("/proc/\(broker.pid)/task/\(broker.pid)/children").dropLast()
    let pid = try #require(Int32(child))
    _ = kill(pid, SIGTERM)
    #expect(try broker.waitForExit() == 0, "\((try? readFile(shared.file("log"))) ?? "")")
  }

  @Test(arguments: [["--map-user=1000", "--map-group=1000"], []])
  func `what counts is the user that the broker's side sees, whatever number it has inside`(
    mapping: [String]
  ) throws {
    let broker = try BrokerProcess()
    #expect(try broker.run(["put", "k"], input: "hello").exitCode == 0)
    let script = "id -u; patchbay cat k; echo; echo x | patchbay put \"from$(id -u)\""
    let outcome = try runProgram(
      "/usr/bin/unshare", ["--user"] + mapping + ["/bin/bash", "-c", script],
      environment: [
        "PATCHBAY_SOCKET": broker.socket, "PATH": try buildDirectory() + ":/usr/bin:/bin",
      ])
    #expect(outcome.exitCode == 0, "\(outcome.error)")
    let inside = mapping.isEmpty ? 65534 : 1000
    #expect(outcome.output == "\(inside)\nhello\n")
    let info = try broker.run(["info", "from\(inside)", "--json"]).output
    #expect(jsonNumber(info, "owner") == Int(getuid()), "\(info)")
    try broker.stop()
  }
}
