// Closing handles and removing names. A removed blob's key is free at once; what readers and the
// publisher have open goes on as if nothing had happened, and leaves with the last of them.

import PatchbayTypes
import PatchbayWire

extension Ledger {
  /// Ends one handle. Closing what is not open is harmless: the answer is the same.
  mutating func close(_ session: SessionID, _ number: UInt64, _ request: CloseRequest) {
    if request.blob.epoch != 0 {
      closePublisher(session, request.blob)
    } else {
      endOpen(session, request.blob.generation, request.opened)
    }
    reply(session, number, .done)
  }

  /// A publisher that closes without a seal has abandoned its blob.
  private mutating func closePublisher(_ session: SessionID, _ reference: BlobReference) {
    guard let blob = blobs[reference.generation], blob.isBorn, blob.isPublished(by: session),
      blob.epoch == reference.epoch
    else { return }
    depart(session, reference.generation, .abandoned)
  }

  /// Ends the open that this request made.
  mutating func endOpen(_ session: SessionID, _ generation: Generation, _ number: UInt64) {
    guard let handle = sessions[session]?.handles[generation] else { return }
    if let place = handle.readers.lastIndex(of: number) {
      sessions[session]?.handles[generation]?.readers.remove(at: place)
      blobs[generation]?.readerCount -= 1
      dropCandidate(session, opened: number, generation)
    } else if let place = handle.observers.lastIndex(of: number) {
      sessions[session]?.handles[generation]?.observers.remove(at: place)
      blobs[generation]?.observerCount -= 1
    } else {
      return
    }
    sessions[session]?.handleCount -= 1
    if sessions[session]?.handles[generation]?.readers.isEmpty == true {
      dropSubscriptions(of: generation, by: session)
      dropDemands(of: session, generation)
    }
    if sessions[session]?.handles[generation]?.isEmpty == true {
      sessions[session]?.handles[generation] = nil
    }
    settle(generation)
  }

  mutating func remove(
    _ session: SessionID, _ number: UInt64, _ request: RemoveRequest
  ) throws(PatchbayError) {
    guard let blob = visible(request.key, to: session) else { throw .noSuchKey(request.key) }
    let generation = blob.origin.generation
    if let wanted = request.generation, wanted != generation {
      throw .otherGeneration(request.key, wanted: wanted, found: generation)
    }
    guard mayTake(session, blob.origin.access) else { throw .foreignKey(request.key) }
    if case .refused = LifeCycle.outcome(of: .remove, in: blob.state) {
      throw .noSuchKey(request.key)
    }
    unname(generation)
    reply(session, number, .done)
  }

  /// Takes a blob's key away, and all the rest if nobody has it open. Who has it open goes on with it,
  /// also under the next broker: it has a record until it is gone.
  mutating func unname(_ generation: Generation, as kind: BlobChange.Kind = .removed) {
    guard let blob = blobs[generation], blob.isNamed else { return }
    // Nobody could join it any more: whoever reads it must not wait for bytes.
    if blob.state == .suspended, !blob.isProduced {
      failBlob(generation, .removed, "it was removed while nobody wrote it", raisesEpoch: true)
    }
    vanished(generation, as: kind)
    blobs[generation]?.isNamed = false
    recordUnnamed(generation)
    withdrawContainer(of: generation)
    if owners[blob.key] == generation { owners[blob.key] = nil }
    catalog.remove(blob.key)
    endSuccession(of: blob, as: kind)
    settle(generation)
  }
}
