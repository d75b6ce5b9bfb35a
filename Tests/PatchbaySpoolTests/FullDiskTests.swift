// A disk that fills up under a container, and has room again.

import Glibc
import PatchbaySpool
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import Testing

@Suite struct FullDiskTests {
  /// A file system of a few pages, gone with the object.
  private final class SmallDisk {
    let shelf: Shelf
    private let directory: TemporaryDirectory

    init(pageCount: Int) throws {
      directory = try TemporaryDirectory()
      let size = "size=\(pageCount * 4096)"
      guard mount("tmpfs", directory.path, "tmpfs", 0, size) == 0 else {
        throw HarnessError("no tmpfs: \(systemReason(errno))")
      }
      shelf = try Shelf(at: directory.path)
    }

    var freePageCount: Int {
      var facts = statvfs()
      return statvfs(directory.path, &facts) == 0 ? Int(facts.f_bavail) : -1
    }

    deinit { umount2(directory.path, Int32(MNT_DETACH)) }
  }

  @Test(.enabled(if: geteuid() == 0, "mounts a small disk"))
  func `a segment that finds no room is missing, and is written once there is some`() throws {
    let blob = try SampleBlob(segment: 65_536, byteCount: 65_536 * 5, .lz4) { $0 != 1 }
    let disk = try SmallDisk(pageCount: 80)
    let shelf = disk.shelf
    // The third segment needs two heads and 18 pages more; it meets the end at each of them.
    for free in 0..<21 {
      let name = "blob\(free)"
      let writer = try shelf.create(blob, name)
      for index in 0..<2 { try writer.write(segment: index, blob.bytes(ofSegment: index)) }
      let filler = [UInt8](repeating: 1, count: (disk.freePageCount - free) * 4096)
      try writeFile(shelf.file("filler"), filler)
      #expect(disk.freePageCount == free)
      var refusal: PatchbayError?
      do { try writer.write(segment: 4, blob.bytes(ofSegment: 4)) } catch { refusal = error }
      let isEnough = free == 20
      #expect(refusal?.code == (isEnough ? nil : .noSpaceSpool), "\(free) pages")
      #expect(refusal.map { $0.systemErrno == ENOSPC && $0.message.contains("Writing") } ?? true)
      #expect(disk.freePageCount >= (isEnough ? 0 : free - 3), "the pages come back")

      let reader = try shelf.reader(blob, name)
      let found = (0..<5).map { blob.read($0, reader) }
      let missing = Found.refused(.corrupt)
      #expect(found == [.right, .right, missing, missing, isEnough ? .right : missing])
      #expect(try lz4(["-t", shelf.file(name)]).code == 0)
      #expect(try shelf.scan(name).corruptCount == 0)
      // The header has its place.
      var header = blob.header
      header.note = [9]
      try writer.write(header: header)
      try writer.write(header: header)

      #expect(unlink(shelf.file("filler")) == 0)
      for index in [4, 2, 3] { try writer.write(segment: index, blob.bytes(ofSegment: index)) }
      let report = try shelf.scan(name)
      #expect(report.isComplete && report.isSound, "\(report)")
      #expect(try lz4(["-dc", shelf.file(name)]).output == blob.bytes)
      #expect(unlink(shelf.file(name)) == 0)
    }
  }

  @Test(.enabled(if: geteuid() == 0, "mounts a small disk"))
  func `a container that finds no room is not begun`() throws {
    let blob = try SampleBlob(byteCount: 8192, .none)
    let disk = try SmallDisk(pageCount: 16)
    for free in 0..<4 {
      let filler = [UInt8](repeating: 1, count: (disk.freePageCount - free) * 4096)
      try writeFile(disk.shelf.file("filler"), filler)
      var refusal: PatchbayError?
      do { _ = try disk.shelf.create(blob) } catch { refusal = error as? PatchbayError }
      #expect(refusal?.code == (free == 3 ? nil : .noSpaceSpool))
      #expect(names(in: disk.shelf.path) == (free == 3 ? ["blob", "filler"] : ["filler"]))
      #expect(unlink(disk.shelf.file("filler")) == 0)
    }
  }
}
