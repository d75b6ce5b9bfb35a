// What the broker has granted to this client and what the client still has of it: the client's mirror
// of its session. When another broker takes the place of the one that granted it, the client says from
// this what it had; whatever is not in here has ended then.
//
// It changes under the lock of the connection, at two moments: when an answer is handed out, by the
// request that it answers, and when a request is asked that ends something whatever its answer is. So
// there is no moment at which something is granted and not in here. What was granted to a caller that
// had given up is not taken in: it is given back.

import PatchbayTypes
import PatchbayWire

struct Attachments: Sendable, Equatable {
  /// A publisher of one generation; a client has one at most.
  private struct Publishing: Sendable, Equatable {
    let epoch: UInt32
    /// The request that made it.
    let number: UInt64
    /// Whether the broker needs to know which extents it has.
    let isLimited: Bool
    /// Extents that it has for writing.
    var extents: Set<Int> = []
    /// Ranges by the requests that claimed them.
    var claims: [UInt64: Range<Int>] = [:]
  }

  /// Who looks at one generation, by the requests that opened it, in the order of coming.
  private struct Reading: Sendable, Equatable {
    var readers: [UInt64] = []
    var observers: [UInt64] = []
    /// Entries of the client's table in which it tells how far it has read.
    var places: Set<Int> = []

    var isEmpty: Bool { readers.isEmpty && observers.isEmpty }
  }

  private var publishers: [Generation: Publishing] = [:]
  private var readings: [Generation: Reading] = [:]

  var isEmpty: Bool { publishers.isEmpty && readings.isEmpty }

  // MARK: Changes

  /// Takes in that a request is about to be sent.
  mutating func asked(_ request: Request) {
    switch request {
    case .abandon(let blob): endPublisher(blob)
    case .fail(let fail): endPublisher(fail.blob)
    case .close(let close):
      if close.blob.epoch == 0 { endReading(close) } else { endPublisher(close.blob) }
    case .release(let release):
      publishers[release.blob.generation]?.claims[release.claim] = nil
    case .giveBack(let extent): publishers[extent.blob.generation]?.extents.remove(extent.index)
    case .unsubscribe(let place): readings[place.generation]?.places.remove(place.entry)
    default: break
    }
  }

  /// Takes in the answer to a request, whose caller takes what it grants.
  mutating func answered(_ request: Request, _ number: UInt64, by reply: Reply) {
    switch (request, reply) {
    case (.create, .created(let grant)), (.join, .joined(let grant)): publish(grant, number)
    case (.createWith(_, let terms), .created(let grant)) where terms.ownership != .ownerless:
      publish(grant, number)
    case (.open(let open), .opened(let grant)) where grant.inlineBytes == nil:
      read(grant.blob.generation, number, observes: open.observes)
    case (.openOrCreate, .created(let grant)):
      publish(grant, number)
      read(grant.blob.generation, number, observes: false)
    case (.openOrCreate, .opened(let grant)) where grant.inlineBytes == nil:
      read(grant.blob.generation, number, observes: false)
    case (.standBy, .joined(let grant)): publish(grant, number)
    case (.grow(let grow), .extent(let extent)): hold(extent.index, grow.blob)
    case (.claim, .claimed(let claim)):
      publishers[claim.blob.generation]?.claims[claim.claim] = claim.range
    case (.subscribe(let place), .done): readings[place.generation]?.places.insert(place.entry)
    case (.seal(let seal), .done): endPublisher(seal.blob)
    case (.seal(let seal), .failure(let error)) where error.code == .digestMismatch:
      endPublisher(seal.blob)
    case (.leave(let blob), .done): endPublisher(blob)
    default: break
    }
  }

