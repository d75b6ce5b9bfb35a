// Watchers as processes: stopped, killed, going on where they were. What they print is folded into a
// picture of what exists, which must be what the broker lists in the end.

import Glibc
import Patchbay
import PatchbaySystem
import PatchbayTestSupport
import Synchronization
import Testing

@Suite(.serialized) struct WatchTests {
  /// A `patchbay watch --json` whose output goes to a file, which takes any amount.
  private struct Watcher {
    let process: ChildProcess
    let path: String

    init(_ broker: BrokerProcess, _ name: String, _ arguments: String = "--from start") throws {
      path = broker.directory.file(name)
      let patchbay = try program("patchbay")
      process = try ChildProcess(
        "/bin/bash", ["-c", "exec \(patchbay) watch --json --no-progress \(arguments) > \(path)"],
        environment: ["PATCHBAY_SOCKET": broker.socket])
    }

    /// The lines that are whole.
    var lines: [Substring] {
      let text = (try? readFile(path)) ?? ""
      let end = text.lastIndex(of: "\n") ?? text.startIndex
      return text[..<end].split(separator: "\n")
    }

    func waits(for event: String, of key: String) throws {
      try eventually("\(event) of \(key) is told", within: 120) {
        let lines = try tail().split(separator: "\n")
        let last = lines.last { $0.contains("\"key\":\"\(key)\"") }
        return last?.contains("\"event\":\"\(event)\"") == true
      }
    }

    /// The last lines: the whole is long, and looked for often.
    private func tail() throws -> String {
      let descriptor = Descriptor(owning: unsafe open(path, O_RDONLY | O_CLOEXEC))
      var bytes = [UInt8](repeating: 0, count: 16384)
      let start = max(0, lseek(descriptor.rawValue, 0, SEEK_END) - bytes.count)
      let count = unsafe pread(descriptor.rawValue, &bytes, bytes.count, start)
      return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    }
  }

  private func field(_ name: String, _ line: Substring) -> String? {
    guard let at = line.firstRange(of: "\"\(name)\":\"") else { return nil }
    return String(line[at.upperBound...].prefix { $0 != "\"" })
  }

  /// What a watcher that printed these lines takes for existing: the last event of each key.
  private func picture(_ lines: [Substring]) -> [String: String] {
    var picture: [String: String] = [:]
    for line in lines {
      guard let event = field("event", line) else { continue }
      if event == "gap" { picture = [:] }
      guard let key = field("key", line) else { continue }
      let isGone = event == "removed" || event == "evicted"
      picture[key] = isGone ? nil : event == "created" ? "open" : event
    }
    return picture
  }

  /// What exists.
  private func listed(_ client: PatchbayClient) throws -> [String: String] {
    var all: [String: String] = [:]
    var last: BlobKey?
    while true {
      let page = try client.list(after: last)
      for blob in page.blobs { all[blob.key.description] = "\(blob.state)" }
      guard page.hasMore else { return all }
      last = page.blobs.last?.key
    }
  }

  private static let longPrefix = String(repeating: "k", count: 900)

  /// Creates, seals and removes so many blobs; every 50th stays, by turns sealed, failed and open.
  private func churn(
    _ client: PatchbayClient, _ range: Range<Int>, keeping: inout [Publisher]
  ) throws {
    for index in range {
      let key = try BlobKey(percentEncoded: "\(Self.longPrefix)\(index)")
      if index % 50 != 0 {
        if index % 10 == 0 {
          let publisher = try client.publisher(key, BlobOptions(byteCount: 1))
          try publisher.append([1])
          try publisher.seal()
        } else {
          try client.publish([1], as: key)
        }
        try client.remove(key)
      } else {
        let publisher = try client.publisher(key)
        switch index / 50 % 3 {
        case 0: try publisher.seal()
        case 1: try publisher.fail("as it should")
        default: keeping.append(publisher)
        }
      }
    }
  }

  @Test func `a stopped watcher costs the broker nothing, and learns the last state of all`() throws
  {
    let broker = try BrokerProcess()
    let client = try PatchbayClient(socketPath: broker.socket)
    try client.publish([1], as: "first")
    let stopped = try Watcher(broker, "stopped")
    let reading = try Watcher(broker, "reading")
    try stopped.waits(for: "sealed", of: "first")
    var open: [Publisher] = []
    // The same with everybody reading: the marks of removed blobs fill up their bounded room.
    try churn(client, 0..<5000, keeping: &open)
    let before = processFigure(broker.process.pid, "VmRSS") ?? 0
    stopped.process.kill(SIGSTOP)
    try churn(client, 5000..<10_000, keeping: &open)
    let after = processFigure(broker.process.pid, "VmRSS") ?? 0
    print("5,000 blobs past a stopped watcher: \(after - before) KiB in the broker")
    // Told one by one these events are 11 MiB.
    #expect(after - before < 6 << 10)
    try client.publish([1], as: "last")
    try reading.waits(for: "sealed", of: "last")
    #expect(picture(reading.lines) == (try listed(client)), "who reads is told all of it")
    stopped.process.kill(SIGCONT)
    try stopped.waits(for: "sealed", of: "last")
    #expect(stopped.lines.contains { field("event", $0) == "gap" })
    #expect(picture(stopped.lines) == (try listed(client)))
    #expect(picture(stopped.lines).count > 200)
    open = []
    stopped.process.kill(SIGKILL)
    reading.process.kill(SIGKILL)
    try broker.stop()
  }

