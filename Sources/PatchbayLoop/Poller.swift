// Waiting for many descriptors at once.

import CPatchbaySystem
import PatchbaySystem
import PatchbayTypes

/// What a ready descriptor stands for. Numbers are never reused, so a late notice of something that
/// is gone already finds nothing.
enum PollSource: Hashable {
  case listener
  case control
  case maker
  case inspector
  case spooler
  case keeper
  case hasher
  case connection(SessionNumber)
  case process(UInt64)

  typealias SessionNumber = UInt64

  private static let kindBits: UInt64 = 4

  var tag: UInt64 {
    switch self {
    case .listener: 0
    case .control: 1
    case .maker: 2
    case .inspector: 5
    case .spooler: 6
    case .keeper: 7
    case .hasher: 8
    case .connection(let number): number << Self.kindBits | 3
    case .process(let number): number << Self.kindBits | 4
    }
  }

  init?(tag: UInt64) {
    switch tag & (1 << Self.kindBits - 1) {
    case 0: self = .listener
    case 1: self = .control
    case 2: self = .maker
    case 5: self = .inspector
    case 6: self = .spooler
    case 7: self = .keeper
    case 8: self = .hasher
    case 3: self = .connection(tag >> Self.kindBits)
    case 4: self = .process(tag >> Self.kindBits)
    default: return nil
    }
  }
}

struct Poller: ~Copyable {
  struct Ready {
    var source: PollSource
    var isReadable: Bool
    var isWritable: Bool
  }

  private let epoll: Descriptor
  private static let capacity = 64

  init() throws(PatchbayError) {
    epoll = Descriptor(owning: try checked(pb_epoll_create(), "Making an epoll set"))
  }

  /// Reports when the descriptor can be read or is hung up.
  func add(_ descriptor: Int32, _ source: PollSource) throws(PatchbayError) {
    _ = try checked(
      pb_epoll_add(epoll.rawValue, descriptor, source.tag), "Watching a descriptor")
  }

  /// Whether to report, too, when it can be written.
  func watchWriting(_ descriptor: Int32, _ source: PollSource, _ watches: Bool) {
    // Fails only for a descriptor that was never added, whose owner has no use for the notice.
    _ = pb_epoll_modify(epoll.rawValue, descriptor, source.tag, watches ? 1 : 0)
  }

  /// Before the descriptor is closed: a child between fork and exec may keep its object alive.
  func remove(_ descriptor: Int32) { _ = pb_epoll_remove(epoll.rawValue, descriptor) }

  /// What is ready, waiting at most until the moment.
  func wait(until: MonotonicTime) throws(PatchbayError) -> [Ready] {
    var tags = [UInt64](repeating: 0, count: Self.capacity)
    var flags = [UInt32](repeating: 0, count: Self.capacity)
    let left = max(0, until.nanoseconds - MonotonicTime.now.nanoseconds)
    let milliseconds = Int32(min((left + 999_999) / 1_000_000, 1 << 30))
    let count = try checked(
      unsafe pb_epoll_wait(
        epoll.rawValue, &tags, &flags, Int32(Self.capacity), milliseconds),
      "Waiting for events")
    return (0..<Int(count)).compactMap { index in
      PollSource(tag: tags[index]).map {
        // A hang-up is read like data: what came before it is taken first.
        Ready(
          source: $0, isReadable: flags[index] & 5 != 0, isWritable: flags[index] & 2 != 0)
      }
    }
  }
}
