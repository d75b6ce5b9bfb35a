// Writing in sequence from any place: one of several streams that fill a blob together.

import PatchbayTypes

extension Publisher {
  /// A cursor that appends from a position on, beside the publisher's own. For blobs written in any
  /// order: several parts can be streamed into one blob at once, each by its own cursor.
  public func appending(from position: Int) -> PublisherCursor {
    PublisherCursor(self, position)
  }
}

/// A place in a blob that moves as it writes. Belongs to one task at a time.
public struct PublisherCursor {
  /// The blob it writes.
  public let publisher: Publisher
  /// Where the next byte goes.
  public internal(set) var position: Int

  init(_ publisher: Publisher, _ position: Int) {
    self.publisher = publisher
    self.position = position
  }

  /// Writes bytes at the cursor's place and moves behind them. They are readable on return.
  /// - Throws: as `Publisher.write`; the cursor stays then.
  @available(*, noasync)
  public mutating func append(_ bytes: Span<UInt8>) throws(PatchbayError) {
    try publisher.write(bytes, at: position)
    position += bytes.count
  }

  /// Writes an array; as the other `append`.
  /// - Throws: as `Publisher.write`; the cursor stays then.
  @available(*, noasync)
  public mutating func append(_ bytes: [UInt8]) throws(PatchbayError) {
    try append(bytes.span)
  }
}
