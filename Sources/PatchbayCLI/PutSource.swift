// Where `put` takes its bytes from: opened once, its kind and length looked at once, and held to
// the length that was announced. Or a command that is started for its output, and held to a good
// end.

import CPatchbaySystem
import Glibc
import Patchbay
import PatchbaySystem

/// An opened input.
struct PutSource: ~Copyable {
  let name: String
  let descriptor: Descriptor
  /// The length to announce; nil while unknown.
  let byteCount: Int?
  let isRegular: Bool
  /// Whether the length is the file's.
  let hasOwnLength: Bool
  /// Who makes the bytes, where that is for us to know.
  private let command: ChildCommand?

  /// - Throws: `inputOutput`, `notPermitted`; also for a directory, and for a file without random
  ///   access that is to be shuffled.
  init(_ path: String, length: Int?, isShuffled: Bool) throws(PatchbayError) {
    let file = try Self.open(path)
    let facts = try Self.look(at: file, path)
    let kind = facts.st_mode & S_IFMT
    guard kind != S_IFDIR else {
      throw PatchbayError(.inputOutput, "\(path) is a directory; a blob is made of one file.")
    }
    guard kind == S_IFREG || !isShuffled else {
      throw PatchbayError(.inputOutput, "\(path) is not a regular file; --shuffle needs one.")
    }
    name = path == "-" ? "standard input" : path
    isRegular = kind == S_IFREG
    hasOwnLength =
      isRegular && path != "-" && length == nil && !Self.hidesLength(file, facts)
    byteCount = hasOwnLength ? Int(facts.st_size) : length
    command = nil
    descriptor = file
  }

  /// Starts a command and takes its output.
  /// - Throws: as `ChildCommand` does.
  init(
    outputOf words: [String], input: ChildCommand.Input = .ours, length: Int?
  ) throws(PatchbayError) {
    var ends: [Int32] = [-1, -1]
    _ = try checked(unsafe pb_pipe(&ends), "Making a pipe")
    let reading = Descriptor(owning: ends[0])
    let writing = Descriptor(owning: ends[1])
    command = try ChildCommand(words, input: input, output: writing)
    name = "the output of \(words[0])"
    isRegular = false
    hasOwnLength = false
    byteCount = length
    descriptor = reading
  }

  private static func open(_ path: String) throws(PatchbayError) -> Descriptor {
    let number =
      path == "-"
      ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0) : unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC)
    guard number >= 0 else { throw .system("Opening \(path)", errno: errno) }
    return Descriptor(owning: number)
  }

  private static func look(
    at file: borrowing Descriptor, _ name: String
  ) throws(PatchbayError) -> stat {
    var facts = stat()
    guard unsafe fstat(file.rawValue, &facts) == 0 else {
      throw .system("Looking at \(name)", errno: errno)
    }
    return facts
  }

  /// Whether this is one of the kernel's files, which say they are empty and are not.
  private static func hidesLength(_ file: borrowing Descriptor, _ facts: stat) -> Bool {
    var first: UInt8 = 0
    return unsafe facts.st_size == 0 && pread(file.rawValue, &first, 1, 0) > 0
  }

  /// The length of a file that can travel in one message; nil for others.
  var smallByteCount: Int? { byteCount.flatMap { hasOwnLength && $0 <= 16 * 1024 ? $0 : nil } }

  /// Reads what comes next; 0 at the end. Waits, but not beyond a signal.
  borrowing func read(into place: UnsafeMutableRawBufferPointer) throws -> Int {
    while true {
      if !isRegular { try Interruption.waitReadable(descriptor.rawValue) }
      let count = unsafe Glibc.read(descriptor.rawValue, place.baseAddress, place.count)
      if count >= 0 { return count }
      guard errno == EINTR || errno == EAGAIN else {
        throw PatchbayError.system("Reading \(name)", errno: errno)
      }
    }
  }

  /// Reads a whole range of a regular file.
  /// - Throws: `lengthMismatch` when the file ends inside it.
  borrowing func read(_ range: Range<Int>, into block: inout [UInt8]) throws(PatchbayError) {
    var done = 0
    while done < range.count {
      let count = unsafe block.withUnsafeMutableBytes { bytes in
        unsafe pread(
          descriptor.rawValue, bytes.baseAddress.map { unsafe $0 + done }, range.count - done,
          range.lowerBound + done)
      }
      if count < 0 && errno == EINTR { continue }
      guard count >= 0 else { throw .system("Reading \(name)", errno: errno) }
      guard count > 0 else { throw shrunk(to: range.lowerBound + done) }
      done += count
    }
  }

  func shrunk(to end: Int) -> PatchbayError {
    PatchbayError(
      .lengthMismatch,
      "\(name) ended after \(end) of the announced \(byteCount ?? 0) bytes.")
  }

  /// - Throws: `lengthMismatch` when there is more behind the announced length.
  func expectEnd() throws {
    guard let byteCount else { return }
    var extra = [UInt8](repeating: 0, count: 1)
    let more = try unsafe extra.withUnsafeMutableBytes { try unsafe read(into: $0) }
    guard more == 0 else { throw longer(than: byteCount) }
  }

  func longer(than byteCount: Int) -> PatchbayError {
    PatchbayError(.lengthMismatch, "\(name) has more than the announced \(byteCount) bytes.")
  }

  /// Waits a while for the end of a command; whether it has come.
  borrowing func awaitEnd(for duration: Duration) throws -> Bool {
    try command?.awaitEnd(for: duration) ?? true
  }

  /// - Throws: `blobFailed` when the bytes come from a command that did not succeed.
  borrowing func expectSuccess(for key: BlobKey) throws { try command?.expectSuccess(for: key) }

  /// Nothing of the input is wanted any more: a command ends.
  borrowing func stop() { command?.stop() }

  /// - Throws: `lengthMismatch` when the file has another size by now.
  func expectSize(_ byteCount: Int) throws(PatchbayError) {
    let size = Int(try Self.look(at: descriptor, name).st_size)
    guard size == byteCount else {
      throw PatchbayError(
        .lengthMismatch, "\(name) has \(size) bytes now, but \(byteCount) were announced.")
    }
  }
}
