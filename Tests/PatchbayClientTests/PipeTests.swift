// From a reader into a publisher or a file, and from a file into a publisher.

import Glibc
import Patchbay
import PatchbayBroker
import PatchbayTestSupport
import PatchbayTypes
import Testing

@Suite struct PipeTests {
  /// One blob into another, by a thread's calls or a task's.
  private func pipe(
    _ subscriber: Subscriber, _ publisher: Publisher, asTask: Bool
  ) async -> Result<Int, PatchbayError> {
    do throws(PatchbayError) {
      if asTask { return .success(try await subscriber.pipe(to: publisher)) }
    } catch {
      return .failure(error)
    }
    let piping = Started { () throws(PatchbayError) in try subscriber.pipe(to: publisher) }
    return await Task.detached {
      do { return .success(try piping.value) } catch {
        return .failure(error as? PatchbayError ?? PatchbayError(.inputOutput, "\(error)"))
      }
    }.value
  }

  @Test(arguments: [false, true])
  func `a pipe copies a blob while it is written, and seals the copy at its end`(
    asTask: Bool
  ) async throws {
    try await withBroker { (_, client) async throws in
      let source = try await client.publisher("a", BlobOptions(order: .appendOnly))
      let copy = try await client.publisher("b", BlobOptions(order: .appendOnly))
      let subscriber = try await client.open("a")
      let piped = Task { await pipe(subscriber, copy, asTask: asTask) }
      let reader = try await client.open("b")
      try await source.append(pattern(0..<100_000))
      #expect(try await reader.readFully(0..<100_000) == pattern(0..<100_000))
      try await source.append(pattern(100_000..<700_000))
      try await source.seal()
      let result = await piped.value
      #expect(try result.get() == 700_000)
      #expect(try await reader.waitUntilSealed() == 700_000)
      #expect(try await reader.readFully(0..<700_000) == pattern(0..<700_000))
    }
  }

