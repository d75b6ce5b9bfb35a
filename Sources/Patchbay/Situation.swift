// Asking who has to do with a key: for people who are stuck.

import PatchbayTypes
import PatchbayWire

extension PatchbayClient {
  /// Who writes, reads and waits for a key, also one that nobody has created. Blocks for the answer.
  /// - Throws: `noBroker`, `timedOut`.
  @available(*, noasync)
  package func situation(
    of key: BlobKey, deadline: Deadline = .standard
  ) throws(PatchbayError) -> BlobSituation {
    let delivery = try session.connection.call(.why(WhyRequest(key: key)), deadline: deadline)
    guard case .why(let situation) = delivery.reply else {
      throw Session.unexpected(delivery.reply)
    }
    return situation
  }
}
