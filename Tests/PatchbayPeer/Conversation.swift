// A client that does what its standard input says, a line at a time, and answers each with a line:
// `ok ...` or `error CODE MESSAGE | CAUSE`. Contents are the oracle's, so it checks what it reads.

import CPatchbaySystem
import Glibc
import Patchbay
import PatchbayTestSupport

final class Conversation {
  private var client: PatchbayClient?
  var publishers: [String: Publisher] = [:]
  var claims: [String: RangeClaim] = [:]
  var vandal: Vandal?
  var importUnderWay: ImportUnderWay?
  private var subscribers: [String: Subscriber] = [:]
  private var leases: [Lease] = []
  /// Those that hold a publisher already.
  private var cursors: [String: SubscriberCursor] = [:]

  func run() {
    while let line = readLine() {
      let words = line.split(separator: " ").map(String.init)
      guard let verb = words.first else { continue }
      if verb == "exit" { return }
      do {
        say("ok \(try perform(verb, Array(words.dropFirst())))")
      } catch let error as PatchbayError {
        say("error \(error.code) \(error.message) | \(error.cause ?? "")")
      } catch {
        say("error harness \(error)")
      }
    }
  }

  private func perform(_ verb: String, _ words: [String]) throws -> String {
    switch verb {
    case "connect":
      client = try PatchbayClient(socketPath: try word(words, 0))
      return "\(getpid())"
    case "hangUp":
      // The process stays, with whatever it has mapped: only the connection ends.
      _ = shutdown(connectionDescriptor(), Int32(SHUT_RDWR))
      return ""
    case "publish", "write", "append", "batch", "loan", "patchwork", "seal", "fail", "missing",
      "zeros", "oracle", "drop":
      return try publish(verb, words)
    case "create", "share", "takeOver", "join", "leave", "claim", "unclaim", "patches", "sample",
      "openOrCreate", "zeroPatch":
      return try patch(verb, words)
    case "vandal", "act": return try vandalise(verb, words)
    case "reopen": return reopen()
    case "imports": return try importFiles(words)
    case "importWhile": return try importWhileChanging(words)
    case "sendDescriptor": return try sendDescriptor(words)
    case "importOutcome": return try importOutcome()
    case "harass": return try harass(words)
    case "threads": return try writeFromThreads(words)
    case "waiters": return try startWaiters(words)
    case "inline":
      let (count, size) = (try number(words, 1), try number(words, 2))
      let bytes = [UInt8](repeating: 7, count: size)
      for index in 0..<count {
        try connected().publish(bytes, as: try BlobKey("\(try word(words, 0))\(index)"))
      }
      return ""
    default: return try subscribe(verb, words)
    }
  }

  /// The only socket of this process.
  func connectionDescriptor() -> Int32 {
    var information = stat()
    return (3..<64).first {
      fstat($0, &information) == 0 && information.st_mode & S_IFMT == S_IFSOCK
    } ?? -1
  }

  // MARK: Arguments

  func word(_ words: [String], _ index: Int) throws -> String {
    guard index < words.count else { throw HarnessError("argument \(index) is missing") }
    return words[index]
  }

  func number(_ words: [String], _ index: Int) throws -> Int {
    guard let number = Int(try word(words, index)) else {
      throw HarnessError("argument \(index) is no number")
    }
    return number
  }

  /// Milliseconds; missing: never.
  private func deadline(_ words: [String], _ index: Int) throws -> Deadline {
    index < words.count ? .after(.milliseconds(try number(words, index))) : .never
  }

  func connected() throws -> PatchbayClient {
    guard let client else { throw HarnessError("not connected") }
    return client
  }

  func publisher(_ words: [String]) throws -> Publisher {
    guard let publisher = publishers[try word(words, 0)] else { throw HarnessError("no publisher") }
    return publisher
  }

  private func subscriber(_ words: [String]) throws -> Subscriber {
    guard let subscriber = subscribers[try word(words, 0)] else {
      throw HarnessError("no subscriber")
    }
    return subscriber
  }

  // MARK: Publishing: the first argument is the key

