// Several stores, one above the other, used as one: caches over the store that keeps. The lowest layer
// alone decides what exists: everything is created there, and its word counts when no layer above has a
// blob complete. What stands above are copies, and a copy may be missing at any time.
//
// Whatever takes a blob away begins at the lowest layer and goes upwards. The other way round a reader
// between the two steps would find the old blob below and copy it upwards again, where nobody would
// take it away any more. This way round a copy that was begun before the first step stands above before
// the last one, and goes with it; one that was begun later finds, before its first byte, that what it
// copies has gone (Promotion.swift).

import PatchbayTypes

/// Stores in layers, the fastest first. A blob is read from the first layer that has it, and copied
/// into those above, once for all processes, while it is read. Everything is created in the lowest
/// layer.
///
/// An upper layer that is full, refuses or cannot be reached fails no read. All processes that use the
/// same stores in layers should write and remove through their layers: what is replaced in the lowest
/// layer alone is served from the upper ones until it is evicted there.
public struct LayeredStore: BlobStore {
  /// At least two. The fastest is the first one.
  let layers: [any BlobStore]

  /// Two stores in layers. Layers of layers are layers: either may be a `LayeredStore`.
  /// - Parameters:
  ///   - upper: the faster one, a cache.
  ///   - lower: the one that keeps.
  public init(_ upper: any BlobStore, over lower: any BlobStore) {
    layers = Self.layers(of: upper) + Self.layers(of: lower)
  }

  private static func layers(of store: any BlobStore) -> [any BlobStore] {
    (store as? LayeredStore)?.layers ?? [store]
  }

  private var lowest: any BlobStore { layers[lowestIndex] }
  private var lowestIndex: Int { layers.count - 1 }

  // MARK: Reading

  /// Opens a blob in the first layer that has it complete, or else in the lowest. Where that is not the
  /// first one, the blob is copied into the layers above, and the reader is one of the uppermost copy,
  /// which is served while it is made; or of the blob itself, when there is to be no copy or none can be
  /// made.
  ///
  /// A blob that has failed in a layer counts as none there. With `waitUntil` all layers are waited
  /// for.
  /// - Parameters:
  ///   - key: the blob's name.
  ///   - waitUntil: when to give up waiting for the key; nil: it must exist now.
  /// - Throws: what the lowest layer says when no other has the blob; `cancelled`. A reader of a copy
  ///   is told why the original failed.
  public func open(
    _ key: BlobKey, waitUntil: Deadline?
  ) async throws(PatchbayError) -> Subscriber {
    do throws(PatchbayError) {
      return await promoted(try await look(for: key))
    } catch {
      guard error.code == .noSuchKey, let waitUntil else { throw error }
      return await promoted(try await appearance(of: key, until: waitUntil))
    }
  }

  /// Looks for a blob in all layers.
  /// - Throws: what the lowest layer says if none has it; `cancelled`.
  private func look(for key: BlobKey) async throws(PatchbayError) -> FoundBlob {
    if let above = try await lookAbove(for: key) { return above }
    return FoundBlob(reader: try await lowest.open(key, waitUntil: nil), layer: lowestIndex)
  }

  /// Looks for a complete blob in the layers above the lowest. One that is not is a copy in the making, and
  /// of what nobody can tell here: it is found again by who finds what it copies. What a layer cannot give,
  /// for whatever reason, the next one may have.
  /// - Throws: `cancelled`.
  private func lookAbove(for key: BlobKey) async throws(PatchbayError) -> FoundBlob? {
    for (index, layer) in layers.dropLast().enumerated() {
      do throws(PatchbayError) {
        let reader = try await Self.soon(key, in: layer).get()
        if reader.state == .sealed { return FoundBlob(reader: reader, layer: index) }
      } catch {
        if error.code == .cancelled || Task.isCancelled { throw error }
      }
    }
    return nil
  }

  /// Opens a blob in a layer, if that answers soon.
  private static func soon(
    _ key: BlobKey, in layer: any BlobStore
  ) async -> Result<Subscriber, PatchbayError> {
    await withTaskGroup(of: Result<Subscriber, PatchbayError>.self) { group in
      group.addTask {
        do throws(PatchbayError) {
          return .success(try await layer.open(key, waitUntil: nil))
        } catch {
          return .failure(error)
        }
      }
      group.addTask {
        try? await Task.sleep(for: patience)
        return .failure(slow(key))
      }
      defer { group.cancelAll() }
      return await group.next() ?? .failure(slow(key))
    }
  }

  private static func slow(_ key: BlobKey) -> PatchbayError {
    PatchbayError(
      Task.isCancelled ? .cancelled : .timedOut,
      "An upper layer was asked for the blob \(key), and did not answer in time.")
  }

  /// Waits until a layer has the key.
  private func appearance(
    of key: BlobKey, until deadline: Deadline
  ) async throws(PatchbayError) -> FoundBlob {
    let first = try await firstToHave(key, until: deadline).get()
    do throws(PatchbayError) {
      // By now another one may have it, too.
      return try await look(for: key)
    } catch {
      guard first.layer < lowestIndex else { return first }
      guard error.code == .noSuchKey else { throw error }
      // It was a copy in the making of what has gone.
      return FoundBlob(
        reader: try await lowest.open(key, waitUntil: deadline), layer: lowestIndex)
    }
  }

  /// Waits for the key in all layers at once.
  private func firstToHave(
    _ key: BlobKey, until deadline: Deadline
  ) async -> Result<FoundBlob, PatchbayError> {
    await withTaskGroup { group in
      for (index, layer) in layers.enumerated() {
        group.addTask { () -> (Int, Result<FoundBlob, PatchbayError>) in
          do throws(PatchbayError) {
            let reader = try await layer.open(key, waitUntil: deadline)
            return (index, .success(FoundBlob(reader: reader, layer: index)))
          } catch {
            return (index, .failure(error))
          }
        }
      }
      defer { group.cancelAll() }
      for await (index, answer) in group {
        if case .failure = answer, index != lowestIndex { continue }
        return answer
      }
      preconditionFailure("the lowest layer has answered")
    }
  }

