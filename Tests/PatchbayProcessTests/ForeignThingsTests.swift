// Things that stand where a broker that starts looks for what is its own, and are not. It refuses to
// start and names the thing, or it serves without it and says so; the thing itself stays as it was, when
// the broker starts and when it ends.

import Glibc
import Patchbay
import PatchbaySystem
import PatchbayTestSupport
import Testing

/// Where a broker looks.
enum OurPlace: String, CaseIterable, Sendable {
  case socket, lock
  case spoolDirectory = "spool directory"
  case spoolLock = "spool lock"
  case container, unfinishedContainer = "unfinished container"
  case journal, ring
  case strangerInMemory = "another name of the instance in shared memory"

  fileprivate func path(_ brokers: Succession) throws -> String {
    let shared = "/dev/shm/patchbay-\(brokers.instance)-"
    switch self {
    case .socket: return brokers.socket
    case .lock: return brokers.socket + ".lock"
    case .spoolDirectory: return brokers.spool
    case .spoolLock: return "\(brokers.spool)/broker.lock"
    case .container:
      guard let name = names(in: brokers.spool).first(where: { $0.hasSuffix(".blob") }) else {
        throw HarnessError("no container in \(names(in: brokers.spool))")
      }
      return "\(brokers.spool)/\(name)"
    case .unfinishedContainer:
      return "\(brokers.spool)/patchbay-\(brokers.instance)-00000000000003e7.part"
    case .journal: return shared + "journal-0"
    case .ring:
      guard let ring = brokers.objects.first(where: { !$0.contains("journal") }) else {
        throw HarnessError("no ring in \(brokers.objects)")
      }
      return "/dev/shm/\(ring)"
    case .strangerInMemory: return shared + "notes"
    }
  }
}

/// What stands there.
enum ForeignThing: String, Sendable {
  /// To what should be there, moved elsewhere.
  case symlink = "a symbolic link"
  case directory = "a directory"
  /// With the right content.
  case otherUsers = "a file of another user"
  /// With the right content, and writable for others.
  case wrongMode = "a file with another mode"
  case otherContent = "a file with another content"
  /// With the right content otherwise.
  case newerVersion = "a file of a later version"

  /// Puts it there.
  fileprivate func put(_ path: String, _ brokers: Succession) throws {
    let elsewhere = brokers.place.file("elsewhere")
    switch self {
    case .symlink:
      try moveAway(path, to: elsewhere)
      try harness(Glibc.symlink(elsewhere, path), path)
    case .directory:
      try moveAway(path, to: elsewhere)
      try harness(mkdir(path, 0o700), path)
      try writeFile(path + "/inside", [1, 2, 3])
    case .otherUsers:
      try makeFile(path)
      try harness(chown(path, 4321, 4321), path)
    case .wrongMode:
      try makeFile(path)
      try harness(chmod(path, 0o777), path)
    case .otherContent:
      try moveAway(path, to: elsewhere)
      try writeFile(path, Array("somebody's notes, which are to stay".utf8))
    case .newerVersion:
      var bytes = try readBytes(path)
      // Behind the magic number; a container has two copies of its head, one page each.
      for head in path.hasSuffix(".blob") ? [4096, 32_768] : [0] { bytes[head + 8] ^= 2 }
      try writeFile(path, bytes)
    }
  }

  /// A broker's, or one that could be.
  private func makeFile(_ path: String) throws {
    var facts = stat()
    if lstat(path, &facts) != 0 { try writeFile(path, Array("whose is this?".utf8)) }
  }

  private func moveAway(_ path: String, to elsewhere: String) throws {
    var facts = stat()
    guard lstat(path, &facts) == 0, facts.st_mode & S_IFMT != S_IFSOCK else {
      _ = unlink(path)
      return try writeFile(elsewhere, Array("whose is this?".utf8))
    }
    let moved = try runProgram("/bin/mv", [path, elsewhere])
    guard moved.exitCode == 0 else { throw HarnessError(moved.error) }
  }

  private func harness(_ result: Int32, _ path: String) throws {
    if result != 0 { throw HarnessError("\(self) at \(path): \(systemReason(errno))") }
  }
}

/// Everything about a name that a broker could change.
private struct Sight: Equatable, CustomStringConvertible {
  private var facts: [String] = []
  private var bytes: [UInt8] = []
  private var inner: [String: Sight] = [:]

  init(_ path: String, follows: Bool = false) {
    var info = stat()
    guard (follows ? stat(path, &info) : lstat(path, &info)) == 0 else { return }
    facts = [
      "mode \(String(info.st_mode, radix: 8))", "uid \(info.st_uid)", "inode \(info.st_ino)",
    ]
    switch info.st_mode & S_IFMT {
    case S_IFREG:
      facts.append("\(info.st_size) bytes")
      bytes = (try? readBytes(path)) ?? []
    case S_IFLNK: inner["target"] = Sight(path, follows: true)
    case S_IFDIR: for name in names(in: path) { inner[name] = Sight("\(path)/\(name)") }
    default: break
    }
  }

  var description: String {
    facts.isEmpty ? "nothing" : facts.joined(separator: ", ") + " \(inner.keys.sorted())"
  }
}

/// What a broker does about it.
enum ForeignOutcome: Sendable {
  /// It does not start, and names it.
  case refused
  /// It serves without it, and names it.
  case reported
}

struct ForeignRow: Sendable, CustomTestStringConvertible {
  let place: OurPlace
  let thing: ForeignThing
  let outcome: ForeignOutcome

