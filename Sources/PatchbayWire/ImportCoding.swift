// Pins and imports: what they ask, what is answered, and both to bytes and back.

import PatchbayTypes

package struct PinRequest: Sendable, Hashable {
  package var key: BlobKey
  package var isPinned: Bool
  package init(key: BlobKey, isPinned: Bool) {
    self.key = key
    self.isPinned = isPinned
  }

  func encode(_ writer: inout WireWriter) {
    writer.put(key)
    writer.put(isPinned)
  }

  init(from reader: inout WireReader) throws(PatchbayError) {
    self.init(key: try reader.takeKey(), isPinned: try reader.takeFlag())
  }
}

/// What a file is to be published as.
package struct ImportRequest: Sendable, Hashable {
  package var key: BlobKey
  package var mode: UInt16 = 0o600
  /// Replaces a blob that has the key.
  package var replaces = false
  package var type = ""
  package var labels: [BlobInfo.Label] = []
  package init(key: BlobKey) { self.key = key }

  func encode(_ writer: inout WireWriter) {
    writer.put(key)
    writer.put(mode)
    writer.put(replaces)
    writer.put(type)
    writer.put(labels: labels)
  }

  init(from reader: inout WireReader) throws(PatchbayError) {
    self.init(key: try reader.takeKey())
    mode = try reader.take()
    replaces = try reader.takeFlag()
    type = try reader.takeText(atMost: WireLimit.type, "a media type")
    labels = try reader.takeLabels()
  }
}

/// Where the bytes of an import are: in the file whose descriptor comes along, as long as that has
/// this stamp.
package struct ImportGrant: Sendable, Hashable {
  package var stamp: FileStamp
  package init(stamp: FileStamp) { self.stamp = stamp }

  package func encode(_ writer: inout WireWriter) {
    writer.put(stamp.device)
    writer.put(stamp.inode)
    writer.put(Int64(stamp.byteCount))
    writer.put(stamp.modified)
    writer.put(stamp.changed)
  }

  package init(from reader: inout WireReader) throws(PatchbayError) {
    self.init(
      stamp: FileStamp(
        device: try reader.take(), inode: try reader.take(),
        byteCount: try reader.takePosition("a file's length"), modified: try reader.take(),
        changed: try reader.take()))
  }
}
