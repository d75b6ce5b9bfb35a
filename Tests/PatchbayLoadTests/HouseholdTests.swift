import Glibc
import Testing

@testable import PatchbayLoad

@Suite struct HouseholdTests {
  /// Ends the process when nothing else does: by a signal that stands for "it did not return".
  private static func endLater() { _ = alarm(1) }

  @Test func `an interrupted run makes no directory any more`() async {
    await #expect(processExitsWith: .signal(SIGALRM)) {
      Household.shared.interrupt()
      Self.endLater()
      _ = try Household.shared.makeDirectory()
    }
  }

  @Test func `an interrupted run starts no broker any more`() async {
    await #expect(processExitsWith: .signal(SIGALRM)) {
      Household.shared.interrupt()
      Self.endLater()
      _ = try Household.shared.startBroker { () throws(LoadError) in _exit(1) }
    }
  }

  @Test func `an interrupted run starts no worker any more`() async {
    await #expect(processExitsWith: .signal(SIGALRM)) {
      Household.shared.interrupt()
      Self.endLater()
      _ = try Household.shared.startWorker { () throws(LoadError) in _exit(1) }
    }
  }

  @Test func `what was made before an interrupt goes with it, and only then`() async {
    await #expect(processExitsWith: .success) {
      let directory = try Household.shared.makeDirectory()
      guard unsafe access(directory, R_OK) == 0 else { _exit(1) }
      Household.shared.interrupt()
      _exit(unsafe access(directory, F_OK) == 0 ? 2 : 0)
    }
  }
}
