// Carrying out what the ledger wants.

import CPatchbaySystem
import Glibc
import PatchbayLedger
import PatchbayRing
import PatchbaySystem
import PatchbayTypes
import PatchbayWire

extension EventLoop {
  /// Larger objects are made, looked into and removed by workers: that takes long.
  static let inlineRingByteCount = 4 * 1024 * 1024
  /// More rings than this are looked into by a worker.
  static let inlineLookCount = 32

  func execute(_ action: LedgerAction) {
    switch action {
    case .reply(let session, let number, let reply, let sources):
      deliver(reply, sources, to: session, number: number)
    case .report(let session, let number, let kind, let blobs):
      report(session, number: number, kind, blobs)
    case .reportStatistics(let session, let number, var statistics):
      boards.addCounts(to: &statistics)
      deliver(.statistics(statistics), [], to: session, number: number)
    case .disconnect(let session):
      if let connection = connections[session] { end(connection) }
    case .createRing(let ring, let index, let dataByteCount, let hasMap, _):
      createRing(ring, index: index, dataByteCount: dataByteCount, hasMap: hasMap)
    case .reuseRing(let ring, let useNumber, let index):
      reuseRing(ring, RingUse(number: useNumber, index: index))
    case .spill(let order): spill(order)
    case .restore(let order): restore(order)
    case .adopt(let order): adopt(order)
    case .dropScratch(let generation, let index): dropScratch(generation, index)
    case .retractRing(let ring, let holders): retract(ring, heldBy: holders)
    case .persist(let order): persist(order)
    case .markContainer(let generation, let isPinned): markContainer(generation, isPinned: isPinned)
    case .withdrawContainer(let generation): withdrawContainer(generation)
    case .removeContainer(let generation): removeContainer(generation)
    case .unlinkRing(let ring): unlink(ring, givesBack: false)
    case .discardRing(let ring): unlink(ring, givesBack: true)
    case .createBoard(let board, _): createBoard(board)
    case .post(let slot, let post): boards.post(slot, post)
    case .clearEntry(let slot): boards.clear(slot)
    case .ring(let slot): boards.ring(slot)
    case .inspect(
      let inspection, let extents, let onDisk, let plan, let isWindow, let byteCount):
      inspect(inspection, extents, onDisk, plan, isWindow: isWindow, byteCount: byteCount)
    case .copy(let copy, let pairs): self.copy(copy, pairs)
    case .survey(let generation, let extents, let plan, let byteCount):
      survey(generation, extents, plan, byteCount: byteCount)
    case .refit(let copy, let pairs): self.copy(copy, pairs, retracting: true)
    case .measure(let report): measure(report)
    case .digest(let order): digest(order)
    case .dropDigest(let generation): digests[generation] = nil
    case .sample(let blobs): sample(blobs)
    case .explain(let session, let number, let situation, let figures):
      explain(session, number: number, situation, figures)
    case .recordBlob(let record): self.record(record)
    case .eraseBlob(let generation): journal.erase(generation)
    case .recordClient(let record): self.record(record)
    case .eraseClient(let client): journal.eraseClient(client)
    case .keepFile(let generation, let offer): imports.keep(generation, offer)
    case .dropOffer(let offer): imports.drop(offer)
    case .releaseFile(let generation): imports.release(generation)
    case .lookAtFile(let generation, let session, let number, let request):
      lookAtFile(of: generation, session, number: number, request)
    }
  }

  // MARK: Replies

  /// Sends a reply with its descriptors; one that cannot be had becomes a failure, and the ledger
  /// takes back what was granted.
  private func deliver(
    _ reply: Reply, _ sources: [DescriptorSource], to session: SessionID, number: UInt64
  ) {
    guard let connection = connections[session] else { return }
    // It may have rings mapped from before, also if it is not told that it is welcome.
    if case .welcome(let welcome) = reply, welcome.isAwaited { connection.holdsRing = true }
    do throws(PatchbayError) {
      // A watch promises no record, and goes on.
      if let lostRecord, reply.kind != .failure, reply.kind != .events { throw lostRecord }
      let packet = try Self.packet(reply, number: number)
      noteGrant(sources, connection)
      let outgoing = Outgoing(packet: packet, sources, number: number)
      let outcome = try connection.send(outgoing, opener(connection))
      note(outcome, connection)
      if case .events = reply, outcome == .queued { congest(connection) }
    } catch {
      send(.failure(error.inBrokerWords), to: connection, number: number)
      submit(.undelivered(session, number: number))
    }
  }

