// The brokers of a soak, one after another in one directory: little memory, so that blobs leave it for the
// disk all the time, and little room there.

import Glibc
import Logging
import Patchbay
import PatchbayBroker

final class SoakBrokers {
  /// What was done to them.
  struct Counts {
    var started = 0
    var killed = 0
    var stopped = 0
    var drained = 0
    var handedOver = 0
  }

  /// What brokers count, and an onlooker tells now and then.
  static let figureNames = ["spills", "restores", "evictions", "reuses", "rescues"]
  private var figures: [String: Fields] = [:]

  let directory: String
  private(set) var child: ChildProcess?
  var counts = Counts()
  /// What the names of their shared memory begin with.
  private var objectPrefixes: Set<String> = []
  /// Whether the present one has said so.
  private(set) var isReady = false
  /// Whether the present one was told to end.
  private(set) var isEnding = false

  private static let memoryByteCount = 24 << 20
  private static let spoolByteCount = 24 << 20
  private static let clientByteCount = 8 << 20
  /// How long open blobs may take when it is told to end.
  private static let drainLimit = Duration.seconds(1)

  init(in directory: String) { self.directory = directory }

  var socketPath: String { BrokerProcess.socketPath(in: directory) }

  /// Starts the next one, which says `ready` later.
  func begin() throws(LoadError) {
    isReady = false
    isEnding = false
    let order: Fields = ["role": "soak-broker", "directory": directory]
    child = try Household.shared.startBroker { () throws(LoadError) in
      try ChildProcess(order: order, isApart: true)
    }
    counts.started += 1
  }

  /// What it has said.
  func take(_ line: String) throws(LoadError) {
    guard line.hasPrefix("ready") else {
      throw LoadError("The broker, process \(child?.process ?? 0), said: \(line)")
    }
    isReady = true
    objectPrefixes.formUnion(Household.objectPrefix(ofBrokerIn: directory).map { [$0] } ?? [])
  }

  /// Shared memory of any of them that is there.
  var objects: [String] {
    Household.names(in: "/dev/shm").filter { name in
      objectPrefixes.contains { name.hasPrefix($0) }
    }
  }

  /// Figures as one of them had them at some moment.
  func note(_ fields: Fields) { figures[fields["broker"] ?? ""] = fields }

  /// The sum of a figure over all brokers, as far as it was seen.
  func figure(_ name: String) -> Int {
    figures.values.reduce(0) { $0 + ($1[name].flatMap { Int($0) } ?? 0) }
  }

  func kill() {
    Household.shared.killBroker()
    child = nil
    counts.killed += 1
  }

  /// - Parameter word: `drain` or `hand over`.
  func tellToEnd(_ word: String) {
    isEnding = true
    child?.send(word)
  }

  /// Its output has ended: takes its end.
  /// - Throws: when that is not the end it was told to come to.
  func takeEnd() throws(LoadError) {
    guard let ended = child else { return }
    let status = ended.wait()
    Household.shared.forgetBroker()
    child = nil
    if let complaint = SoakJudge.complaint(aboutEnd: status, isExpected: isEnding) {
      throw LoadError("The broker, process \(ended.process), \(complaint).")
    }
  }

  func signal(_ number: Int32) {
    if let child { _ = Glibc.kill(child.process, number) }
  }

  /// The other side: serves until it is told in which way to end. When the director has gone, all goes.
  static func serve(_ order: Fields) throws {
    let directory = try order.text("directory")
    var configuration = BrokerConfiguration(
      socketPath: BrokerProcess.socketPath(in: directory), memoryLimit: memoryByteCount,
      spool: .directory("\(directory)/spool", byteLimit: spoolByteCount),
      logger: Logger(label: "broker", factory: BrokerProcess.quiet))
    configuration.clientMemoryLimit = clientByteCount
    configuration.drainLimit = drainLimit
    configuration.poolRest = .seconds(1)
    let broker = try Broker(configuration)
    Worker.say("ready")
    let word = readLine()
    switch word {
    case "drain": broker.requestDrain()
    case "hand over": broker.requestHandOver()
    default: broker.requestStop()
    }
    broker.waitUntilEnded()
    if word == nil { Household.remove(directory) }
  }
}
