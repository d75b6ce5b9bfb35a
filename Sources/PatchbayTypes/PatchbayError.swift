// The one error type. A code exists only where a caller could act differently; the message says
// what was tried, on what, with which numbers, and what to do about it.

/// What went wrong, in a form that a program can act on and a person can read.
public struct PatchbayError: Error, Sendable, Hashable {
  /// Which kind of failure. Numbers are stable: they travel on the wire and in the C interface.
  public struct Code: RawRepresentable, Hashable, Sendable {
    /// The stable number.
    public let rawValue: UInt16
    /// A code by its number; unknown numbers are kept, so a newer peer's code survives.
    public init(rawValue: UInt16) { self.rawValue = rawValue }

    /// No broker listens on the socket.
    public static let noBroker = Code(rawValue: 1)
    /// No blob has this key.
    public static let noSuchKey = Code(rawValue: 2)
    /// A blob with this key exists already.
    public static let keyExists = Code(rawValue: 3)
    /// A key has 1 to 1024 bytes.
    public static let invalidKey = Code(rawValue: 4)
    /// The publisher declared the blob failed; `cause` says why.
    public static let blobFailed = Code(rawValue: 5)
    /// The blob was removed.
    public static let removed = Code(rawValue: 6)
    /// The blob left memory to make room.
    public static let evicted = Code(rawValue: 7)
    /// The publisher went, or died, without sealing.
    public static let abandoned = Code(rawValue: 8)
    /// The bytes at this position are gone; `resumePosition` is the first that is there.
    public static let overrun = Code(rawValue: 9)
    /// The write touches bytes that are covered already.
    public static let rangeOverlap = Code(rawValue: 10)
    /// The range lies outside the blob.
    public static let rangeOutOfBounds = Code(rawValue: 11)
    /// The seal found bytes that nobody wrote; `missing` lists the first of them.
    public static let holesAtSeal = Code(rawValue: 12)
    /// Fewer or more bytes than the announced length.
    public static let lengthMismatch = Code(rawValue: 13)
    /// The content has another digest than expected.
    public static let digestMismatch = Code(rawValue: 14)
    /// A producer that began again from 0 made different bytes.
    public static let contentDiverged = Code(rawValue: 15)
    /// Another publisher has taken over; nothing this one writes can be seen.
    public static let fenced = Code(rawValue: 16)
    /// The deadline passed first.
    public static let timedOut = Code(rawValue: 17)
    /// The calling task was cancelled.
    public static let cancelled = Code(rawValue: 18)
    /// The handle was closed, or is used after it ended.
    public static let closed = Code(rawValue: 19)
    /// The broker's memory is full.
    public static let noSpaceMemory = Code(rawValue: 20)
    /// The spool is full.
    public static let noSpaceSpool = Code(rawValue: 21)
    /// A bound of the broker or the client was reached; the message names it.
    public static let limitReached = Code(rawValue: 22)
    /// The caller may not do this.
    public static let notPermitted = Code(rawValue: 23)
    /// Client and broker speak no common version.
    public static let versionMismatch = Code(rawValue: 24)
    /// The peer sent something that the protocol does not allow.
    public static let protocolViolation = Code(rawValue: 25)
    /// Stored bytes are damaged.
    public static let corrupt = Code(rawValue: 26)
    /// The system refused an operation; `systemErrno` says which way.
    public static let inputOutput = Code(rawValue: 27)
  }

  /// Which kind of failure.
  public let code: Code
  /// One or two sentences: what was tried, on what, with which numbers, and the remedy.
  public let message: String
  /// Why the blob failed, in its publisher's words.
  public let cause: String?
  /// For `overrun`: the first position that can still be read.
  public let resumePosition: Int?
  /// For `holesAtSeal`: the first uncovered ranges, at most 64.
  public let missing: [Range<Int>]
  /// The system's own error number where one lies beneath.
  public let systemErrno: Int32?

  /// An error with its parts; only code and message are always there.
  public init(
    _ code: Code, _ message: String, cause: String? = nil, resumePosition: Int? = nil,
    missing: [Range<Int>] = [], systemErrno: Int32? = nil
  ) {
    self.code = code
    self.message = message
    self.cause = cause
    self.resumePosition = resumePosition
    self.missing = missing
    self.systemErrno = systemErrno
  }
}

extension PatchbayError: CustomStringConvertible {
  /// The message, then the cause where there is one.
  public var description: String {
    guard let cause, !cause.isEmpty else { return message }
    return "\(message) Cause: \(cause)"
  }
}

extension PatchbayError.Code: CustomStringConvertible {
  private static let names: [PatchbayError.Code: String] = [
    .noBroker: "noBroker", .noSuchKey: "noSuchKey", .keyExists: "keyExists",
    .invalidKey: "invalidKey", .blobFailed: "blobFailed", .removed: "removed",
    .evicted: "evicted", .abandoned: "abandoned", .overrun: "overrun",
    .rangeOverlap: "rangeOverlap", .rangeOutOfBounds: "rangeOutOfBounds",
    .holesAtSeal: "holesAtSeal", .lengthMismatch: "lengthMismatch",
    .digestMismatch: "digestMismatch", .contentDiverged: "contentDiverged", .fenced: "fenced",
    .timedOut: "timedOut", .cancelled: "cancelled", .closed: "closed",
    .noSpaceMemory: "noSpaceMemory", .noSpaceSpool: "noSpaceSpool",
    .limitReached: "limitReached", .notPermitted: "notPermitted",
    .versionMismatch: "versionMismatch", .protocolViolation: "protocolViolation",
    .corrupt: "corrupt", .inputOutput: "inputOutput",
  ]

  /// The code's name as documentation and JSON spell it; `code<number>` for one that is newer.
  public var description: String { Self.names[self] ?? "code\(rawValue)" }
}
