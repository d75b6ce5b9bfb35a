// `swift run -c release PatchbayBenchmarks [FILTER]`: runs the cases whose names contain the filter.

import Glibc
import Patchbay
import PatchbayBroker

@main
enum Run {
  static func main() throws {
    let filter = CommandLine.arguments.dropFirst().first ?? ""
    let directory = "/tmp/patchbay-benchmarks-\(getpid())"
    let socketPath = "\(directory)/control.sock"
    defer {
      _ = unsafe unlink("\(socketPath).lock")
      _ = unsafe rmdir(directory)
    }
    let configuration = BrokerConfiguration(socketPath: socketPath, memoryLimit: 1 << 30)
    show(["operation", "ns median", "lowest", "highest"])
    try Broker.withBroker(configuration) { broker in
      let cases = Cases(client: try PatchbayClient(socketPath: broker.socketPath))
      for benchmark in cases.all where filter.isEmpty || benchmark.name.contains(filter) {
        let result = try benchmark.measure()
        show([benchmark.name] + [result.median, result.lowest, result.highest].map(rounded))
      }
    }
  }
}
