// Seeing clients' processes die: one pidfd per process, whatever the number of its connections. A
// watch outlives its connections while the process may still touch a ring.

import CPatchbaySystem
import Glibc
import PatchbayLedger
import PatchbaySystem
import PatchbayTypes

struct ProcessWatches {
  private final class Watch {
    let process: Int32
    let descriptor: Descriptor
    var sessions: Set<SessionID> = []
    init(_ process: Int32, _ descriptor: consuming Descriptor) {
      self.process = process
      self.descriptor = descriptor
    }
    /// Gone already: its number may belong to another process by now.
    var hasExited: Bool { pb_poll_readable(descriptor.rawValue, 0) > 0 }
  }

  private var watches: [UInt64: Watch] = [:]
  private var numberByProcess: [Int32: UInt64] = [:]
  private var numberBySession: [SessionID: UInt64] = [:]
  private var nextNumber: UInt64 = 1

  enum Outcome {
    case watched
    /// There is no such process any more.
    case gone
    /// What it may have mapped when it hangs up waits for ever, or until too many wait.
    case unwatched
  }

  /// Watches the process at the other end for a session.
  mutating func add(
    _ session: SessionID, _ peer: Peer, socket: Int32, _ poller: borrowing Poller
  ) -> Outcome {
    // 0: a process outside of this one's namespace, and not the only one of that number.
    if peer.process != 0, let number = numberByProcess[peer.process], let watch = watches[number],
      !watch.hasExited
    {
      watch.sessions.insert(session)
      numberBySession[session] = number
      return .watched
    }
    let result = pb_peer_pidfd(socket, peer.process)
    guard result >= 0 else { return result == -ESRCH ? .gone : .unwatched }
    return watch(session, peer.process, Descriptor(owning: result), poller)
  }

  /// Watches the process of a client that has no connection: one that a broker before this one has
  /// noted, with the time of its start.
  mutating func add(
    _ session: SessionID, _ peer: Peer, startTime: UInt64, _ poller: borrowing Poller
  ) -> Outcome {
    // Of a process outside of this one's namespace nothing can be found out.
    guard peer.process != 0, startTime != 0 else { return .unwatched }
    let result = pb_pidfd(peer.process)
    guard result >= 0 else { return result == -ESRCH ? .gone : .unwatched }
    let descriptor = Descriptor(owning: result)
    // After it was opened: from now on the number means the process that the descriptor means.
    guard pb_process_start_time(peer.process) == startTime else { return .gone }
    return watch(session, peer.process, descriptor, poller)
  }

  private mutating func watch(
    _ session: SessionID, _ process: Int32, _ descriptor: consuming Descriptor,
    _ poller: borrowing Poller
  ) -> Outcome {
    if let number = numberByProcess[process], let watch = watches[number], !watch.hasExited {
      watch.sessions.insert(session)
      numberBySession[session] = number
      return .watched
    }
    let watch = Watch(process, descriptor)
    let number = nextNumber
    guard (try? poller.add(watch.descriptor.rawValue, .process(number))) != nil else {
      return .unwatched
    }
    nextNumber += 1
    watch.sessions.insert(session)
    watches[number] = watch
    numberByProcess[process] = number
    numberBySession[session] = number
    return .watched
  }

  /// A session's process needs no watching for its sake any more.
  mutating func drop(_ session: SessionID, _ poller: borrowing Poller) {
    guard let number = numberBySession.removeValue(forKey: session), let watch = watches[number]
    else { return }
    watch.sessions.remove(session)
    if watch.sessions.isEmpty { end(number, watch, poller) }
  }

  /// The sessions of a process that is gone, earliest first.
  mutating func exited(_ number: UInt64, _ poller: borrowing Poller) -> [SessionID] {
    guard let watch = watches[number] else { return [] }
    for session in watch.sessions { numberBySession[session] = nil }
    end(number, watch, poller)
    return watch.sessions.sorted()
  }

  private mutating func end(_ number: UInt64, _ watch: Watch, _ poller: borrowing Poller) {
    poller.remove(watch.descriptor.rawValue)
    watches[number] = nil
    if numberByProcess[watch.process] == number { numberByProcess[watch.process] = nil }
  }
}
