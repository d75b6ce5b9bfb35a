// A ledger on the bench that has a disk, and blobs that are appended to in extents of one size.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

extension Rig {
  /// Bytes of each extent of the blobs that `begin` makes.
  static let extent = 1 << 20

  /// A broker with a spool, and with 16 MiB of memory unless told otherwise.
  static func spooling(
    memory: Int = 16 << 20, spool: Int = 1 << 30, adjust: (inout LedgerLimits) -> Void = { _ in }
  ) -> Rig {
    Rig(memory: memory) { limits in
      limits.spool = SpoolTerms(byteCount: spool, compression: .none)
      adjust(&limits)
    }
  }

  /// Begins a blob that is appended to.
  mutating func begin(
    _ session: SessionID, _ key: BlobKey, _ level: Acknowledgement,
    _ adjust: (inout CreateRequest) -> Void = { _ in }
  ) throws -> BlobGrant {
    try need(
      create(session, key) {
        $0.order = .appendOnly
        $0.firstExtent = Self.extent
        $0.extentLimit = Self.extent
        $0.acknowledgement = level
        adjust(&$0)
      })
  }

  @discardableResult
  mutating func grow(_ session: SessionID, _ grant: BlobGrant, _ index: Int) -> Reply? {
    ask(session, .grow(GrowRequest(blob: grant.blob, index: index)))
  }

  /// Grows until there is no grant: the index that was not granted, and the answer, if there is one.
  mutating func growToEnd(
    _ session: SessionID, _ grant: BlobGrant
  ) throws -> (index: Int, answer: Reply?) {
    for index in 1..<200 {
      let answer = grow(session, grant, index)
      guard answer?.extent?.index == index else { return (index, answer) }
    }
    throw EndlessGrants()
  }

  /// Whose extents were sent to disk, in that order.
  var spilled: [Generation] {
    trace.compactMap { action in
      if case .spill(let order) = action { order.generation } else { nil }
    }
  }
}

struct EndlessGrants: Error {}
