// A publisher that does harm: it speaks the protocol by itself, keeps its ring's descriptor, and does to
// the ring what its user is free to do. What it writes is the oracle's until it begins.

import Glibc
import PatchbayLayout
import PatchbayRing
import PatchbaySystem
import PatchbayTestSupport
import PatchbayTypes
import PatchbayWire

final class Vandal {
  private let socket: ControlSocket
  private let grant: BlobGrant
  private let ring: Descriptor
  private let geometry: RingGeometry
  private let extent: Extent
  private var number: UInt64 = 2

  /// Creates a blob of so many bytes, which are one ring, and writes them all.
  init(_ path: String, _ key: BlobKey, byteCount: Int, order: WriteOrder) throws {
    socket = try ControlSocket.connect(
      to: path, until: MonotonicTime.now.advanced(by: .seconds(20)))
    let version = Frame.protocolVersion
    let hello = Hello(
      oldestVersion: version, newestVersion: version, token: .none, name: "vandal")
    _ = try Self.ask(.hello(hello), 1, socket)
    var create = CreateRequest(key: key)
    create.byteCount = byteCount
    create.order = order
    create.mode = 0o644
    let (reply, descriptors) = try Self.ask(.create(create), 2, socket)
    guard case .created(let grant) = reply, let first = grant.extent, descriptors.count == 1 else {
      throw HarnessError("no ring: \(reply)")
    }
    let descriptor = Descriptor(owning: descriptors[0])
    self.grant = grant
    geometry = try RingGeometry(dataByteCount: first.dataByteCount, hasMap: order == .any)
    extent = Extent(
      try MappedRing(descriptor, ringID: first.ringID, geometry, isWritable: true), index: 0,
      start: 0, ringID: first.ringID, useNumber: first.useNumber)
    ring = descriptor
    extent.copyIn(oracleBytes(grant.blob.generation.rawValue, 0..<byteCount).span, at: 0)
    if order == .any { extent.cover(0..<byteCount) } else { extent.coverPrefix(to: byteCount) }
  }

  private static func ask(
    _ request: Request, _ number: UInt64, _ socket: borrowing ControlSocket
  ) throws -> (Reply, [Int32]) {
    guard case .sent = try socket.send(Frame.encode(request, request: number)) else {
      throw HarnessError("not sent")
    }
    guard try socket.waitReadable(until: MonotonicTime.now.advanced(by: .seconds(20))) else {
      throw HarnessError("no answer")
    }
    guard
      case .packet(let packet, let descriptors) = try socket.receive(
        byteLimit: Frame.byteLimit, descriptorLimit: Frame.descriptorLimit)
    else { throw HarnessError("hung up") }
    return (try Frame(parsing: packet).decodeReply(packet), descriptors)
  }

  /// One act: `truncate BYTES`, `punch`, `scribble SEED`, `rewrite SEED`, `seal BYTES`.
  func act(_ words: [String]) throws -> String {
    let argument = words.count > 1 ? Int(words[1]) ?? 0 : 0
    switch words.first {
    case "truncate":
      guard ftruncate(ring.rawValue, off_t(argument)) == 0 else { throw HarnessError("no cut") }
    case "punch":
      try punch(geometry.dataOffset + 4096..<geometry.objectByteCount)
    case "scribble": try scribble(0..<geometry.dataOffset, seed: argument)
    case "rewrite": try scribble(geometry.dataOffset..<geometry.objectByteCount, seed: argument)
    case "seal":
      number += 1
      let seal = SealRequest(blob: grant.blob, byteCount: argument)
      let (reply, _) = try Self.ask(.seal(seal), number, socket)
      return reply.kind == .done ? "done" : "refused"
    default: throw HarnessError("no such act")
    }
    return ""
  }

  /// What `fallocate` with `FALLOC_FL_PUNCH_HOLE` does.
  private func punch(_ range: Range<Int>) throws {
    let mapping = unsafe mmap(
      nil, range.count, PROT_READ | PROT_WRITE, MAP_SHARED, ring.rawValue,
      off_t(range.lowerBound))
    guard unsafe mapping != MAP_FAILED else { throw HarnessError("no mapping") }
    defer { _ = unsafe munmap(mapping, range.count) }
    guard unsafe madvise(mapping, range.count, 9) == 0 else { throw HarnessError("no hole") }
  }

  /// Random bytes in random places, many times.
  private func scribble(_ range: Range<Int>, seed: Int) throws {
    var random = SeededRandom(seed: UInt64(seed))
    for _ in 0..<2000 {
      let count = Int.random(in: 1...min(300, range.count), using: &random)
      let at = Int.random(in: range.lowerBound...range.upperBound - count, using: &random)
      let noise = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
      try SharedObject.write(ring, at: at, noise)
    }
  }
}

extension Conversation {
  /// `vandal SOCKET KEY BYTES any|append`, then `act ...`.
  func vandalise(_ verb: String, _ words: [String]) throws -> String {
    if verb == "act" {
      guard let vandal else { throw HarnessError("no vandal") }
      return try vandal.act(words)
    }
    vandal = try Vandal(
      try word(words, 0), try BlobKey(try word(words, 1)), byteCount: try number(words, 2),
      order: try word(words, 3) == "any" ? .any : .appendOnly)
    return ""
  }

  /// Tries to open each shared object that this process has a descriptor of, or that has a name, for
  /// writing; `OPENED OF TRIED`.
  func reopen() -> String {
    var (opened, tried) = (0, 0)
    for name in names(in: "/proc/self/fd") {
      var target = [CChar](repeating: 0, count: 4096)
      let count = unsafe readlink("/proc/self/fd/\(name)", &target, target.count - 1)
      let path = String(
        decoding: target.prefix(max(0, count)).map(UInt8.init(bitPattern:)), as: UTF8.self)
      guard path.contains("/dev/shm/patchbay") || path.contains("memfd:patchbay") else { continue }
      tried += 1
      opened += canWrite("/proc/self/fd/\(name)") ? 1 : 0
    }
    for name in names(in: "/dev/shm") where name.hasPrefix("patchbay-") {
      tried += 1
      opened += canWrite("/dev/shm/\(name)") ? 1 : 0
    }
    return "\(opened) of \(tried)"
  }

  private func canWrite(_ path: String) -> Bool {
    let descriptor = unsafe open(path, O_RDWR | O_CLOEXEC)
    guard descriptor >= 0 else { return false }
    _ = close(descriptor)
    return true
  }
}
