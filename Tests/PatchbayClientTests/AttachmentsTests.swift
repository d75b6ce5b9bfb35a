// The client's mirror of what the broker has granted to it.

import PatchbayTestSupport
import PatchbayTypes
import PatchbayWire
import Testing

@testable import Patchbay

extension BlobGrant {
  /// A grant of a test.
  static func made(
    _ generation: Int, epoch: UInt32 = 1, state: BlobState = .open, heldExtentLimit: Int = 0,
    board: UInt32 = 0, extent: Int? = nil
  ) throws -> BlobGrant {
    BlobGrant(
      blob: BlobReference(generation: Generation(rawValue: UInt64(generation)), epoch: epoch),
      state: state, byteCount: nil, order: .any,
      plan: try ExtentPlan(first: 65_536, limit: 65_536), wakeClasses: try WakeClasses(shift: 12),
      board: board, entry: 0,
      extent: extent.map { ExtentGrant(index: $0, ringID: 1, useNumber: 1, dataByteCount: 65_536) },
      heldExtentLimit: heldExtentLimit)
  }
}

private func reference(_ generation: Int, epoch: UInt32 = 1) -> BlobReference {
  BlobReference(generation: Generation(rawValue: UInt64(generation)), epoch: epoch)
}

private let open = OpenRequest(key: "k", waits: false, observes: false)
private let observe = OpenRequest(key: "k", waits: false, observes: true)

private func reattach(
  _ generation: Int, _ role: ReattachRequest.Role, _ number: UInt64, extents: [Int] = [],
  claims: [ReattachRequest.Claim] = []
) -> Request {
  var request = ReattachRequest(
    blob: reference(generation, epoch: role == .publisher ? 1 : 0), role: role, number: number)
  request.extents = extents
  request.claims = claims
  return .reattach(request)
}

@Suite struct AttachmentsTests {
  @Test func `a publisher is told with its extents and claims until it ends`() throws {
    var mirror = Attachments()
    let grant = try BlobGrant.made(4, heldExtentLimit: 3, extent: 0)
    mirror.answered(.create(CreateRequest(key: "k")), 11, by: .created(grant))
    let blob = grant.blob
    for index in [2, 5] {
      mirror.answered(
        .grow(GrowRequest(blob: blob, index: index)), 12,
        by: .extent(ExtentGrant(index: index, ringID: 2, useNumber: 1, dataByteCount: 65_536)))
    }
    mirror.asked(.giveBack(GiveBackRequest(blob: blob, index: 2, isFull: false)))
    for number: UInt64 in [20, 21] {
      let range = Int(number)..<Int(number) + 1
      mirror.answered(
        .claim(ClaimRequest(blob: blob, range: range)), number,
        by: .claimed(ClaimGrant(blob: blob, claim: number, range: range)))
    }
    mirror.asked(.release(ReleaseRequest(blob: blob, claim: 20)))
    let claim = ReattachRequest.Claim(number: 21, range: 21..<22)
    #expect(mirror.requests == [reattach(4, .publisher, 11, extents: [0, 5], claims: [claim])])
    mirror.asked(.abandon(reference(4, epoch: 2)))
    #expect(!mirror.isEmpty, "of another epoch")
    mirror.asked(.abandon(blob))
    #expect(mirror.isEmpty)
  }

  @Test func `extents that the broker does not count are not told`() throws {
    var mirror = Attachments()
    let grant = try BlobGrant.made(4, extent: 0)
    mirror.answered(.join(JoinRequest(key: "k", generation: nil)), 3, by: .joined(grant))
    #expect(mirror.requests == [reattach(4, .publisher, 3)])
  }

  @Test(arguments: [
    (Request.seal(SealRequest(blob: reference(4), byteCount: 1)), Reply.done, true),
    (.seal(SealRequest(blob: reference(4), byteCount: 1)), .failure(.of(.digestMismatch)), true),
    (.seal(SealRequest(blob: reference(4), byteCount: 1)), .failure(.of(.holesAtSeal)), false),
    (.leave(reference(4)), .done, true),
    (.leave(reference(4)), .failure(.of(.notPermitted)), false),
  ])
  func `what ends a publisher is its answer`(request: Request, reply: Reply, ends: Bool) throws {
    var mirror = Attachments()
    mirror.answered(.create(CreateRequest(key: "k")), 1, by: .created(try .made(4)))
    mirror.asked(request)
    #expect(!mirror.isEmpty, "it may be refused")
    mirror.answered(request, 2, by: reply)
    #expect(mirror.isEmpty == ends)
  }

  @Test func `a blob without a publisher of its own makes none`() throws {
    var mirror = Attachments()
    var request = CreateRequest(key: "k")
    request.inlineBytes = [1]
    mirror.answered(.create(request), 1, by: .created(try .made(1, state: .sealed)))
    let terms = CreateTerms(ownership: .ownerless, idleLimit: nil, resumes: false)
    mirror.answered(.createWith(request, terms), 2, by: .created(try .made(2)))
    var whole = try BlobGrant.made(3, epoch: 0, state: .sealed)
    whole.inlineBytes = [1]
    mirror.answered(.open(open), 3, by: .opened(whole))
    mirror.answered(.create(request), 4, by: .failure(.of(.keyExists)))
    #expect(mirror.isEmpty)
  }

