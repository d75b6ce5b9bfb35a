// Memory of before a recovery serves no other blob, ever: somebody may look at it of whom nobody knows.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

@Suite struct RecoveredRingsTests {
  /// Says hello to the next broker, or not, and is stopped there.
  @Test(arguments: [false, true])
  func `the ring of a reader that is late in the middle of coming back is not used again`(
    saysHello: Bool
  ) throws {
    var rig = Rig()
    let (writer, reader) = (rig.connect(), rig.connect(process: 8))
    let grant = try need(rig.sealed(writer, "k", byteCount: 5000))
    let opened = rig.post(reader, .open(OpenRequest(key: "k", waits: false, observes: false)))
    #expect(rig.reply(reader, opened)?.grant != nil)
    var next = rig.killed()
    let other = try next.comeBack(writer, from: rig)
    #expect(next.ask(other, .reattached) == .done)
    if saysHello { _ = try next.comeBack(reader, from: rig, process: 8) }
    next.pass(.seconds(5))
    next.send(.tick)
    #expect(!next.ledger.isReturning)
    #expect(next.ask(other, .remove(RemoveRequest(key: "k", generation: nil))) == .done)
    let second = try need(next.sealed(other, "l", byteCount: 5000))
    #expect(second.extent?.ringID != grant.extent?.ringID, "process 8 has it mapped, and views it")
    #expect(next.ledger.inconsistency == nil)
  }

  /// It could not take the new table, say.
  @Test func `the ring of a reader that hangs up in the middle of coming back is not used again`()
    throws
  {
    var rig = Rig()
    let (writer, reader) = (rig.connect(), rig.connect(process: 8))
    let grant = try need(rig.sealed(writer, "k", byteCount: 5000))
    let opened = rig.post(reader, .open(OpenRequest(key: "k", waits: false, observes: false)))
    #expect(rig.reply(reader, opened)?.grant != nil)
    var next = rig.killed()
    let other = try next.comeBack(writer, from: rig)
    #expect(next.ask(other, .reattached) == .done)
    let back = try next.comeBack(reader, from: rig, process: 8)
    next.send(.hungUp(back))
    #expect(!next.ledger.isReturning)
    #expect(next.ask(other, .remove(RemoveRequest(key: "k", generation: nil))) == .done)
    let second = try need(next.sealed(other, "l", byteCount: 5000))
    #expect(second.extent?.ringID != grant.extent?.ringID, "process 8 has it mapped, and views it")
  }

  /// Whoever did not come back to the second broker in time still has its lease under the third; and who
  /// hung up under the first, its process living, is known to the second no more.
  @Test(arguments: [false, true])
  func `what one broker must not use again the next one must not either`(hangsUp: Bool) throws {
    var rig = Rig()
    let (writer, reader) = (rig.connect(), rig.connect(process: 8))
    let grant = try need(rig.sealed(writer, "k", byteCount: 5000))
    #expect(rig.open(reader, "k")?.grant != nil)
    if hangsUp { rig.send(.hungUp(reader)) }
    var second = rig.killed()
    var other = try second.comeBack(writer, from: rig)
    #expect(second.ask(other, .reattached) == .done)
    second.pass(.seconds(5))
    second.send(.tick)
    var last = second
    if !hangsUp {
      last = second.killed()
      other = try last.comeBack(writer, from: rig)
      #expect(last.ask(other, .reattached) == .done)
    }
    #expect(!last.ledger.isReturning)
    #expect(last.ask(other, .remove(RemoveRequest(key: "k", generation: nil))) == .done)
    let later = try need(last.sealed(other, "l", byteCount: 5000))
    #expect(later.extent?.ringID != grant.extent?.ringID, "process 8 has it mapped, and views it")
  }
}
