// `patchbay serve`: a broker in the foreground.

import ArgumentParser
import Glibc
import Logging
import Patchbay
import PatchbayBroker

struct ServeVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Runs a broker in the foreground.",
    discussion: """
      Says on standard error when it is ready. On SIGTERM or SIGINT it takes no new blobs and \
      readers, lets open ones finish for up to 30 s, and exits with 0; on a second signal it ends \
      at once and exits with 143 or 130. Its shared memory is gone afterwards.

      Example: patchbay serve --memory 4GiB

      Exits with 0 drained; 64 usage; 73 another broker has the socket; 74 the socket cannot be \
      made; 77 not permitted; 81 no space; 130, 143 ended at once.
      """)

  @OptionGroup var common: CommonOptions

  @Option(
    help: ArgumentHelp(
      "Shared memory it may hold, its own tables included.",
      discussion: "Default: a quarter of what is free in /dev/shm.", valueName: "size"),
    transform: Typed.positiveSize)
  var memory: Int?

  func perform() throws {
    // A log reader that goes away must not take the broker with it.
    _ = signal(SIGPIPE, SIG_IGN)
    let isQuiet = common.quiet
    LoggingSystem.bootstrap { label in
      var handler = StreamLogHandler.standardError(label: label)
      handler.logLevel = isQuiet ? .error : .notice
      return handler
    }
    let broker = try start()
    let endedBySignal = endingOnSignals(broker)
    announce(broker)
    broker.waitUntilEnded()
    if let number = endedBySignal() { throw ExitCode(128 + number) }
  }

  private func start() throws -> Broker {
    do throws(PatchbayError) {
      return try Broker(BrokerConfiguration(socketPath: common.socket, memoryLimit: memory))
    } catch {
      // A taken path is "exists already" for whoever starts brokers, not "no space".
      let isTaken = error.code == .limitReached && error.systemErrno == EWOULDBLOCK
      guard isTaken else { throw error }
      Failure(error).report(asJSON: common.json)
      throw ExitCode(ExitStatus.exists)
    }
  }

  /// The first signal drains, the second one stops. The result tells the second signal's number.
  private func endingOnSignals(_ broker: Broker) -> () -> Int32? {
    let second = SecondSignal()
    let isTalking = !common.quiet && !common.json
    Interruption.react { number, index in
      if index == 0 {
        broker.requestDrain()
        if isTalking {
          StandardError.write("patchbay: draining; a second signal ends the broker at once\n")
        }
      } else {
        second.number = number
        broker.requestStop()
      }
      return .grace(.seconds(60))
    }
    return { second.number }
  }

  private func announce(_ broker: Broker) {
    if common.json {
      let fields = JSONFields([
        ("event", .string("ready")), ("socket", .string(broker.socketPath)),
        ("process", .integer(Int(getpid()))), ("memoryLimit", .integer(broker.memoryLimit)),
      ])
      StandardError.write(JSON.object(fields).text + "\n")
    } else if !common.quiet {
      StandardError.write(
        "patchbay: ready on \(broker.socketPath), process \(getpid()), "
          + "memory limit \(Shown.bytes(broker.memoryLimit))\n")
    }
  }
}
