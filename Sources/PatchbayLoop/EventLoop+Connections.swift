// Connections, from accept to close.

import CPatchbaySystem
import PatchbayLedger
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

extension EventLoop {
  func acceptConnections() {
    for _ in 0..<Self.acceptsPerTurn {
      switch acceptor.take() {
      case .connection(let socket): open(socket)
      case .refused(let errno):
        refusals.warn("A connection was refused: \(systemReason(errno)).")
      case .nobody: return
      case .starved: return pauseAccepting()
      }
    }
  }

  /// Looks away from the listener for a while: it stays readable, and the thread would spin.
  private func pauseAccepting() {
    refusals.warn("There is no descriptor left to accept or refuse connections with.")
    poller.remove(ground.listener.rawValue)
    acceptsAgain = MonotonicTime.now.advanced(by: Self.acceptPause)
  }

  /// Accepts again after a pause.
  func resumeAccepting() {
    guard let moment = acceptsAgain, MonotonicTime.now >= moment else { return }
    let isWatched = (try? poller.add(ground.listener.rawValue, .listener)) != nil
    acceptsAgain = isWatched ? nil : MonotonicTime.now.advanced(by: Self.acceptPause)
  }

  private func open(_ socket: consuming ControlSocket) {
    let session = SessionID(rawValue: nextSession)
    var process: Int32 = 0
    var uid: UInt32 = 0
    var gid: UInt32 = 0
    guard unsafe pb_peer(socket.descriptor.rawValue, &process, &uid, &gid) == 0,
      (try? poller.add(socket.descriptor.rawValue, .connection(session.rawValue))) != nil
    else {
      refusals.warn("A connection was refused: the system does not tell whose it is.")
      return
    }
    nextSession += 1
    let peer = Peer(
      process: process, uid: uid, gid: gid,
      groups: isShared ? Self.groups(of: socket.descriptor) : [])
    // A system that knows no such option takes them: then nobody installs them.
    _ = pb_take_descriptors(socket.descriptor.rawValue, ledger.mayImport(peer) ? 1 : 0)
    let connection = Connection(session, peer, socket, sharedRoom: sharedQueueRoom)
    connections[session] = connection
    let watch = processes.add(session, connection.peer, socket: connection.rawDescriptor, poller)
    connection.isProcessGone = watch == .gone
    submit(.connected(session, connection.peer))
  }

  private static func groups(of socket: borrowing Descriptor) -> [UInt32] {
    var groups = [UInt32](repeating: 0, count: Peer.groupLimit)
    let count = unsafe pb_peer_groups(socket.rawValue, &groups, Int32(groups.count))
    return Array(groups.prefix(max(0, Int(count))))
  }

  // MARK: Requests

  /// Takes what has arrived, a bounded number of packets; the poller reports the rest again.
  func serve(_ session: SessionID, atMost limit: Int = packetsPerTurn) {
    for _ in 0..<limit {
      guard let connection = connections[session] else { return }
      if connection.isEnding {
        if !connection.discardInput(atMost: Self.packetsPerTurn) { close(connection) }
        return
      }
      do throws(PatchbayError) {
        switch try receive(connection) {
        case .packet(let packet, let offered): take(packet, offered, connection)
        case .wouldBlock: return
        case .hungUp: return hangUp(connection)
        }
      } catch {
        error.code == .protocolViolation
          ? refuse(connection, number: 0, error) : hangUp(connection)
      }
    }
  }

  private func take(
    _ packet: [UInt8], _ offered: ControlSocket.Offered, _ connection: Connection
  ) {
    var number: UInt64 = 0
    do throws(PatchbayError) {
      let frame = try Frame(parsing: packet)
      number = frame.request
      guard number != 0 else {
        throw PatchbayError(.protocolViolation, "A request has the number 0, which none may have.")
      }
      try checkOffered(offered, frame)
      let request = try frame.decodeRequest(packet)
      if case .import(let request) = request {
        return take(request, offered, number: number, connection)
      }
      submit(.request(connection.session, number: number, request))
    } catch {
      imports.refuse(offered)
      refuse(connection, number: number, error)
    }
  }

  /// Answers what cannot be a request. Only a key of a wrong length is a mistake that a program may
  /// make and go on; after anything else the two sides do not understand each other.
  private func refuse(_ connection: Connection, number: UInt64, _ error: PatchbayError) {
    send(.failure(error), to: connection, number: number)
    guard error.code != .invalidKey, connections[connection.session] != nil else { return }
    refusals.warn(
      "Process \(connection.peer.process) of user \(connection.peer.uid) is disconnected: "
        + error.message)
    submit(.hungUp(connection.session))
    end(connection)
  }

