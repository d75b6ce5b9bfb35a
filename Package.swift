// swift-tools-version: 6.2
//
// The map of the rooms. Arrows point down only: a room may name rooms of a lower level, never one
// of its own level. Tests hold this file to that.

import PackageDescription

/// Every Swift room is compiled the same way. Asynchronous functions run where their caller runs.
let strict: [SwiftSetting] = [
  .strictMemorySafety(), .treatAllWarnings(as: .error),
  .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
]
/// Tests play with raw memory and system calls on purpose.
let checked: [SwiftSetting] = [.treatAllWarnings(as: .error)]

func cRoom(_ name: String) -> Target {
  .target(
    name: name,
    cSettings: [.enableWarning("all"), .enableWarning("extra"), .treatAllWarnings(as: .error)])
}

func room(_ name: String, _ needs: Target.Dependency...) -> Target {
  .target(name: name, dependencies: needs, swiftSettings: strict)
}

func program(_ name: String, _ needs: Target.Dependency...) -> Target {
  .executableTarget(name: name, dependencies: needs, swiftSettings: strict)
}

/// A program as a user of the library would write it.
func example(_ name: String, _ needs: Target.Dependency...) -> Target {
  .executableTarget(
    name: name, dependencies: needs, path: "Sources/Examples/\(name)", swiftSettings: strict)
}

func tests(_ name: String, _ needs: Target.Dependency...) -> Target {
  .testTarget(name: name, dependencies: needs, swiftSettings: checked)
}

let arguments = Target.Dependency.product(
  name: "ArgumentParser", package: "swift-argument-parser")
let histogram = Target.Dependency.product(name: "Histogram", package: "hdrhistogram-swift")
let crypto = Target.Dependency.product(name: "Crypto", package: "swift-crypto")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")

/// The documentation plug-in is fetched only when asked for: PATCHBAY_DOCS=1.
let documentation: [Package.Dependency] =
  Context.environment["PATCHBAY_DOCS"] == nil
  ? [] : [.package(url: "https://github.com/swiftlang/swift-docc-plugin", from: "1.5.0")]