  @Test func `readers and observers are told until they close, and places with the last reader`()
    throws
  {
    var mirror = Attachments()
    let grant = try BlobGrant.made(9, epoch: 0)
    mirror.answered(.open(open), 1, by: .opened(grant))
    mirror.answered(.open(observe), 2, by: .opened(grant))
    mirror.answered(.open(open), 3, by: .opened(grant))
    let place = SubscriptionRequest(generation: grant.blob.generation, entry: 7)
    mirror.answered(.subscribe(place), 4, by: .done)
    let (one, other) = (reattach(9, .reader, 1), reattach(9, .observer, 2))
    #expect(mirror.requests == [one, reattach(9, .reader, 3), other, .subscribe(place)])
    func close(_ opened: UInt64) -> Request {
      .close(CloseRequest(blob: grant.blob, opened: opened))
    }
    mirror.asked(close(3))
    #expect(mirror.requests == [one, other, .subscribe(place)])
    mirror.asked(.unsubscribe(place))
    #expect(mirror.requests == [one, other])
    mirror.answered(.subscribe(place), 5, by: .done)
    mirror.asked(close(1))
    mirror.asked(close(1))
    #expect(mirror.requests == [other])
    mirror.asked(close(2))
    #expect(mirror.isEmpty)
  }

  @Test func `what the next broker refuses is forgotten`() throws {
    var mirror = Attachments()
    mirror.answered(.create(CreateRequest(key: "k")), 1, by: .created(try .made(4)))
    mirror.answered(.open(open), 2, by: .opened(try .made(9, epoch: 0)))
    mirror.answered(.open(open), 3, by: .opened(try .made(9, epoch: 0)))
    let place = SubscriptionRequest(generation: Generation(rawValue: 9), entry: 1)
    mirror.answered(.subscribe(place), 4, by: .done)
    mirror.refused(reattach(4, .publisher, 1))
    mirror.refused(.subscribe(place))
    mirror.refused(reattach(9, .reader, 2))
    #expect(mirror.requests == [reattach(9, .reader, 3)])
    mirror.refused(reattach(9, .reader, 3))
    #expect(mirror.isEmpty)
  }

  @Test func `long lists are told in several messages that a packet holds`() throws {
    var mirror = Attachments()
    let grant = try BlobGrant.made(4, heldExtentLimit: 3000)
    mirror.answered(.create(CreateRequest(key: "k")), 1, by: .created(grant))
    for index in 0..<2500 {
      mirror.answered(
        .grow(GrowRequest(blob: grant.blob, index: index)), 2,
        by: .extent(ExtentGrant(index: index, ringID: 2, useNumber: 1, dataByteCount: 65_536)))
      mirror.answered(
        .claim(ClaimRequest(blob: grant.blob, range: index..<index + 1)), UInt64(index + 10),
        by: .claimed(
          ClaimGrant(blob: grant.blob, claim: UInt64(index + 10), range: index..<index + 1)))
    }
    let requests = mirror.requests
    #expect(requests.count == 3)
    #expect(requests.allSatisfy { Frame.encode($0, request: 1).count <= Frame.byteLimit })
    var (extents, claims): ([Int], [Int]) = ([], [])
    for case .reattach(let request) in requests {
      extents += request.extents
      claims += request.claims.map(\.range.lowerBound)
    }
    #expect(extents == Array(0..<2500) && claims == Array(0..<2500))
  }

  // MARK: Against a model

  /// A list of everything that was granted, searched from end to end.
  private struct Model {
    enum Grant: Equatable {
      case publisher(Int, UInt64), extent(Int, Int), claim(Int, UInt64), reader(Int, UInt64)
      case observer(Int, UInt64), place(Int, Int)

      var generation: Int {
        switch self {
        case .publisher(let generation, _), .extent(let generation, _), .claim(let generation, _),
          .reader(let generation, _), .observer(let generation, _), .place(let generation, _):
          generation
        }
      }
      var isPublishers: Bool {
        switch self {
        case .publisher, .extent, .claim: true
        default: false
        }
      }
    }
    var grants: [Grant] = []

