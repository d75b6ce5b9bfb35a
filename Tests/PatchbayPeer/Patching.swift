// What a test client does with blobs that several processes write.

import Patchbay
import PatchbayTestSupport

extension Conversation {
  /// The first argument is the key.
  func patch(_ verb: String, _ words: [String]) throws -> String {
    let name = try word(words, 0)
    let key = try BlobKey(percentEncoded: name)
    switch verb {
    case "create":
      let options = try sharedOptions(words)
      return "\(try connected().create(key, options))"
    case "share", "takeOver":
      var options = try sharedOptions(words)
      options.isJoinable = verb == "share"
      options.resumes = verb == "takeOver"
      return try keep(try connected().publisher(key, options), name)
    case "join": return try keep(try connected().join(key), name)
    case "openOrCreate":
      switch try connected().openOrCreate(key) {
      case .existing(let subscriber): return "existing \(subscriber.generation)"
      case .created(let publisher, _): return "created \(try keep(publisher, name))"
      }
    case "leave":
      try publisher(words).leave()
      publishers[name] = nil
    case "claim":
      claims[try word(words, 3)] = try publisher(words).claim(
        try number(words, 1)..<(try number(words, 2)))
    case "unclaim": claims[name] = nil
    case "zeroPatch":
      // Content that no oracle has, so that a reader of another generation would notice it.
      let bytes = [UInt8](repeating: 0, count: try number(words, 2))
      try publisher(words).write(bytes, at: try number(words, 1))
    case "patches": return try writePatches(try publisher(words), words)
    default: return try sample(key, words)
    }
    return ""
  }

  private func keep(_ publisher: Publisher, _ name: String) throws -> String {
    publishers[name] = publisher
    return "\(publisher.generation)"
  }

  /// `VERB KEY LENGTH|- [MILLISECONDS|- [append]]`: the second number is the idle limit.
  private func sharedOptions(_ words: [String]) throws -> BlobOptions {
    var options = BlobOptions(byteCount: Int(try word(words, 1)))
    if words.count > 2, let idle = Int(words[2]) { options.idleLimit = .milliseconds(idle) }
    if words.count > 3 { options.order = .appendOnly }
    return options
  }

  /// `patches KEY LARGEST SEED`: fills the blob with ranges of 1 to LARGEST bytes, cut by this seed
  /// and in its order, whatever others write; a range that another has claimed is tried again later.
  /// Answers `WRITTEN CONFLICTS`.
  private func writePatches(_ publisher: Publisher, _ words: [String]) throws -> String {
    let generation = publisher.generation.rawValue
    var random = SeededRandom(seed: UInt64(try number(words, 2)))
    var ranges = Self.cut(publisher.byteCount ?? 0, try number(words, 1), &random)
    ranges.shuffle(using: &random)
    var (written, conflicts) = (0, 0)
    while !ranges.isEmpty {
      var claimed: [Range<Int>] = []
      for range in ranges {
        guard let claim = try claim(range, publisher) else {
          conflicts += 1
          claimed.append(range)
          continue
        }
        let bytes = oracleBytes(generation, claim.range)
        written += try publisher.write(bytes, at: range.lowerBound, skippingCovered: true)
      }
      ranges = claimed
    }
    return "\(written) \(conflicts)"
  }

  /// Nil when another process has claimed a part of it.
  private func claim(_ range: Range<Int>, _ publisher: Publisher) throws -> RangeClaim? {
    do throws(PatchbayError) {
      return try publisher.claim(range)
    } catch {
      guard error.code == .rangeOverlap else { throw error }
      return nil
    }
  }

  private static func cut(
    _ count: Int, _ largest: Int, _ random: inout SeededRandom
  ) -> [Range<Int>] {
    var ranges: [Range<Int>] = []
    var at = 0
    while at < count {
      let end = min(count, at + Int.random(in: 1...largest, using: &random))
      ranges.append(at..<end)
      at = end
    }
    return ranges
  }

  /// `sample KEY LARGEST SEED COUNT`: reads so many random ranges, waiting for each.
  private func sample(_ key: BlobKey, _ words: [String]) throws -> String {
    let subscriber = try connected().open(key)
    let (largest, end) = (try number(words, 1), subscriber.byteCount ?? 0)
    var random = SeededRandom(seed: UInt64(try number(words, 2)))
    var total = 0
    for _ in 0..<(try number(words, 3)) {
      let start = Int.random(in: 0..<end, using: &random)
      let range = start..<min(end, start + Int.random(in: 1...largest, using: &random))
      let bytes = try subscriber.readFully(range, deadline: .after(.seconds(900)))
      if let wrong = firstWrong(
        bytes.span, subscriber.generation.rawValue, at: range.lowerBound)
      {
        throw HarnessError("WRONG BYTE at \(wrong) of \(key)")
      }
      total += bytes.count
    }
    return "\(total)"
  }
}
