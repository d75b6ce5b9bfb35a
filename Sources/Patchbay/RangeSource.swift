// Where the bytes of a blob come from that nobody has yet: fetched when a reader waits for them, in this
// process or another, each piece once.

import PatchbayTypes
import PatchbayWire
import Synchronization

/// Fetches ranges of a blob of known length when they are wanted.
public struct RangeSource: Sendable {
  /// Bytes of a piece: what is wanted is fetched in whole pieces, which begin at multiples of this. At least
  /// 4096.
  public var pieceByteCount = 1 << 20
  /// How far behind what is wanted is fetched as well, where somebody reads on.
  public var readAheadByteCount = 0
  /// Whether what nobody wants is fetched, too, when there is nothing else to do; the blob then becomes
  /// complete by itself, and is sealed. The successor of a stale blob always is.
  public var fillsInBackground = false
  /// How many fetches may be under way at once.
  public var fetchesAtOnce = 4
  /// How often a piece is tried before those that wait for it get the error; or before the successor of a
  /// stale blob has failed.
  public var attempts = 2
  /// Writes the bytes of a range with the publisher, all of them. Asked for what is missing only, for no
  /// range twice at the same time; may run several times at once, for different ranges.
  public let fetch: @Sendable (_ range: Range<Int>, _ publisher: Publisher) async throws -> Void

  /// A source that fetches with a closure; the rest are properties.
  public init(
    fetch: @escaping @Sendable (_ range: Range<Int>, _ publisher: Publisher) async throws -> Void
  ) {
    self.fetch = fetch
  }

  var terms: DemandTerms {
    DemandTerms(
      pieceByteCount: pieceByteCount, readAhead: max(0, readAheadByteCount),
      fills: fillsInBackground)
  }
}

extension BlobStore {
  /// Opens the blob with this key, or has it fetched on demand: of all callers in all processes one fetches,
  /// and only what readers wait for, wherever they are. Else as `get` with a closure: when the process that
  /// fetches dies another one goes on, and when all is there the blob is sealed.
  /// - Parameters:
  ///   - key: the blob's name.
  ///   - options: what is created, with its length.
  ///   - deadline: when to give up waiting for the broker's answer.
  ///   - source: where the bytes come from.
  /// - Throws: as `get` with a closure; `protocolViolation` without a length, or with impossible pieces.
  public func get(
    _ key: BlobKey, _ options: ProductionOptions, deadline: Deadline = .standard,
    orFetch source: RangeSource
  ) async throws(PatchbayError) -> Subscriber {
    try await get(key, options.fetched(from: source), deadline: deadline) { job in
      try await job.publisher.serve(source)
    }
  }
}

extension PatchbayClient {
  /// Creates a blob that is fetched on demand, and gives its publisher, for `Publisher.serve`.
  /// - Throws: as `publisher`; `protocolViolation` without a length, or with impossible pieces.
  public func publisher(
    _ key: BlobKey, _ options: BlobOptions, fetching source: RangeSource,
    deadline: Deadline = .standard
  ) async throws(PatchbayError) -> Publisher {
    var options = options
    options.demand = source.terms
    options.order = .any
    return try await publisher(key, options, deadline: deadline)
  }
}

extension ProductionOptions {
  fileprivate func fetched(from source: RangeSource) -> ProductionOptions {
    var options = self
    options.blob.demand = source.terms
    options.blob.order = .any
    options.start = .anywhere
    return options
  }
}

extension Publisher {
  /// Fetches what readers of this blob wait for, until all of it is there, or the blob has ended. Sealing
  /// it is the caller's. Fetches that fail are told to those that wait for them, and end nothing but the
  /// successor of a stale blob. What a cancelled call had begun is begun anew by whoever serves next: this
  /// publisher called again, or another one.
  /// - Throws: `notPermitted` for a blob that was not created to be fetched on demand; what becomes of the
  ///   blob otherwise; `cancelled`, `noBroker`.
  public func serve(_ source: RangeSource) async throws {
    let flights = Flights()
    try await withThrowingTaskGroup(of: Void.self) { group in
      for _ in 0..<max(1, source.fetchesAtOnce) {
        group.addTask { try await self.serveOneByOne(source, flights) }
      }
      try await group.waitForAll()
    }
  }

