// How the spool keeps bytes on disk, as the command, the broker and the container spell it.

/// Whether segments on disk are compressed. Numbers are stable: they stand in container headers.
public enum SpoolCompression: UInt8, Sendable, Hashable, CaseIterable {
  /// As they are.
  case none = 1
  /// With LZ4 at its fastest level, where that saves at least a page.
  case lz4 = 2
}

extension SpoolCompression: CustomStringConvertible {
  /// `none` or `lz4`, as options and JSON have it.
  public var description: String {
    switch self {
    case .none: "none"
    case .lz4: "lz4"
    }
  }
}
