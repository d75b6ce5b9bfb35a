// A file that is there as a whole or not at all: written under another name beside its place and
// renamed when complete.

import Glibc
import Patchbay
import PatchbaySystem

enum PartialFile {
  /// Lets `body` write the file at `path`. What is there already and is no regular file (a device,
  /// a pipe) is written to directly; a symbolic link keeps pointing where it did.
  /// - Throws: `inputOutput`, `notPermitted`, and what the body throws; the partial file is gone
  ///   then, and whatever stood at `path` stands there still.
  static func fill<Result>(
    _ path: String, _ body: (borrowing Descriptor) throws(PatchbayError) -> Result
  ) throws(PatchbayError) -> Result {
    var facts = stat()
    if unsafe stat(path, &facts) == 0 {
      let kind = facts.st_mode & S_IFMT
      guard kind != S_IFDIR else {
        throw PatchbayError(.inputOutput, "\(path) is a directory; name the file to make in it.")
      }
      guard kind == S_IFREG else { return try fillDirectly(path, body) }
    }
    return try fillBeside(resolved(path), body)
  }

  private static func fillDirectly<Result>(
    _ path: String, _ body: (borrowing Descriptor) throws(PatchbayError) -> Result
  ) throws(PatchbayError) -> Result {
    do throws(PatchbayError) {
      return try body(open(path, O_WRONLY | O_CLOEXEC))
    } catch {
      throw error.ofOutput(path)
    }
  }

  private static func fillBeside<Result>(
    _ path: String, _ body: (borrowing Descriptor) throws(PatchbayError) -> Result
  ) throws(PatchbayError) -> Result {
    let partial = "\(path).part.\(getpid())"
    // Said before it is there: a signal in between finds nothing to remove.
    Interruption.removeWhenInterrupted(partial)
    let file = try open(partial, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC)
    do throws(PatchbayError) {
      let result = try body(file)
      guard unsafe rename(partial, path) == 0 else {
        throw .system("Renaming \(partial) to \(path)", errno: errno)
      }
      Interruption.removeWhenInterrupted(nil)
      return result
    } catch {
      _ = unsafe unlink(partial)
      Interruption.removeWhenInterrupted(nil)
      throw error.ofOutput(path)
    }
  }

  private static func open(_ path: String, _ flags: Int32) throws(PatchbayError) -> Descriptor {
    let number = unsafe Glibc.open(path, flags, 0o666)
    guard number >= 0 else { throw .system("Making \(path)", errno: errno) }
    return Descriptor(owning: number)
  }

  /// Where a symbolic link leads; the path itself when there is nothing yet.
  private static func resolved(_ path: String) -> String {
    guard let real = unsafe realpath(path, nil) else { return path }
    defer { unsafe free(real) }
    return unsafe String(cString: real)
  }
}

extension PatchbayError {
  /// The same error of a copy into an output: a full file system is no lack of shared memory.
  func ofOutput(_ name: String) -> PatchbayError {
    guard systemErrno == ENOSPC else { return self }
    return PatchbayError(
      .inputOutput, "Writing \(name) failed: no space is left on its file system.",
      systemErrno: ENOSPC)
  }
}