  private func serveOneByOne(_ source: RangeSource, _ flights: Flights) async throws {
    let connection = handle.session.connection
    let question = Request.nextDemand(handle.grant.blob)
    while case .demanded(let range) = try await connection.call(question, deadline: .never).reply {
      do {
        try await fetch(range, source, flights)
        settle(range, .fetched)
      } catch {
        // What was begun is another one's, of this publisher or the next.
        guard !Task.isCancelled else {
          settle(range, .returned)
          throw error
        }
        // The source's own handles may be closed or fenced, too: then those that wait are told.
        guard !isEnded, !isTakenOver else { throw error }
        settle(range, .failed("\(error)".cut(toUTF8Count: WireLimit.cause)))
      }
    }
  }

  /// Tells the broker what has become of a piece. One that takes its place is not told: it has the piece
  /// fetched again by whoever then finds nothing missing.
  private func settle(_ range: Range<Int>, _ outcome: SettleDemandRequest.Outcome) {
    handle.session.connection.post(
      .settleDemand(
        SettleDemandRequest(blob: handle.grant.blob, range: range, outcome: outcome)))
  }

  /// Fetches what is missing of a piece.
  private func fetch(_ range: Range<Int>, _ source: RangeSource, _ flights: Flights) async throws {
    // A broker that takes the place of another does not know what is under way: the outcome is awaited.
    try await flights.begin(range)
    defer { flights.end(range) }
    var failure: (any Error)?
    for _ in 0..<max(1, source.attempts) {
      do {
        for part in try await missing(in: range) { try await source.fetch(part, self) }
        guard try await missing(in: range).isEmpty else { throw unwritten(range) }
        return
      } catch {
        try Task.checkCancellation()
        failure = error
      }
    }
    // Who fetches another piece may have written more than that.
    if try await missing(in: range).isEmpty { return }
    throw failure ?? unwritten(range)
  }

  /// What of a range nobody has written, its extents looked at by this publisher.
  private func missing(in range: Range<Int>) async throws(PatchbayError) -> [Range<Int>] {
    var missing: [Range<Int>] = []
    var at = range.lowerBound
    while at < range.upperBound {
      let part = handle.stretch(of: at..<range.upperBound)
      try await obtain(part)
      missing += uncovered(in: part)
      at = part.upperBound
    }
    return missing
  }

  private func unwritten(_ range: Range<Int>) -> PatchbayError {
    PatchbayError(
      .inputOutput,
      "The source of the blob \(key) was asked for \(range.lowerBound)..<\(range.upperBound) and did not "
        + "write all of it.")
  }
}

/// Pieces that are being fetched by this publisher, each by one task at a time.
private final class Flights: Sendable {
  private struct State {
    var ranges: Set<Range<Int>> = []
    var line = WaitingLine()
  }

  private let state = Mutex(State())
  private let signal = LineSignal()

  /// Enters a piece, once no other task is in it.
  func begin(_ range: Range<Int>) async throws(PatchbayError) {
    var wait: Awaited<Void>?
    while !enter(range, { $0.add(&wait) }) {
      guard let turn = wait else { return }
      do throws(PatchbayError) {
        try await turn.value(
          until: .never, timedOut: Self.cancelled, cancelled: Self.cancelled)
      } catch {
        state.withLock { $0.line.remove(turn) }
        throw error
      }
    }
  }

  /// Whether nobody was in it; else the caller stands in line.
  private func enter(_ range: Range<Int>, _ stand: (inout WaitingLine) -> Void) -> Bool {
    state.withLock { state in
      guard !state.ranges.insert(range).inserted else { return true }
      stand(&state.line)
      return false
    }
  }

  func end(_ range: Range<Int>) {
    let call = state.withLock { state in
      state.ranges.remove(range)
      return state.line.call()
    }
    signal.wake(call)
  }

  private static let cancelled = PatchbayError(
    .cancelled, "The task was cancelled while another one fetched what it was to fetch.")
}
