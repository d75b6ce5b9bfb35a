// Where the worker of a soak works: its connection, its random numbers, the oracle, and the one place
// through which everything goes that may be refused. A worker lives through the deaths of brokers; only
// when its client is told that it is at its end does it begin anew with another one.

import Glibc
import Patchbay
import PatchbaySystem

/// What a worker does, over and over.
protocol SoakWork {
  init(_ desk: SoakDesk) throws
  /// One piece of work, of some seconds at most; afterwards nothing of it is open.
  mutating func round() throws
}

/// The broker has said that it knows nothing of this client, or that it goes for good.
struct SoakLoss: Error {
  let cause: PatchbayError
}

final class SoakDesk {
  let oracle: SoakOracle
  let voice = SoakVoice()
  /// Which of the workers in its role this is.
  let number: Int
  private let roleCount: Int
  private let socketPath: String
  var random: SplitMix
  private(set) var client: PatchbayClient
  /// When this client began.
  private var connected = MonotonicTime.now
  /// What the last deed has come to that was refused.
  private(set) var refusal: PatchbayError?

  init(_ order: Fields) throws {
    oracle = SoakOracle(seed: UInt32(try order.int("seed")))
    number = try order.int("number")
    roleCount = try order.int("of")
    socketPath = try order.text("socket")
    random = SplitMix(state: UInt64(try order.int("chance")))
    client = try Self.connect(socketPath)
  }

  /// Connects as soon as there is a broker: one that goes while it greets is not there yet.
  private static func connect(_ path: String) throws -> PatchbayClient {
    let until = MonotonicTime.now.advanced(by: .seconds(60))
    while true {
      do throws(PatchbayError) {
        return try PatchbayClient(socketPath: path)
      } catch {
        let passes: Set<PatchbayError.Code> = [.noBroker, .timedOut]
        guard passes.contains(error.code), MonotonicTime.now < until else {
          throw SoakViolation("Connecting to \(path) came to \(error.code): \(error)")
        }
      }
      pause(milliseconds: 5)
    }
  }

  /// Takes a new client for one that is at its end. If it is not, the broker goes for good and has not
  /// gone yet.
  func recover(from loss: SoakLoss) throws {
    excuse(.noBroker, since: connected, "\(loss.cause)")
    do throws(PatchbayError) {
      try client.ping()
      Self.pause(milliseconds: 20)
    } catch {
      guard error.code == .noBroker else {
        throw SoakViolation("A ping came to \(error.code): \(error)")
      }
      voice.begin("connects anew")
      client = try Self.connect(socketPath)
      connected = .now
    }
  }

  // MARK: Deeds

  /// Does something that may come to an error.
  /// - Parameters:
  ///   - what: to whom; for the watchdog and for complaints.
  ///   - since: when it began to have what the deed is about; nil: with the client.
  ///   - isShared: as `SoakJudge.verdict`.
  /// - Returns: nil for a plausible error, which is in `refusal` then.
  func attempt<Value>(
    _ deed: SoakDeed, _ what: String, since: MonotonicTime? = nil, isShared: Bool = false,
    _ body: () throws -> Value
  ) throws -> Value? {
    voice.begin("\(deed) \(what)")
    defer { voice.finish() }
    do {
      return try body()
    } catch let error as PatchbayError {
      switch SoakJudge.verdict(on: error.code, in: deed, isShared: isShared) {
      case .wrong:
        throw SoakViolation("To \(deed) \(what) came to \(error.code): \(error)")
      case .needsExcuse where error.code == .noBroker: throw SoakLoss(cause: error)
      case .needsExcuse:
        excuse(error.code, since: since ?? connected, "To \(deed) \(what): \(error)")
      case .plausible: break
      }
      refusal = error
      voice.addRefusal(deed, error.code)
      return nil
    }
  }

  private func excuse(
    _ code: PatchbayError.Code, since: MonotonicTime, _ text: String
  ) {
    voice.say("excuse", ["code": "\(code)", "since": String(since.nanoseconds)], text)
  }

  /// Looks at bytes that were read.
  func check(_ bytes: Span<UInt8>, of life: SoakLife, at position: Int) throws {
    try oracle.check(bytes, of: life, at: position)
    voice.add(bytes: bytes.count)
  }

  // MARK: Chance

  func chance(_ one: Int, in all: Int) -> Bool { Int.random(in: 0..<all, using: &random) < one }
  func number(_ range: ClosedRange<Int>) -> Int { .random(in: range, using: &random) }

  /// Lets others have the processors for a moment.
  func breathe(milliseconds most: Int = 4) { Self.pause(milliseconds: number(0...most)) }

  private static func pause(milliseconds: Int) { _ = poll(nil, 0, Int32(milliseconds)) }

  /// A slot that nobody else of this role writes.
  func ownSlot(_ kind: SoakKind) -> Int {
    let slots = chance(1, in: 2) ? kind.busySlotCount : kind.slotCount
    let count = max(1, (slots - number + roleCount - 1) / roleCount)
    return number + roleCount * Int.random(in: 0..<count, using: &random)
  }

  func anySlot(_ kind: SoakKind) -> Int {
    .random(in: 0..<kind.slotCount, using: &random)
  }

  /// A key of one of these kinds.
  func anyKey(_ kinds: [SoakKind] = SoakKind.allCases) throws -> BlobKey {
    let kind = kinds.randomElement(using: &random) ?? .stream
    return try kind.key(anySlot(kind))
  }

  /// A key that comes back soon when it is gone.
  func busyKey(_ kinds: [SoakKind]) throws -> BlobKey {
    let kind = kinds.randomElement(using: &random) ?? .stream
    return try kind.key(number(0...kind.busySlotCount - 1))
  }

  var isOver: Bool { voice.isOver }
}
