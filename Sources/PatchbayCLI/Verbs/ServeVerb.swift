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

      With --idle-exit it ends by itself when nobody has been connected and nothing has been open \
      for that long. Sealed blobs do not keep it: they go with it.

      A service manager may hand it the listening socket (LISTEN_FDS, one socket; systemd: \
      ListenSequentialPacket) and is told READY=1 and STOPPING=1 on NOTIFY_SOCKET (systemd: \
      Type=notify). With both, it runs only while it is wanted: systemd starts it for the first \
      client, and --idle-exit ends it.

      With --shared, processes of other users may connect as well: to read what a blob's owner, group \
      and mode let them (put --mode 0644), and to publish blobs of their own. Whoever connects must \
      be able to pass the directory of the socket.

      With --spool, what does not fit in memory is written to that directory, compressed with \
      --compress lz4, and stays readable; blobs may then be larger than memory. Blobs published with \
      put --ack retained or durable are served again by the next broker that has the same spool; all \
      other files there go with their broker. One broker at a time has a spool.

      Example: patchbay serve --memory 4GiB
      Example: patchbay serve --memory 1GiB --spool /var/tmp/patchbay --compress lz4
      Example: patchbay serve --shared --socket /run/patchbay/control.sock
      Example: systemd-socket-activate --seqpacket \
      -l "$XDG_RUNTIME_DIR/patchbay/control.sock" patchbay serve --idle-exit 5m

      Exits with 0 drained or idle; 64 usage; 73 another broker has the socket; 74 the socket cannot be \
      made; 77 not permitted; 81 no space; 130, 143 ended at once.
      """)

  @OptionGroup var common: CommonOptions

  @Option(
    help: ArgumentHelp(
      "Shared memory it may hold, its own tables included.",
      discussion: "Default: a quarter of what is free in /dev/shm.", valueName: "size"),
    transform: Typed.positiveSize)
  var memory: Int?

  @Option(
    help: ArgumentHelp(
      "Directory for what does not fit in memory; made if it is not there.", valueName: "dir"))
  var spool: String?

  @Option(
    help: ArgumentHelp(
      "Disk that the spool may take.",
      discussion: "Default: half of what is free there.", valueName: "size"),
    transform: Typed.positiveSize)
  var spoolLimit: Int?

  @Option(
    help: ArgumentHelp(
      "Leaves so much of the spool's disk to others.",
      discussion: "Default: a thirty-second of it, at most 1GiB.", valueName: "size"),
    transform: Typed.size)
  var spoolFloor: Int?

  @Option(
    help: ArgumentHelp(
      "How the spool keeps bytes, unless put says otherwise: none or lz4. (default: none)",
      valueName: "method"),
    transform: Typed.compression)
  var compress: SpoolCompression?

  @Option(
    help: ArgumentHelp(
      "Ends when there has been no client and no open blob for so long.",
      discussion: "Default: never.", valueName: "duration"),
    transform: Typed.positiveDuration)
  var idleExit: Duration?

  @Flag(help: "Lets other users connect.")
  var shared = false

  @Option(
    help: ArgumentHelp(
      "Shared memory that the blobs of one other user may take.",
      discussion: "Default: half of the memory limit.", valueName: "size"),
    transform: Typed.positiveSize)
  var userMemory: Int?

  @Option(
    help: ArgumentHelp(
      "Shared memory that the blobs which one client writes may take.",
      discussion: "At least 2MiB. Default: all of the memory limit.", valueName: "size"),
    transform: Typed.positiveSize)
  var clientMemory: Int?

  @Option(
    help: ArgumentHelp(
      "Keeps at most so much in memory of what nobody uses and may go.",
      discussion: "Default: as much as there is room for.", valueName: "size"),
    transform: Typed.size)
  var cache: Int?

  @Option(
    help: ArgumentHelp(
      "Keeps at most so many complete blobs that nobody uses and that may go.",
      discussion: "Default: as many as there is room for.", valueName: "n"))
  var cacheBlobs: Int?

  @Option(
    help: ArgumentHelp(
      "Lets so many ranges be fetched on demand at the same time, of all blobs.",
      discussion: "What readers wait for comes first. Default: as many as their sources take.",
      valueName: "n"))
  var transfers: Int?

  @Flag(
    help: ArgumentHelp(
      "At SIGTERM leaves everything to the next broker on the socket, at once.",
      discussion: "Clients wait for it and go on: for upgrades and restarts."))
  var handOver = false

  func validate() throws {
    if userMemory != nil, !shared {
      throw ValidationError("--user-memory is about other users; they need --shared.")
    }
    if let cacheBlobs, cacheBlobs < 0 {
      throw ValidationError("--cache-blobs is a number of blobs, 0 or more.")
    }
    if let transfers, transfers < 1 {
      throw ValidationError("--transfers is a number of fetches, 1 or more.")
    }
    if spool == nil, spoolLimit != nil || spoolFloor != nil || compress != nil {
      throw ValidationError(
        "--spool-limit, --spool-floor and --compress are about a spool; name one with --spool.")
    }
  }

  func perform() throws {
    // A log reader that goes away must not take the broker with it.
    _ = signal(SIGPIPE, SIG_IGN)
    // A file that may not grow any more is an error of one blob, not the broker's end.
    _ = signal(SIGXFSZ, SIG_IGN)
    let isQuiet = common.quiet
    LoggingSystem.bootstrap { label in
      var handler = StreamLogHandler.standardError(label: label)
      handler.logLevel = isQuiet ? .error : .notice
      return handler
    }
    let broker = try start()
    let endedBySignal = endingOnSignals(broker)
    announce(broker)
    ServiceManager.tell("READY=1")
    broker.waitUntilEnded()
    // For an end without a signal; it does no harm twice.
    ServiceManager.tell("STOPPING=1")
    if let number = endedBySignal() { throw ExitCode(128 + number) }
  }

  private func start() throws -> Broker {
    let listener = try ServiceManager.takeListener()
    if listener != nil, common.socket != nil {
      throw ValidationError("A socket was handed over (LISTEN_FDS); leave --socket out.")
    }
    var configuration = BrokerConfiguration(socketPath: common.socket, memoryLimit: memory)
    configuration.listeningDescriptor = listener
    configuration.idleLimit = idleExit
    configuration.isShared = shared
    configuration.userMemoryLimit = userMemory
    configuration.clientMemoryLimit = clientMemory
    configuration.cacheByteLimit = cache
    configuration.cacheBlobLimit = cacheBlobs
    configuration.transferLimit = transfers
    configuration.runsWorkersInline = Terminal.isSet("PATCHBAY_INLINE_WORKERS")
    configuration.spool = spool.map {
      .directory(
        $0, byteLimit: spoolLimit, compression: compress ?? .none, freeByteFloor: spoolFloor)
    }
    do throws(PatchbayError) {
      return try Broker(configuration)
    } catch {
      // A taken path is "exists already" for whoever starts brokers, not "no space".
      let isTaken = error.code == .limitReached && error.systemErrno == EWOULDBLOCK
      guard isTaken else { throw error }
      Failure(error).report(asJSON: common.json)
      throw ExitCode(ExitStatus.exists)
    }
  }

  /// The first signal drains, the second one stops; none takes from the next broker what is handed over to
  /// it. The result tells the second signal's number.
  private func endingOnSignals(_ broker: Broker) -> () -> Int32? {
    let second = SecondSignal()
    let isTalking = !common.quiet && !common.json
    Interruption.react { number, index in
      if index == 0 {
        ServiceManager.tell("STOPPING=1")
        // Said first: the process may be gone a moment after it was asked for.
        if isTalking {
          StandardError.write(
            handOver
              ? "patchbay: ending; the next broker on \(broker.socketPath) takes over\n"
              : "patchbay: draining; a second signal ends the broker at once\n")
        }
        handOver ? broker.requestHandOver() : broker.requestDrain()
      } else {
        second.number = number
        if !handOver { broker.requestStop() }
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