  /// A page that is too long for one packet loses its end, which the client then asks for.
  private static func packet(_ reply: Reply, number: UInt64) throws(PatchbayError) -> [UInt8] {
    var packet = Frame.encode(reply, request: number)
    guard packet.count > Frame.byteLimit else { return packet }
    if case .list(var page) = reply {
      page.hasMore = true
      while packet.count > Frame.byteLimit && page.blobs.count > 1 {
        let kept = page.blobs.count * Frame.byteLimit / packet.count
        page.blobs.removeLast(page.blobs.count - max(1, min(kept, page.blobs.count - 1)))
        packet = Frame.encode(.list(page), request: number)
      }
      return packet
    }
    throw PatchbayError(
      .limitReached,
      "A reply of \(packet.count) bytes does not fit a packet of \(Frame.byteLimit).")
  }

  /// Opens what goes with a message of this connection.
  func opener(_ connection: Connection) -> Connection.Opener {
    { (sources) throws(PatchbayError) in try self.open(sources, for: connection) }
  }

  private func open(
    _ sources: [DescriptorSource], for connection: Connection
  ) throws(PatchbayError) -> OwnedDescriptors {
    let descriptors = OwnedDescriptors()
    for source in sources {
      switch source {
      case .clientTable(_, let clientID):
        let table = try ClientTable.create(clientID: clientID)
        noteTable(connection, try table.duplicate())
        descriptors.add(table)
      case .peerTable(let session): descriptors.add(try peerTable(session))
      case .ring(let ring, let isWritable):
        descriptors.add(try rings.open(ring, isWritable: isWritable))
      case .board(let board): descriptors.add(try boards.boardDescriptor(board))
      case .doorbells(let board): descriptors.add(try boards.bellsDescriptor(board))
      case .container(let generation): descriptors.add(try openContainer(generation))
      case .scratch(let generation, let index):
        descriptors.add(try openScratch(generation, index))
      case .file(let generation): descriptors.lend(try imports.descriptor(of: generation))
      }
    }
    return descriptors
  }

  /// From the moment a ring is granted the ledger waits for the process's end before it gives the
  /// memory back, whether the grant arrives or not: so the process must be watched.
  private func noteGrant(_ sources: [DescriptorSource], _ connection: Connection) {
    for case .ring in sources { connection.holdsRing = true }
  }

  private func noteTable(_ connection: Connection, _ table: consuming Descriptor) {
    if !connection.holdsTable { clientTableCount += 1 }
    connection.table = consume table
  }

  private func peerTable(_ session: SessionID) throws(PatchbayError) -> Descriptor {
    guard let table = try connections[session]?.readOnlyTable() else {
      throw PatchbayError(.closed, "The subscriber whose table was asked for has gone.")
    }
    return table
  }

  // MARK: Reports

  private func report(
    _ session: SessionID, number: UInt64, _ kind: ReportKind, _ blobs: [BlobReport]
  ) {
    let placed = blobs.map { ($0, place($0.liveExtents)) }
    let fill: @Sendable () -> [BlobInfo] = { placed.map { RingLook.fill($0.0, $0.1) } }
    if blobs.reduce(0, { $0 + $1.liveExtents.count }) <= Self.inlineLookCount {
      finish(.report(session, number: number, kind, fill()))
    } else if !inspector.submit({ .report(session, number: number, kind, fill()) }) {
      finish(.report(session, number: number, kind, blobs.map(\.info)))
    }
  }

  func place(_ extents: [ExtentRecord]) -> [PlacedExtent] {
    extents.map { PlacedExtent(extent: $0, place: rings[$0.ring]) }
  }

  private func explain(
    _ session: SessionID, number: UInt64, _ situation: BlobSituation, _ figures: LiveFigures?
  ) {
    guard let figures else { return finish(.situation(session, number: number, situation)) }
    let report = figures.report
    var situation = situation
    situation.sleepingClasses = figures.slot.map(boards.sleepingClasses) ?? 0
    for place in figures.positions {
      guard
        let position = connections[place.session]?.position(
          place.entry, of: report.info.generation)
      else { continue }
      let others = situation.subscribers[place.subscriber].position ?? .max
      situation.subscribers[place.subscriber].position = min(others, position)
    }
    let extents = place(report.liveExtents)
    let fill: @Sendable () -> BlobSituation = { [situation] in
      var filled = situation
      filled.info = RingLook.fill(report, extents)
      return filled
    }
    if extents.count <= Self.inlineLookCount {
      finish(.situation(session, number: number, fill()))
    } else if !inspector.submit({ .situation(session, number: number, fill()) }) {
      situation.info = report.info
      finish(.situation(session, number: number, situation))
    }
  }

