// Making, finding and removing shared-memory objects. Everything is reserved when it is made, so a
// full /dev/shm is an error here and never a signal later.

import CPatchbaySystem
import Glibc
import PatchbayTypes

package enum SharedObject {
  /// An anonymous object that nobody can resize.
  package static func sealedMemfd(
    name: String, byteCount: Int
  ) throws(PatchbayError) -> Descriptor {
    Descriptor(
      owning: try checked(
        unsafe pb_memfd(name, Int64(byteCount), 1), "Reserving \(byteCount) bytes for \(name)"))
  }

  /// The same object, opened anew for reading only.
  package static func readOnlyCopy(
    of descriptor: borrowing Descriptor
  ) throws(PatchbayError) -> Descriptor {
    let result = unsafe Glibc.open("/proc/self/fd/\(descriptor.rawValue)", O_RDONLY | O_CLOEXEC)
    guard result >= 0 else { throw .system("Opening a shared object for reading", errno: errno) }
    return Descriptor(owning: result)
  }

  /// A new named object with its inode.
  package static func create(
    name: String, mode: UInt16, byteCount: Int, inode: inout UInt64
  ) throws(PatchbayError) -> Descriptor {
    Descriptor(
      owning: try checked(
        unsafe pb_shm_create(name, UInt32(mode), Int64(byteCount), &inode),
        "Reserving \(byteCount) bytes of shared memory for \(name)"))
  }

  /// A named object that must still be the one that was made.
  /// - Throws: `corrupt` when it is another one, or has another size; `inputOutput`.
  package static func open(
    name: String, isWritable: Bool, uid: UInt32, byteCount: Int, inode: UInt64
  ) throws(PatchbayError) -> Descriptor {
    let result = unsafe pb_shm_open(name, isWritable ? 1 : 0, uid, Int64(byteCount), inode)
    guard result != -ESTALE else {
      throw PatchbayError(
        .corrupt,
        "The shared memory \(name) is not the one that was made, with \(byteCount) bytes: a process "
          + "that may write to it has cut it off, or it was replaced. Create the blob again.",
        systemErrno: ESTALE)
    }
    return Descriptor(owning: try checked(result, "Opening the shared memory \(name)"))
  }

  /// Whether a name stands for something else than what was made under it.
  package static func isAnother(name: String, inode: UInt64) -> Bool {
    var facts = stat()
    return unsafe lstat("/dev/shm\(name)", &facts) == 0 && facts.st_ino != inode
  }

  /// A named object, for reading and writing, whatever size it has: this user's own, a plain file
  /// with these permissions. An empty one may have others: it was being made when its maker died.
  /// - Throws: `notPermitted` when it is none, `inputOutput`.
  package static func openOwn(
    name: String, mode: UInt32, byteCount: inout Int
  ) throws(PatchbayError) -> Descriptor {
    let foreign = PatchbayError(
      .notPermitted,
      "/dev/shm\(name) is not a plain file that user \(geteuid()) alone may use. If it is not "
        + "wanted, remove it; if it is, start the broker as its owner.")
    // Neither follows a link nor waits for the other end of a pipe.
    let flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK
    let result = unsafe Glibc.open("/dev/shm\(name)", flags)
    guard result >= 0 else {
      let number = errno
      if [ELOOP, EACCES, EPERM, ENXIO, EISDIR].contains(number) { throw foreign }
      throw .system("Opening the shared memory \(name)", errno: number)
    }
    let descriptor = Descriptor(owning: result)
    var facts = stat()
    guard unsafe fstat(descriptor.rawValue, &facts) == 0 else {
      throw .system("Looking at the shared memory \(name)", errno: errno)
    }
    guard facts.st_mode & S_IFMT == S_IFREG, facts.st_uid == geteuid(),
      facts.st_mode & 0o7777 == mode || facts.st_size == 0
    else { throw foreign }
    byteCount = Int(facts.st_size)
    return descriptor
  }

  /// Names of objects that begin so, without the slash.
  package static func names(prefix: String) throws(PatchbayError) -> [String] {
    guard let directory = unsafe opendir("/dev/shm") else {
      throw .system("Listing /dev/shm", errno: errno)
    }
    defer { _ = unsafe closedir(directory) }
    var names: [String] = []
    while true {
      errno = 0
      guard let entry = unsafe readdir(directory) else { break }
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        unsafe String(cString: UnsafeRawPointer(pointer).assumingMemoryBound(to: CChar.self))
      }
      if name.hasPrefix(prefix) { names.append(name) }
    }
    guard errno == 0 else { throw .system("Listing /dev/shm", errno: errno) }
    return names
  }

  /// Gives all memory of an object back to the system, whoever has it mapped: they find zeros. The
  /// object keeps its size.
  package static func giveBack(_ descriptor: borrowing Descriptor) throws(PatchbayError) {
    _ = try checked(pb_give_back(descriptor.rawValue), "Giving shared memory back")
  }

  /// Takes the name away; a name that is gone already is no error.
  package static func unlink(name: String) throws(PatchbayError) {
    let result = unsafe pb_shm_unlink(name)
    guard result == 0 || result == -ENOENT else {
      throw .system("Removing the shared memory \(name)", errno: -result)
    }
  }

  /// Free bytes where shared memory lives.
  package static func freeByteCount() throws(PatchbayError) -> Int {
    Int(try checked(pb_shm_free_bytes(), "Asking how much shared memory is free"))
  }

  /// The bytes from the start on; a short object is an error.
  package static func contents(
    _ descriptor: borrowing Descriptor, byteCount: Int
  ) throws(PatchbayError) -> [UInt8] {
    let object = descriptor.rawValue
    var failure: PatchbayError?
    let bytes = unsafe [UInt8](unsafeUninitializedCapacity: byteCount) { buffer, count in
      do throws(PatchbayError) {
        try unsafe read(object, at: 0, into: UnsafeMutableRawBufferPointer(buffer))
        count = byteCount
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
    return bytes
  }

  /// Fills `buffer` from a position; a short object is an error.
  package static func read(
    _ descriptor: borrowing Descriptor, at offset: Int, into buffer: inout [UInt8]
  ) throws(PatchbayError) {
    var span = buffer.mutableSpan
    try unsafe span.withUnsafeMutableBytes { (bytes) throws(PatchbayError) in
      try unsafe read(descriptor.rawValue, at: offset, into: bytes)
    }
  }

  /// The same for any memory.
  @unsafe package static func read(
    _ descriptor: borrowing Descriptor, at offset: Int, into buffer: UnsafeMutableRawBufferPointer
  ) throws(PatchbayError) {
    try unsafe read(descriptor.rawValue, at: offset, into: buffer)
  }

  @unsafe private static func read(
    _ object: Int32, at offset: Int, into buffer: UnsafeMutableRawBufferPointer
  ) throws(PatchbayError) {
    var done = 0
    while done < buffer.count {
      let got = unsafe pread(
        object, buffer.baseAddress.map { unsafe $0 + done }, buffer.count - done,
        off_t(offset + done))
      if got < 0 && errno == EINTR { continue }
      guard got > 0 else {
        throw got == 0
          ? PatchbayError(
            .corrupt, "A shared object ends at \(offset + done), before what it is said to hold.")
          : .system("Reading a shared object at \(offset + done)", errno: errno)
      }
      done += got
    }
  }

  /// Whether some page of a range has never been written, or was taken away again.
  package static func hasHole(
    _ descriptor: borrowing Descriptor, in range: Range<Int>
  ) throws(PatchbayError) -> Bool {
    let found = pb_first_hole(descriptor.rawValue, Int64(range.lowerBound))
    if found == -Int64(ENXIO) { return true }
    guard found >= 0 else {
      throw .system("Looking for holes in a shared object", errno: Int32(-found))
    }
    return found < range.upperBound
  }

  /// Writes all bytes at a position.
  package static func write(
    _ descriptor: borrowing Descriptor, at offset: Int, _ bytes: [UInt8]
  ) throws(PatchbayError) {
    var done = 0
    while done < bytes.count {
      let put = unsafe bytes.withUnsafeBytes { all in
        unsafe pwrite(
          descriptor.rawValue, all.baseAddress.map { unsafe $0 + done }, all.count - done,
          off_t(offset + done))
      }
      if put < 0 && errno == EINTR { continue }
      guard put > 0 else { throw .system("Writing a shared object", errno: errno) }
      done += put
    }
  }
}