  /// Takes in that the next broker has refused one of `requests`.
  mutating func refused(_ request: Request) {
    switch request {
    case .reattach(let handle):
      let generation = handle.blob.generation
      switch handle.role {
      case .publisher: endPublisher(handle.blob)
      case .reader: readings[generation]?.readers.removeAll { $0 == handle.number }
      case .observer: readings[generation]?.observers.removeAll { $0 == handle.number }
      }
      forgetIfUnread(generation)
    case .subscribe(let place): readings[place.generation]?.places.remove(place.entry)
    default: break
    }
  }

  private mutating func publish(_ grant: BlobGrant, _ number: UInt64) {
    // A blob that came whole is sealed, and has no publisher.
    guard grant.state == .open else { return }
    let isLimited = grant.heldExtentLimit > 0 && grant.order == .any
    publishers[grant.blob.generation] = Publishing(
      epoch: grant.blob.epoch, number: number, isLimited: isLimited)
    if let extent = grant.extent { hold(extent.index, grant.blob) }
  }

  private mutating func hold(_ extent: Int, _ blob: BlobReference) {
    guard publishers[blob.generation]?.isLimited == true else { return }
    publishers[blob.generation]?.extents.insert(extent)
  }

  private mutating func read(_ generation: Generation, _ number: UInt64, observes: Bool) {
    if observes {
      readings[generation, default: Reading()].observers.append(number)
    } else {
      readings[generation, default: Reading()].readers.append(number)
    }
  }

  private mutating func endPublisher(_ blob: BlobReference) {
    guard publishers[blob.generation]?.epoch == blob.epoch else { return }
    publishers[blob.generation] = nil
  }

  /// With the last reader ends whatever is read in sequence.
  private mutating func endReading(_ close: CloseRequest) {
    let generation = close.blob.generation
    readings[generation]?.readers.removeAll { $0 == close.opened }
    readings[generation]?.observers.removeAll { $0 == close.opened }
    forgetIfUnread(generation)
  }

  private mutating func forgetIfUnread(_ generation: Generation) {
    if readings[generation]?.readers.isEmpty == true { readings[generation]?.places = [] }
    if readings[generation]?.isEmpty == true { readings[generation] = nil }
  }

  // MARK: What the next broker is told

  /// What takes everything up again: handles first, then the places of those that read in sequence.
  var requests: [Request] {
    let publishing = publishers.sorted { $0.key < $1.key }.flatMap { Self.requests($0, $1) }
    let reading = readings.sorted { $0.key < $1.key }
    let handles = reading.flatMap { generation, reading in
      reading.readers.map { Self.handle(generation, .reader, $0) }
        + reading.observers.map { Self.handle(generation, .observer, $0) }
    }
    let places = reading.flatMap { generation, reading in
      reading.places.sorted().map {
        Request.subscribe(SubscriptionRequest(generation: generation, entry: $0))
      }
    }
    return publishing + handles + places
  }

  private static func handle(
    _ generation: Generation, _ role: ReattachRequest.Role, _ number: UInt64
  ) -> Request {
    .reattach(
      ReattachRequest(
        blob: BlobReference(generation: generation, epoch: 0), role: role, number: number))
  }

  /// One request, or several when its lists are long.
  private static func requests(_ generation: Generation, _ publishing: Publishing) -> [Request] {
    let blob = BlobReference(generation: generation, epoch: publishing.epoch)
    var extents = publishing.extents.sorted()[...]
    var claims = publishing.claims.sorted { $0.key < $1.key }.map {
      ReattachRequest.Claim(number: $0, range: $1)
    }[...]
    var requests: [Request] = []
    repeat {
      var request = ReattachRequest(blob: blob, role: .publisher, number: publishing.number)
      request.extents = Array(extents.prefix(ReattachRequest.extentLimit))
      request.claims = Array(claims.prefix(ReattachRequest.claimLimit))
      extents = extents.dropFirst(ReattachRequest.extentLimit)
      claims = claims.dropFirst(ReattachRequest.claimLimit)
      requests.append(.reattach(request))
    } while !extents.isEmpty || !claims.isEmpty
    return requests
  }
}
