// The picture of the written ranges, and the order that makes it interesting.

import PatchbayTypes
import Testing

@testable import PatchbayCLI

@Suite struct PictureTests {
  @Test func `cells are shaded by how much of them is written`() {
    let picture = WrittenPicture(
      [0..<4, 5..<6, 8..<10, 12..<15], byteCount: 20, columnCount: 5, rowLimit: 1)
    #expect(
      picture.lines == [
        "0 B  █░▒▓·",
        "10 B of 20 B written, 50 %, in 4 ranges; frontier 4 B",
        "one character is 4 B: · nothing  ░▒▓ in part  █ written",
      ])
  }

  @Test func `rows begin with their positions, aligned`() {
    let picture = WrittenPicture([1024..<2048], byteCount: 3072, columnCount: 4, rowLimit: 3)
    #expect(
      Array(picture.lines.prefix(3)) == [
        "     0 B  ····",
        "1.00 KiB  ████",
        "2.00 KiB  ····",
      ])
    #expect(picture.frontier == 0)
  }

  @Test func `a length that no cell divides ends in a smaller cell`() {
    let picture = WrittenPicture([0..<7], byteCount: 7, columnCount: 4, rowLimit: 1)
    #expect(picture.cellByteCount == 2)
    #expect(picture.lines[0] == "0 B  ████")
  }

  @Test func `an empty blob is an empty row, all written`() {
    let picture = WrittenPicture([], byteCount: 0, columnCount: 4, rowLimit: 2)
    #expect(picture.lines[0] == "0 B  ")
    #expect(picture.lines[1] == "0 B of 0 B written, 100 %, in 0 ranges; frontier 0 B")
  }

  @Test func `of an unknown length there is no percent`() {
    let picture = WrittenPicture([0..<4], byteCount: nil, columnCount: 4, rowLimit: 1)
    #expect(picture.lines[1] == "4 B of unknown length written, in 1 range; frontier 4 B")
  }

  @Test func `a nearly written cell is not shown as written`() {
    let picture = WrittenPicture([0..<999], byteCount: 1000, columnCount: 1, rowLimit: 1)
    #expect(picture.lines[0] == "0 B  ▓")
  }

  @Test(arguments: [(0, 4), (1, 4), (4, 4), (10, 4), (1000, 7)])
  func `shuffled blocks are all blocks once`(byteCount: Int, blockByteCount: Int) throws {
    let blocks = try BlockOrder(byteCount, blockByteCount, seed: 7).blocks
    let sorted = blocks.sorted { $0.lowerBound < $1.lowerBound }
    var end = 0
    for block in sorted {
      #expect(block.lowerBound == end && !block.isEmpty && block.count <= blockByteCount)
      end = block.upperBound
    }
    #expect(end == byteCount)
  }

  @Test func `a seed stands for one order`() throws {
    let first = try BlockOrder(100, 1, seed: 1).blocks
    #expect(try BlockOrder(100, 1, seed: 1).blocks == first)
    #expect(try BlockOrder(100, 1, seed: 2).blocks != first)
    #expect(try BlockOrder(8, 1, seed: 1).blocks.map(\.lowerBound) == [4, 3, 2, 7, 5, 6, 0, 1])
  }

  @Test func `too many blocks are refused before they are listed`() {
    #expect(throws: PatchbayError.self) { try BlockOrder(1 << 40, 1, seed: 1) }
  }
}
