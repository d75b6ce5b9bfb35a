// The command's door: the list of verbs, and what every verb has in common. A verb does its work in
// `perform`; errors, exit codes and signals are dealt with here, once for all.

import ArgumentParser
import Glibc
import Patchbay

/// `patchbay VERB [ARGUMENTS]`.
@main struct PatchbayCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "patchbay",
    abstract: "Streams bytes between processes through shared memory.",
    discussion: """
      A publisher writes a blob under a key; any number of readers read it while it is being \
      written, from byte 0 or from anywhere, straight from shared memory. A broker (`patchbay \
      serve`) hands the memory out.

      Data goes to standard output, everything else to standard error. Sizes are typed 4096, \
      64KiB, 1MiB, 4GiB; durations 250ms, 10s, 5m, 2h. In a key, %XX stands for one byte.

      Exit codes: 0 done; 64 usage; 65 not the announced content; 66 no such key; 69 no broker; 70 \
      internal; 73 exists already; 74 input/output; 75 time-out, or would block; 76 protocol or \
      version mismatch; 77 not permitted; 79 the blob failed, was abandoned, removed or evicted; \
      80 overrun; 81 no space; 130 interrupted; 143 terminated.
      """,
    version: Version.patchbay,
    subcommands: [
      ServeVerb.self, PutVerb.self, CreateVerb.self, WriteVerb.self, SealVerb.self, FailVerb.self,
      CatVerb.self, GetVerb.self, ProduceVerb.self, WaitVerb.self, WatchVerb.self, InfoVerb.self,
      WhyVerb.self,
      TopVerb.self,
      ListVerb.self, RemoveVerb.self, CleanVerb.self, ImportVerb.self, WithVerb.self, PinVerb.self,
      UnpinVerb.self,
      VerifyVerb.self, PingVerb.self, StatsVerb.self,
      CompletionVerb.self, VersionVerb.self,
    ])

  /// As the parser's own, but that the words behind -- can be told from those before it.
  static func parseAsRoot(_ arguments: [String]? = nil) throws -> any ParsableCommand {
    let given = arguments ?? Array(CommandLine.arguments.dropFirst())
    return try parsed(Self.self, WithVerb.marked(given))
  }

  private static func parsed<Command: ParsableCommand>(
    _: Command.Type, _ arguments: [String]
  ) throws -> any ParsableCommand {
    try Command.parseAsRoot(arguments)
  }

  static func main() {
    do {
      var command = try parseAsRoot()
      try command.run()
    } catch {
      finish(error)
    }
  }

  /// Ends the process as an error asks for: help as the parser prints it, a usage error as all
  /// errors are printed, followed by the usage.
  private static func finish(_ error: any Error) -> Never {
    // A verb that has said why it ends.
    if error is ExitCode { exit(withError: error) }
    guard exitCode(for: error) == .validationFailure else { exit(withError: error) }
    if CommandLine.arguments.contains("--json") {
      StandardError.write(
        Failure.json(code: "usage", message: message(for: error), key: nil, cause: nil) + "\n")
    } else {
      let text = fullMessage(for: error)
      let label = "Error: "
      StandardError.write(
        Failure.label + " " + (text.hasPrefix(label) ? text.dropFirst(label.count) : text[...])
          + "\n")
    }
    Glibc.exit(ExitStatus.usage)
  }
}

/// What every verb takes.
struct CommonOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "The broker's socket.",
      discussion: """
        Default: $PATCHBAY_SOCKET, else $XDG_RUNTIME_DIR/patchbay/control.sock, else \
        /tmp/patchbay-<uid>/control.sock.
        """, valueName: "path"), completion: .file())
  var socket: String?

  @Flag(help: "Print JSON, errors too.")
  var json = false

  @Flag(name: .shortAndLong, help: "No progress, no remarks; errors only.")
  var quiet = false

  func connect(deadline: Deadline = .standard) throws(PatchbayError) -> PatchbayClient {
    try PatchbayClient(socketPath: socket, name: "patchbay", deadline: deadline)
  }
}

/// A verb of the command.
protocol Verb: ParsableCommand {
  var common: CommonOptions { get }
  /// The work. What it throws becomes a message and an exit code.
  func perform() throws
}

extension Verb {
  func run() throws {
    Interruption.begin()
    do {
      try perform()
    } catch let interrupted as Interrupted {
      Failure.report(interrupted, asJSON: common.json)
      throw ExitCode(interrupted.exitCode)
    } catch let failure as Failure {
      failure.report(asJSON: common.json)
      throw ExitCode(failure.exitCode)
    } catch let error as PatchbayError {
      let failure = Failure(error)
      failure.report(asJSON: common.json)
      throw ExitCode(failure.exitCode)
    }
  }
}
