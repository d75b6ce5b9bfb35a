// Containers for tests: their directory, their blob's bytes, and the tool that everybody has.

import Glibc
import PatchbaySpool
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes

/// A directory with containers in it.
final class Shelf: Sendable {
  let path: String
  let directory: Descriptor
  private let temporary: TemporaryDirectory?

  init() throws {
    let temporary = try TemporaryDirectory()
    path = temporary.path
    directory = try DiskFile.openDirectory(temporary.path)
    self.temporary = temporary
  }

  init(at path: String) throws {
    self.path = path
    directory = try DiskFile.openDirectory(path)
    temporary = nil
  }

  func file(_ name: String) -> String { "\(path)/\(name)" }

  func create(_ blob: SampleBlob, _ name: String = "blob") throws -> ContainerWriter {
    try ContainerWriter.create(in: directory, name: name, blob.header)
  }

  func reader(_ blob: SampleBlob, _ name: String = "blob") throws -> ContainerReader {
    ContainerReader(
      try DiskFile.open(in: directory, name: name, isWritable: false), shape: blob.header.shape,
      compression: blob.header.compression)
  }

  func scan(_ name: String = "blob") throws -> ContainerReport {
    try ContainerScan.scan(in: directory, name: name)
  }
}

/// A blob and the container it goes to.
struct SampleBlob: Sendable {
  let header: ContainerHeader
  let bytes: [UInt8]

  /// - Parameter isNoise: whether a segment's bytes are such that no compressor gains anything.
  init(
    segment: Int = 4096, byteCount: Int, _ compression: SpoolCompression,
    isNoise: (Int) -> Bool = { _ in true }
  ) throws {
    let shape = try ContainerShape(segmentByteCount: segment)
    header = ContainerHeader(
      key: "a key", generation: Generation(rawValue: 7), shape: shape, compression: compression,
      byteCount: byteCount, digest: "sha256:00ff", note: [1, 2, 3])
    bytes = (0..<shape.segmentCount(byteCount: byteCount)).flatMap { index in
      let range = shape.range(ofSegment: index, byteCount: byteCount)
      return isNoise(index)
        ? oracleBytes(7, range) : range.map { UInt8(97 + $0 / 50 % 26 + index % 7) }
    }
  }

  var segmentCount: Int { header.shape.segmentCount(byteCount: bytes.count) }

  func bytes(ofSegment segment: Int) -> [UInt8] {
    Array(bytes[header.shape.range(ofSegment: segment, byteCount: bytes.count)])
  }

  /// What is found when a segment is read: its bytes, checked, or the code of the refusal.
  func read(_ segment: Int, _ reader: ContainerReader) -> Found {
    let wanted = bytes(ofSegment: segment)
    do throws(PatchbayError) {
      return try reader.read(segment: segment, expecting: wanted.count) == wanted ? .right : .wrong
    } catch { return .refused(error.code) }
  }
}

enum Found: Hashable {
  case right
  case wrong
  case refused(PatchbayError.Code)
}

/// Runs `lz4` with some arguments: its exit code and its standard output.
func lz4(_ arguments: [String]) throws -> (code: Int32, output: [UInt8]) {
  let child = try ChildProcess("/usr/bin/lz4", arguments, errorPath: "/dev/null")
  let output = try child.rest()
  return (try child.waitForExit(), output)
}

/// All orders of some numbers.
func orders(_ numbers: [Int]) -> [[Int]] {
  guard !numbers.isEmpty else { return [[]] }
  return numbers.flatMap { first in
    orders(numbers.filter { $0 != first }).map { [first] + $0 }
  }
}

extension SampleBlob {
  /// A blob of which nothing but the length is there.
  init(lengthOnly byteCount: Int) throws {
    header = ContainerHeader(
      key: "a key", generation: Generation(rawValue: 7),
      shape: try ContainerShape(segmentByteCount: 4096), compression: .none, byteCount: byteCount)
    bytes = []
  }
}
