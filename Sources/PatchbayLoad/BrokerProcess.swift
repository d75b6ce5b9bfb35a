// A broker of the tool's own, in a process of its own. It serves until its standard input ends, so it
// goes, and takes its shared memory with it, when the tool ends in whatever way.

import Glibc
import Logging
import Patchbay
import PatchbayBroker

enum BrokerProcess {
  /// Starts a broker in a new directory; the path it listens on.
  /// - Parameter hasSpool: whether it has a directory on disk, which goes with it.
  static func start(memoryByteCount: Int, hasSpool: Bool = false) throws(LoadError) -> String {
    try start(
      in: Household.shared.makeDirectory(), memoryByteCount: memoryByteCount, hasSpool: hasSpool)
  }

  /// Starts a broker over what another one, which has ended, has left in a directory; the path it
  /// listens on.
  static func start(
    in directory: String, memoryByteCount: Int, hasSpool: Bool
  ) throws(LoadError) -> String {
    let path = socketPath(in: directory)
    let child = try Household.shared.startBroker { () throws(LoadError) in
      try ChildProcess(
        order: [
          "role": "broker", "socket": path, "memory": String(memoryByteCount),
          "directory": directory, "spool": String(hasSpool),
        ], isApart: true)
    }
    _ = try child.expect("ready")
    return path
  }

  static func socketPath(in directory: String) -> String { "\(directory)/control.sock" }

  /// The other side: serves until the input ends.
  static func serve(_ order: Fields) throws {
    var configuration = BrokerConfiguration(
      socketPath: try order.text("socket"), memoryLimit: try order.int("memory"),
      logger: Logger(label: "broker", factory: quiet))
    configuration.drainLimit = .zero
    let directory = try order.text("directory")
    if order.flag("spool") { configuration.spool = .directory("\(directory)/spool") }
    let broker = try Broker(configuration)
    Worker.say("ready")
    while readLine() != nil {}
    broker.requestStop()
    broker.waitUntilEnded()
    // Here too, not only where it was made: the tool itself may have been killed.
    Household.remove(directory)
  }

  static func quiet(_ label: String) -> any LogHandler {
    var handler = StreamLogHandler.standardError(label: label)
    handler.logLevel = .error
    return handler
  }
}
