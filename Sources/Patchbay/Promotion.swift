// A blob that was found in a lower layer is copied into those above, by a production of the upper
// layer: it streams, one of all processes copies, another one goes on where that one dies, and a copy
// is sealed only when its source has ended as a whole. A source that fails fails its copy with the same
// cause.
//
// A copy is appended from the first byte on, and whoever goes on with another's copy compares before it
// appends: it may have opened another life of the key. A copy's reader must get no less than the
// original's would: therefore only what has a known length is copied, whose room is reserved when the
// copy is created, and what is still written in any order, or fetched where it is read, is not, for its
// bytes do not come in order.
//
// A removal may come between the opening of the source and the creation of the copy. So the copy asks,
// after it has been created and before its first byte, whether the key still leads to what it copies.
// If it does, the removal has not begun, and will find the copy on its way up. If not, the copy takes
// its own key away; those that read it already finish. Until it has asked nobody can know what it is a
// copy of, so nobody is given it: its first byte tells those of other processes, and that it still has
// the key then.

import Glibc
import PatchbaySystem
import PatchbayTypes

/// A copy of a blob in the making.
private struct Promotion: Sendable {
  let store: LayeredStore
  let source: FoundBlob
  /// The layer of the copy.
  let target: Int
  /// Whether the source was complete when its times were looked at.
  let wasComplete: Bool
  /// Ends when what makes the copy here has looked at its source, or it has a byte, whoever makes it.
  private let beginning = Awaited<Void>()

  init(_ store: LayeredStore, of source: FoundBlob, in target: Int, wasComplete: Bool) {
    self.store = store
    self.source = source
    self.target = target
    self.wasComplete = wasComplete
  }

  private var key: BlobKey { source.reader.key }

  func run(_ job: Production) async throws {
    // When its time is over a blob says only when it is complete; and what another one has begun was given
    // what that one knew.
    let knowsTimes = wasComplete && !job.isTakenOver
    try await removeUnlessCurrent(knowsTimes)
    beginning.finish(.success(()))
    try await copy(to: job.publisher)
    if !knowsTimes { try await removeUnlessCurrent(knowsTimes) }
  }

  /// Whether a copy is known to be one of what the key leads to. Not waited for any longer than a layer is:
  /// whoever makes it may have been stopped, or have nothing to copy yet.
  func isBegun(_ copy: Subscriber) async -> Bool {
    let look = Task { beginning.finish(await firstByte(of: copy)) }
    defer { look.cancel() }
    let cancelled = PatchbayError(.cancelled, "The task was cancelled while a copy was begun.")
    let outcome = await beginning.outcome { beginning.finish(.failure(cancelled)) }
    guard case .success = outcome,
      let info = try? await store.layers[target].info(
        key, deadline: .after(LayeredStore.patience))
    else { return false }
    return info.generation == copy.generation
  }

  private func firstByte(of copy: Subscriber) async -> Result<Void, PatchbayError> {
    do throws(PatchbayError) {
      let deadline = Deadline.after(LayeredStore.patience)
      if copy.byteCount == 0 {
        _ = try await copy.waitUntilSealed(deadline: deadline)
      } else {
        _ = try await copy.readFully(0..<1, deadline: deadline)
      }
      return .success(())
    } catch {
      return .failure(error)
    }
  }

  private func copy(to publisher: Publisher) async throws(PatchbayError) {
    var cursor = source.reader.cursor()
    while let bytes = try await next(&cursor, publisher) { try await publisher.append(bytes) }
  }

  /// The next bytes of the source.
  /// - Throws: why there are none; the copy has failed with the same cause then.
  private func next(
    _ cursor: inout SubscriberCursor, _ publisher: Publisher
  ) async throws(PatchbayError) -> [UInt8]? {
    do throws(PatchbayError) {
      return try await cursor.read(upTo: Subscriber.step)
    } catch {
      if error.code != .cancelled { try? await publisher.fail(error.cause ?? error.message) }
      throw error
    }
  }

  /// Takes the copy's key away, and those of copies of it, when it would outlive what it is a copy of.
  private func removeUnlessCurrent(_ knowsTimes: Bool) async throws(PatchbayError) {
    let info = try? await store.layers[source.layer].info(key, deadline: .standard)
    let isTimed = !knowsTimes && info?.expires != nil
    guard info?.generation != source.reader.generation || isTimed else { return }
    try await store.remove(key, from: store.layers[...target], deadline: .standard)
  }
}

extension LayeredStore {
  /// How long an upper layer may think before the read goes on without.
  static let patience = Duration.seconds(1)
  /// How long a copy may stand still before another process goes on that reads it, for the one that
  /// copies may be stopped: long enough to compare what is there, at a quarter of a gigabyte in a
  /// second, before it appends.
  private static func stallTimeout(_ byteCount: Int) -> Duration {
    .seconds(30 + byteCount >> 28)
  }
  /// How long the blob itself is served after its copy has failed.
  private static let failureLifetime = Duration.seconds(10)

  /// Has a blob copied into all layers above it, or stands by where somebody else copies it.
  /// - Returns: a reader of the uppermost copy; of the blob itself where there is to be none or none can
  ///   be made.
  func promoted(_ source: FoundBlob, leastUses: UInt32 = 0) async -> Subscriber {
    guard source.layer > 0, let info = await copyableInfo(of: source),
      let options = Self.options(copying: info, leastUses)
    else { return source.reader }
    var best = source
    for target in (0..<best.layer).reversed() {
      let promotion = Promotion(
        self, of: best, in: target, wasComplete: info.state == .sealed)
      // Without this copy the next one is made of what there is.
      guard
        let reader = try? await layers[target].get(
          best.reader.key, options, deadline: .after(Self.patience), orProduce: promotion.run),
        await promotion.isBegun(reader)
      else { continue }
      best = FoundBlob(reader: reader, layer: target)
    }
    return best.reader
  }

  /// Nil for a blob whose time is over.
  private static func options(copying info: BlobInfo, _ leastUses: UInt32) -> ProductionOptions? {
    guard var options = ProductionOptions(copying: info) else { return nil }
    options.leastUses = leastUses
    options.failureLifetime = failureLifetime
    options.stallTimeout = stallTimeout(info.byteCount ?? 0)
    return options
  }

  /// What is known of a blob whose bytes come in order, and how many; nil of any other.
  private func copyableInfo(of found: FoundBlob) async -> BlobInfo? {
    let reader = found.reader
    guard reader.policy == .keep, reader.byteCount != nil,
      let info = try? await layers[found.layer].info(reader.key, deadline: .after(Self.patience)),
      info.generation == reader.generation, info.byteCount != nil,
      info.state == .sealed || info.order == .appendOnly
    else { return nil }
    return info
  }
}

extension ProductionOptions {
  /// For a copy of a blob with all that travels with it; nil when its time is over.
  fileprivate init?(copying info: BlobInfo) {
    var blob = BlobOptions(
      byteCount: info.byteCount, order: .appendOnly, mode: info.access.modeOfCopy, type: info.type,
      labels: info.labels, expect: info.digest)
    if let expires = info.expires {
      let left = expires.rawValue - WallTime.now.rawValue
      guard left > 0 else { return nil }
      blob.timeToLive = .nanoseconds(left)
    }
    self.init(blob, start: .fromZero)
  }
}

extension Access {
  /// A copy belongs to whoever makes it. What the group of another owner could read is for others only
  /// where everybody could.
  var modeOfCopy: UInt16 {
    guard uid != geteuid() || gid != getegid() else { return mode }
    let shared = mode & mode >> 3 & 0o7
    return 0o600 | shared << 3 | shared
  }
}
