// Pins: what eviction must not take, whatever is short, by a clock that stands still.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct PinTests {
  private static let size = 4 << 20

  private func pin(_ rig: inout Rig, _ session: SessionID, _ key: BlobKey, _ isPinned: Bool = true)
    -> Reply?
  {
    rig.ask(session, .pin(PinRequest(key: key, isPinned: isPinned)))
  }

  private func exists(_ rig: inout Rig, _ session: SessionID, _ key: BlobKey) -> Bool {
    rig.info(session, key) != nil
  }

  @Test func `memory takes the blob that was read next, not the pinned one`() throws {
    var rig = Rig(memory: 16 << 20)
    let writer = rig.connect()
    for key in ["oldest", "older", "newest"] as [BlobKey] {
      _ = try need(rig.sealed(writer, key, byteCount: Self.size))
    }
    #expect(pin(&rig, writer, "oldest") == .done)
    #expect(rig.info(writer, "oldest")?.isPinned == true)
    #expect(rig.ledger.inconsistency == nil)
    _ = try need(rig.sealed(writer, "more", byteCount: Self.size))
    #expect(exists(&rig, writer, "oldest") && !exists(&rig, writer, "older"))
    #expect(pin(&rig, writer, "newest") == .done && pin(&rig, writer, "more") == .done)
    // Nothing is left that may go.
    #expect(rig.createError(writer, "last") { $0.byteCount = Self.size } == .noSpaceMemory)
    #expect(pin(&rig, writer, "newest", false) == .done)
    #expect(rig.info(writer, "newest")?.isPinned == false)
    _ = try need(rig.sealed(writer, "last", byteCount: Self.size))
    #expect(!exists(&rig, writer, "newest") && exists(&rig, writer, "oldest"))
    #expect(rig.ledger.inconsistency == nil)
  }

  @Test func `the catalog's places are taken from others`() throws {
    var rig = Rig { $0.blobCount = 3 }
    let writer = rig.connect()
    for key in ["a", "b", "c"] as [BlobKey] {
      _ = try need(rig.create(writer, key) { $0.inlineBytes = [1] })
    }
    #expect(pin(&rig, writer, "a") == .done)
    _ = try need(rig.create(writer, "d") { $0.inlineBytes = [1] })
    #expect(exists(&rig, writer, "a") && !exists(&rig, writer, "b"))
    #expect(pin(&rig, writer, "c") == .done && pin(&rig, writer, "d") == .done)
    #expect(rig.createError(writer, "e") { $0.inlineBytes = [1] } == .limitReached)
    #expect(rig.ledger.inconsistency == nil)
  }

  @Test func `disk is taken from others, and what is pinned may go there`() throws {
    let extent = 1 << 20
    var rig = Rig(memory: 16 << 20) {
      $0.spool = SpoolTerms(byteCount: 12 << 20, compression: .none)
    }
    let writer = rig.connect()
    func stream(_ key: BlobKey, extents: Int) throws {
      let grant = try need(
        rig.create(writer, key) {
          $0.order = .appendOnly
          $0.firstExtent = extent
          $0.extentLimit = extent
        })
      for index in 1..<extents {
        rig.ask(writer, .grow(GrowRequest(blob: grant.blob, index: index)))
      }
      rig.ask(writer, .seal(SealRequest(blob: grant.blob, byteCount: extents * extent)))
      rig.ask(writer, .quiesced(grant.blob))
    }
    try stream("kept", extents: 8)
    #expect(pin(&rig, writer, "kept") == .done)
    // More than memory and disk together hold.
    for index in 0..<6 { try stream(try BlobKey("more\(index)"), extents: 6) }
    let kept = try need(rig.info(writer, "kept"))
    #expect(kept.isPinned && kept.spilledByteCount > 0)
    #expect(kept.residentByteCount < 8 * extent)
    #expect(try need(rig.statistics(writer)).evictionCount > 0)
    #expect(rig.ledger.inconsistency == nil)
  }

  @Test func `what is pinned counts as held for its user's limit`() throws {
    var rig = Rig(memory: 64 << 20) {
      $0.isShared = true
      $0.memoryPerOtherUser = 3 * Self.size
    }
    let alice = rig.connect(uid: 2000)
    for key in ["a", "b"] as [BlobKey] {
      let grant = try need(rig.sealed(alice, key, byteCount: Self.size))
      rig.ask(alice, .quiesced(grant.blob))
      #expect(pin(&rig, alice, key) == .done)
    }
    #expect(rig.createError(alice, "c") { $0.byteCount = Self.size } == .noSpaceMemory)
    #expect(pin(&rig, alice, "a", false) == .done)
    _ = try need(rig.create(alice, "c") { $0.byteCount = Self.size })
    #expect(!exists(&rig, alice, "a") && exists(&rig, alice, "b"))
    #expect(rig.ledger.inconsistency == nil)
  }

  @Test func `only who may take a blob away may pin it, and pinning ends with the blob`() throws {
    var rig = Rig { $0.isShared = true }
    let (alice, bob) = (rig.connect(uid: 2000), rig.connect(uid: 3000))
    let root = rig.connect(uid: 0)
    _ = try need(
      rig.create(alice, "a") {
        $0.inlineBytes = [1]
        $0.mode = 0o644
      })
    _ = try need(rig.create(alice, "hidden") { $0.inlineBytes = [1] })
    #expect(pin(&rig, bob, "a")?.code == .notPermitted)
    #expect(pin(&rig, bob, "hidden")?.code == .noSuchKey)
    #expect(pin(&rig, bob, "nothing")?.code == .noSuchKey)
    #expect(pin(&rig, root, "a") == .done && pin(&rig, alice, "a") == .done)
    #expect(rig.ask(alice, .remove(RemoveRequest(key: "a", generation: nil))) == .done)
    _ = try need(rig.create(alice, "a") { $0.inlineBytes = [2] })
    #expect(rig.info(alice, "a")?.isPinned == false)
    #expect(rig.ledger.inconsistency == nil)
  }

  @Test func `a pin is recorded before it is confirmed`() throws {
    var rig = Rig()
    let session = rig.connect()
    _ = try need(rig.create(session, "a") { $0.inlineBytes = [1] })
    let before = rig.trace.count
    #expect(pin(&rig, session, "a") == .done)
    let actions = Array(rig.trace[before...])
    let record = try need(
      actions.place { if case .recordBlob(let record) = $0 { record.info.isPinned } else { false } }
    )
    let done = try need(
      actions.place { if case .reply(_, _, .done, _) = $0 { true } else { false } })
    #expect(record < done)
    // Again: nothing to record.
    let again = rig.trace.count
    #expect(pin(&rig, session, "a") == .done)
    #expect(rig.trace.count == again + 1)
  }
}
