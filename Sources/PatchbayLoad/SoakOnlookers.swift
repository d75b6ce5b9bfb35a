// Those of a soak who read little: they are told what becomes of blobs, wait for keys, ask what there is,
// and look whether promises are kept.

import Glibc
import Patchbay

/// Is told what becomes of all blobs, and looks whether that can be.
struct SoakWatcher: SoakWork {
  private let desk: SoakDesk
  private let events: BlobEvents
  private var told: [BlobKey: BlobChange] = [:]

  init(_ desk: SoakDesk) throws {
    self.desk = desk
    let events = try desk.attempt(.watch, "from the start") {
      try desk.client.events(prefix: Array(SoakKind.prefix.utf8), after: .start)
    }
    guard let events else { throw SoakViolation("A watch did not begin.") }
    self.events = events
  }

  mutating func round() throws {
    for _ in 0..<desk.number(1...200) where !desk.isOver {
      let event = try desk.attempt(.watch, "the next event") {
        try events.next(deadline: .after(.seconds(1)))
      }
      switch event {
      // Of all that exists it is told again.
      case .gap: told = [:]
      case .change(let change): try take(change)
      case nil: break
      }
    }
    desk.breathe(milliseconds: 200)
  }

  private mutating func take(_ change: BlobChange) throws {
    let life = try desk.oracle.life(change.key, change.generation)
    if let last = told[change.key] {
      guard Self.mayFollow(change, last) else {
        throw SoakViolation(
          "Of \(life.name) a watcher was told \(change.kind) after \(last.kind) of generation "
            + "\(last.generation).")
      }
    }
    told[change.key] = change
    if change.kind == .sealed || SoakKind(of: change.key)?.announcesLength == true {
      try desk.oracle.checkEnd(of: life, at: change.byteCount ?? 0)
    }
    guard change.coveredByteCount <= life.byteCount, change.frontier <= life.byteCount else {
      throw SoakViolation(
        "Of \(life.name), which has \(life.byteCount) bytes, a watcher was told that "
          + "\(change.coveredByteCount) are there, up to \(change.frontier).")
    }
  }

  /// Whether that can be what became of a key next.
  static func mayFollow(_ change: BlobChange, _ last: BlobChange) -> Bool {
    guard change.generation == last.generation else {
      return change.generation > last.generation
    }
    switch last.kind {
    case .created, .progress, .suspended: return change.kind != .created
    case .sealed: return [.removed, .evicted, .expired].contains(change.kind)
    case .failed: return [.removed, .evicted].contains(change.kind)
    case .removed, .evicted, .expired: return false
    }
  }
}

/// Waits for keys that appear, and reads the first bytes of what does.
struct SoakWaiter: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    let key = try desk.busyKey([.small, .small, .cache, .stream, .kept])
    let opened = try desk.attempt(.open, "\(key), when it appears") {
      try desk.client.open(key, waitUntil: .never)
    }
    guard let opened else { return desk.breathe(milliseconds: 50) }
    let life = try desk.oracle.life(key, opened.generation)
    let first = try desk.attempt(.read, "the first bytes of \(life.name)") {
      try opened.read(upTo: 1000, at: 0)
    }
    guard let first else { return }
    guard let first else { return try desk.oracle.checkEnd(of: life, at: 0) }
    try desk.check(first.span, of: life, at: 0)
  }
}

