// A file system whose device refuses what is written to it, once that is wanted.

import Glibc
import PatchbayTestSupport

/// A file system on a loop device whose file stands in a small tmpfs: when that is full, the device
/// has no room for what it has promised, and bytes that programs have written already cannot reach it.
final class LostDisk {
  private let place: TemporaryDirectory
  /// Where it is mounted.
  let path: String
  private let backing: String

  /// Whether this process may mount such a thing here.
  static let isPossible: Bool = {
    guard geteuid() == 0 else { return false }
    return (try? LostDisk(directoryNames: 1)) != nil
  }()

  /// - Parameter directoryNames: how many files a directory `spool` in it can have without the device
  ///   being asked for room for their names and what the system notes of them.
  init(directoryNames: Int) throws {
    place = try TemporaryDirectory()
    (backing, path) = (place.file("backing"), place.file("disk"))
    _ = mkdir(backing, 0o700)
    _ = mkdir(path, 0o700)
    let image = backing + "/image"
    try run("mount -t tmpfs -o size=8m,mode=0700 none \(backing)")
    // Without a journal, whose failure would end everything else, too.
    try run(
      "truncate -s 64M \(image) && mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=0 \(image) && "
        + "mount -o loop \(image) \(path)")
    try run(
      "mkdir -m 700 \(path)/spool && cd \(path)/spool && for i in $(seq \(directoryNames)); do : > "
        + "a-name-of-as-many-letters-as-those-that-follow-\(String(repeating: "x", count: 12))$i; "
        + "done; sync -f . && rm * && sync -f .")
  }

  deinit {
    _ = umount2(path, Int32(MNT_DETACH))
    _ = umount2(backing, Int32(MNT_DETACH))
  }

  /// From now on the device has no room for anything new.
  func fill() throws { try run("! head -c 16M /dev/zero > \(backing)/fill") }

  private func run(_ script: String) throws {
    let outcome = try runProgram("/bin/sh", ["-c", script])
    guard outcome.exitCode == 0 else { throw HarnessError("\(script): \(outcome.error)") }
  }
}
