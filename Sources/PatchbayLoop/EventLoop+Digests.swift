// Carrying out what the ledger wants of digests. A worker gets a copy of the state and gives back the
// one behind the bytes it took; which states there are, this thread alone decides.

import PatchbayDigest
import PatchbayLedger
import PatchbayTypes

extension EventLoop {
  func digest(_ order: DigestOrder) {
    let state = digests[order.generation] ?? DigestState(order.algorithm)
    digests[order.generation] = state
    let work = DigestWork(order: order, extents: place(order.extents), spool: spool)
    let isTaken = hasher.submit {
      let (state, result) = work.run(from: state)
      return .digested(order.generation, state, result)
    }
    if !isTaken { submit(.digested(order.generation, .failed(busy))) }
  }

  func digested(_ generation: Generation, _ state: DigestState, _ result: DigestResult) {
    // The blob may have ended meanwhile.
    if digests[generation] != nil { digests[generation] = state }
    submit(.digested(generation, result))
  }
}
