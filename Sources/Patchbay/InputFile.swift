// A file that is to be published: opened once, its kind and length looked at once.

import Glibc
import PatchbaySystem
import PatchbayTypes

struct InputFile: ~Copyable, Sendable {
  let path: String
  let descriptor: Descriptor
  /// Nil unless it is a regular file.
  let byteCount: Int?

  /// Opens a file.
  /// - Parameter waits: whether to wait for the other end of a pipe.
  init(_ path: String, waits: Bool = true) throws(PatchbayError) {
    let file = try Self.open(path, waits ? 0 : O_NONBLOCK)
    byteCount = try Self.regularByteCount(file, path)
    descriptor = file
    self.path = path
  }

  private static func open(
    _ path: String, _ flags: Int32
  ) throws(PatchbayError) -> Descriptor {
    let number = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC | flags)
    guard number >= 0 else { throw .system("Opening \(path)", errno: errno) }
    return Descriptor(owning: number)
  }

  private static func regularByteCount(
    _ descriptor: borrowing Descriptor, _ path: String
  ) throws(PatchbayError) -> Int? {
    var facts = stat()
    guard unsafe fstat(descriptor.rawValue, &facts) == 0 else {
      throw .system("Looking at \(path)", errno: errno)
    }
    guard facts.st_mode & S_IFMT != S_IFDIR else {
      throw PatchbayError(.inputOutput, "\(path) is a directory; a blob is one file.")
    }
    return facts.st_mode & S_IFMT == S_IFREG ? Int(facts.st_size) : nil
  }

  /// All bytes of a small file.
  func readAll(_ byteCount: Int) throws(PatchbayError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: byteCount)
    var done = 0
    while done < byteCount {
      let got = unsafe bytes.withUnsafeMutableBytes { all in
        unsafe read(descriptor.rawValue, all.baseAddress.map { unsafe $0 + done }, byteCount - done)
      }
      if got < 0 && errno == EINTR { continue }
      guard got > 0 else {
        throw got < 0
          ? .system("Reading \(path)", errno: errno)
          : PatchbayError(
            .inputOutput, "\(path) shrank from \(byteCount) to \(done) bytes while it was read.")
      }
      done += got
    }
    return bytes
  }
}