/// Asks the broker for this and that.
struct SoakOnlooker: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    switch desk.number(0...3) {
    case 0: try list()
    case 1: try ask(try desk.anyKey())
    case 2: try observe(try desk.anyKey())
    default: try tellFigures()
    }
    desk.breathe(milliseconds: 20)
  }

  private func tellFigures() throws {
    let process = desk.client.brokerProcess
    let figures = try desk.attempt(.look, "the figures") { try desk.client.statistics() }
    guard let figures, process == desk.client.brokerProcess else { return }
    desk.voice.say(
      "figures",
      [
        "broker": String(process), "spills": String(figures.spillCount),
        "restores": String(figures.restoreCount), "evictions": String(figures.evictionCount),
        "reuses": String(figures.reuseCount), "rescues": String(figures.rescuedWaitCount),
      ])
  }

  private func list() throws {
    var last: BlobKey?
    var hasMore = true
    while hasMore, !desk.isOver {
      let page = try desk.attempt(.look, "a page of the list") {
        try desk.client.list(after: last, limit: desk.number(1...60))
      }
      guard let page else { return }
      for blob in page.blobs { try check(blob) }
      guard last.map({ last in page.blobs.allSatisfy { $0.key > last } }) ?? true else {
        throw SoakViolation("A listing goes back behind \(last.map { "\($0)" } ?? "").")
      }
      (last, hasMore) = (page.blobs.last?.key ?? last, page.hasMore)
    }
  }

  private func ask(_ key: BlobKey) throws {
    let blob = try desk.attempt(.look, "\(key)") { try desk.client.info(key) }
    if let blob { try check(blob) }
    _ = try desk.attempt(.look, "who waits for \(key)") { try desk.client.situation(of: key) }
  }

  private func check(_ blob: BlobInfo) throws {
    let life = try desk.oracle.life(blob.key, blob.generation)
    if blob.state == .sealed { try desk.oracle.checkEnd(of: life, at: blob.byteCount ?? 0) }
    guard blob.coveredByteCount <= life.byteCount, blob.frontier <= life.byteCount else {
      throw SoakViolation(
        "Of \(life.name), which has \(life.byteCount) bytes, \(blob.coveredByteCount) are said to "
          + "be there, up to \(blob.frontier).")
    }
  }

  private func observe(_ key: BlobKey) throws {
    let observer = try desk.attempt(.look, "what is written of \(key)") {
      try desk.client.observe(key)
    }
    guard let observer else { return }
    let life = try desk.oracle.life(key, observer.generation)
    let ranges = try desk.attempt(.look, "what is written of \(life.name)") {
      try observer.writtenRanges()
    }
    guard let end = ranges?.last?.upperBound, end > life.byteCount else { return }
    throw SoakViolation("\(life.name) is written up to \(end) of \(life.byteCount) bytes.")
  }
}

/// Looks whether a promise is kept.
enum SoakAudit {
  /// Why it is not; nil: it is.
  /// - Throws: `noBroker`; what the oracle finds.
  static func complaint(
    about promise: SoakPromises.Promise, _ client: PatchbayClient, _ oracle: SoakOracle
  ) throws -> String? {
    do {
      let subscriber = try client.open(try BlobKey(promise.key))
      guard subscriber.generation.rawValue == promise.generation else {
        return "its key has generation \(subscriber.generation)"
      }
      let life = try oracle.life(subscriber.key, subscriber.generation)
      var cursor = subscriber.cursor()
      while true {
        let at = cursor.position
        guard let bytes = try cursor.read(upTo: SoakOracle.longest) else {
          try oracle.checkEnd(of: life, at: at)
          return nil
        }
        try oracle.check(bytes.span, of: life, at: at)
      }
    } catch let error as PatchbayError {
      guard error.code != .noBroker else { throw error }
      return "\(error.code): \(error)"
    }
  }
}

/// Looks at blobs that were promised, as the director orders.
struct SoakAuditor: SoakWork {
  private let desk: SoakDesk
  init(_ desk: SoakDesk) { self.desk = desk }

  mutating func round() throws {
    desk.voice.begin("waits for orders")
    defer { desk.voice.finish() }
    guard let order = desk.voice.takeOrder() else { return desk.breathe(milliseconds: 100) }
    let fields = Fields(line: order)
    let promise = SoakPromises.Promise(
      key: try fields.text("key"), generation: UInt64(try fields.int("generation")),
      byteCount: try fields.int("bytes"))
    let complaint = try desk.attempt(.look, "whether \(promise.key) is kept") {
      try SoakAudit.complaint(about: promise, desk.client, desk.oracle)
    }
    guard let complaint else { return }
    let named: Fields = ["key": promise.key, "generation": String(promise.generation)]
    desk.voice.say(complaint == nil ? "kept" : "lost", named, complaint ?? "")
    if complaint == nil { desk.voice.add(bytes: promise.byteCount) }
  }
}
