// Scratch files: what was written is read, and of a damaged one never a wrong byte.

import Glibc
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Testing

@testable import PatchbaySpool

@Suite struct ScratchTests {
  private static let shape = ScratchShape(
    generation: Generation(rawValue: 7), index: 3, dataByteCount: 200_704)
  private static let words: [UInt64] = (1...70).map { $0 &* 0x9e37_79b9_7f4a_7c15 }

  private func block(_ number: Int) -> [UInt8] { oracleBytes(9, Self.shape.range(ofBlock: number)) }

  /// A file with the first block and the last.
  private func write(_ shelf: Shelf) throws -> Int {
    let writer = try ScratchWriter(
      in: shelf.directory, name: "s", Self.shape, mapWords: Self.words)
    for number in [0, 3] { try writer.write(block: number, block(number)) }
    return try writer.finish()
  }

  private func open(
    _ shelf: Shelf, _ shape: ScratchShape = Self.shape, limit: Int = 70
  ) throws -> ScratchReader {
    try ScratchReader(
      DiskFile.open(in: shelf.directory, name: "s", isWritable: false), shape, wordLimit: limit)
  }

  private func code(_ body: () throws -> Void) -> PatchbayError.Code? {
    do {
      try body()
      return nil
    } catch { return (error as? PatchbayError)?.code }
  }

  @Test func `blocks and map are read as they were written, and holes take no disk`() throws {
    let shelf = try Shelf()
    #expect(Self.shape.blockCount == 4 && Self.shape.range(ofBlock: 3).count == 4096)
    let byteCount = try write(shelf)
    #expect(byteCount < 2 * 65_536 && byteCount >= 65_536 + 4096)
    let reader = try open(shelf)
    #expect(reader.mapWords == Self.words)
    for number in [0, 3] { #expect(try reader.read(block: number) == block(number)) }
    for number in [1, 2, 4, -1] { #expect(code { _ = try reader.read(block: number) } == .corrupt) }
  }

  @Test func `another extent's file is not taken for this one's`() throws {
    let shelf = try Shelf()
    _ = try write(shelf)
    let shape = Self.shape
    let others = [
      ScratchShape(generation: Generation(rawValue: 8), index: 3, dataByteCount: 200_704),
      ScratchShape(generation: shape.generation, index: 4, dataByteCount: 200_704),
      ScratchShape(generation: shape.generation, index: 3, dataByteCount: 196_608),
    ]
    for other in others { #expect(code { _ = try open(shelf, other) } == .corrupt) }
    #expect(code { _ = try open(shelf, limit: 69) } == .corrupt)
  }

  @Test func `a file of that name is written anew, and who has it open keeps the old one`() throws {
    let shelf = try Shelf()
    _ = try write(shelf)
    let before = try open(shelf)
    let writer = try ScratchWriter(in: shelf.directory, name: "s", Self.shape, mapWords: [])
    _ = try writer.finish()
    #expect(try before.read(block: 0) == block(0))
    #expect(try open(shelf).mapWords == [])
  }

  @Test func `no flipped bit and no truncation gives a wrong byte`() throws {
    let shelf = try Shelf()
    _ = try write(shelf)
    let whole = try readBytes(shelf.file("s"))
    let head = Self.shape.headByteCount(mapWordCount: Self.words.count)
    var random = SeededRandom(seed: 4)
    let data = Self.shape.dataOffset(mapWordCount: Self.words.count)
    let places =
      Array(0..<head * 8)
      + (0..<300).map { _ in
        data * 8 + Int.random(in: 0..<65_536 * 8, using: &random)
      }
    for place in places {
      var bytes = whole
      bytes[place / 8] ^= 1 << UInt8(place % 8)
      try writeFile(shelf.file("s"), bytes)
      check(shelf, isRefused: true, "bit \(place)")
    }
    for length in Array(0...head) + [data, data + 1000, whole.count - 1] {
      try writeFile(shelf.file("s"), Array(whole[..<length]))
      check(shelf, isRefused: true, "\(length) bytes")
    }
    try writeFile(shelf.file("s"), whole)
    check(shelf, isRefused: false, "the whole")
  }

  private func check(_ shelf: Shelf, isRefused: Bool, _ what: String) {
    var refusals = 0
    for number in [0, 3] {
      do {
        #expect(try open(shelf).read(block: number) == block(number), "\(what)")
      } catch {
        #expect((error as? PatchbayError)?.code == .corrupt, "\(what)")
        refusals += 1
      }
    }
    #expect((refusals > 0) == isRefused, "\(what)")
  }
}
