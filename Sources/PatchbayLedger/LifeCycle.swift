// Which step is legal for a blob in which state, and what becomes of the blob: the one table. The
// ledger asks it before it acts, and the documentation's page shows the same table.
//
// A step that names a key sees `gone` where no blob has the key. A step that names a handle sees the
// blob's own state for as long as the handle is open, even after the key was removed; `gone` where
// there is no such blob any more.

import PatchbayTypes

package enum LifeCycle {
  package enum Step: String, Sendable, CaseIterable {
    case create
    case createReplacing = "create, replacing"
    case grow, seal, fail, abandon, open
    case observe = "open, observing"
    case attachExtent, close, remove
    case publisherLost = "publisher hangs up or exits"
    case memoryShort = "evicted"
    case createSame = "create, ownerless, the same again"
    case join, claim, release
    case leave = "leave, as the last publisher"
    case lastLost = "last publisher lost, with an idle limit"
    case idle = "idle limit passed"
    case pin = "pin, unpin"
    case fileChanged = "imported file changed"
    case openOrCreate, standBy
    case producerLost = "publisher lost or fenced while others stand by"
    case expired = "its time is over, its grace included"
  }

  package enum Outcome: Sendable, Hashable {
    case stays
    case becomes(BlobState)
    /// A new generation begins; the old one, if there is one, is gone.
    case begins
    case refused(PatchbayError.Code)
    /// Refused with the code and the cause of the blob's own failure.
    case refusedWithCause
  }

  package static let states: [BlobState] = BlobState.allCases

  package static func outcome(of step: Step, in state: BlobState) -> Outcome {
    switch step {
    case .create: state == .failed || state == .gone ? .begins : .refused(.keyExists)
    case .createReplacing: .begins
    case .grow: state == .open ? .stays : .refused(.closed)
    case .seal: sealOutcome(in: state)
    case .fail, .abandon: state == .open ? .becomes(.failed) : .refused(.closed)
    case .open: openOutcome(in: state)
    case .observe: state == .gone ? .refused(.noSuchKey) : .stays
    case .attachExtent: state == .gone ? .refused(.closed) : .stays
    case .close: .stays
    case .remove: state == .gone ? .refused(.noSuchKey) : .becomes(.gone)
    case .publisherLost: state == .open ? .becomes(.failed) : .stays
    case .memoryShort: state == .sealed || state == .failed ? .becomes(.gone) : .stays
    case .createSame: state.isLive ? .stays : outcome(of: .create, in: state)
    case .join: joinOutcome(in: state)
    case .claim: state == .open ? .stays : .refused(.closed)
    case .release: .stays
    case .leave, .lastLost: state == .open ? .becomes(.suspended) : .stays
    case .idle: state == .suspended ? .becomes(.failed) : .stays
    case .pin: state == .gone ? .refused(.noSuchKey) : .stays
    case .fileChanged: state == .sealed ? .becomes(.failed) : .stays
    case .openOrCreate: state.isLive || state == .sealed ? .stays : .begins
    case .standBy: standByOutcome(in: state)
    case .producerLost: state == .open ? .becomes(.suspended) : .stays
    case .expired: state == .sealed ? .becomes(.gone) : .stays
    }
  }

  private static func joinOutcome(in state: BlobState) -> Outcome {
    switch state {
    case .open: .stays
    case .suspended: .becomes(.open)
    case .sealed: .refused(.closed)
    case .failed: .refusedWithCause
    case .gone: .refused(.noSuchKey)
    }
  }

  /// A sealed blob stays so when its own publisher repeats the seal with the same length.
  private static func sealOutcome(in state: BlobState) -> Outcome {
    switch state {
    case .open: .becomes(.sealed)
    case .sealed: .stays
    case .suspended, .failed, .gone: .refused(.closed)
    }
  }

  /// A suspended blob becomes open when the one that stands by first is given the right.
  private static func standByOutcome(in state: BlobState) -> Outcome {
    switch state {
    case .open, .sealed: .stays
    case .suspended: .becomes(.open)
    case .failed: .refusedWithCause
    case .gone: .refused(.closed)
    }
  }

  private static func openOutcome(in state: BlobState) -> Outcome {
    switch state {
    case .open, .suspended, .sealed: .stays
    case .failed: .refusedWithCause
    case .gone: .refused(.noSuchKey)
    }
  }
}

extension LifeCycle.Outcome: CustomStringConvertible {
  /// As the documentation's table writes it.
  package var description: String {
    switch self {
    case .stays: "stays"
    case .becomes(let state): "becomes \(state)"
    case .begins: "a new generation begins"
    case .refused(let code): "refused: \(code)"
    case .refusedWithCause: "refused: its cause"
    }
  }
}
