// A broker on the bench that is killed, and the next one, which knows its records only.

import PatchbayTypes
import PatchbayWire
import Testing

@testable import PatchbayLedger

extension Rig {
  /// What the journal would hold: the last record of each blob and each client.
  var journal: (blobs: [BlobRecord], clients: [ClientRecord]) {
    var blobs: [Generation: BlobRecord] = [:]
    var clients: [UInt64: ClientRecord] = [:]
    for action in trace {
      switch action {
      case .recordBlob(let record): blobs[record.info.generation] = record
      case .eraseBlob(let generation): blobs[generation] = nil
      case .recordClient(let record): clients[record.clientID] = record
      case .eraseClient(let client): clients[client] = nil
      default: break
      }
    }
    return (
      blobs.values.sorted { $0.info.generation < $1.info.generation },
      clients.values.sorted { $0.clientID < $1.clientID }
    )
  }

  /// The broker after this one was killed.
  /// - Parameters:
  ///   - dead: processes that are gone, too.
  ///   - stored: complete containers that are found.
  ///   - adjust: what is found of each blob.
  func killed(
    dead: Set<Int32> = [], stored: [StoredBlob] = [],
    _ adjust: (inout RecoveredBlob) -> Void = { _ in }
  ) -> Rig {
    var next = self
    next.ledger = Ledger(
      limits: ledger.limits, instance: 7, run: 7, brokerProcess: 43, brokerUser: Rig.user, at: now,
      tokenSource: SeededGenerator(seed: 2), digest: simulatedDigest,
      cachePolicy: ledger.cachePolicy)
    let journal = journal
    var recovery = Recovery()
    recovery.blobs = journal.blobs.map { record in
      var blob = RecoveredBlob(record: record)
      blob.stored = stored.first { $0.generation == record.info.generation }
      adjust(&blob)
      return blob
    }
    recovery.clients = journal.clients.enumerated().map { place, client in
      RecoveredClient(record: client, session: SessionID(rawValue: 1000 + UInt64(place)))
    }
    recovery.lastGeneration = 1000
    recovery.lastRing = 1000
    recovery.lastClient = 1000
    // What the next one decides; what the one before had written stands.
    next.trace = journal.blobs.map { .recordBlob($0) } + journal.clients.map { .recordClient($0) }
    next.send(.recovered(recovery))
    for client in recovery.clients where dead.contains(client.record.peer.process) {
      next.send(.exited(client.session))
    }
    return next
  }

  /// The welcome that a client got.
  func welcome(of session: SessionID) -> Welcome? {
    for case .reply(session, _, .welcome(let welcome), _) in trace { return welcome }
    return nil
  }

  /// A client comes back to the next broker.
  mutating func comeBack(
    _ session: SessionID, from before: Rig, process: Int32 = 100
  ) throws -> SessionID {
    let token = try need(before.welcome(of: session)).token
    let back = connectOnly(process: process)
    post(back, .hello(Rig.hello(token: token)))
    #expect(try need(welcome(of: back)).isAwaited)
    return back
  }

  /// The last entry that was written for a blob.
  func posted(_ generation: Generation) -> (slot: BoardSlot, post: BoardPost)? {
    for case .post(let slot, let post) in trace.reversed() where post.generation == generation {
      return (slot, post)
    }
    return nil
  }
}

extension ReattachRequest {
  static func publisher(_ grant: BlobGrant, _ number: UInt64) -> Request {
    .reattach(ReattachRequest(blob: grant.blob, role: .publisher, number: number))
  }

  static func reader(_ grant: BlobGrant, _ number: UInt64) -> Request {
    .reattach(
      ReattachRequest(
        blob: BlobReference(generation: grant.blob.generation, epoch: 0), role: .reader,
        number: number))
  }
}
