// What this build calls itself.

enum Version {
  static let patchbay = "0.1.0"
}
