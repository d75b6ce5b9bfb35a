// Who may see a blob, and who may take it away. Reading goes by owner, group and mode as for a file:
// the owner may, else the group's bit counts for its members, else the others' bit. Bits of writing
// mean nothing: only processes of the owner publish, replace and remove. The broker's own user and
// root may do all that an owner may, except to write.
//
// What a user may not read does not exist for it: it is not found, not listed, and an open that waits
// for its key goes on waiting. Only who wants to take its key learns that somebody else has it.

import PatchbayTypes
import PatchbayWire

extension Ledger {
  func mayRead(_ session: SessionID, _ access: Access) -> Bool {
    sessions[session].map { mayRead($0.peer, access) } ?? false
  }

  func mayRead(_ peer: Peer, _ access: Access) -> Bool {
    isTrusted(peer.uid) || access.isReadable(by: peer)
  }

  /// Whether a session may replace or remove what has this owner.
  func mayTake(_ session: SessionID, _ access: Access) -> Bool {
    guard let peer = sessions[session]?.peer else { return false }
    return isTrusted(peer.uid) || peer.uid == access.uid
  }

  /// The blob that a session sees under this key.
  func visible(_ key: BlobKey, to session: SessionID) -> Blob? {
    guard let generation = owners[key], let blob = blobs[generation], blob.isBorn,
      mayRead(session, blob.origin.access)
    else { return nil }
    return blob
  }

  /// Whose rings a session must not map.
  func isForeign(_ access: Access, to session: SessionID) -> Bool {
    sessions[session]?.peer.uid != access.uid
  }

  /// Refuses a creation that would take away what belongs to another user. A key that the creator may
  /// read is taken as any other is.
  func checkOwner(
    _ old: Generation?, _ session: SessionID, _ request: CreateRequest
  ) throws(PatchbayError) {
    guard let old, let blob = blobs[old], !mayTake(session, blob.origin.access) else { return }
    if mayRead(session, blob.origin.access), !request.replaces,
      case .refused = LifeCycle.outcome(of: .create, in: blob.state)
    {
      return
    }
    throw .foreignKey(request.key)
  }
}

extension Access {
  func isReadable(by peer: Peer) -> Bool {
    if peer.uid == uid { return true }
    let isMember = peer.gid == gid || peer.groups.contains(gid)
    return mode & (isMember ? 0o040 : 0o004) != 0
  }
}

extension PatchbayError {
  static func foreignKey(_ key: BlobKey) -> PatchbayError {
    PatchbayError(
      .notPermitted,
      "The key \(key) has a blob of another user, which only that user may replace or remove. Use "
        + "another key.")
  }
}
