// The cases: what a program calls often, one process, a broker within it.

import Patchbay

/// All cases, over one client.
struct Cases {
  let client: PatchbayClient

  var all: [Benchmark] { appends + writes + reads + questions }

  // MARK: Writing

  private var appends: [Benchmark] {
    [
      Benchmark(name: "append 64 B", count: 100_000) { count, timer in
        try publish(byteCount: 64 * count, .appendOnly) { publisher in
          let bytes = [UInt8](repeating: 1, count: 64)
          try timer.time { for _ in 0..<count { try publisher.append(bytes) } }
        }
      },
      Benchmark(name: "append 64 B, batches of 100", count: 100_000) { count, timer in
        try publish(byteCount: 64 * count, .appendOnly) { publisher in
          let bytes = [UInt8](repeating: 1, count: 64)
          try timer.time {
            for _ in 0..<count / 100 {
              try publisher.withBatch { for _ in 0..<100 { try publisher.append(bytes) } }
            }
          }
        }
      },
    ]
  }

  private var writes: [Benchmark] {
    [
      write(64, count: 50_000, "write(at:) 64 B, aligned"),
      write(100, count: 50_000, "write(at:) 100 B, ragged"),
      write(4096, count: 10_000, "write(at:) 4 KiB"),
      write(1 << 20, count: 64, "write(at:) 1 MiB"),
    ]
  }

  /// Writes one behind the other, at a position each.
  private func write(_ size: Int, count: Int, _ name: String) -> Benchmark {
    Benchmark(name: name, count: count) { count, timer in
      try publish(byteCount: size * count, .any) { publisher in
        let bytes = [UInt8](repeating: 1, count: size)
        try timer.time {
          for index in 0..<count { _ = try publisher.write(bytes, at: index * size) }
        }
      }
    }
  }

  private func publish(
    byteCount: Int, _ order: WriteOrder, _ body: (Publisher) throws -> Void
  ) throws {
    try client.withPublisher("benchmark", BlobOptions(byteCount: byteCount, order: order), body)
    try client.remove("benchmark")
  }

  // MARK: Reading

  private var reads: [Benchmark] {
    [
      read(64, count: 100_000, "read 64 B"), read(4096, count: 20_000, "read 4 KiB"),
      read(1 << 20, count: 64, "read 1 MiB"),
      Benchmark(name: "lease 4 KiB", count: 20_000) { count, timer in
        try withFilledBlob(byteCount: 4096 * 1000) { subscriber in
          try timer.time {
            for index in 0..<count {
              let start = index % 1000 * 4096
              _ = try subscriber.lease(start..<start + 4096)
            }
          }
        }
      },
    ]
  }

  /// Reads what is there and mapped, into memory that is used again.
  private func read(_ size: Int, count: Int, _ name: String) -> Benchmark {
    Benchmark(name: name, count: count) { count, timer in
      try withFilledBlob(byteCount: size * min(count, 1000)) { subscriber in
        // Touched once before: first touches of a mapping are not what is measured.
        _ = try subscriber.readFully(0..<size * min(count, 1000))
        let buffer = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: size)
        defer { unsafe buffer.deallocate() }
        try timer.time {
          for index in 0..<count {
            var output = unsafe OutputSpan(buffer: buffer, initializedCount: 0)
            _ = try subscriber.read(into: &output, at: index % 1000 * size)
          }
        }
      }
    }
  }

  private func withFilledBlob(byteCount: Int, _ body: (Subscriber) throws -> Void) throws {
    try client.withPublisher("benchmark", BlobOptions(byteCount: byteCount, order: .appendOnly)) {
      try $0.append([UInt8](repeating: 1, count: byteCount))
    }
    try body(client.open("benchmark"))
    try client.remove("benchmark")
  }

  // MARK: Asking the broker

  private var questions: [Benchmark] {
    [
      Benchmark(name: "open and close", count: 2000) { count, timer in
        try withFilledBlob(byteCount: 1 << 16) { _ in
          try timer.time { for _ in 0..<count { try client.open("benchmark").close() } }
        }
      },
      Benchmark(name: "info", count: 2000) { count, timer in
        try withFilledBlob(byteCount: 1 << 16) { _ in
          try timer.time { for _ in 0..<count { _ = try client.info("benchmark") } }
        }
      },
    ]
  }
}
