// What whoever runs a broker may say about blobs that nobody uses.

/// What is to become of a complete blob that may go and that nobody uses any more.
public enum CacheDecision: Sendable, Hashable {
  /// What the broker's bounds and the blob's own times say.
  case byDefault
  /// It stays, whatever the bounds of the cache say. Its own times end it all the same, and memory that is
  /// needed for other blobs may still take it.
  case keep
  /// It goes now.
  case drop
  /// It goes after so long, if nobody opens it before, whatever time it has left.
  case expire(after: Duration)
}