  /// How far blobs are, as their rings say; found out here or elsewhere.
  private func sample(_ blobs: [BlobReport]) {
    let placed = blobs.map { ($0, place($0.liveExtents)) }
    let look: @Sendable () -> [BlobSample] = {
      placed.map { report, extents in
        let info = RingLook.fill(report, extents)
        return BlobSample(
          generation: info.generation, frontier: info.frontier,
          coveredByteCount: info.coveredByteCount)
      }
    }
    if blobs.reduce(0, { $0 + $1.liveExtents.count }) <= Self.inlineLookCount {
      submit(.sampled(look()))
    } else if !inspector.submit({ .samples(look()) }) {
      submit(.sampled([]))
    }
  }

  // MARK: Rings and boards

  private func createRing(_ ring: RingID, index: Int, dataByteCount: Int, hasMap: Bool) {
    do throws(PatchbayError) {
      try journal.reserveRing(ring)
      let order = try rings.order(
        ring, dataByteCount: dataByteCount, hasMap: hasMap, use: RingUse(number: 1, index: index))
      if dataByteCount <= Self.inlineRingByteCount {
        let made = order.fill()
        guard isShortForNow(made), submitOrder(order) else { return finish(.ring(ring, made)) }
      } else if !submitOrder(order) {
        finish(.ring(ring, .failure(busy)))
      }
    } catch {
      submit(.ringRefused(ring, errno: error.systemErrno ?? 0))
    }
  }

  private func reuseRing(_ ring: RingID, _ use: RingUse) {
    guard let place = rings[ring] else { return submit(.ringRefused(ring, errno: 0)) }
    let renewal = RingRenewal(place: place, use: use)
    if place.geometry.objectByteCount <= Self.inlineRingByteCount {
      finish(.ring(ring, renewal.begin()))
    } else if !maker.submit({ .ring(ring, renewal.begin()) }) {
      finish(.ring(ring, .failure(busy)))
    }
  }

  private func submitOrder(_ order: RingOrder) -> Bool {
    maker.submit { .ring(order.ring, order.fill()) }
  }

  /// Whether there was no memory for a ring while that of others, which the ledger counts no more,
  /// is still being given back: made behind them, it may have room.
  private func isShortForNow(_ made: Result<RingPlace, PatchbayError>) -> Bool {
    guard rings.hasLeaving, case .failure(let error) = made else { return false }
    return error.systemErrno == ENOSPC
  }

  var busy: PatchbayError {
    PatchbayError(
      .limitReached,
      "The broker has \(jobLimit) jobs on large rings waiting, the most it takes. Wait for some of "
        + "their answers, then try again.", systemErrno: EAGAIN)
  }

  /// - Parameter givesBack: nobody needs what it holds, though somebody may have it mapped.
  private func unlink(_ ring: RingID, givesBack: Bool) {
    guard let place = rings.beginUnlink(ring) else { return }
    let unlink: @Sendable () -> WorkResult = {
      // Whoever meddled with the ring has its memory; the rest of this holds all the same.
      if givesBack { try? SharedObject.giveBack(place.open(isWritable: true)) }
      // A name that is gone already is no failure, and no other can be mended here.
      try? SharedObject.unlink(name: place.name)
      return .unlinked(ring)
    }
    // Giving the pages back takes long, too. Large rings asked for later are made after that.
    if place.geometry.objectByteCount <= Self.inlineRingByteCount || !maker.submit(unlink) {
      finish(unlink())
    }
  }

  private func createBoard(_ board: UInt32) {
    do throws(PatchbayError) {
      try boards.create(board)
      // The ledger had set this much aside; it learns that it is taken before it learns by what.
      reportRoom()
      submit(.boardCreated(board))
    } catch {
      submit(.boardRefused(board, errno: error.systemErrno ?? 0))
    }
  }

  private func inspect(
    _ inspection: InspectionID, _ extents: [ExtentRecord], _ onDisk: ExtentsOnDisk,
    _ plan: ExtentPlan, isWindow: Bool, byteCount: Int
  ) {
    let placed = PlacedBlob(
      plan: plan, extents: place(extents), spooled: onDisk.whole,
      scratch: openScratches(onDisk, plan, upTo: byteCount))
    let look: @Sendable () -> WorkResult = {
      .coverage(
        inspection, RingLook.coverage(placed, isWindow: isWindow, byteCount: byteCount))
    }
    if onDisk.scratch.isEmpty,
      extents.reduce(0, { $0 + $1.dataByteCount }) <= Self.inlineRingByteCount
    {
      finish(look())
    } else if !inspector.submit(look) {
      finish(.coverage(inspection, .failure(busy)))
    }
  }

