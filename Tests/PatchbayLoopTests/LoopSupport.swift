// A broker in a directory of its own, and a client that speaks in raw packets.

import Glibc
import Logging
import PatchbayLoop
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Testing

/// How long anything may take before a test gives up on it.
private let patience = Duration.seconds(20)

/// Polls until the condition holds. False: the watchdog came first.
func eventually(_ condition: () throws -> Bool) rethrows -> Bool {
  let end = ContinuousClock.now + patience
  while ContinuousClock.now < end {
    if try condition() { return true }
    usleep(1000)
  }
  return false
}

/// A fresh directory, removed with everything in it.
final class Scratch: Sendable {
  let path: String

  init() throws {
    var template = Array("/tmp/patchbay-test-XXXXXX".utf8CString)
    path = try #require(
      unsafe template.withUnsafeMutableBufferPointer { buffer in
        unsafe buffer.baseAddress.flatMap { unsafe mkdtemp($0) }.map { unsafe String(cString: $0) }
      })
  }

  var socket: String { "\(path)/control.sock" }

  deinit {
    for name in Listing.names(in: path) { Listing.remove("\(path)/\(name)") }
    _ = unsafe rmdir(path)
  }
}

enum Listing {
  static func names(in directory: String) -> [String] {
    guard let stream = unsafe opendir(directory) else { return [] }
    defer { unsafe closedir(stream) }
    var names: [String] = []
    while let entry = unsafe readdir(stream) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        unsafe String(cString: UnsafeRawPointer(pointer).assumingMemoryBound(to: CChar.self))
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names
  }

  static func exists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

  static func remove(_ path: String) { _ = unsafe unlink(path) }

  static func hex(_ number: UInt64) -> String {
    let digits = String(number, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }

  static func sharedObjects(of instance: UInt64) -> [String] {
    names(in: "/dev/shm").filter { $0.hasPrefix("patchbay-\(hex(instance))-") }
  }

  static var descriptorCount: Int { names(in: "/proc/self/fd").count }

  /// How many descriptors of this process stand for this file.
  static func descriptorCount(of path: String) -> Int {
    names(in: "/proc/self/fd").count { name in
      var target = [CChar](repeating: 0, count: 256)
      let count = unsafe readlink("/proc/self/fd/\(name)", &target, target.count)
      return count > 0
        && target[..<count].map(UInt8.init(bitPattern:)) == Array(path.utf8)
    }
  }
}

/// A broker that runs for one test.
final class TestBroker {
  let scratch: Scratch
  let loop: BrokerLoop

  init(
    in scratch: Scratch? = nil, handshake: Duration = .seconds(5), memory: Int = 256 << 20
  ) throws {
    let scratch = try scratch ?? Scratch()
    self.scratch = scratch
    loop = try BrokerLoop(Self.configuration(scratch, handshake: handshake, memory: memory))
    try loop.start()
  }

  static func configuration(
    _ scratch: Scratch, handshake: Duration = .seconds(5), memory: Int = 256 << 20
  ) throws -> LoopConfiguration {
    var configuration = LoopConfiguration(
      socketPath: try SocketPath(scratch.socket),
      logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    configuration.handshakeLimit = handshake
    configuration.memoryLimit = memory
    return configuration
  }

  /// A client that has said hello.
  func client() throws -> RawClient {
    let client = try RawClient(scratch.socket)
    try client.hello()
    return client
  }
}

/// One connection, message by message.
final class RawClient {
  private let socket: ControlSocket
  private var nextNumber: UInt64 = 1

  init(_ path: String) throws {
    socket = try ControlSocket.connect(to: path, until: .distantFuture)
  }

  var rawDescriptor: Int32 { socket.descriptor.rawValue }

  /// Sends bytes as they are.
  @discardableResult
  func send(raw packet: [UInt8], descriptors: [Int32] = []) throws -> ControlSocket.SendOutcome {
    let until = MonotonicTime.now.advanced(by: patience)
    while true {
      let outcome = try socket.send(packet, descriptors: descriptors)
      guard outcome == .wouldBlock, MonotonicTime.now < until else { return outcome }
      _ = try socket.waitWritable(until: until)
    }
  }

  /// Sends a request; its number.
  @discardableResult
  func send(_ request: Request, descriptors: [Int32] = []) throws -> UInt64 {
    defer { nextNumber += 1 }
    _ = try send(raw: Frame.encode(request, request: nextNumber), descriptors: descriptors)
    return nextNumber
  }