  @Test func `a watcher that was killed goes on where it was and misses nothing`() throws {
    let broker = try BrokerProcess()
    let client = try PatchbayClient(socketPath: broker.socket)
    var open: [Publisher] = []
    var lines: [Substring] = []
    for round in 0..<8 {
      let position = lines.compactMap { field("position", $0) }.last ?? "start"
      let watcher = try Watcher(broker, "round\(round)", "--from \(position)")
      try churn(client, round * 100..<round * 100 + 100, keeping: &open)
      if round < 7 {
        // Wherever it is by now; what it printed last may be half a line.
        watcher.process.kill(SIGKILL)
        _ = try watcher.process.waitForExit()
      } else {
        try client.publish([1], as: "last")
        try watcher.waits(for: "sealed", of: "last")
        watcher.process.kill(SIGKILL)
      }
      lines += watcher.lines
    }
    #expect(lines.allSatisfy { field("event", $0) != "gap" }, "it was never too far behind")
    #expect(picture(lines) == (try listed(client)))
    open = []
    try broker.stop()
  }

  @Test func `progress is sampled, never sent for each write, and ends with the length`() throws {
    let broker = try BrokerProcess()
    let client = try PatchbayClient(socketPath: broker.socket)
    let events = try client.events()
    let publisher = try client.publisher("k", BlobOptions(order: .appendOnly))
    let started = ContinuousClock.now
    var seen: [BlobChange] = []
    while seen.filter({ $0.kind == .progress }).count < 3 {
      for _ in 0..<1000 { try publisher.append([1]) }
      while case .change(let change)? = try events.nextIfReady() { seen.append(change) }
    }
    let position = publisher.position
    try publisher.seal()
    while seen.last?.kind != .sealed {
      guard case .change(let change) = try events.next(deadline: .after(.seconds(20))) else {
        break
      }
      seen.append(change)
    }
    let tenths = (ContinuousClock.now - started) / .milliseconds(100)
    #expect(seen.first?.kind == .created)
    #expect(seen.map(\.coveredByteCount) == seen.map(\.coveredByteCount).sorted())
    #expect(Double(seen.count) <= tenths + 4, "ten a second, created and sealed")
    #expect(seen.last?.byteCount == position && seen.last?.coveredByteCount == position)
    try broker.stop()
  }

  @Test func `watching ends with the broker, and quietly when nobody reads`() throws {
    let broker = try BrokerProcess()
    let file = broker.directory.file("error")
    let watcher = try broker.start(["watch", "--from", "start", "--json"], errorPath: file)
    let head = try runProgram(
      "/bin/bash",
      [
        "-c",
        """
        for i in $(seq 5); do echo x | \(try program("patchbay")) put k$i; done
        \(try program("patchbay")) watch --from start | head -1 >/dev/null
        for i in $(seq 5); do echo x | \(try program("patchbay")) put l$i; done
        """,
      ], environment: ["PATCHBAY_SOCKET": broker.socket])
    #expect(head.error == "" && head.exitCode == 0)
    #expect(try broker.run(["watch", "--from", "start", "--count", "4"]).exitCode == 0)
    for _ in 0..<10 { _ = try watcher.line() }
    try broker.stop()
    #expect(try watcher.waitForExit() == 69)
    #expect(try readFile(file).contains(#""code":"noBroker""#))
  }
}

@Suite(.serialized) struct WhyTests {
  @Test func `a stuck user is told who waits for what, on whom`() throws {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    try publisher.ask("publish k 1048576 append")
    try publisher.ask("append k 1000")
    let reader = try broker.peer()
    try reader.ask("open k")
    try reader.tell("full k 40000 40001 60000")
    let waiter = try broker.start(["wait", "never"], errorPath: "/dev/null")
    func why(_ key: String) throws -> String {
      let outcome = try broker.run(["why", key, "--json"])
      return outcome.exitCode == 0 ? outcome.output : outcome.error
    }
    try eventually("the reader sleeps") {
      try why("k").contains(#""sleepingFor":[[32768,65536]]"#)
    }
    try publisher.process.suspend()
    let stuck = try why("k")
    #expect(stuck.contains(#""publishers":[{"process":\#(publisher.process.pid),"#))
    #expect(stuck.contains(#""processState":"stopped""#) && stuck.contains("kill -CONT"))
    #expect(stuck.contains(#""subscribers":[{"process":\#(reader.process.pid),"#))
    #expect(stuck.contains(#""bytesPerSecond":0"#))
    publisher.process.kill(SIGCONT)
    try eventually("the one that waits is seen") {
      try why("never").contains(#""waits":[{"for":"key","process":\#(waiter.pid),"#)
    }
    #expect(try broker.run(["why", "never"]).output.contains("1 request waits"))
    #expect(try broker.run(["why", "nobody"]).exitCode == 66)
    try publisher.ask("append k 1047576")
    #expect(try reader.answer() == "1")
    try publisher.ask("seal k")
    #expect(try why("k").contains("It is complete"))
    waiter.kill(SIGKILL)
    try broker.stop()
  }

  @Test func `the slowest reader of a full window is named`() throws {
    let broker = try BrokerProcess()
    let client = try PatchbayClient(socketPath: broker.socket)
    var options = BlobOptions(order: .appendOnly)
    options.policy = .backpressure
    let publisher = try client.publisher("w", options)
    let reader = try broker.peer()
    try reader.ask("open w")
    try reader.ask("attach w")
    try reader.process.suspend()
    let piece = [UInt8](repeating: 1, count: 10_000)
    try publisher.append(piece)
    let why = try broker.run(["why", "w", "--json"]).output
    #expect(why.contains(#""position":0,"behindBytes":10000"#), "\(why)")
    #expect(why.contains("kill -CONT \(reader.process.pid)"))
    let top = try broker.run(["top", "--json", "--count", "1"]).output
    #expect(top.contains(#""lagBytes":10000"#), "\(top)")
    reader.process.kill(SIGCONT)
    try publisher.seal()
    try broker.stop()
  }
}
