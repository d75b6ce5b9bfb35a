// Who has to do with a blob at one moment: who writes it, who reads it, and who waits for what.

/// What is known of a key when somebody asks why nothing happens.
package struct BlobSituation: Sendable, Hashable {
  /// A process with handles of the blob.
  package struct Party: Sendable, Hashable {
    package var process: Int32
    /// What the client calls itself.
    package var name: String
    package var handleCount: Int
    package var since: WallTime
    /// How far the slowest of its sequential readers of a window is; nil when there is none.
    package var position: Int?
    package init(
      process: Int32, name: String, handleCount: Int, since: WallTime, position: Int? = nil
    ) {
      self.process = process
      self.name = name
      self.handleCount = handleCount
      self.since = since
      self.position = position
    }
  }

  /// What a request waits for.
  package enum Want: UInt8, Sendable, Hashable, CaseIterable {
    /// That somebody creates the key.
    case key = 1
    /// That the broker has made a board.
    case board = 2
    /// That the broker has reserved memory.
    case memory = 3
    /// That the broker has looked whether all is covered.
    case verification = 4
    /// The right to go on producing the blob.
    case production = 5
    /// That its source fetches bytes.
    case fetch = 6
    /// That somebody wants bytes that it could fetch.
    case demand = 7
  }

  /// A request that the broker has not answered yet.
  package struct Wait: Sendable, Hashable {
    package var want: Want
    package var process: Int32
    package var name: String
    package var since: WallTime
    package init(want: Want, process: Int32, name: String, since: WallTime) {
      self.want = want
      self.process = process
      self.name = name
      self.since = since
    }
  }

  /// The blob; nil when nobody has created the key.
  package var info: BlobInfo?
  package var publishers: [Party] = []
  package var subscribers: [Party] = []
  package var waits: [Wait] = []
  /// All of them; `waits` has the first.
  package var waitCount = 0
  /// log2 of the bytes in a row that share a wake class.
  package var wakeClassShift: UInt8 = 0
  /// The wake classes that somebody has gone to sleep for since they were last rung: hints.
  package var sleepingClasses: UInt32 = 0

  package init() {}
}
