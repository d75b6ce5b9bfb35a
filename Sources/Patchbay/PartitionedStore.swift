// Several stores beside each other, used as one: each key belongs to one of them. Which one depends on
// nothing but the key and the names and weights of the partitions, so that all processes on all
// machines agree; the rule must never change, for it says where blobs are that exist.

import PatchbayTypes

/// Stores beside each other. Each key belongs to one of them, by rendezvous hashing (highest random
/// weight: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM
/// Transactions on Networking 6(1), 1998).
///
/// Where a key belongs depends on the key and on the names and weights of the partitions: not on their
/// order, on the process or the machine. A partition that is added takes its share of the keys and
/// moves no other; when one is taken away, its own keys go to the others and no other moves. Blobs are
/// not carried along: what has moved is found again where it is published or produced anew.
public struct PartitionedStore: BlobStore {
  /// A store among others.
  public struct Partition: Sendable {
    /// What it is called: where keys belong depends on it.
    public let name: String
    /// Its share of the keys in proportion to the others' weights, 1 to 1024.
    public let weight: Int
    /// What stands behind it.
    public let store: any BlobStore

    /// A partition of its parts.
    public init(_ name: String, weight: Int = 1, _ store: any BlobStore) {
      self.name = name
      self.weight = weight
      self.store = store
    }
  }

  /// In the order of their names, which decides between equal numbers.
  private let partitions: [Partition]
  private let placement: KeyPlacement

  /// Stores beside each other.
  /// - Parameter partitions: at least one, each with a name of its own, in any order.
  /// - Throws: `protocolViolation` when there is none, two have one name, or a weight is not 1 to 1024.
  public init(_ partitions: [Partition]) throws(PatchbayError) {
    self.partitions = partitions.sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
    placement = try KeyPlacement(self.partitions.map { ($0.name, $0.weight) })
  }

  /// The partition that a key belongs to.
  public func partition(of key: BlobKey) -> Partition {
    partitions[placement.index(of: key)]
  }

  private func store(of key: BlobKey) -> any BlobStore { partition(of: key).store }

  /// Opens a blob in the store that its key belongs to.
  /// - Parameters:
  ///   - key: the blob's name.
  ///   - waitUntil: when to give up waiting for the key; nil: it must exist now.
  /// - Throws: as `open` of that store.
  public func open(
    _ key: BlobKey, waitUntil: Deadline?
  ) async throws(PatchbayError) -> Subscriber {
    try await store(of: key).open(key, waitUntil: waitUntil)
  }

  /// Creates a blob in the store that its key belongs to.
  /// - Throws: as `publisher` of that store.
  public func publisher(
    _ key: BlobKey, _ options: BlobOptions, deadline: Deadline
  ) async throws(PatchbayError) -> Publisher {
    try await store(of: key).publisher(key, options, deadline: deadline)
  }

  /// Publishes bytes in the store that the key belongs to.
  /// - Returns: the blob's generation, in the broker that it went to.
  /// - Throws: as `publish` of that store.
  @discardableResult
  public func publish(
    _ bytes: [UInt8], as key: BlobKey, _ options: BlobOptions, deadline: Deadline
  ) async throws(PatchbayError) -> Generation {
    try await store(of: key).publish(bytes, as: key, options, deadline: deadline)
  }

  /// Opens the blob with this key, or has it produced, in the store that the key belongs to.
  /// - Parameters:
  ///   - key: the blob's name.
  ///   - options: what is created, and how.
  ///   - deadline: when to give up waiting for the broker's answer.
  ///   - produce: may run now, later, again, or never, in a task of its own.
  /// - Throws: as `get` of that store.
  public func get(
    _ key: BlobKey, _ options: ProductionOptions, deadline: Deadline,
    orProduce produce: @escaping @Sendable (Production) async throws -> Void
  ) async throws(PatchbayError) -> Subscriber {
    try await store(of: key).get(key, options, deadline: deadline, orProduce: produce)
  }

  /// What the store knows of a blob that its key belongs to.
  /// - Throws: as `info` of that store.
  public func info(_ key: BlobKey, deadline: Deadline) async throws(PatchbayError) -> BlobInfo {
    try await store(of: key).info(key, deadline: deadline)
  }

  /// One page of the blobs of all stores: those that `open` would find. What was left behind in a store
  /// that its key does not belong to any more is not listed.
  /// - Parameters:
  ///   - prefix: only keys that begin with these bytes.
  ///   - after: only keys behind this one: the last of the page before.
  ///   - limit: at most so many, and of each store at most 480.
  ///   - deadline: when to give up.
  /// - Throws: as `list` of the first store that refuses.
  public func list(
    prefix: [UInt8], after: BlobKey?, limit: Int, deadline: Deadline
  ) async throws(PatchbayError) -> BlobPage {
    try await MergedListing.page(after: after, limit: limit) {
      (after, listing) async throws(PatchbayError) in
      for (index, partition) in partitions.enumerated() {
        let page = try await partition.store.list(
          prefix: prefix, after: after, limit: limit, deadline: deadline)
        listing.add(page) { placement.index(of: $0) == index }
      }
    }
  }

  /// Takes a blob's key away in the store that it belongs to.
  /// - Throws: as `remove` of that store.
  public func remove(_ key: BlobKey, deadline: Deadline) async throws(PatchbayError) {
    try await store(of: key).remove(key, deadline: deadline)
  }
}