  /// - Parameter retracting: no reader is to take anything from the sources any more.
  private func copy(_ copy: CopyID, _ pairs: [ExtentCopy], retracting: Bool = false) {
    let placed = pairs.map {
      PlacedCopy(pair: $0, source: rings[$0.source.ring], target: rings[$0.target.ring])
    }
    let work: @Sendable () -> WorkResult = {
      .copied(copy, RingLook.copy(placed, retracting: retracting))
    }
    if pairs.reduce(0, { $0 + $1.source.dataByteCount }) <= Self.inlineRingByteCount {
      finish(work())
    } else if !maker.submit(work) {
      finish(.copied(copy, busy))
    }
  }

  /// Finds out which extents are covered throughout; here or elsewhere.
  private func survey(
    _ generation: Generation, _ extents: [ExtentRecord], _ plan: ExtentPlan, byteCount: Int?
  ) {
    let placed = place(extents)
    let look: @Sendable () -> WorkResult = {
      .surveyed(generation, RingLook.complete(placed, plan, byteCount: byteCount))
    }
    if extents.reduce(0, { $0 + $1.dataByteCount }) <= Self.inlineRingByteCount {
      finish(look())
    } else if !inspector.submit(look) {
      finish(.surveyed(generation, .failure(busy)))
    }
  }

  /// How much of a blob is covered, as its rings say.
  private func measure(_ report: BlobReport) {
    let extents = place(report.liveExtents)
    let look: @Sendable () -> WorkResult = {
      .measured(report.info.generation, RingLook.fill(report, extents).coveredByteCount)
    }
    if extents.count <= Self.inlineLookCount || !inspector.submit(look) { finish(look()) }
  }

  /// Takes what a worker, or the loop itself, has finished.
  func finish(_ result: WorkResult) {
    switch result {
    case .ring(let ring, let made):
      rings.settle(ring, made)
      switch made {
      case .success(let place): submit(.ringCreated(ring, inode: place.inode))
      case .failure(let error): submit(.ringRefused(ring, errno: error.systemErrno ?? 0))
      }
    case .unlinked(let ring): rings.endUnlink(ring)
    case .spilled(let generation, let result): submit(.spilled(generation, result))
    case .extentPersisted(let order, let next): persist(order, from: next)
    case .containerReady(let order, let container): keep(order, container)
    case .adopted(let copy, let result): submit(.adopted(copy, result))
    case .restored(let ring, let error): submit(.restored(ring, error))
    case .persisted(let generation, let result): submit(.persisted(generation, result))
    case .surveyed(let generation, let complete): submit(.surveyed(generation, complete))
    case .measured(let generation, let count):
      submit(.measured(generation, coveredByteCount: count))
    case .samples(let samples): submit(.sampled(samples))
    case .containersRemoved: break
    case .digested(let generation, let state, let result): digested(generation, state, result)
    case .situation(let session, let number, let situation):
      deliver(.why(situation), [], to: session, number: number)
    case .coverage(let inspection, let coverage): submit(.inspected(inspection, coverage))
    case .copied(let copy, let error): submit(.copied(copy, error))
    case .report(let session, let number, .info, let infos):
      if let info = infos.first { deliver(.info(info), [], to: session, number: number) }
    case .report(let session, let number, .list(let hasMore), let infos):
      deliver(
        .list(ListPage(blobs: infos, hasMore: hasMore)), [], to: session, number: number)
    }
  }

  // MARK: The journal

  private func record(_ record: BlobRecord) {
    let inodes = record.extents.map { rings[$0.ring]?.inode ?? 0 }
    keep { () throws(PatchbayError) in
      try journal.record(
        JournaledBlob(
          record: record, inodes: inodes,
          filePath: record.file == nil ? nil : imports.path(of: record.info.generation)))
    }
  }

  private func record(_ record: ClientRecord) {
    let startTime = pb_process_start_time(record.peer.process)
    keep { () throws(PatchbayError) in
      try journal.record(JournaledClient(record: record, startTime: startTime))
    }
  }

  /// The reply that would promise a record which could not be written does not leave.
  private func keep(_ change: () throws(PatchbayError) -> Void) {
    do throws(PatchbayError) {
      try change()
    } catch {
      lostRecord = error
      refusals.warn("A record was not kept: \(error.message)")
    }
  }
}
