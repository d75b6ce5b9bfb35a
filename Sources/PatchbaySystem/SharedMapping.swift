// A mapped piece of a shared object: the one place that calls mmap. Bounds are checked once, here,
// against the size that the broker announced and the kernel confirms. Another object may be put in the
// place of one that is mapped, so that pointers into it stay good when a broker has made it anew.

import CPatchbaySystem
import Glibc
import PatchbayTypes

/// A mapping that lives as long as this object. Not inherited over fork.
@safe package final class SharedMapping: @unchecked Sendable {
  /// First byte; valid for `byteCount` bytes while this object lives.
  @unsafe package let base: UnsafeMutableRawPointer
  package let byteCount: Int
  package let isWritable: Bool

  /// Maps the whole object behind a descriptor, which the caller may close afterwards.
  /// - Throws: `corrupt` when the object is smaller than announced, else what mmap says.
  package init(
    _ descriptor: borrowing Descriptor, byteCount: Int, isWritable: Bool, what: String
  ) throws(PatchbayError) {
    try Self.checkSize(of: descriptor, byteCount, what)
    let protection = isWritable ? PROT_READ | PROT_WRITE : PROT_READ
    let address = unsafe mmap(nil, byteCount, protection, MAP_SHARED, descriptor.rawValue, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else {
      throw .mapping("Mapping \(byteCount) bytes of \(what)", errno: errno)
    }
    _ = unsafe pb_exclude_from_fork(address, byteCount)
    unsafe base = address
    self.byteCount = byteCount
    self.isWritable = isWritable
  }

  private init(taking address: UnsafeMutableRawPointer, byteCount: Int, isWritable: Bool) {
    unsafe base = address
    self.byteCount = byteCount
    self.isWritable = isWritable
  }

  deinit { _ = unsafe munmap(base, byteCount) }

  /// A second mapping of the object that is mapped now. It shows that object also when another one is
  /// put in the place of the first mapping.
  /// - Throws: `limitReached`, `inputOutput`.
  package func again() throws(PatchbayError) -> SharedMapping {
    var address: UnsafeMutableRawPointer?
    let result = unsafe pb_map_again(base, byteCount, &address)
    guard result == 0, let address = unsafe address else {
      throw .mapping("Mapping \(byteCount) bytes a second time", errno: -result)
    }
    _ = unsafe pb_exclude_from_fork(address, byteCount)
    return unsafe SharedMapping(taking: address, byteCount: byteCount, isWritable: isWritable)
  }

  /// Puts another object in the place of the one that is mapped, at the same addresses, in one step:
  /// whoever reads or writes there meanwhile does so in the one or the other, and what comes after
  /// this call, in any thread, in the other. The caller may close the descriptor afterwards.
  /// - Throws: `corrupt` when the object is smaller; else what mmap says.
  package func replace(
    with descriptor: borrowing Descriptor, what: String
  ) throws(PatchbayError) {
    try Self.checkSize(of: descriptor, byteCount, what)
    let protection = isWritable ? PROT_READ | PROT_WRITE : PROT_READ
    let address = unsafe mmap(
      base, byteCount, protection, MAP_SHARED | MAP_FIXED, descriptor.rawValue, 0)
    guard unsafe address != MAP_FAILED else {
      throw .mapping("Mapping \(byteCount) bytes of \(what) over others", errno: errno)
    }
    _ = unsafe pb_exclude_from_fork(base, byteCount)
  }

  /// Puts zeros in the place of what is mapped, as `replace` does: private ones, which only this process
  /// sees.
  package func clear() throws(PatchbayError) {
    let protection = isWritable ? PROT_READ | PROT_WRITE : PROT_READ
    let address = unsafe mmap(
      base, byteCount, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
    guard unsafe address != MAP_FAILED else {
      throw .mapping("Mapping \(byteCount) bytes of zeros over others", errno: errno)
    }
    _ = unsafe pb_exclude_from_fork(base, byteCount)
  }

  private static func checkSize(
    of descriptor: borrowing Descriptor, _ byteCount: Int, _ what: String
  ) throws(PatchbayError) {
    var facts = stat()
    guard unsafe fstat(descriptor.rawValue, &facts) == 0 else {
      throw .system("Looking at \(what)", errno: errno)
    }
    guard byteCount > 0, Int(facts.st_size) >= byteCount else {
      throw PatchbayError(
        .corrupt, "\(what) has \(facts.st_size) bytes; \(byteCount) were announced.")
    }
  }

  /// Gives a range its memory in one call instead of one fault per page. Where the kernel cannot,
  /// nothing happens.
  package func populate(_ range: Range<Int>) {
    let page = Int(sysconf(Int32(_SC_PAGESIZE)))
    let start = range.lowerBound / page * page
    let end = min((range.upperBound + page - 1) / page * page, byteCount)
    guard start >= 0, start < end else { return }
    _ = unsafe pb_populate_for_writing(base + start, end - start)
  }
}

extension PatchbayError {
  /// A mapping failed. The memory behind it exists: what is short is this process's own.
  fileprivate static func mapping(_ attempt: String, errno number: Int32) -> PatchbayError {
    guard number == ENOMEM else { return .system(attempt, errno: number) }
    return PatchbayError(
      .limitReached,
      "\(attempt) failed: this process has no room for it. Close handles, or raise its limits "
        + "(ulimit -v, vm.max_map_count).", systemErrno: number)
  }
}

/// Several objects mapped side by side, read-only: one contiguous range of addresses.
@safe package final class ContiguousMapping: @unchecked Sendable {
  @unsafe package let base: UnsafeMutableRawPointer
  package let byteCount: Int

  /// One piece: whole pages of an object.
  package struct Piece: ~Copyable {
    let descriptor: Descriptor
    let offset: Int
    let byteCount: Int
    package init(_ descriptor: consuming Descriptor, offset: Int, byteCount: Int) {
      self.descriptor = descriptor
      self.offset = offset
      self.byteCount = byteCount
    }
  }

  /// Reserves addresses for this many bytes; `place` fills them.
  package init(byteCount: Int) throws(PatchbayError) {
    let address = unsafe mmap(nil, byteCount, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else {
      throw .mapping("Reserving \(byteCount) bytes of addresses", errno: errno)
    }
    _ = unsafe pb_exclude_from_fork(address, byteCount)
    unsafe base = address
    self.byteCount = byteCount
  }

  /// Puts a piece at a page offset within the reserved range.
  package func place(_ piece: borrowing Piece, at offset: Int) throws(PatchbayError) {
    precondition(offset >= 0 && offset + piece.byteCount <= byteCount)
    var facts = stat()
    guard unsafe fstat(piece.descriptor.rawValue, &facts) == 0,
      Int(facts.st_size) >= piece.offset + piece.byteCount
    else {
      throw PatchbayError(.corrupt, "A ring is smaller than was announced.")
    }
    let address = unsafe mmap(
      base + offset, piece.byteCount, PROT_READ, MAP_SHARED | MAP_FIXED,
      piece.descriptor.rawValue, piece.offset)
    guard unsafe address != MAP_FAILED else {
      throw .mapping("Mapping \(piece.byteCount) bytes side by side", errno: errno)
    }
    _ = unsafe pb_exclude_from_fork(base + offset, piece.byteCount)
  }

  deinit { _ = unsafe munmap(base, byteCount) }
}
