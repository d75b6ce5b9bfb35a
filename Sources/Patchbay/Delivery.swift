// A reply on its way from the socket to whom it belongs.

import Glibc
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Synchronization

/// A reply with the descriptors that came along, owned until taken.
final class Delivery: Sendable {
  let reply: Reply
  /// The number of the request that it answers.
  let number: UInt64
  /// The connection's when it came: what it brings of a broker that is gone by now is out of date.
  let life: Int
  private let descriptors: Mutex<[Int32]>

  init(_ reply: Reply, _ descriptors: [Int32], to number: UInt64 = 0, life: Int = 0) {
    self.reply = reply
    self.number = number
    self.life = life
    self.descriptors = Mutex(descriptors)
  }

  /// The next descriptor in message order.
  /// - Throws: `limitReached` when fewer came than the reply promises.
  func takeDescriptor() throws(PatchbayError) -> Descriptor {
    let next: Int32? = descriptors.withLock { $0.isEmpty ? nil : $0.removeFirst() }
    guard let next else {
      throw PatchbayError(
        .limitReached,
        "A reply of the broker came without its descriptors: this process has none left. Close "
          + "some, or raise its limit of open files (ulimit -n).", systemErrno: EMFILE)
    }
    return Descriptor(owning: next)
  }

  /// The same again, with descriptors of its own.
  func duplicate() throws(PatchbayError) -> Delivery {
    let own = descriptors.withLock { $0 }
    let copy = Delivery(reply, [], to: number, life: life)
    for descriptor in own {
      let another = try Descriptor.duplicate(of: descriptor).release()
      copy.descriptors.withLock { $0.append(another) }
    }
    return copy
  }

  /// Gives all descriptors away.
  func releaseDescriptors() -> [Int32] {
    descriptors.withLock { list in
      defer { list = [] }
      return list
    }
  }

  deinit { descriptors.withLock { for descriptor in $0 { _ = Glibc.close(descriptor) } } }
}

/// What a request asks for, when the reply is of its type.
extension Delivery {
  var created: BlobGrant {
    get throws(PatchbayError) {
      guard case .created(let grant) = reply else { throw Session.unexpected(reply) }
      return grant
    }
  }

  var joined: BlobGrant {
    get throws(PatchbayError) {
      guard case .joined(let grant) = reply else { throw Session.unexpected(reply) }
      return grant
    }
  }

  var claimed: ClaimGrant {
    get throws(PatchbayError) {
      guard case .claimed(let grant) = reply else { throw Session.unexpected(reply) }
      return grant
    }
  }

  var opened: BlobGrant {
    get throws(PatchbayError) {
      guard case .opened(let grant) = reply else { throw Session.unexpected(reply) }
      return grant
    }
  }

  var info: BlobInfo {
    get throws(PatchbayError) {
      guard case .info(let info) = reply else { throw Session.unexpected(reply) }
      return info
    }
  }

  var page: BlobPage {
    get throws(PatchbayError) {
      guard case .list(let page) = reply else { throw Session.unexpected(reply) }
      return BlobPage(blobs: page.blobs, hasMore: page.hasMore)
    }
  }

  var statistics: BrokerStatistics {
    get throws(PatchbayError) {
      guard case .statistics(let statistics) = reply else { throw Session.unexpected(reply) }
      return statistics
    }
  }

  var subscriptions: SubscriptionList {
    get throws(PatchbayError) {
      guard case .subscriptions(let list) = reply else { throw Session.unexpected(reply) }
      return list
    }
  }

  func checkPong() throws(PatchbayError) {
    guard case .pong = reply else { throw Session.unexpected(reply) }
  }
}

/// A thread that waits for its reply.
final class PendingCall: Sendable {
  /// Changes whenever there is something to look at: the reply, the reader's role, the end.
  let signal = Atomic<UInt32>(0)
  let outcome = Mutex<Result<Delivery, PatchbayError>?>(nil)

  func wake() {
    // releasing: the outcome or the freed role, both under locks; the word only ends the sleep.
    // CALL-SIGNAL.
    signal.wrappingAdd(1, ordering: .releasing)
    _ = unsafe signal.withWord { unsafe Futex.wake($0, mask: .max) }
  }
}

/// A task that waits for its reply.
final class TaskCall: Sendable {
  let awaited = Awaited<Delivery>()
  let until: MonotonicTime
  /// Asked at least every `Doorbell.bound`, by the courier: throws when the wait is to end.
  let check: (@Sendable () throws(PatchbayError) -> Void)?

  init(until: MonotonicTime, check: (@Sendable () throws(PatchbayError) -> Void)?) {
    self.until = until
    self.check = check
  }
}

/// A file on its way to the broker: closed with the last packet that needs it.
final class CarriedFile: Sendable {
  let descriptor: Descriptor
  init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }
}

/// A request as it leaves.
struct Packet: Sendable {
  let bytes: [UInt8]
  let number: UInt64
  let file: CarriedFile?

  init(_ bytes: [UInt8], number: UInt64, file: CarriedFile? = nil) {
    self.bytes = bytes
    self.number = number
    self.file = file
  }

  var descriptors: [Int32] { file.map { [$0.descriptor.rawValue] } ?? [] }
}

/// Packets that are still to be sent, in order.
struct Outbox {
  private var packets: [Packet] = []
  private var firstIndex = 0
  private(set) var byteCount = 0

  var isEmpty: Bool { firstIndex == packets.count }
  var next: Packet? { isEmpty ? nil : packets[firstIndex] }

  mutating func add(_ packet: Packet) {
    packets.append(packet)
    byteCount += packet.bytes.count
  }

  mutating func add(contentsOf other: Outbox) {
    for packet in other.packets[other.firstIndex...] { add(packet) }
  }

  mutating func removeFirst() {
    byteCount -= packets[firstIndex].bytes.count
    packets[firstIndex] = Packet([], number: 0)
    firstIndex += 1
    // Each packet is moved once at most.
    guard firstIndex * 2 >= packets.count else { return }
    packets.removeFirst(firstIndex)
    firstIndex = 0
  }
}

extension Atomic where Value == UInt32 {
  /// The word's address, for the futex calls. It stays put: its owner is a class.
  @unsafe borrowing func withWord<Result>(
    _ body: (UnsafeMutablePointer<Atomic<UInt32>>) -> Result
  ) -> Result {
    unsafe withUnsafePointer(to: self) { unsafe body(UnsafeMutablePointer(mutating: $0)) }
  }
}