  private func publish(_ verb: String, _ words: [String]) throws -> String {
    if verb == "publish" { return try create(words) }
    let publisher = try publisher(words)
    let generation = publisher.generation.rawValue
    switch verb {
    case "write":
      let start = try number(words, 1)
      let bytes = oracleBytes(generation, start..<start + (try number(words, 2)))
      return "\(try publisher.write(bytes, at: start, skippingCovered: words.count > 3))"
    case "append":
      let end = publisher.position
      try publisher.append(oracleBytes(generation, end..<end + (try number(words, 1))))
    case "oracle":
      // A whole stream at full speed, marked every so many bytes.
      let (total, piece) = (try number(words, 1), try number(words, 2))
      while publisher.position < total {
        try publisher.mark()
        let end = publisher.position
        try publisher.append(oracleBytes(generation, end..<min(total, end + piece)))
      }
    case "zeros":
      // For lengths at which making the oracle's bytes would be the whole time.
      let bytes = [UInt8](repeating: 0, count: try number(words, 1))
      for _ in 0..<(words.count > 2 ? try number(words, 2) : 1) { try publisher.append(bytes) }
    case "batch":
      let size = try number(words, 2)
      try publisher.withBatch {
        for _ in 0..<(try number(words, 1)) {
          let end = publisher.position
          try publisher.append(oracleBytes(generation, end..<end + size))
        }
      }
    case "loan":
      var loan = try publisher.loan(byteCount: try number(words, 1))
      let bytes = oracleBytes(generation, loan.position..<loan.position + loan.byteCount)
      loan.withBytes { place in for index in place.indices { place[index] = bytes[index] } }
      let lent = loan.byteCount
      loan.commit(byteCount: min(lent, try number(words, 2)))
      return "\(lent)"
    case "patchwork": return try patchwork(publisher, words)
    case "seal":
      try publisher.seal()
      publishers[try word(words, 0)] = nil
    case "fail": try publisher.fail(words.dropFirst().joined(separator: " "))
    case "missing": return "\(try publisher.missing().map { "\($0)" }.joined(separator: ","))"
    default: publishers[try word(words, 0)] = nil
    }
    return ""
  }

  /// `publish KEY LENGTH|- any|append|backpressure|dropOldest [replace] [RING SEGMENT SLOWEST]
  /// [mode=644]`: the sizes in bytes and the patience in milliseconds of a window.
  private func create(_ words: [String]) throws -> String {
    var options = BlobOptions(byteCount: Int(try word(words, 1)))
    options.order = try word(words, 2) == "any" ? .any : .appendOnly
    options.replaces = words.count > 3 && words[3] == "replace"
    if words.last == "mode=644" { options.mode = 0o644 }
    if let policy = FlowPolicy.allCases.first(where: { "\($0)" == words[2] }) {
      options.policy = policy
      options.ringByteCount = try number(words, 3)
      options.segmentByteCount = try number(words, 4)
      options.slowestLimit = .milliseconds(try number(words, 5))
    }
    let key = try BlobKey(percentEncoded: try word(words, 0))
    let publisher = try connected().publisher(key, options)
    publishers[try word(words, 0)] = publisher
    return "\(publisher.generation)"
  }

  /// `patchwork KEY LOW HIGH LARGEST SEED [COUNT]`: ragged ranges that fill [LOW, HIGH), in a
  /// random order; only the first COUNT of them.
  private func patchwork(_ publisher: Publisher, _ words: [String]) throws -> String {
    let (low, high) = (try number(words, 1), try number(words, 2))
    let largest = try number(words, 3)
    var random = SeededRandom(seed: UInt64(try number(words, 4)))
    var ranges: [Range<Int>] = []
    var at = low
    while at < high {
      let end = min(high, at + Int.random(in: 1...largest, using: &random))
      ranges.append(at..<end)
      at = end
    }
    ranges.shuffle(using: &random)
    let count = words.count > 5 ? try number(words, 5) : ranges.count
    for range in ranges.prefix(count) {
      try publisher.write(
        oracleBytes(publisher.generation.rawValue, range), at: range.lowerBound)
    }
    return "\(ranges.count)"
  }

  /// `threads KEY COUNT BYTES SEED`: every thread writes every range, skipping what is covered.
  private func writeFromThreads(_ words: [String]) throws -> String {
    let publisher = try publisher(words)
    let count = try number(words, 2)
    let seed = UInt64(try number(words, 3))
    let threads = (0..<(try number(words, 1))).map { thread in
      TestThread {
        var ranges = raggedRanges(count, seed: seed)
        var random = SeededRandom(seed: seed &+ UInt64(thread))
        ranges.shuffle(using: &random)
        for range in ranges {
          let bytes = oracleBytes(publisher.generation.rawValue, range)
          _ = try? publisher.write(bytes, at: range.lowerBound, skippingCovered: true)
        }
      }
    }
    for thread in threads { thread.join() }
    return ""
  }

