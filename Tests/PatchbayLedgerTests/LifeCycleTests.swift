// The life-cycle table: the documentation's against the code's, and the code's against the ledger.

import Foundation
import PatchbayLedger
import PatchbayTypes
import PatchbayWire
import Testing

@Suite struct LifeCycleTests {
  private static let page = URL(filePath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    .appending(path: "Sources/Patchbay/Patchbay.docc/LifeCycle.md")

  @Test func `the documentation's table is the ledger's`() throws {
    let text = try String(contentsOf: Self.page, encoding: .utf8)
    let rows = text.split(separator: "\n").filter { $0.hasPrefix("|") }.map(String.init)
    let head = "| step | " + LifeCycle.states.map { "\($0)" }.joined(separator: " | ") + " |"
    let rule = "|" + String(repeating: "---|", count: LifeCycle.states.count + 1)
    let body = LifeCycle.Step.allCases.map { step in
      let outcomes = LifeCycle.states.map { LifeCycle.outcome(of: step, in: $0).description }
      return "| \(step.rawValue) | " + outcomes.joined(separator: " | ") + " |"
    }
    #expect(rows == [head, rule] + body)
  }

  @Test func `no step leads from an end back to open or from one end to the other`() {
    // But for bytes that are not the broker's: a file is its owner's to change.
    #expect(LifeCycle.outcome(of: .fileChanged, in: .sealed) == .becomes(.failed))
    #expect(LifeCycle.outcome(of: .fileChanged, in: .failed) == .stays)
    for step in LifeCycle.Step.allCases where step != .fileChanged {
      for state in [BlobState.sealed, .failed, .gone] {
        if case .becomes(let next) = LifeCycle.outcome(of: step, in: state) {
          #expect(next == .gone, "\(step) in \(state)")
        }
      }
    }
  }

  @Test(arguments: LifeCycle.Step.allCases, LifeCycle.states)
  func `the ledger does what the table says`(step: LifeCycle.Step, state: BlobState) throws {
    // Eviction, time and the loss of a publisher are no requests, and who stands by is a reader of a
    // blob of its own kind; other tests provoke them.
    guard
      ![
        .memoryShort, .publisherLost, .lastLost, .idle, .fileChanged, .producerLost, .standBy,
        .expired,
      ].contains(step)
    else { return }
    var rig = Rig()
    let publisher = rig.connect()
    let reader = rig.connect()
    let isShared = state == .suspended || Self.isShared(step)
    if isShared {
      _ = rig.create(publisher, "k", as: .ownerless) { $0.byteCount = 10 }
    }
    let granted =
      isShared ? rig.join(publisher, "k")?.grant : rig.create(publisher, "k") { $0.byteCount = 10 }
    let blob = try need(granted)
    if state != .gone { _ = rig.open(reader, "k") }
    switch state {
    case .sealed: rig.ask(publisher, .seal(SealRequest(blob: blob.blob, byteCount: 10)))
    case .failed: rig.ask(publisher, .fail(FailRequest(blob: blob.blob, cause: "x")))
    case .gone:
      rig.ask(publisher, .abandon(blob.blob))
      rig.ask(publisher, .remove(RemoveRequest(key: "k", generation: nil)))
    case .suspended: rig.ask(publisher, .leave(blob.blob))
    case .open: break
    }
    let isReaders = step == .attachExtent || step == .close || step == .join
    let reply = rig.ask(isReaders ? reader : publisher, Self.request(step, blob))
    let after = rig.info(publisher, "k")
    switch LifeCycle.outcome(of: step, in: state) {
    case .stays where state == .gone: #expect(after == nil)
    case .stays: #expect(after?.state == state && reply?.error == nil)
    case .becomes(.gone): #expect(after == nil && reply == .done)
    case .becomes(let next): #expect(after?.state == next && reply?.error == nil)
    case .begins: #expect(after?.generation != blob.blob.generation && reply?.grant != nil)
    case .refused(let code): #expect(reply?.code == code)
    case .refusedWithCause: #expect(reply?.error?.cause == "x")
    }
  }

  private static let ownerless = CreateTerms(
    ownership: .ownerless, idleLimit: nil, resumes: false)

  private static func isShared(_ step: LifeCycle.Step) -> Bool {
    [.createSame, .join, .claim, .release, .leave].contains(step)
  }

  private static func request(_ step: LifeCycle.Step, _ blob: BlobGrant) -> Request {
    var create = CreateRequest(key: "k")
    create.replaces = step == .createReplacing
    var same = CreateRequest(key: "k")
    same.byteCount = 10
    return switch step {
    case .create, .createReplacing: .create(create)
    case .grow: .grow(GrowRequest(blob: blob.blob, index: 0))
    case .seal: .seal(SealRequest(blob: blob.blob, byteCount: 10))
    case .fail: .fail(FailRequest(blob: blob.blob, cause: "x"))
    case .abandon: .abandon(blob.blob)
    case .open: .open(OpenRequest(key: "k", waits: false, observes: false))
    case .observe: .open(OpenRequest(key: "k", waits: false, observes: true))
    case .attachExtent:
      .attachExtent(ExtentRequest(generation: blob.blob.generation, index: 0))
    case .close: .close(CloseRequest(blob: blob.reader, opened: 3))
    case .remove: .remove(RemoveRequest(key: "k", generation: nil))
    case .createSame: .createWith(same, Self.ownerless)
    case .join: .join(JoinRequest(key: "k", generation: nil))
    case .claim: .claim(ClaimRequest(blob: blob.blob, range: 0..<10))
    case .release: .release(ReleaseRequest(blob: blob.blob, claim: 1))
    case .leave: .leave(blob.blob)
    case .pin: .pin(PinRequest(key: "k", isPinned: true))
    case .publisherLost, .memoryShort, .lastLost, .idle, .fileChanged, .producerLost, .expired:
      .ping
    case .openOrCreate:
      .openOrCreate(OpenOrCreateRequest(create: create, terms: .plain, standsBy: false))
    case .standBy: .standBy(StandByRequest(generation: blob.blob.generation, opened: 0))
    }
  }
}