  // MARK: Sending

  /// Sends a message without descriptors.
  func send(_ reply: Reply, to connection: Connection, number: UInt64) {
    do throws(PatchbayError) {
      let outgoing = Outgoing(reply, number: number)
      note(try connection.send(outgoing, opener(connection)), connection)
    } catch {
      hangUp(connection)
    }
  }

  /// Acts on how a packet went.
  func note(_ outcome: Connection.SendOutcome, _ connection: Connection) {
    switch outcome {
    case .sent: break
    case .queued: poller.watchWriting(connection.rawDescriptor, connection.source, true)
    case .lost:
      if connection.hasQueue {
        refusals.warn(
          "Process \(connection.peer.process) of user \(connection.peer.uid) is disconnected: it "
            + "does not read its replies.")
      }
      hangUp(connection)
    }
  }

  /// The ledger holds events back until the client has taken what waits for it.
  func congest(_ connection: Connection) {
    guard connections[connection.session] != nil, !connection.isCongested else { return }
    connection.isCongested = true
    submit(.congested(connection.session))
  }

  func flush(_ session: SessionID) {
    guard let connection = connections[session] else { return }
    guard sendQueued(connection) else { return hangUp(connection) }
    guard !connection.hasQueue, connections[session] != nil else { return }
    poller.watchWriting(connection.rawDescriptor, connection.source, false)
    if connection.isEnding { return close(connection) }
    guard connection.isCongested else { return }
    connection.isCongested = false
    submit(.relieved(session))
  }

  /// Sends what the client takes of its queue; the ledger takes back what could not be had. False:
  /// the connection is lost.
  private func sendQueued(_ connection: Connection) -> Bool {
    let outcome = connection.flush(opener(connection))
    for number in outcome.undelivered {
      submit(.undelivered(connection.session, number: number))
    }
    return !outcome.isLost
  }

  // MARK: Endings

  /// The process at the other end is gone. What it has sent before counts, all of it: a socket does
  /// not hold more packets than the limit, but a child may have the other end and go on sending.
  func processExited(_ session: SessionID) {
    serve(session, atMost: Self.lastPacketLimit)
    submit(.exited(session))
  }

  /// The connection is over, by the other side or for a reason of its own.
  private func hangUp(_ connection: Connection) {
    guard connections[connection.session] != nil else { return }
    let wasEnding = connection.isEnding
    close(connection)
    if !wasEnding { submit(.hungUp(connection.session)) }
  }

  /// Ends a connection of which the ledger knows that it ends: what is queued leaves first.
  func end(_ connection: Connection) {
    guard connections[connection.session] != nil else { return }
    connection.beginEnding()
    guard sendQueued(connection), connection.hasQueue else { return close(connection) }
    endingSessions.insert(connection.session)
    poller.watchWriting(connection.rawDescriptor, connection.source, true)
  }

  private func close(_ connection: Connection) {
    guard connections.removeValue(forKey: connection.session) != nil else { return }
    endingSessions.remove(connection.session)
    if connection.holdsTable { clientTableCount -= 1 }
    _ = connection.discardInput(atMost: Self.packetsPerTurn)
    poller.remove(connection.rawDescriptor)
    unwatch(connection)
  }

  /// A process is of interest after its connection only while it may still touch a ring.
  private func unwatch(_ connection: Connection) {
    // Who was given no ring can touch none, whatever becomes of the process.
    guard connection.holdsRing, !connection.isProcessGone else {
      processes.drop(connection.session, poller)
      return submit(.exited(connection.session))
    }
    watchedEnded.append(connection.session)
    guard watchedEnded.count > Self.watchedEndedLimit else { return }
    for session in watchedEnded.prefix(Self.watchedEndedLimit / 2) {
      processes.drop(session, poller)
    }
    watchedEnded.removeFirst(Self.watchedEndedLimit / 2)
  }

  /// Closes connections that were to end and whose client does not read what is left.
  func endLingering() {
    guard !endingSessions.isEmpty else { return }
    let now = MonotonicTime.now
    for session in endingSessions {
      guard let connection = connections[session], let end = connection.lingersUntil else {
        endingSessions.remove(session)
        continue
      }
      if now >= end { close(connection) }
    }
  }
}