  struct Answer {
    var number: UInt64
    var reply: Reply
    var descriptors: OpenDescriptors
  }

  /// The next message; nil: the broker hung up.
  func receive() throws -> Answer? {
    let until = MonotonicTime.now.advanced(by: patience)
    while true {
      switch try socket.receive(byteLimit: Frame.byteLimit, descriptorLimit: 4) {
      case .packet(let packet, let descriptors):
        let frame = try Frame(parsing: packet)
        return Answer(
          number: frame.request, reply: try frame.decodeReply(packet),
          descriptors: OpenDescriptors(descriptors))
      case .hungUp: return nil
      case .wouldBlock:
        try #require(try socket.waitReadable(until: until), "The broker does not answer.")
      }
    }
  }

  /// A message if one is there: nil when none is, nil within when the broker hung up.
  func receiveIfThere() throws -> Answer?? {
    switch try socket.receive(byteLimit: Frame.byteLimit, descriptorLimit: 4) {
    case .packet(let packet, let descriptors):
      let frame = try Frame(parsing: packet)
      return Answer(
        number: frame.request, reply: try frame.decodeReply(packet),
        descriptors: OpenDescriptors(descriptors))
    case .hungUp: return .some(nil)
    case .wouldBlock: return nil
    }
  }

  /// Sends a request and takes its reply.
  func call(_ request: Request) throws -> Answer {
    let number = try send(request)
    let answer = try #require(try receive())
    #expect(answer.number == number)
    return answer
  }

  /// The failure that a request is answered with.
  func refusal(_ request: Request) throws -> PatchbayError {
    let answer = try call(request)
    guard case .failure(let error) = answer.reply else {
      throw PatchbayError(.protocolViolation, "Not refused: \(answer.reply)")
    }
    return error
  }

  @discardableResult
  func hello() throws -> Welcome {
    let answer = try call(
      .hello(Hello(oldestVersion: 1, newestVersion: 1, token: .none, name: "test")))
    guard case .welcome(let welcome) = answer.reply else {
      throw PatchbayError(.protocolViolation, "Not welcome: \(answer.reply)")
    }
    #expect(answer.descriptors.rawValues.count == 1)
    return welcome
  }

  func create(_ request: CreateRequest) throws -> (BlobGrant, OpenDescriptors) {
    let answer = try call(.create(request))
    guard case .created(let grant) = answer.reply else {
      throw PatchbayError(.protocolViolation, "Not created: \(answer.reply)")
    }
    return (grant, answer.descriptors)
  }

  func open(_ key: BlobKey, waits: Bool = false) throws -> (BlobGrant, OpenDescriptors) {
    let answer = try call(.open(OpenRequest(key: key, waits: waits, observes: false)))
    guard case .opened(let grant) = answer.reply else {
      throw PatchbayError(.protocolViolation, "Not opened: \(answer.reply)")
    }
    return (grant, answer.descriptors)
  }

  func info(_ key: BlobKey) throws -> BlobInfo {
    let answer = try call(.info(InfoRequest(key: key)))
    guard case .info(let info) = answer.reply else {
      throw PatchbayError(.protocolViolation, "No information: \(answer.reply)")
    }
    return info
  }

  func statistics() throws -> BrokerStatistics {
    guard case .statistics(let statistics) = try call(.statistics).reply else {
      throw PatchbayError(.protocolViolation, "No statistics.")
    }
    return statistics
  }

  /// Shared memory that the broker counts, but for what it keeps for reuse.
  func memoryByteCount() throws -> Int {
    let statistics = try statistics()
    return Int(statistics.memoryByteCount - statistics.poolByteCount)
  }
  func clientCount() throws -> Int { Int(try statistics().clientCount) }

  /// Waits for the broker to hang up, whatever it still says; the failures it said.
  func failuresUntilHangUp() throws -> [PatchbayError] {
    var failures: [PatchbayError] = []
    while let answer = try receive() {
      if case .failure(let error) = answer.reply { failures.append(error) }
    }
    return failures
  }
}

/// Received descriptors, closed with this object.
final class OpenDescriptors {
  let rawValues: [Int32]
  init(_ rawValues: [Int32]) { self.rawValues = rawValues }
  deinit { for rawValue in rawValues { close(rawValue) } }

  func duplicate(_ index: Int) throws -> Descriptor {
    Descriptor(owning: try checked(dup(rawValues[index]), "Duplicating"))
  }
}
