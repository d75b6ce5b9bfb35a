// How errors become words and exit codes. The table from codes to exit codes is here and nowhere
// else; a test holds it to every code there is.

import Glibc
import Patchbay

/// An error together with the key it is about.
struct Failure: Error {
  let error: PatchbayError
  let key: BlobKey?
  /// Whether the blob had failed, or failed, before its reader.
  let isOfRead: Bool

  init(_ error: PatchbayError, key: BlobKey? = nil, isOfRead: Bool = false) {
    self.error = error
    self.key = key
    self.isOfRead = isOfRead
  }

  /// Runs `body`; a library error from it is about `key`.
  static func about<Result>(_ key: BlobKey, _ body: () throws -> Result) throws -> Result {
    do {
      return try body()
    } catch let error as PatchbayError {
      throw Failure(error, key: key)
    }
  }

  /// The same for a reader of `key`: a cause is the blob's, and says what somebody else has found.
  static func reading<Result>(_ key: BlobKey, _ body: () throws -> Result) throws -> Result {
    do {
      return try body()
    } catch let error as PatchbayError {
      throw Failure(error, key: key, isOfRead: error.cause != nil)
    }
  }

  /// Whether the reader of our output has gone. That ends a filter quietly, as SIGPIPE would.
  var isBrokenPipe: Bool { error.systemErrno == EPIPE }

  var exitCode: Int32 {
    if isBrokenPipe { return 128 + SIGPIPE }
    return isOfRead ? ExitStatus.ofRead(error.code) : ExitStatus.of(error.code)
  }

  func report(asJSON: Bool) {
    guard !isBrokenPipe else { return }
    let text =
      asJSON
      ? Self.json(
        code: "\(error.code)", message: error.message, key: key, cause: error.cause,
        resumePosition: error.resumePosition, missing: error.missing)
      : Self.text(error)
    StandardError.write(text + "\n")
  }

  /// What every message begins with.
  static var label: String { Terminal.error.inRed("patchbay:") }

  /// The message, and the cause on a line of its own where there is one.
  static func text(_ error: PatchbayError) -> String {
    var lines = ["\(label) \(error.message)"]
    if let cause = error.cause, !cause.isEmpty { lines.append("  cause: \(cause)") }
    if error.code == .overrun, let position = error.resumePosition {
      lines.append("  resume at: \(position)")
    }
    return lines.joined(separator: "\n")
  }

  static func report(_ interrupted: Interrupted, asJSON: Bool) {
    let text =
      asJSON
      ? json(code: interrupted.word, message: interrupted.message, key: nil, cause: nil)
      : "\(label) \(interrupted.message)"
    StandardError.write(text + "\n")
  }

  /// A message about what does not change how the command ends.
  static func warning(_ error: PatchbayError, key: BlobKey, asJSON: Bool) -> String {
    asJSON
      ? json(
        "warning", code: "\(error.code)", message: error.message, key: key, cause: error.cause)
      : "\(label) warning: \(error.message)"
  }

  static func json(
    _ kind: String = "error", code: String, message: String, key: BlobKey?, cause: String?,
    resumePosition: Int? = nil,
    missing: [Range<Int>] = []
  ) -> String {
    var parts = JSONFields()
    parts["code"] = .string(code)
    parts["message"] = .string(message)
    parts.append(key: key)
    parts["cause"] = .optional(cause)
    if let resumePosition { parts["resumePosition"] = .integer(resumePosition) }
    if !missing.isEmpty { parts["missing"] = .ranges(missing) }
    return JSON.object(JSONFields([(kind, .object(parts))])).text
  }
}

/// The exit codes, by the library's codes.
enum ExitStatus {
  static let usage: Int32 = 64
  static let contentFailed: Int32 = 65
  static let noSuchKey: Int32 = 66
  static let noBroker: Int32 = 69
  static let `internal`: Int32 = 70
  static let exists: Int32 = 73
  static let inputOutput: Int32 = 74
  static let timedOut: Int32 = 75
  static let mismatch: Int32 = 76
  static let notPermitted: Int32 = 77
  static let blobEnded: Int32 = 79
  static let overrun: Int32 = 80
  static let noSpace: Int32 = 81

  /// Of a code that is newer than this table, 70.
  static func of(_ code: PatchbayError.Code) -> Int32 { table[code] ?? `internal` }

  /// Of a blob that failed before its reader: content that was wrong is for its publisher to mend.
  static func ofRead(_ code: PatchbayError.Code) -> Int32 {
    [.digestMismatch, .contentDiverged].contains(code) ? blobEnded : of(code)
  }

  static let table: [PatchbayError.Code: Int32] = [
    .noBroker: noBroker, .noSuchKey: noSuchKey, .keyExists: exists, .invalidKey: usage,
    .blobFailed: blobEnded, .removed: blobEnded, .evicted: blobEnded, .abandoned: blobEnded,
    .overrun: overrun, .rangeOverlap: exists, .rangeOutOfBounds: usage,
    .holesAtSeal: contentFailed, .lengthMismatch: contentFailed, .digestMismatch: contentFailed,
    .contentDiverged: contentFailed, .fenced: blobEnded, .timedOut: timedOut,
    .cancelled: timedOut, .closed: blobEnded, .noSpaceMemory: noSpace, .noSpaceSpool: noSpace,
    .limitReached: noSpace, .notPermitted: notPermitted, .versionMismatch: mismatch,
    .protocolViolation: mismatch, .corrupt: contentFailed, .inputOutput: inputOutput,
  ]
}