    func has(_ isWanted: (Grant) -> Bool) -> Bool { grants.contains(where: isWanted) }
    func publishes(_ generation: Int) -> Bool {
      has { if case .publisher(generation, _) = $0 { true } else { false } }
    }
    func reads(_ generation: Int) -> Bool {
      has { if case .reader(generation, _) = $0 { true } else { false } }
    }
    mutating func endPublisher(_ generation: Int) {
      grants.removeAll { $0.generation == generation && $0.isPublishers }
    }
    /// Those that read or observe, by the requests that opened them.
    func opened(_ generation: Int) -> [UInt64] {
      grants.compactMap {
        switch $0 {
        case .reader(generation, let number), .observer(generation, let number): number
        default: nil
        }
      }
    }
    mutating func close(_ generation: Int, _ opened: UInt64) {
      grants.removeAll { $0 == .reader(generation, opened) || $0 == .observer(generation, opened) }
      guard !reads(generation) else { return }
      grants.removeAll { if case .place(generation, _) = $0 { true } else { false } }
    }
  }

  /// What requests say, in the words of the model.
  private func told(_ requests: [Request]) -> Set<String> {
    var words: Set<String> = []
    for request in requests {
      switch request {
      case .reattach(let handle):
        let generation = Int(handle.blob.generation.rawValue)
        switch handle.role {
        case .publisher: words.insert("\(Model.Grant.publisher(generation, handle.number))")
        case .reader: words.insert("\(Model.Grant.reader(generation, handle.number))")
        case .observer: words.insert("\(Model.Grant.observer(generation, handle.number))")
        }
        for extent in handle.extents { words.insert("\(Model.Grant.extent(generation, extent))") }
        for claim in handle.claims {
          words.insert("\(Model.Grant.claim(generation, claim.number))")
        }
      case .subscribe(let place):
        words.insert("\(Model.Grant.place(Int(place.generation.rawValue), place.entry))")
      default: Issue.record("\(request)")
      }
    }
    return words
  }

  @Test(arguments: 0..<20 as Range<UInt64>)
  func `at random it says what a plain list of grants says`(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    var (mirror, model) = (Attachments(), Model())
    for step in 1...600 {
      let (generation, number) = (Int.random(in: 1...4, using: &random), UInt64(step))
      let (blob, small) = (reference(generation), Int.random(in: 0..<4, using: &random))
      let wire = Generation(rawValue: UInt64(generation))
      let place = SubscriptionRequest(generation: wire, entry: small)
      let publishes = model.publishes(generation)
      switch Int.random(in: 0..<14, using: &random) {
      case 0, 1:
        mirror.answered(
          .join(JoinRequest(key: "k", generation: nil)), number,
          by: .joined(try .made(generation, heldExtentLimit: 4, extent: small)))
        // Another publisher of the blob says that the one before is over.
        model.endPublisher(generation)
        model.grants += [.publisher(generation, number), .extent(generation, small)]
      case 2, 3:
        mirror.answered(
          .grow(GrowRequest(blob: blob, index: small)), number,
          by: .extent(ExtentGrant(index: small, ringID: 1, useNumber: 1, dataByteCount: 65_536)))
        let grant = Model.Grant.extent(generation, small)
        if publishes, !model.grants.contains(grant) { model.grants.append(grant) }
      case 4:
        mirror.asked(.giveBack(GiveBackRequest(blob: blob, index: small, isFull: true)))
        model.grants.removeAll { $0 == .extent(generation, small) }
      case 5, 6:
        mirror.answered(
          .claim(ClaimRequest(blob: blob, range: 0..<1)), number,
          by: .claimed(ClaimGrant(blob: blob, claim: number, range: 0..<1)))
        if publishes { model.grants.append(.claim(generation, number)) }
      case 7:
        let claims = model.grants.compactMap {
          if case .claim(generation, let claim) = $0 { claim } else { nil }
        }
        guard let claim = claims.randomElement(using: &random) else { continue }
        mirror.asked(.release(ReleaseRequest(blob: blob, claim: claim)))
        model.grants.removeAll { $0 == .claim(generation, claim) }
      case 8:
        mirror.asked([.abandon(blob), .fail(FailRequest(blob: blob, cause: ""))].randomElement()!)
        model.endPublisher(generation)
      case 9, 10:
        let observes = Bool.random(using: &random)
        mirror.answered(
          .open(observes ? observe : open), number, by: .opened(try .made(generation, epoch: 0)))
        model.grants.append(
          observes ? .observer(generation, number) : .reader(generation, number))
      case 11:
        let opened = model.opened(generation).randomElement(using: &random) ?? 0
        mirror.asked(
          .close(CloseRequest(blob: reference(generation, epoch: 0), opened: opened)))
        model.close(generation, opened)
      case 12:
        guard model.reads(generation) else { continue }
        mirror.answered(.subscribe(place), number, by: .done)
        let grant = Model.Grant.place(generation, small)
        if !model.grants.contains(grant) { model.grants.append(grant) }
      default:
        mirror.asked(.unsubscribe(place))
        model.grants.removeAll { $0 == .place(generation, small) }
      }
      #expect(told(mirror.requests) == Set(model.grants.map { "\($0)" }), "seed \(seed), \(step)")
    }
  }
}

extension PatchbayError {
  fileprivate static func of(_ code: PatchbayError.Code) -> PatchbayError {
    PatchbayError(code, "As a test wants it.")
  }
}