let package = Package(
  name: "patchbay",
  products: [
    .library(name: "Patchbay", targets: ["Patchbay"]),
    .library(name: "PatchbayBroker", targets: ["PatchbayBroker"]),
    .executable(name: "patchbay", targets: ["PatchbayCLI"]),
    .executable(name: "patchbay-load", targets: ["PatchbayLoad"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
  ] + documentation,
  targets: [
    // Level 0: shared layouts, the system shim, plain types.
    cRoom("CPatchbayLayout"),
    cRoom("CPatchbaySystem"),
    .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
    cRoom("CFloor"),
    room("PatchbayTypes"),
    // Level 1: each system call once; control messages to bytes and back; places inside a ring;
    // digests.
    room("PatchbaySystem", "CPatchbaySystem", "PatchbayTypes"),
    room("PatchbayWire", "CPatchbayLayout", "PatchbayTypes"),
    room("PatchbayLayout", "CPatchbayLayout", "PatchbayTypes"),
    room("PatchbayText"),
    room("PatchbayDigest", "PatchbayTypes", crypto),
    // Level 2: bytes of rings, bells and tables; what the broker knows and decides; bytes on disk.
    room("PatchbayRing", "CPatchbayLayout", "PatchbayLayout", "PatchbaySystem", "PatchbayTypes"),
    room("PatchbayLedger", "CPatchbayLayout", "PatchbayLayout", "PatchbayWire", "PatchbayTypes"),
    room("PatchbaySpool", "PatchbaySystem", "PatchbayTypes", "CLZ4"),
    // Level 3: the loop that runs the ledger; the client library.
    room(
      "PatchbayLoop", "PatchbayLedger", "PatchbaySpool", "PatchbayRing", "PatchbayWire",
      "PatchbayLayout", "PatchbayDigest", "PatchbaySystem", "CPatchbayLayout", "CPatchbaySystem",
      "PatchbayTypes",
      logging),
    room(
      "Patchbay", "PatchbaySpool", "PatchbayRing", "PatchbayLayout", "PatchbayWire",
      "PatchbaySystem", "PatchbayTypes"),
    // Level 4: the embeddable broker, the command, the load tool, small programs.
    room("PatchbayBroker", "PatchbayLoop", "Patchbay", "PatchbaySystem", "PatchbayTypes", logging),
    program(
      "PatchbayCLI", "PatchbayBroker", "Patchbay", "PatchbaySpool", "PatchbayWire",
      "PatchbayDigest", "PatchbaySystem", "CPatchbaySystem", "PatchbayText", "CLZ4", arguments,
      logging),
    program(
      "PatchbayLoad", "PatchbayBroker", "Patchbay", "PatchbaySystem", "PatchbayText", "CFloor",
      "PatchbayTypes", arguments, histogram, logging),
    example("EmbeddedBroker", "PatchbayBroker", "Patchbay"),
    example("Images", "Patchbay"),
    example("Log", "Patchbay"),
    example("Mirror", "Patchbay"),
    example("Thumbnails", "Patchbay"),
    // Tests: what they share, the process on the other side, and a suite per room.
    .target(
      name: "PatchbayTestSupport", dependencies: ["PatchbaySystem", "CPatchbaySystem"],
      path: "Tests/PatchbayTestSupport", swiftSettings: checked),
    .executableTarget(
      name: "patchbay-peer",
      dependencies: [
        "Patchbay", "PatchbayRing", "PatchbayLayout", "PatchbayWire", "PatchbaySystem",
        "CPatchbaySystem", "PatchbayTypes", "PatchbayTestSupport",
      ], path: "Tests/PatchbayPeer", swiftSettings: checked),
    tests(
      "PatchbayRingTests", "PatchbayRing", "PatchbayLayout", "CPatchbayLayout", "PatchbaySystem",
      "PatchbayTypes", "PatchbayTestSupport", "patchbay-peer"),
    tests(
      "PatchbayWireTests", "PatchbayWire", "PatchbayLayout", "CPatchbayLayout", "PatchbaySpool",
      "PatchbayTypes", "PatchbayTestSupport"),
    tests(
      "PatchbaySpoolTests", "PatchbaySpool", "PatchbaySystem", "PatchbayTypes",
      "PatchbayTestSupport"),
    tests(
      "PatchbayLedgerTests", "PatchbayLedger", "PatchbayWire", "PatchbayLayout", "PatchbayTypes"),
    tests(
      "PatchbayLoopTests", "PatchbayBroker", "PatchbayLoop", "PatchbayLedger", "PatchbayRing",
      "PatchbayDigest", "PatchbaySpool", "PatchbayWire", "PatchbayLayout", "PatchbaySystem",
      "CPatchbayLayout",
      "PatchbayTypes", "PatchbayTestSupport", logging),
    tests(
      "PatchbayCLITests", "PatchbayCLI", "PatchbayDigest", "PatchbaySpool", "PatchbaySystem",
      "PatchbayTypes", "PatchbayTestSupport"),
    tests("PatchbayLoadTests", "PatchbayLoad", "CFloor", "PatchbayText"),
    tests(
      "PatchbayClientTests", "Patchbay", "PatchbayRing", "PatchbayBroker", "PatchbayWire",
      "PatchbayTestSupport"),
    .testTarget(
      name: "PatchbayExampleTests",
      dependencies: ["Patchbay", "PatchbayBroker", "PatchbayTestSupport"], swiftSettings: strict),
    tests("PatchbayHouseTests", "PatchbayTestSupport"),
    tests(
      "PatchbayProcessTests", "PatchbayTestSupport", "Patchbay", "PatchbayBroker",
      "PatchbaySystem", "PatchbayWire",
      "PatchbayTypes", "PatchbayCLI", "CPatchbaySystem", "patchbay-peer", "EmbeddedBroker",
      "Images", "Log", "Mirror", "Thumbnails"),
  ],
  swiftLanguageModes: [.v6]
)
