// What the thread of a broker does that writes the spool: watched by strace, or made to fail.

import Glibc
import PatchbaySystem
import PatchbayTestSupport

/// A tracer attached to the thread that writes a broker's spool, for as long as it is held.
final class SpoolTrace {
  private let tracer: ChildProcess
  private let report: String

  /// Attaches, and returns once nothing is missed any more.
  init(_ broker: BrokerProcess, _ options: [String]) throws {
    let thread = try Self.thread(of: broker.process.pid)
    report = broker.directory.file("trace.\(UInt64.random(in: 0 ... .max))")
    let log = report + ".log"
    tracer = try ChildProcess(
      "/usr/bin/strace", ["-p", thread, "-o", report] + options, errorPath: log)
    try eventually("the tracer is attached") { [tracer] in
      guard tracer.isRunning else { throw HarnessError((try? readFile(log)) ?? "no tracer") }
      return (try? readFile(log))?.contains("attached") == true
    }
  }

  private static func thread(of process: Int32) throws -> String {
    let tasks = "/proc/\(process)/task"
    for task in names(in: tasks)
    where try readFile("\(tasks)/\(task)/comm").hasPrefix("writer of the s") {
      return task
    }
    throw HarnessError("process \(process) writes no spool")
  }

  /// Detaches; what was seen, a line for each call.
  @discardableResult
  func end() throws -> [String] {
    tracer.kill(SIGINT)
    _ = try tracer.waitForExit()
    return try readFile(report).split(separator: "\n").map(String.init)
  }
}

/// One thing that was done to a directory of files.
enum DiskStep: Equatable {
  case create(String)
  case write(String, at: Int, [UInt8])
  case resize(String, Int)
  case punch(String, Range<Int>)
  case synchronize(String)
  case rename(String, String)
  case remove(String)
  case synchronizeDirectory

  /// The step of a line of strace, called with `-y -xx`; nil for a call that changes nothing.
  init?(_ line: String, in directory: String) throws {
    guard let open = line.firstIndex(of: "("), let close = line.range(of: ") = ", options: .last)
    else { return nil }
    let call = line[..<open]
    let result = line[close.upperBound...]
    guard !result.hasPrefix("-1") else { return nil }
    let arguments = line[line.index(after: open)..<close.lowerBound].split(
      separator: ", ", omittingEmptySubsequences: false
    ).map(String.init)
    func name(_ argument: Int) -> String? { Self.file(arguments[argument], in: directory) }
    func number(_ argument: Int) throws -> Int {
      guard let number = Int(arguments[argument]) else { throw HarnessError("no number: \(line)") }
      return number
    }
    switch call {
    case "openat" where line.contains("O_CREAT"): self = .create(Self.text(arguments[1]))
    case "pwrite64":
      guard let file = name(0) else { return nil }
      let bytes = Self.bytes(arguments[1]).prefix(Int(result.prefix { $0.isNumber }) ?? 0)
      self = .write(file, at: try number(3), Array(bytes))
    case "ftruncate":
      guard let file = name(0) else { return nil }
      self = .resize(file, try number(1))
    case "fallocate":
      guard let file = name(0) else { return nil }
      let start = try number(2)
      self = .punch(file, start..<start + (try number(3)))
    case "fdatasync":
      guard let file = name(0) else { return nil }
      self = .synchronize(file)
    case "fsync" where Self.path(arguments[0]) == directory: self = .synchronizeDirectory
    case "renameat", "renameat2":
      self = .rename(Self.text(arguments[1]), Self.text(arguments[3]))
    case "unlinkat": self = .remove(Self.text(arguments[1]))
    default: return nil
    }
  }

  private static func file(_ descriptor: String, in directory: String) -> String? {
    let path = path(descriptor)
    return path.hasPrefix(directory + "/") ? String(path.dropFirst(directory.count + 1)) : nil
  }

  /// `25<\x61\x62>`.
  private static func path(_ descriptor: String) -> String {
    descriptor.firstIndex(of: "<").map { text(String(descriptor[$0...])) } ?? ""
  }

  private static func text(_ quoted: String) -> String {
    String(decoding: bytes(quoted), as: UTF8.self)
  }

  /// `"\x61\x62"`.
  private static func bytes(_ quoted: String) -> [UInt8] {
    quoted.split(separator: "\\").dropFirst().compactMap {
      UInt8($0.dropFirst().prefix(2), radix: 16)
    }
  }
}

extension String {
  fileprivate enum Direction { case last }

  fileprivate func range(of part: String, options _: Direction) -> Range<String.Index>? {
    var found: Range<String.Index>?
    var start = startIndex
    while let place = self[start...].firstRange(of: part) {
      found = place
      start = place.upperBound
    }
    return found
  }
}

/// What a directory holds after some steps.
struct DiskImage {
  private(set) var files: [String: [UInt8]] = [:]

  mutating func apply(_ step: DiskStep) {
    switch step {
    case .create(let name): files[name] = []
    case .write(let name, let offset, let bytes):
      grow(name, offset + bytes.count)
      files[name]?.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    case .resize(let name, let byteCount):
      grow(name, byteCount)
      files[name]?.removeSubrange(byteCount...)
    case .punch(let name, let range):
      let held = range.clamped(to: 0..<(files[name]?.count ?? 0))
      files[name]?.replaceSubrange(held, with: repeatElement(0, count: held.count))
    case .rename(let old, let new): files[new] = files.removeValue(forKey: old)
    case .remove(let name): files[name] = nil
    case .synchronize, .synchronizeDirectory: break
    }
  }

  private mutating func grow(_ name: String, _ byteCount: Int) {
    let missing = byteCount - (files[name]?.count ?? 0)
    if missing > 0 { files[name, default: []] += [UInt8](repeating: 0, count: missing) }
  }

  /// Makes the directory hold just this, and the lock file as a killed broker leaves it.
  func put(in directory: String, lock: [UInt8]) throws {
    for name in names(in: directory) { _ = unlink("\(directory)/\(name)") }
    for (name, bytes) in files { try writeFile("\(directory)/\(name)", bytes) }
    try writeFile("\(directory)/broker.lock", lock)
  }
}
