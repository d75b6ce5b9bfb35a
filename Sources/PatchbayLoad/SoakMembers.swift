// What is known of the workers of a soak: of each that is there, and of all that had a role.

import PatchbaySystem

/// What workers have done.
struct SoakTally {
  var steps = 0
  var bytes = 0
  var blobs = 0
  var refusals: [String: Int] = [:]

  init() {}

  init(_ beat: Fields) throws(LoadError) {
    steps = try beat.int("steps")
    bytes = try beat.int("bytes")
    blobs = try beat.int("blobs")
    for refusal in (beat["refusals"] ?? "").split(separator: ",") {
      let parts = refusal.split(separator: ":")
      if parts.count == 2 { refusals[String(parts[0])] = Int(parts[1]) }
    }
  }

  static func += (sum: inout SoakTally, more: SoakTally) {
    sum.steps += more.steps
    sum.bytes += more.bytes
    sum.blobs += more.blobs
    sum.refusals.merge(more.refusals, uniquingKeysWith: +)
  }
}

/// One worker.
final class SoakMember {
  let role: SoakRole
  let number: Int
  let child: ChildProcess
  var tally = SoakTally()
  var doing = "starts"
  /// Since when it has come no further, not counting what was no fault of its own.
  var progressedAt = MonotonicTime.now
  /// When it is to go on; nil: it is not stopped.
  var stoppedUntil: MonotonicTime?
  var isDismissed = false
  var hasSaidEnd = false

  init(_ role: SoakRole, _ number: Int, _ child: ChildProcess) {
    self.role = role
    self.number = number
    self.child = child
  }

  var name: String { "\(role) (process \(child.process))" }
}

/// What was done to the workers of a role, and what they have done.
struct SoakRoleRecord {
  var started = 0
  var killed = 0
  var stopped = 0
  /// Of those that have gone.
  var tally = SoakTally()
  /// The most that a worker had more of in the end than in the beginning.
  var growth: [String: Int] = [:]
}
