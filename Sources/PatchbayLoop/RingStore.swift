// The rings of this instance: made, found again by name, taken away. No descriptor is kept: each
// use opens the name anew and checks owner, size and inode, so whoever meddles with a name gets an
// error and nobody the wrong bytes.

import Glibc
import PatchbayLayout
import PatchbayLedger
import PatchbayRing
import PatchbaySystem
import PatchbayTypes

/// What is needed to open a ring: a value, so workers can have it, too.
struct RingPlace: Sendable, Hashable {
  let name: String
  let geometry: RingGeometry
  let inode: UInt64

  /// - Throws: whatever the system says; `inputOutput` when the name stands for something else.
  func open(isWritable: Bool) throws(PatchbayError) -> Descriptor {
    try SharedObject.open(
      name: name, isWritable: isWritable, uid: geteuid(), byteCount: geometry.objectByteCount,
      inode: inode)
  }
}

/// A ring that is to be made.
struct RingOrder: Sendable {
  let ring: RingID
  let name: String
  let instance: UInt64
  let geometry: RingGeometry
  let use: RingUse

  /// Makes it, reserved and with its first use begun. Takes long when it is large.
  func fill() -> Result<RingPlace, PatchbayError> {
    do throws(PatchbayError) {
      var inode: UInt64 = 0
      let descriptor = try SharedObject.create(
        name: name, mode: 0o600, byteCount: geometry.objectByteCount, inode: &inode)
      do throws(PatchbayError) {
        try use.beginFirst(
          descriptor, instance: instance, ringID: ring.rawValue, geometry)
      } catch {
        try SharedObject.unlink(name: name)
        throw error
      }
      return .success(RingPlace(name: name, geometry: geometry, inode: inode))
    } catch {
      return .failure(error)
    }
  }
}

/// A ring that is to be used again.
struct RingRenewal: Sendable {
  let place: RingPlace
  let use: RingUse

  /// Begins the use. Takes long when the ring is large and was written in small pieces.
  func begin() -> Result<RingPlace, PatchbayError> {
    do throws(PatchbayError) {
      try use.begin(place.open(isWritable: true), place.geometry)
      return .success(place)
    } catch {
      return .failure(error)
    }
  }
}

struct RingStore {
  let instance: UInt64
  private var rings: [RingID: RingPlace] = [:]
  /// Rings whose names are about to go.
  private var leaving: [RingID: RingPlace] = [:]

  init(instance: UInt64) { self.instance = instance }

  /// What a worker needs to make a ring.
  /// - Throws: `protocolViolation` for a size that no ring can have.
  func order(
    _ ring: RingID, dataByteCount: Int, hasMap: Bool, use: RingUse
  ) throws(PatchbayError) -> RingOrder {
    let geometry = try RingGeometry(dataByteCount: dataByteCount, hasMap: hasMap)
    return RingOrder(
      ring: ring, name: ObjectName.ring(instance: instance, ring), instance: instance,
      geometry: geometry, use: use)
  }

  /// Takes note of what became of it.
  mutating func settle(_ ring: RingID, _ result: Result<RingPlace, PatchbayError>) {
    if case .success(let place) = result { rings[ring] = place }
  }

  subscript(_ ring: RingID) -> RingPlace? { rings[ring] }

  /// Takes rings over that the broker before this one has made.
  mutating func takeOver(_ places: [RingID: RingPlace]) { rings.merge(places) { $1 } }

  /// - Throws: `closed` for a ring that is not there: a granted one stays until its handle is closed.
  func open(_ ring: RingID, isWritable: Bool) throws(PatchbayError) -> Descriptor {
    guard let place = self[ring] else {
      throw PatchbayError(
        .closed,
        "The ring \(ring.rawValue) is gone: its blob was closed before the ring could be sent.")
    }
    return try place.open(isWritable: isWritable)
  }

  /// From now on the ring cannot be found; its name is for the caller to take away. The ledger
  /// never asks for this before it knows that the ring is there.
  mutating func beginUnlink(_ ring: RingID) -> RingPlace? {
    guard let place = rings.removeValue(forKey: ring) else { return nil }
    leaving[ring] = place
    return place
  }

  /// Whether memory of rings is still to be given back.
  var hasLeaving: Bool { !leaving.isEmpty }

  mutating func endUnlink(_ ring: RingID) { leaving[ring] = nil }

  /// Forgets all of them, for the next broker to find.
  mutating func leaveAll() {
    rings = [:]
    leaving = [:]
  }

  /// Takes all names away, at the end.
  mutating func unlinkAll() {
    for place in rings.values { try? SharedObject.unlink(name: place.name) }
    for place in leaving.values { try? SharedObject.unlink(name: place.name) }
    rings = [:]
    leaving = [:]
  }
}