  // MARK: Subscribing: the first argument is the key

  private func subscribe(_ verb: String, _ words: [String]) throws -> String {
    switch verb {
    case "open":
      let key = try BlobKey(percentEncoded: try word(words, 0))
      let subscriber = try connected().open(
        key, waitUntil: words.count > 1 ? .after(.milliseconds(try number(words, 1))) : nil)
      subscribers[try word(words, 0)] = subscriber
      return "\(subscriber.generation) \(subscriber.state) \(subscriber.byteCount ?? -1)"
    case "openMany":
      let prefix = try word(words, 0)
      for index in 0..<(try number(words, 1)) {
        let key = try BlobKey("\(prefix)\(index)")
        subscribers["\(prefix)\(index)"] = try connected().open(key)
      }
      return ""
    case "attach":
      let cursor = try subscriber(words).cursor()
      try cursor.attach()
      cursors[try word(words, 0)] = cursor
      return ""
    case "resume": return try resume(words)
    case "read", "try", "full", "stream", "count": return try read(verb, words)
    case "lease":
      let range = try number(words, 1)..<(try number(words, 2))
      let lease = try subscriber(words).lease(range, deadline: .after(.seconds(30)))
      leases.append(lease)
      return try checkLeases()
    case "checkLeases": return try checkLeases()
    case "unlease":
      leases = []
      return ""
    case "whole":
      let subscriber = try subscriber(words)
      return try subscriber.withWholeBlob(deadline: .after(.seconds(60))) { bytes in
        try check(bytes, subscriber, at: 0)
        return "\(bytes.count)"
      }
    case "close":
      subscribers[try word(words, 0)] = nil
      return ""
    case "remove":
      try connected().remove(try BlobKey(percentEncoded: try word(words, 0)))
      return ""
    default: throw HarnessError("unknown verb \(verb)")
    }
  }

  private func check(_ bytes: Span<UInt8>, _ subscriber: Subscriber, at position: Int) throws {
    if let wrong = firstWrong(bytes, subscriber.generation.rawValue, at: position) {
      throw HarnessError("WRONG BYTE at \(wrong) of \(subscriber.key)")
    }
  }

  private func checkLeases() throws -> String {
    for lease in leases {
      try lease.withBytes { bytes in
        let generation = UInt64(leaseGeneration)
        if let wrong = firstWrong(bytes, generation, at: lease.range.lowerBound) {
          throw HarnessError("WRONG BYTE at \(wrong) of a lease")
        }
      }
    }
    return "\(leases.count)"
  }

  /// All leases of a conversation are of one blob, opened last.
  private var leaseGeneration: UInt64 { subscribers.values.first?.generation.rawValue ?? 0 }

  private func read(_ verb: String, _ words: [String]) throws -> String {
    let subscriber = try subscriber(words)
    switch verb {
    case "read":
      let position = try number(words, 1)
      let bytes = try subscriber.read(
        upTo: try number(words, 2), at: position, deadline: deadline(words, 3))
      guard let bytes else { return "end" }
      try check(bytes.span, subscriber, at: position)
      return "\(bytes.count)"
    case "try":
      let position = try number(words, 1)
      var outcome = ReadOutcome.wouldBlock
      let bytes = try [UInt8](capacity: try number(words, 2)) { output in
        outcome = try subscriber.tryRead(into: &output, at: position)
      }
      try check(bytes.span, subscriber, at: position)
      return "\(outcome)"
    case "full":
      let range = try number(words, 1)..<(try number(words, 2))
      let bytes = try subscriber.readFully(range, deadline: deadline(words, 3))
      try check(bytes.span, subscriber, at: range.lowerBound)
      return "\(bytes.count)"
    case "count":
      var cursor = subscriber.cursor(from: try number(words, 1))
      while try cursor.read(upTo: 1 << 20) != nil {}
      return "\(cursor.position)"
    default: return try stream(subscriber, from: try number(words, 1))
    }
  }

