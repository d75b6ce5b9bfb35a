// swift-tools-version: 6.2
//
// Benchmarks see what every user sees: the public products and nothing else.

import PackageDescription

let package = Package(
  name: "patchbay-benchmarks",
  dependencies: [.package(name: "patchbay", path: "..")],
  targets: [
    .executableTarget(
      name: "PatchbayBenchmarks",
      dependencies: [
        .product(name: "Patchbay", package: "patchbay"),
        .product(name: "PatchbayBroker", package: "patchbay"),
      ],
      swiftSettings: [.strictMemorySafety(), .treatAllWarnings(as: .error)])
  ],
  swiftLanguageModes: [.v6]
)
