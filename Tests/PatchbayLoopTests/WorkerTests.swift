// What takes long is done elsewhere, and one long job holds up no look into a ring.

import Dispatch
import Glibc
import PatchbayLoop
import PatchbaySystem
import PatchbayTypes
import PatchbayWire
import Testing

@Suite(.serialized) struct WorkerTests {
  @Test func `jobs of one worker go on while another's is blocked, each in their order`() throws {
    let blocked = try Worker<Int>("the blocked", jobLimit: 10)
    let free = try Worker<Int>("the free", jobLimit: 10)
    try blocked.start()
    try free.start()
    let gate = DispatchSemaphore(value: 0)
    #expect(
      blocked.submit {
        gate.wait()
        return 1
      })
    #expect(blocked.submit { 2 })
    for number in 10..<15 { #expect(free.submit { number }) }
    var results: [Int] = []
    let isDone = eventually {
      results += free.takeResults()
      return results.count == 5
    }
    #expect(isDone)
    #expect(results == [10, 11, 12, 13, 14])
    #expect(blocked.takeResults().isEmpty)
    gate.signal()
    var late: [Int] = []
    let isDoneToo = eventually {
      late += blocked.takeResults()
      return late.count == 2
    }
    #expect(isDoneToo)
    #expect(late == [1, 2])
    blocked.stop()
    free.stop()
  }

  @Test func `a worker takes no more jobs than its limit`() throws {
    let worker = try Worker<Int>("the full", jobLimit: 3)
    for _ in 0..<3 { #expect(worker.submit { 1 }) }
    #expect(!worker.submit { 1 })
    worker.stop()
  }

  @Test(.enabled(if: geteuid() == 0, "mounts a /dev/shm of its own"))
  func `a small ring waits for the memory of a large one that is being removed`() async {
    await #expect(processExitsWith: .success) {
      let limit = 600 << 20
      try OwnSharedMemory.mount(byteCount: limit)
      let broker = try TestBroker(memory: limit)
      let client = try broker.client()
      func create(_ key: BlobKey, _ byteCount: Int) throws -> BlobGrant {
        var request = CreateRequest(key: key)
        request.byteCount = byteCount
        request.order = .appendOnly
        return try client.create(request).0
      }
      let large = try create("large", 560 << 20)
      var index = 0
      while try client.memoryByteCount() + 5 << 20 < limit {
        _ = try create(BlobKey("\(index)"), 4 << 20)
        index += 1
      }
      // What is left of the file system is taken by somebody else: the next ring needs the memory
      // of the large one, which goes for it.
      var inode: UInt64 = 0
      _ = try SharedObject.create(
        name: "/filler", mode: 0o600, byteCount: try SharedObject.freeByteCount(), inode: &inode)
      _ = try client.call(.quiesced(large.blob))
      _ = try client.call(.abandon(large.blob))
      _ = try create("last", 4 << 20)
      try #require(try client.refusal(.info(InfoRequest(key: "large"))).code == .noSuchKey)
    }
  }

  @Test func `a seal does not wait behind rings that are being made`() throws {
    let broker = try TestBroker(memory: 2 << 30)
    let sealer = try broker.client()
    var small = CreateRequest(key: "small")
    small.byteCount = 8 << 20
    let (grant, _) = try sealer.create(small)
    let creator = try broker.client()
    let largeCount = 6
    for index in 0..<largeCount {
      var large = CreateRequest(key: try BlobKey("large/\(index)"))
      large.byteCount = 256 << 20
      large.order = .appendOnly
      try creator.send(.create(large))
    }
    // Behind the creates on the socket, and answered at once: all of them have been asked for.
    let ping = try creator.send(.ping)
    var answers: Set<UInt64> = []
    while !answers.contains(ping) { answers.insert(try #require(try creator.receive()).number) }
    let holes = try sealer.refusal(.seal(SealRequest(blob: grant.blob, byteCount: 8 << 20)))
    #expect(holes.code == .holesAtSeal)
    while let answer = try creator.receiveIfThere() {
      answers.insert(try #require(answer).number)
    }
    #expect(answers.count < largeCount + 1, "the seal was looked at after all creates")
  }
}

enum OwnSharedMemory {
  /// Gives this thread, and those it starts, a /dev/shm that nobody else sees.
  static func mount(byteCount: Int) throws {
    typealias Unshare = @convention(c) (Int32) -> Int32
    // The declaration is behind a macro of the system's headers.
    let symbol = try #require(unsafe dlsym(nil, "unshare"))
    let newMounts: Int32 = 0x20000
    try #require(unsafe unsafeBitCast(symbol, to: Unshare.self)(newMounts) == 0)
    let isPrivate = UInt(MS_REC | MS_PRIVATE)
    try #require(unsafe Glibc.mount("none", "/", nil, isPrivate, nil) == 0)
    try #require(
      unsafe Glibc.mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=\(byteCount)") == 0)
  }
}
