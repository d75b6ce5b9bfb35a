// Patching a blob together from the shell.

import Glibc
import PatchbayTestSupport
import Testing

@Suite(.serialized) struct PatchingCommandTests {
  @Test func `create, write from several processes, and seal make one blob`() throws {
    let broker = try BrokerProcess()
    let created = try broker.run(["create", "up/1", "--length", "12", "--idle", "1h", "--json"])
    #expect(created.exitCode == 0)
    let again = try broker.run(["create", "up/1", "--length", "12", "--idle", "1h", "--json"])
    #expect(again.output == created.output)
    #expect(try broker.run(["create", "up/1", "--length", "13", "--idle", "1h"]).exitCode == 73)
    let info = try broker.run(["info", "up/1", "--json"]).output
    #expect(info.contains(#""state":"suspended""#) && jsonNumber(info, "publisherCount") == 0)
    #expect(try broker.run(["ls", "-l"]).output.contains("suspended"))
    #expect(try broker.run(["write", "up/1", "--at", "6"], input: "world\n").exitCode == 0)
    #expect(try broker.run(["seal", "up/1"]).exitCode == 65)
    #expect(try broker.run(["write", "up/1", "--at", "0"], input: "hello ").exitCode == 0)
    #expect(try broker.run(["seal", "up/1"]).exitCode == 0)
    #expect(try broker.run(["seal", "up/1"]).exitCode == 0)
    #expect(try broker.run(["cat", "up/1"]).output == "hello world\n")
    #expect(try broker.run(["write", "up/1", "--at", "0"], input: "x").exitCode == 79)
    try broker.stop()
  }

  @Test func `a file that touches written bytes is refused whole, or written around them`() throws {
    let broker = try BrokerProcess()
    let directory = try TemporaryDirectory()
    try writeFile(directory.file("f"), Array("0123456789".utf8))
    _ = try broker.run(["create", "k"])
    _ = try broker.run(["write", "k", "--at", "4"], input: "ab")
    let refused = try broker.run(["write", "k", directory.file("f"), "--at", "0", "--json"])
    #expect(refused.exitCode == 73)
    #expect(jsonNumber(refused.error, "resumePosition") == 4)
    #expect(jsonNumber(try broker.run(["info", "k", "--json"]).output, "coveredBytes") == 2)
    let written = try broker.run(
      ["write", "k", directory.file("f"), "--at", "0", "--skip-covered", "--json"])
    #expect(written.exitCode == 0)
    #expect(jsonNumber(written.output, "written") == 8)
    #expect(jsonNumber(written.output, "byteCount") == 10)
    #expect(try broker.run(["seal", "k"]).exitCode == 0)
    #expect(try broker.run(["cat", "k"]).output == "0123ab6789")
    try broker.stop()
  }

  @Test func `a failed blob tells why, and create --resume begins with what was written`() throws {
    let broker = try BrokerProcess()
    _ = try broker.run(["create", "k", "--length", "10"])
    _ = try broker.run(["write", "k", "--at", "0"], input: "01234")
    #expect(try broker.run(["fail", "k", "--why", "the sender gave up"]).exitCode == 0)
    let read = try broker.run(["cat", "k"])
    #expect(read.exitCode == 79 && read.error.contains("the sender gave up"))
    #expect(try broker.run(["write", "k", "--at", "5"], input: "56789").exitCode == 79)
    #expect(try broker.run(["create", "k", "--length", "11", "--resume"]).exitCode == 65)
    #expect(try broker.run(["create", "k", "--length", "10", "--resume"]).exitCode == 0)
    #expect(try broker.run(["write", "k", "--at", "5"], input: "56789").exitCode == 0)
    #expect(try broker.run(["seal", "k"]).exitCode == 0)
    #expect(try broker.run(["cat", "k"]).output == "0123456789")
    try broker.stop()
  }

  @Test func `a write that is interrupted keeps what it wrote, and the blob waits for the next`()
    throws
  {
    let broker = try BrokerProcess()
    _ = try broker.run(["create", "k", "--length", "10"])
    let writer = try broker.start(["write", "k", "--at", "0"])
    try writer.send("01234")
    try eventually("five bytes are there") {
      jsonNumber(try broker.run(["info", "k", "--json"]).output, "coveredBytes") == 5
    }
    writer.kill(SIGINT)
    #expect(try writer.waitForExit() == 130)
    let info = try broker.run(["info", "k", "--json"]).output
    #expect(info.contains(#""state":"suspended""#) && jsonNumber(info, "coveredBytes") == 5)
    #expect(try broker.run(["write", "k", "--at", "5"], input: "56789").exitCode == 0)
    #expect(try broker.run(["seal", "k"]).exitCode == 0)
    #expect(try broker.run(["cat", "k"]).output == "0123456789")
    try broker.stop()
  }

  @Test func `another's blob is not patched, a missing one not found, bad options are usage`()
    throws
  {
    let broker = try BrokerProcess()
    let publisher = try broker.peer()
    try publisher.ask("publish mine 10 any")
    #expect(try broker.run(["write", "mine", "--at", "0"], input: "x").exitCode == 77)
    #expect(try broker.run(["seal", "mine"]).exitCode == 77)
    #expect(try broker.run(["fail", "mine", "--why", "x"]).exitCode == 77)
    #expect(try broker.run(["write", "none", "--at", "0"], input: "x").exitCode == 66)
    #expect(try broker.run(["write", "mine"], input: "x").exitCode == 64)
    #expect(try broker.run(["fail", "mine"]).exitCode == 64)
    #expect(try broker.run(["create", "k", "--idle", "0s"]).exitCode == 64)
    #expect(try broker.run(["create", "k", "--replace", "--resume"]).exitCode == 64)
    _ = try broker.run(["create", "small", "--length", "3"])
    #expect(try broker.run(["write", "small", "--at", "0"], input: "toolong").exitCode == 64)
    publisher.process.kill(SIGKILL)
    try broker.stop()
  }
}
