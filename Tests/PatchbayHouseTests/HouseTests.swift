// The house's rules that a reader relies on: which files touch raw memory, which rooms know which.

import PatchbayTestSupport
import Testing

@Suite struct HouseTests {
  /// Who reads the code for memory safety reads these files.
  private static let rawMemoryFiles: Set<String> = [
    "Sources/Patchbay/ConnectionThreads.swift",
    "Sources/Patchbay/Delivery.swift",
    "Sources/Patchbay/FileThreads.swift",
    "Sources/Patchbay/InputFile.swift",
    "Sources/Patchbay/Batch.swift",
    "Sources/Patchbay/Lease.swift",
    "Sources/Patchbay/Loan.swift",
    "Sources/Patchbay/Pipes.swift",
    "Sources/Patchbay/PublisherAppends.swift",
    "Sources/Patchbay/PublisherWrites.swift",
    "Sources/Patchbay/SequentialPlace.swift",
    "Sources/Patchbay/SubscriberReads.swift",
    "Sources/Patchbay/WaitingLine.swift",
  ]

  @Test func `raw memory is touched in the listed files only`() throws {
    let rooms = files(below: ["Sources/Patchbay"], endings: [".swift"])
    let found = try rooms.filter { path in
      try SourceFile(path).lines.contains { line in
        line.contains("unsafe ") && !line.drop { $0 == " " }.hasPrefix("//")
      }
    }
    #expect(Set(found) == Self.rawMemoryFiles)
  }

  @Test func `rooms know only rooms below them`() throws {
    let level: [String: Int] = [
      "CPatchbayLayout": 0, "CPatchbaySystem": 0, "CLZ4": 0, "PatchbayTypes": 0,
      "PatchbaySystem": 1, "PatchbayWire": 1, "PatchbayLayout": 1, "PatchbayText": 1,
      "PatchbayDigest": 1,
      "PatchbayRing": 2, "PatchbayLedger": 2, "PatchbaySpool": 2, "PatchbayLoop": 3,
      "Patchbay": 3, "PatchbayBroker": 4, "PatchbayCLI": 5, "PatchbayLoad": 5,
    ]
    for path in files(below: ["Sources"], endings: [".swift"]) {
      let room = String(path.split(separator: "/")[1])
      guard let own = level[room] else { continue }
      for line in try SourceFile(path).lines where line.contains("import ") {
        let words = line.split(separator: " ")
        guard words.first == "import" || words.first == "@_exported",
          let name = words.last.map(String.init), let other = level[name]
        else { continue }
        #expect(other < own, "\(path) imports \(name)")
      }
    }
  }

  @Test func `the client depends on nothing outside and nothing on Foundation`() throws {
    let own: Set<String> = [
      "CPatchbayLayout", "CPatchbaySystem", "PatchbayTypes", "PatchbaySystem", "PatchbayWire",
      "PatchbayLayout", "PatchbayRing", "PatchbaySpool", "CLZ4", "Patchbay", "Glibc",
      "Synchronization",
    ]
    let rooms = [
      "PatchbayTypes", "PatchbaySystem", "PatchbayWire", "PatchbayLayout", "PatchbayRing",
      "PatchbaySpool", "Patchbay",
    ]
    for path in files(below: rooms.map { "Sources/\($0)" }, endings: [".swift"]) {
      for line in try SourceFile(path).lines {
        let words = line.split(separator: " ")
        guard words.first == "import" || words.first == "@_exported", let name = words.last else {
          continue
        }
        #expect(own.contains(String(name)), "\(path) imports \(name)")
      }
    }
  }

  @Test func `no file is too long and no line is wide`() throws {
    for path in files(below: ["Sources", "Tests"], endings: [".swift", ".h", ".c"]) {
      let lines = try SourceFile(path).lines
      #expect(lines.count <= 700, "\(path) has \(lines.count) lines")
      for (index, line) in lines.enumerated() where line.count > 110 {
        Issue.record("\(path):\(index + 1) has \(line.count) characters")
      }
    }
  }
}