  init(_ place: OurPlace, _ thing: ForeignThing, _ outcome: ForeignOutcome) {
    self.place = place
    self.thing = thing
    self.outcome = outcome
  }

  var testDescription: String { "\(place.rawValue): \(thing.rawValue)" }

  /// Those that anybody can make.
  static let ofAnybody = [
    ForeignRow(.socket, .symlink, .refused), ForeignRow(.socket, .directory, .refused),
    ForeignRow(.socket, .otherContent, .refused),
    ForeignRow(.lock, .symlink, .refused), ForeignRow(.lock, .directory, .refused),
    ForeignRow(.lock, .otherContent, .refused),
    ForeignRow(.spoolDirectory, .otherContent, .refused),
    ForeignRow(.spoolDirectory, .wrongMode, .refused),
    ForeignRow(.spoolLock, .symlink, .refused), ForeignRow(.spoolLock, .directory, .refused),
    ForeignRow(.spoolLock, .otherContent, .refused),
    ForeignRow(.container, .symlink, .reported), ForeignRow(.container, .directory, .reported),
    ForeignRow(.container, .newerVersion, .reported),
    ForeignRow(.unfinishedContainer, .symlink, .reported),
    ForeignRow(.unfinishedContainer, .directory, .reported),
    ForeignRow(.journal, .symlink, .refused), ForeignRow(.journal, .directory, .refused),
    ForeignRow(.journal, .wrongMode, .refused), ForeignRow(.journal, .otherContent, .reported),
    ForeignRow(.journal, .newerVersion, .refused),
    ForeignRow(.ring, .symlink, .reported), ForeignRow(.ring, .directory, .reported),
    ForeignRow(.ring, .otherContent, .reported),
    ForeignRow(.strangerInMemory, .otherContent, .reported),
    ForeignRow(.strangerInMemory, .symlink, .reported),
    ForeignRow(.strangerInMemory, .directory, .reported),
  ]

  /// Those that only root can make.
  static let ofRoot = [
    ForeignRow(.socket, .otherUsers, .refused), ForeignRow(.lock, .otherUsers, .refused),
    ForeignRow(.spoolDirectory, .otherUsers, .refused),
    ForeignRow(.spoolLock, .otherUsers, .refused),
    ForeignRow(.container, .otherUsers, .reported),
    ForeignRow(.unfinishedContainer, .otherUsers, .reported),
    ForeignRow(.journal, .otherUsers, .refused), ForeignRow(.ring, .otherUsers, .reported),
    ForeignRow(.strangerInMemory, .otherUsers, .reported),
  ]
}

@Suite(.serialized) struct ForeignThingsTests {
  private static let resident = oracleBytes(7, 0..<100_000)

  /// A killed broker's places: a blob on disk, `kept`, and one in memory, `resident`.
  private func killedBroker() throws -> Succession {
    let brokers = try Succession(memory: "32MiB")
    try brokers.start()
    let client = try PatchbayClient(socketPath: brokers.socket)
    var options = BlobOptions(byteCount: Self.resident.count)
    try client.publish(Self.resident, as: "resident", options)
    options.acknowledgement = .retained
    try client.publish(Self.resident, as: "kept", options)
    try brokers.kill()
    return brokers
  }

  @Test(arguments: ForeignRow.ofAnybody)
  func `nothing foreign is touched by a start, and it is named`(row: ForeignRow) throws {
    try check(row)
  }

  @Test(
    .enabled(if: geteuid() == 0, "only root can give files to others"),
    arguments: ForeignRow.ofRoot)
  func `nothing of another user is touched by a start, and it is named`(row: ForeignRow) throws {
    try check(row)
  }

  private func check(_ row: ForeignRow) throws {
    let brokers = try killedBroker()
    let path = try row.place.path(brokers)
    // A journal is named with all that it speaks of.
    let called = row.place == .journal ? ["patchbay-\(brokers.instance)-", path] : [path]
    try row.thing.put(path, brokers)
    defer { _ = try? runProgram("/bin/rm", ["-rf", path]) }
    let before = Sight(path)
    try brokers.begin()
    let isServing = try brokers.becameReady()
    #expect(isServing == (row.outcome != .refused), "\(brokers.log)")
    if isServing { try checkService(brokers, row) }
    #expect(
      called.contains { brokers.log.contains($0.split(separator: "/").last ?? "") },
      "it is not named: \(brokers.log)")
    #expect(Sight(path) == before, "after the start: \(Sight(path)) instead of \(before)")
    if isServing {
      #expect(try brokers.end() == 0)
      #expect(Sight(path) == before, "after the end: \(Sight(path)) instead of \(before)")
    }
  }

  /// It serves what is not concerned, and never a wrong byte.
  private func checkService(_ brokers: Succession, _ row: ForeignRow) throws {
    let kept = try brokers.run(["cat", "kept"])
    if row.place == .container {
      #expect(kept.exitCode == 66 || kept.bytes == Self.resident, "\(kept.error)")
    } else {
      #expect(kept.bytes == Self.resident, "\(kept.error)")
    }
    let resident = try brokers.run(["cat", "resident"])
    #expect(
      resident.bytes == Self.resident || resident.exitCode != 0 && resident.bytes.isEmpty,
      "\(resident.error)")
    #expect(try brokers.run(["put", "new"], input: "hello").exitCode == 0)
    #expect(try brokers.run(["cat", "new"]).output == "hello")
  }
}