  /// `harass KEY BYTES MILLISECONDS`: reads a blob of so many bytes again and again for a while, in
  /// every way there is, and answers `RIGHT WRONG ERRORS`, each a count of reads; other codes than
  /// those that a harmed blob may have end it.
  private func harass(_ words: [String]) throws -> String {
    let key = try BlobKey(percentEncoded: try word(words, 0))
    let client = try connected()
    let opened: Subscriber
    do throws(PatchbayError) {
      opened = try client.open(key)
    } catch {
      guard error.code == .corrupt else { throw error }
      return "0 0 1"
    }
    let size = try number(words, 1)
    let until = ContinuousClock.now + .milliseconds(try number(words, 2))
    var random = SeededRandom(seed: 1)
    var (right, wrong, errors) = (0, 0, 0)
    repeat {
      let start = Int.random(in: 0..<size, using: &random)
      let range = start..<Int.random(in: start...size, using: &random)
      do throws(PatchbayError) {
        let isRight = try read(opened, range, way: Int.random(in: 0..<4, using: &random))
        if isRight { right += 1 } else { wrong += 1 }
      } catch {
        guard [.corrupt, .timedOut, .blobFailed, .removed, .abandoned].contains(error.code) else {
          throw error
        }
        errors += 1
      }
    } while ContinuousClock.now < until
    return "\(right) \(wrong) \(errors)"
  }

  private func read(
    _ subscriber: Subscriber, _ range: Range<Int>, way: Int
  ) throws(PatchbayError) -> Bool {
    let generation = subscriber.generation.rawValue
    let deadline = Deadline.after(.milliseconds(20))
    switch way {
    case 0:
      let bytes = try subscriber.readFully(range, deadline: deadline)
      return firstWrong(bytes.span, generation, at: range.lowerBound) == nil
    case 1:
      let lease = try subscriber.lease(range, deadline: deadline)
      return lease.withBytes { firstWrong($0, generation, at: range.lowerBound) == nil }
    case 2:
      _ = try subscriber.writtenRanges()
      return true
    default:
      let bytes = try subscriber.read(
        upTo: range.count, at: range.lowerBound, deadline: deadline)
      return bytes.map { firstWrong($0.span, generation, at: range.lowerBound) == nil } ?? true
    }
  }

  /// `resume KEY RECORD`: reads records to the end and goes on at a mark after each overrun; how many
  /// records came, and how many overruns.
  private func resume(_ words: [String]) throws -> String {
    let subscriber = try subscriber(words)
    let size = try number(words, 1)
    var cursor = try subscriber.cursor(from: .live)
    var (records, overruns) = (0, 0)
    while true {
      do throws(PatchbayError) {
        let start = cursor.position
        guard let record = try readRecord(&cursor, size) else { break }
        guard start % size == 0 else { return "TORN at \(start)" }
        if let wrong = firstWrong(record.span, subscriber.generation.rawValue, at: start) {
          return "WRONG BYTE at \(wrong)"
        }
        records += 1
      } catch {
        guard error.code == .overrun, let position = error.resumePosition else { throw error }
        overruns += 1
        try cursor.seek(to: .start, offset: position)
      }
    }
    return "\(records) \(overruns)"
  }

  /// Nil at the end.
  private func readRecord(
    _ cursor: inout SubscriberCursor, _ size: Int
  ) throws(PatchbayError) -> [UInt8]? {
    var record: [UInt8] = []
    while record.count < size {
      guard let bytes = try cursor.read(upTo: size - record.count) else { return nil }
      record += bytes
    }
    return record
  }

  /// Reads to the end; says where it was when it failed.
  private func stream(_ subscriber: Subscriber, from position: Int) throws -> String {
    var cursor =
      cursors.removeValue(forKey: "\(subscriber.key)") ?? subscriber.cursor(from: position)
    do throws(PatchbayError) {
      while let bytes = try cursor.read(upTo: 1 << 18) {
        if let wrong = firstWrong(
          bytes.span, subscriber.generation.rawValue, at: cursor.position - bytes.count)
        {
          return "WRONG BYTE at \(wrong)"
        }
      }
    } catch {
      throw PatchbayError(error.code, "at \(cursor.position): \(error.message)", cause: error.cause)
    }
    return "\(cursor.position - position)"
  }

  // MARK: Many waiters

  /// `waiters KEY COUNT SIZE`: a thread per range [i x SIZE, (i + 1) x SIZE), each waits for its
  /// own and prints `range i`.
  private func startWaiters(_ words: [String]) throws -> String {
    let subscriber = try subscriber(words)
    let size = try number(words, 2)
    for index in 0..<(try number(words, 1)) {
      let thread = TestThread {
        let range = index * size..<(index + 1) * size
        let bytes = try? subscriber.readFully(range)
        let isRight =
          bytes.map {
            firstWrong($0.span, subscriber.generation.rawValue, at: range.lowerBound) == nil
          }
        say("range \(index) \(isRight == true ? "right" : "WRONG")")
      }
      waiterThreads.append(thread)
    }
    return ""
  }

  private var waiterThreads: [TestThread] = []
}
