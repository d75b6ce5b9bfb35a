// `patchbay-load soak`: everything at once, for as long as one likes. Processes in every role work on one
// broker while each of them, and the broker, is killed and stopped again and again; an oracle looks at every
// byte, and in the end nothing may have grown.

import ArgumentParser
import Glibc
import Patchbay
import PatchbayText

struct Soak: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Kills and stops everything while an oracle checks every byte.",
    discussion: """
      Publishers, readers and onlookers, each in a process of its own, work on a broker with little \
      memory and a spool. At random moments one of them is killed, and another one started in its \
      place, or stopped for a while; the broker is killed, twice in a row, stopped, drained, or hands \
      over, and the next one takes its place. What every reader gets must be the right byte, or an \
      error that can be. What was promised to outlive the broker must be there after each death. Who \
      comes no further for --patience, or ends otherwise than by the soak's hand, has failed it.

      In the end all go, all blobs are removed, and what the broker has then, in memory, on disk, in \
      descriptors and threads, is compared with what it had in the beginning. Exits with 0 only if \
      everything held; says what did not, and the seed. Needs 100 MiB of shared memory and of the disk \
      of $TMPDIR. tools/soak runs it for hours.
      """)

  @Option(help: "Seconds of kills and stops; at least once each role is hit in any case.")
  var seconds = 60

  @Option(help: "What content and faults derive from (default: a random number, which is printed).")
  var seed: UInt32 = .random(in: 1...UInt32.max)

  @Option(help: "How long a worker may come no further.")
  var patience = TimeSpan(duration: .seconds(60))

  @Option(help: "How long what is held may take to be given back in the end (default: --patience).")
  var settling: TimeSpan?

  @Flag(help: "Readers check every byte; a soak always does.")
  var verify = false

  @Flag(help: "Prints one JSON object per line.")
  var json = false

  func validate() throws {
    guard (1...31_536_000).contains(seconds) else {
      throw ValidationError("--seconds must be 1 to 31536000.")
    }
  }

  func run() throws {
    var report = Report(seed: seed, asJSON: json)
    let director = try SoakDirector(
      seed: seed, seconds: seconds, patience: patience.duration,
      settling: settling?.duration ?? patience.duration)
    let outcome = Result { try director.run() }
    director.endProgress()
    director.tell(&report)
    report.finish()
    try outcome.get()
  }
}

extension SoakDirector {
  /// What was done and what came of it, also when that was not right.
  func tell(_ report: inout Report) {
    for role in SoakRole.allCases { report.add(cell(role)) }
    let counts = brokers.counts
    report.add([
      ("broker", .text("all")), ("started", .count(counts.started)),
      ("killed", .count(counts.killed)), ("stopped", .count(counts.stopped)),
      ("drained", .count(counts.drained)), ("handed over", .count(counts.handedOver)),
    ])
    report.add(
      [("figures", .text("of brokers"))]
        + SoakBrokers.figureNames.map { ($0, .count(brokers.figure($0))) })
    let promises = crew.promises
    report.add([
      ("promises", .text("to outlive brokers")), ("made", .count(promises.madeCount)),
      ("looked at meanwhile", .count(promises.checkedCount)),
      ("and afterwards", .count(checkedCount)),
    ])
    for (refusal, count) in crew.tally.refusals.sorted(by: { $0.key < $1.key }) {
      report.add([("refused", .text(refusal)), ("times", .count(count))])
    }
    for (place, first) in before.all.enumerated() {
      let later = [("between", between), ("after", after)].compactMap { name, figures in
        figures.all.isEmpty ? nil : (name, ReportValue.count(figures.all[place].value))
      }
      report.add(
        [("baseline", .text(first.name)), ("before", .count(first.value))]
          + later.map { (name: $0.0, value: $0.1) })
    }
  }

  private func cell(_ role: SoakRole) -> Report.Cell {
    let record = crew.records[role] ?? SoakRoleRecord()
    let tally = crew.tally(role)
    return [
      ("role", .text(role.rawValue)), ("processes", .count(record.started)),
      ("killed", .count(record.killed)), ("stopped", .count(record.stopped)),
      ("steps", .count(tally.steps)), ("blobs", .count(tally.blobs)),
      ("MiB checked", .number(Double(tally.bytes) / 1_048_576, decimals: 1)),
      ("descriptors", .count(record.growth["descriptors"] ?? 0)),
      ("threads", .count(record.growth["threads"] ?? 0)),
      ("mappings", .count(record.growth["mappings"] ?? 0)),
      ("KiB private", .count((record.growth["private"] ?? 0) >> 10)),
    ]
  }
}

extension ReportValue {
  fileprivate static func count(_ count: Int) -> Self { .number(Double(count), decimals: 0) }
}
