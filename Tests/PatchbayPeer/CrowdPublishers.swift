// The two publishers of a crowd. Each tells the test of every blob whose seal was answered, with a line
// `sealed KEY GENERATION BYTES`: from then on the blob must be there, whatever dies.

import Glibc
import Patchbay
import PatchbayTestSupport

/// Lets readers and brokers have the processors for a moment, so that the disk does not fill up.
private func breathe(_ random: inout SeededRandom) {
  _ = poll(nil, 0, Int32.random(in: 0...6, using: &random))
}

/// Publishes one blob after another until the test has had enough; an empty one is the last.
func publishMany(
  upTo most: Int, _ seed: UInt64,
  _ publish: (_ number: Int, _ byteCount: Int, inout SeededRandom) throws -> Void
) throws {
  let stopping = Stopping()
  var random = SeededRandom(seed: seed)
  var number = 0
  while !stopping.isSaid {
    try publish(number, Int.random(in: 1...most, using: &random), &random)
    number += 1
  }
  try publish(number, 0, &random)
}

private func saySealed(_ publisher: Publisher, _ byteCount: Int) {
  say("sealed \(publisher.key) \(publisher.generation) \(byteCount)")
}

/// Streams of unknown length, one after another, each followed by a token; now and then a blob that it
/// takes away again.
struct StreamPublisher {
  let client: PatchbayClient

  private var options: BlobOptions {
    var options = BlobOptions(order: .appendOnly)
    options.firstExtentByteCount = 64 << 10
    options.extentByteLimit = 256 << 10
    options.acknowledgement = .retained
    return options
  }

  func publish(_ number: Int, _ byteCount: Int, _ random: inout SeededRandom) throws {
    let publisher = try client.publisher(
      BlobKey("stream/\(number)"), options, deadline: longWait)
    let oracle = PeriodicOracle(publisher.generation.rawValue)
    while publisher.position < byteCount {
      let at = publisher.position
      let most = min(byteCount - at, 40_000)
      try publisher.append(oracle.bytes(at..<at + Int.random(in: 1...most, using: &random)))
      breathe(&random)
    }
    try publisher.seal(deadline: longWait)
    saySealed(publisher, byteCount)
    let token: [UInt8] = byteCount == 0 ? [2, 2] : [1, 1]
    try client.publish(token, as: BlobKey("token/\(number)"), deadline: longWait)
    if byteCount > 0, number % 3 == 0 { try publishAndRemove(number) }
  }

  private func publishAndRemove(_ number: Int) throws {
    let key = try BlobKey("scrap/\(number)")
    let publisher = try client.publisher(key, deadline: longWait)
    let oracle = PeriodicOracle(publisher.generation.rawValue)
    try publisher.write(oracle.bytes(0..<50_000), at: 0)
    try publisher.seal(deadline: longWait)
    try client.remove(key, deadline: longWait)
    guard try !client.exists(key, deadline: longWait) else {
      throw HarnessError("\(key) is there again")
    }
  }
}

/// Blobs of announced length, written in random order; every other one may be joined, and is written
/// under claims.
struct PatchPublisher {
  let client: PatchbayClient

  private func options(_ number: Int, _ byteCount: Int) -> BlobOptions {
    var options = BlobOptions(byteCount: byteCount)
    options.isJoinable = number % 2 == 1
    options.acknowledgement = number % 4 < 2 ? .retained : .durable
    options.firstExtentByteCount = 128 << 10
    options.extentByteLimit = 128 << 10
    return options
  }

  func publish(_ number: Int, _ byteCount: Int, _ random: inout SeededRandom) throws {
    let options = options(number, byteCount)
    let publisher = try client.publisher(
      BlobKey("patch/\(number)"), options, deadline: longWait)
    let oracle = PeriodicOracle(publisher.generation.rawValue)
    for range in Self.cut(byteCount, &random) {
      let claim = options.isJoinable ? try publisher.claim(range, deadline: longWait) : nil
      try publisher.write(oracle.bytes(range), at: range.lowerBound)
      withExtendedLifetime(claim) {}
      breathe(&random)
    }
    try publisher.seal(deadline: longWait)
    saySealed(publisher, byteCount)
  }

  private static func cut(_ count: Int, _ random: inout SeededRandom) -> [Range<Int>] {
    var ranges: [Range<Int>] = []
    var at = 0
    while at < count {
      let end = min(count, at + Int.random(in: 1...40_000, using: &random))
      ranges.append(at..<end)
      at = end
    }
    return ranges.shuffled(using: &random)
  }
}