  @Test(arguments: [false, true])
  func `why a blob failed reaches the readers of its copy`(asTask: Bool) async throws {
    try await withBroker { (_, client) async throws in
      let source = try await client.publisher("a", BlobOptions(order: .appendOnly))
      let copy = try await client.publisher("b", BlobOptions(order: .appendOnly))
      let reader = try await client.open("b")
      let subscriber = try await client.open("a")
      let piped = Task { await pipe(subscriber, copy, asTask: asTask) }
      try await source.append(pattern(0..<5000))
      #expect(try await reader.readFully(0..<5000) == pattern(0..<5000))
      try await source.fail("the disk is on fire")
      let result = await piped.value
      #expect(throws: PatchbayError.self) { try result.get() }
      let error = await #expect(throws: PatchbayError.self) {
        _ = try await reader.waitUntilSealed()
      }
      #expect(error?.code == .blobFailed && error?.cause == "the disk is on fire")
    }
  }

  @Test(arguments: [false, true])
  func `a copy that cannot be written ends the reader`(asTask: Bool) async throws {
    try await withBroker { (_, client) async throws in
      let source = try await client.publisher("a", BlobOptions(order: .appendOnly))
      let copy = try await client.publisher("b", BlobOptions(byteCount: 10, order: .appendOnly))
      let subscriber = try await client.open("a")
      try await source.append(pattern(0..<5000))
      let result = await pipe(subscriber, copy, asTask: asTask)
      let error = #expect(throws: PatchbayError.self) { try result.get() }
      #expect(error?.code == .rangeOutOfBounds)
      let code = await code { _ = try await subscriber.readFully(0..<1) }
      #expect(code == .closed)
      let info = try await client.info("b")
      #expect(info.state == .failed)
      try await source.seal()
    }
  }

  @Test func `a pipe that is cancelled fails its copy`() async throws {
    try await withBroker { (_, client) async throws in
      let source = try await client.publisher("a", BlobOptions(order: .appendOnly))
      let copy = try await client.publisher("b", BlobOptions(order: .appendOnly))
      let reader = try await client.open("b")
      let subscriber = try await client.open("a")
      let piping = Task { try await subscriber.pipe(to: copy) }
      try await source.append(pattern(0..<5000))
      #expect(try await reader.readFully(0..<5000) == pattern(0..<5000))
      piping.cancel()
      let error = await #expect(throws: PatchbayError.self) { try await piping.value }
      #expect(error?.code == .cancelled)
      let code = await code { _ = try await reader.waitUntilSealed() }
      #expect(code == .blobFailed)
      try await source.seal()
    }
  }

  @Test(arguments: [false, true])
  func `bytes that a pipe has missed fail its copy`(asTask: Bool) async throws {
    try await withBroker { (_, client) async throws in
      var options = BlobOptions(policy: .dropOldest)
      options.ringByteCount = 64 << 10
      let source = try await client.publisher("a", options)
      let copy = try await client.publisher("b", BlobOptions(order: .appendOnly))
      let subscriber = try await client.open("a")
      try await source.append(pattern(0..<1_000_000))
      try await source.seal()
      let result = await pipe(subscriber, copy, asTask: asTask)
      let error = #expect(throws: PatchbayError.self) { try result.get() }
      #expect(error?.code == .overrun)
      let info = try await client.info("b")
      #expect(info.state == .failed && info.coveredByteCount == 0)
    }
  }

  @Test(arguments: [false, true])
  func `a pipe into a blob that has bytes already is refused, and fails it`(
    asTask: Bool
  ) async throws {
    try await withBroker { (_, client) async throws in
      try await client.publish(pattern(0..<20_000), as: "a")
      let copy = try await client.publisher("b", BlobOptions(order: .appendOnly))
      try await copy.append(pattern(0..<10))
      let result = await pipe(try await client.open("a"), copy, asTask: asTask)
      let error = #expect(throws: PatchbayError.self) { try result.get() }
      #expect(error?.code == .rangeOverlap && error?.message.contains("10 bytes") == true)
      let info = try await client.info("b")
      #expect(info.state == .failed)
    }
  }

  @Test(arguments: [false, true])
  func `an export is a whole file or none`(asTask: Bool) async throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("out")
    try writeFile(path, Array("old".utf8))
    try await withBroker { (_, client) async throws in
      @Sendable func export(_ key: BlobKey) async throws -> Int {
        let subscriber = try await client.open(key)
        guard !asTask else { return try await subscriber.export(to: path) }
        let exporting = Started { () throws(PatchbayError) in try subscriber.export(to: path) }
        return try await Task.detached { try exporting.value }.value
      }
      let failing = try await client.publisher("a", BlobOptions(order: .appendOnly))
      try await failing.append(pattern(0..<300_000))
      let failed = Task { try await export("a") }
      try await eventually("a file is in the making") { names(in: directory.path).count == 2 }
      try await failing.fail("no")
      await #expect(throws: PatchbayError.self) { _ = try await failed.value }
      #expect(names(in: directory.path) == ["out"])
      #expect(try readFile(path) == "old")
      try await client.publish(pattern(0..<300_000), as: "b")
      #expect(try await export("b") == 300_000)
      #expect(names(in: directory.path) == ["out"])
      #expect(try readBytes(path) == pattern(0..<300_000))
    }
  }

  @Test(arguments: [false, true])
  func `what a file has already counts as written`(asTask: Bool) async throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("partial")
    try writeFile(path, pattern(0..<600_000))
    let file = open(path, O_RDONLY | O_CLOEXEC)
    defer { close(file) }
    try await withBroker { (_, client) async throws in
      let publisher = try await client.publisher("a", BlobOptions(byteCount: 1_000_000))
      @Sendable func preload(_ ranges: [Range<Int>]) async throws -> Int {
        guard !asTask else { return try await publisher.preload(from: file, ranges) }
        let loading = Started { () throws(PatchbayError) in
          try publisher.preload(from: file, ranges)
        }
        return try await Task.detached { try loading.value }.value
      }
      #expect(try await preload([0..<400_000, 500_000..<600_000]) == 500_000)
      #expect(try await preload([399_000..<401_000]) == 1000, "what is covered is skipped")
      #expect(try await publisher.missing() == [401_000..<500_000, 600_000..<1_000_000])
      let error = await #expect(throws: PatchbayError.self) {
        _ = try await preload([599_000..<601_000])
      }
      #expect(error?.code == .inputOutput && error?.message.contains("ends at 600000") == true)
      for range in try await publisher.missing() {
        try await publisher.write(pattern(range), at: range.lowerBound)
      }
      try await publisher.seal()
      let reader = try await client.open("a")
      #expect(try await reader.readFully(0..<1_000_000) == pattern(0..<1_000_000))
    }
  }
}