  /// Opens a blob through the layers, or has it produced in the lowest one: only what all processes
  /// share can give one of them the right to produce. It is read through a copy above as any other
  /// blob, from the moment when it can be copied.
  /// - Parameters:
  ///   - key: the blob's name.
  ///   - options: what is created in the lowest layer, and how. A blob that is to stop or pause while
  ///     nobody reads is copied when it is complete, for a copy under way is a reader. `leastUses`
  ///     holds for copies, too.
  ///   - deadline: when to give up waiting for the lowest layer's answer.
  ///   - produce: may run now, later, again, or never, in a task of its own.
  /// - Throws: as `get` of the lowest layer.
  public func get(
    _ key: BlobKey, _ options: ProductionOptions, deadline: Deadline,
    orProduce produce: @escaping @Sendable (Production) async throws -> Void
  ) async throws(PatchbayError) -> Subscriber {
    if let above = try await lookAbove(for: key) {
      return await promoted(above, leastUses: options.leastUses)
    }
    let reader = try await lowest.get(key, options, deadline: deadline, orProduce: produce)
    guard options.whenUnread == .finish || reader.state == .sealed else { return reader }
    return await promoted(
      FoundBlob(reader: reader, layer: lowestIndex), leastUses: options.leastUses)
  }

  // MARK: Writing

  /// Creates a blob in the lowest layer. Copies of an older one with this key are taken away from the
  /// others before this returns.
  /// - Throws: as `publisher` of the lowest layer; what an upper layer says that cannot take its copy
  ///   away, and the blob has failed then.
  public func publisher(
    _ key: BlobKey, _ options: BlobOptions, deadline: Deadline
  ) async throws(PatchbayError) -> Publisher {
    let publisher = try await lowest.publisher(key, options, deadline: deadline)
    do throws(PatchbayError) {
      try await remove(key, from: layers.dropLast(), deadline: deadline)
      return publisher
    } catch {
      try? await publisher.fail("\(error)")
      throw error
    }
  }

  /// Takes a blob's key away in all layers, the lowest first. Nobody who asks afterwards gets the blob,
  /// also when it was being copied.
  /// - Throws: `noSuchKey` when no layer has it; else what the lowest of those says that could not do
  ///   it: the others have, and it can be asked for again.
  public func remove(_ key: BlobKey, deadline: Deadline) async throws(PatchbayError) {
    guard try await remove(key, from: layers[...], deadline: deadline) == 0 else { return }
    throw PatchbayError(.noSuchKey, "No layer has a blob with the key \(key).")
  }

  /// Takes a key away in some layers, the lowest of them first.
  /// - Returns: how many had it.
  /// - Throws: the first refusal; the others have been asked all the same.
  @discardableResult
  func remove(
    _ key: BlobKey, from some: ArraySlice<any BlobStore>, deadline: Deadline
  ) async throws(PatchbayError) -> Int {
    var count = 0
    var refusal: PatchbayError?
    for layer in some.reversed() {
      do throws(PatchbayError) {
        try await layer.remove(key, deadline: deadline)
        count += 1
      } catch {
        if error.code != .noSuchKey { refusal = refusal ?? error }
      }
    }
    if let refusal { throw refusal }
    return count
  }

  // MARK: Looking

  /// What the first layer says that has the blob; one in which it has failed only where no other has
  /// it.
  /// - Throws: as `info` of the lowest layer; `cancelled`.
  public func info(_ key: BlobKey, deadline: Deadline) async throws(PatchbayError) -> BlobInfo {
    var failed: BlobInfo?
    for (index, layer) in layers.enumerated() {
      do throws(PatchbayError) {
        let info = try await layer.info(key, deadline: patient(deadline, index))
        guard info.state == .failed else { return info }
        failed = info
      } catch {
        let isAnswer = index == lowestIndex && (error.code != .noSuchKey || failed == nil)
        if isAnswer || error.code == .cancelled { throw error }
      }
    }
    guard let failed else { preconditionFailure("the lowest layer has answered") }
    return failed
  }

  /// One page of the blobs of all layers, each key once, as `info` tells it. A layer above the lowest
  /// that cannot be reached is left out.
  /// - Parameters:
  ///   - prefix: only keys that begin with these bytes.
  ///   - after: only keys behind this one: the last of the page before.
  ///   - limit: at most so many, and of each layer at most 480.
  ///   - deadline: when to give up.
  /// - Throws: as `list` of the lowest layer; `cancelled`.
  public func list(
    prefix: [UInt8], after: BlobKey?, limit: Int, deadline: Deadline
  ) async throws(PatchbayError) -> BlobPage {
    try await MergedListing.page(after: after, limit: limit) {
      (after, listing) async throws(PatchbayError) in
      for (index, layer) in layers.enumerated() {
        do throws(PatchbayError) {
          listing.add(
            try await layer.list(
              prefix: prefix, after: after, limit: limit, deadline: patient(deadline, index)))
        } catch {
          if index == lowestIndex || error.code == .cancelled { throw error }
        }
      }
    }
  }
}

extension LayeredStore {
  /// An upper layer that does not answer leaves the lowest its time.
  private func patient(_ deadline: Deadline, _ layer: Int) -> Deadline {
    layer == lowestIndex ? deadline : deadline.atMost(Self.patience)
  }
}

/// A blob's reader, and the layer that it was found in.
struct FoundBlob: Sendable {
  let reader: Subscriber
  let layer: Int
}
