// A program with a broker inside. It publishes a stream while a second process, started from this
// same program, reads it: `EmbeddedBroker` runs both sides, `EmbeddedBroker read SOCKET` is the second.

import Glibc
import Patchbay
import PatchbayBroker

/// The second process: attaches to the first one's broker and reads from byte 0 to the end.
func readEverything(from socketPath: String) throws {
  let client = try PatchbayClient(socketPath: socketPath)
  let blob = try client.open("numbers", waitUntil: .after(.seconds(10)))
  var cursor = blob.cursor()
  var (sum, byteCount) = (0, 0)
  while let bytes = try cursor.read(upTo: 64 * 1024) {
    byteCount += bytes.count
    sum = bytes.reduce(sum) { $0 + Int($1) }
  }
  print("second process: \(byteCount) bytes, their sum is \(sum)")
}

/// The first process: a broker for as long as the closure runs, and a publisher in it.
func publishToASecondProcess() throws {
  let directory = "/tmp/patchbay-example-\(getpid())"
  let socketPath = "\(directory)/control.sock"
  defer {
    _ = unsafe unlink("\(socketPath).lock")
    _ = unsafe rmdir(directory)
  }
  let configuration = BrokerConfiguration(socketPath: socketPath, memoryLimit: 64 << 20)
  try Broker.withBroker(configuration) { broker in
    let reader = try startSecondProcess(socketPath)
    let client = try broker.makeClient()
    try client.withPublisher("numbers", BlobOptions(byteCount: 3_000_000)) { blob in
      for start in stride(from: 0, to: 3_000_000, by: 1000) {
        try blob.append([UInt8](repeating: UInt8(start / 1000 % 256), count: 1000))
      }
    }
    var status: Int32 = 0
    _ = unsafe waitpid(reader, &status, 0)
    print("first process: published 3000000 bytes; the reader exited with \(status >> 8 & 0xff)")
  }
}

/// Runs this program again, as the reader.
func startSecondProcess(_ socketPath: String) throws -> pid_t {
  var child: pid_t = 0
  let arguments = ["EmbeddedBroker", "read", socketPath]
  var argv = unsafe arguments.map { unsafe strdup($0) } + [nil]
  defer { unsafe argv.forEach { unsafe free($0) } }
  let result = unsafe posix_spawn(&child, "/proc/self/exe", nil, nil, &argv, environ)
  guard result == 0 else {
    throw PatchbayError(.inputOutput, "The second process does not start (error \(result)).")
  }
  return child
}

/// Says on standard error why the program ends.
func end(_ words: String, _ status: Int32) -> Never {
  _ = unsafe write(2, words + "\n", words.utf8.count + 1)
  exit(status)
}

do {
  let words = CommandLine.arguments
  switch words.count {
  case 1: try publishToASecondProcess()
  case 3 where words[1] == "read": try readEverything(from: words[2])
  default: end("usage: EmbeddedBroker [read SOCKET]", 64)
  }
} catch {
  end("EmbeddedBroker: \(error)", 1)
}
