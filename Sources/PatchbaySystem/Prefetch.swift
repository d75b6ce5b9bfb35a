import CPatchbaySystem

/// Hints to the core about memory.
package enum Prefetch {
  /// Asks for the cache line of an address, to be written soon. Any address is good.
  @unsafe @inline(__always) package static func forWriting(_ address: UnsafeRawPointer) {
    unsafe pb_prefetch_write(address)
  }
}
