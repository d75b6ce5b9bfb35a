// Temporary directories, the programs that tests start, and what they must not leave behind.

import Glibc
import PatchbaySystem

/// A directory of a test's own, removed with everything in it.
package final class TemporaryDirectory: Sendable {
  package let path: String

  package init() throws {
    var template = Array("/tmp/patchbay-test-XXXXXX".utf8CString)
    guard unsafe mkdtemp(&template) != nil else {
      throw HarnessError("no temporary directory: \(systemReason(errno))")
    }
    path = String(
      decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
  }

  package func file(_ name: String) -> String { "\(path)/\(name)" }

  deinit { removeTree(path) }
}

/// The names in a directory, without `.` and `..`.
package func names(in path: String) -> [String] {
  guard let directory = unsafe opendir(path) else { return [] }
  defer { _ = unsafe closedir(directory) }
  var names: [String] = []
  while let entry = unsafe readdir(directory) {
    let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
      unsafe String(cString: UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self))
    }
    if name != "." && name != ".." { names.append(name) }
  }
  return names.sorted()
}

private func removeTree(_ path: String) {
  for name in names(in: path) {
    let inner = "\(path)/\(name)"
    if unsafe unlink(inner) != 0 { removeTree(inner) }
  }
  _ = unsafe rmdir(path)
}

/// The directory in which the programs of this build stand, beside the test bundle.
package func buildDirectory() throws -> String {
  var buffer = [CChar](repeating: 0, count: 4096)
  // The test runner loads the bundle; its path is in this process's memory map.
  guard let maps = unsafe fopen("/proc/self/maps", "r") else { throw HarnessError("no /proc") }
  defer { _ = unsafe fclose(maps) }
  while unsafe fgets(&buffer, Int32(buffer.count), maps) != nil {
    let line = String(
      decoding: buffer.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    guard let slash = line.firstIndex(of: "/"), line.contains(".xctest") else { continue }
    let path = line[slash...].prefix { $0 != "\n" }
    return String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
  }
  throw HarnessError("the test bundle's directory is unknown")
}

/// How many descriptors a process has open.
package func descriptorCount(of pid: Int32) -> Int { names(in: "/proc/\(pid)/fd").count }

/// How many descriptors of a process lead to a file.
package func openDescriptorCount(of path: String, in pid: Int32) -> Int {
  names(in: "/proc/\(pid)/fd").count { name in
    var target = [CChar](repeating: 0, count: 4096)
    let count = unsafe readlink("/proc/\(pid)/fd/\(name)", &target, target.count)
    return count > 0
      && String(decoding: target[..<count].map(UInt8.init(bitPattern:)), as: UTF8.self) == path
  }
}

/// A number from /proc/PID/status, such as VmRSS or Threads, in its own unit.
package func processFigure(_ pid: Int32, _ field: String) -> Int? {
  guard let text = try? readFile("/proc/\(pid)/status") else { return nil }
  for line in text.split(separator: "\n") where line.hasPrefix("\(field):") {
    return line.split(whereSeparator: { $0 == " " || $0 == "\t" }).dropFirst().first.flatMap {
      Int($0)
    }
  }
  return nil
}

/// A whole file as text.
package func readFile(_ path: String) throws -> String {
  String(decoding: try readBytes(path), as: UTF8.self)
}

/// A whole file.
package func readBytes(_ path: String) throws -> [UInt8] {
  let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { throw HarnessError("\(path): \(systemReason(errno))") }
  defer { _ = close(descriptor) }
  var all: [UInt8] = []
  var chunk = [UInt8](repeating: 0, count: 1 << 16)
  while true {
    let got = unsafe chunk.withUnsafeMutableBytes {
      unsafe read(descriptor, $0.baseAddress, $0.count)
    }
    guard got > 0 else { return all }
    all += chunk[..<got]
  }
}

/// Writes a file anew.
package func writeFile(_ path: String, _ bytes: [UInt8]) throws {
  let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
  guard descriptor >= 0 else { throw HarnessError("\(path): \(systemReason(errno))") }
  defer { _ = close(descriptor) }
  var done = 0
  while done < bytes.count {
    let put = unsafe bytes.withUnsafeBytes {
      unsafe write(descriptor, $0.baseAddress.map { unsafe $0 + done }, bytes.count - done)
    }
    guard put > 0 else { throw HarnessError("\(path): \(systemReason(errno))") }
    done += put
  }
}

/// Whether the long loops run: `tools/test --full`.
package let isFullTier = getenv("PATCHBAY_FULL") != nil
