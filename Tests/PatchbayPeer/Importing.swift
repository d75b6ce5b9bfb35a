// What a test client does with files that become blobs.

import Glibc
import Patchbay
import PatchbaySystem
import PatchbayTestSupport
import PatchbayWire
import Synchronization

/// An import that is under way elsewhere.
final class ImportUnderWay: Sendable {
  private let outcome = Mutex<Result<Generation, PatchbayError>?>(nil)

  func finish(_ result: Result<Generation, PatchbayError>) { outcome.withLock { $0 = result } }

  func wait() throws -> Generation {
    try eventually("the import has ended") { outcome.withLock { $0 } != nil }
    guard let result = outcome.withLock({ $0 }) else { throw HarnessError("no outcome") }
    return try result.get()
  }
}

extension Conversation {
  /// `imports PATH COUNT`: tries so often to import a file, under a key each; answers with what came of
  /// it, and how often.
  func importFiles(_ words: [String]) throws -> String {
    let (path, client) = (try word(words, 0), try connected())
    var outcomes: [String: Int] = [:]
    for index in 0..<(try number(words, 1)) {
      do throws(PatchbayError) {
        try client.importFile(path, as: BlobKey("import\(index)"))
        outcomes["imported", default: 0] += 1
      } catch {
        outcomes["\(error.code)", default: 0] += 1
      }
    }
    return outcomes.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
      .joined(separator: " ")
  }

  /// `sendDescriptor SOCKET`: sends a descriptor with a message on a connection of its own; `sent`, or
  /// the error number.
  func sendDescriptor(_ words: [String]) throws -> String {
    let socket = try ControlSocket.connect(
      to: try word(words, 0), until: MonotonicTime.now.advanced(by: .seconds(20)))
    do throws(PatchbayError) {
      let outcome = try socket.send(Frame.encode(.ping, request: 1), descriptors: [STDIN_FILENO])
      return "\(outcome)"
    } catch {
      return "\(error.systemErrno ?? 0)"
    }
  }

  /// `importWhile KEY PATH thread|task`: begins an import of a file at a broker that stands still, and
  /// makes the file longer once the request is on its way.
  func importWhileChanging(_ words: [String]) throws -> String {
    let (key, path) = (try BlobKey(try word(words, 0)), try word(words, 1))
    let (client, imported) = (try connected(), ImportUnderWay())
    let options = ImportOptions(replaces: true)
    if try word(words, 2) == "task" {
      Task {
        do throws(PatchbayError) {
          imported.finish(.success(try await client.importFile(path, as: key, options)))
        } catch {
          imported.finish(.failure(error))
        }
      }
    } else {
      _ = TestThread {
        do throws(PatchbayError) {
          imported.finish(.success(try client.importFile(path, as: key, options)))
        } catch {
          imported.finish(.failure(error))
        }
      }
    }
    importUnderWay = imported
    try waitForUnread()
    let file = unsafe open(path, O_WRONLY | O_APPEND | O_CLOEXEC)
    defer { _ = close(file) }
    guard unsafe write(file, "x", 1) == 1 else { throw HarnessError("\(path) cannot be written") }
    return "changed"
  }

  /// Waits until something that was sent to the broker has not been read.
  private func waitForUnread() throws {
    try eventually("something is unread") {
      var byteCount: Int32 = 0
      guard unsafe ioctl(connectionDescriptor(), UInt(TIOCOUTQ), &byteCount) == 0 else {
        throw HarnessError("the connection does not say what is unread")
      }
      return byteCount > 0
    }
  }

  /// What has become of the import that was begun.
  func importOutcome() throws -> String {
    guard let importUnderWay else { throw HarnessError("no import") }
    return "\(try importUnderWay.wait())"
  }
}
