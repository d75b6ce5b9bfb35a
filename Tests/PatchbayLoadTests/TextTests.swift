import PatchbayText
import Testing

@Suite struct TextTests {
  @Test(arguments: [
    ("4096", 4096), ("64KiB", 65536), ("1MiB", 1 << 20), ("4GiB", 4 << 30), ("0", 0),
  ])
  func `sizes are read with and without units`(text: String, byteCount: Int) {
    #expect(ByteSize(text)?.byteCount == byteCount)
  }

  @Test(arguments: [
    "", "KiB", "-1", "+1", "1.3KiB", "1 KiB", "1kb", "9223372036854775808", "8388608TiB",
  ])
  func `what is no size is refused`(text: String) {
    #expect(ByteSize(text) == nil)
  }

  @Test(arguments: ["4097", "64KiB", "1MiB", "1536KiB", "0"])
  func `a size is shown as it can be typed`(text: String) {
    #expect(ByteSize(text)?.description == text)
  }

  @Test func `a rounded size is short`() {
    #expect(ByteSize(byteCount: 1500).rounded == "1.5 KiB")
    #expect(ByteSize(byteCount: 20 << 20).rounded == "20 MiB")
    #expect(ByteSize(byteCount: 7).rounded == "7 B")
  }

  @Test(arguments: [
    ("250ms", Duration.milliseconds(250)), ("10s", .seconds(10)), ("5m", .seconds(300)),
  ])
  func `durations are read and shown`(text: String, duration: Duration) {
    #expect(TimeSpan(text)?.duration == duration)
    #expect(TimeSpan(duration: duration).description == text)
  }

  @Test(arguments: ["", "10", "s", "-1s", "1.s", "9223372036854775807h"])
  func `what is no duration is refused`(text: String) {
    #expect(TimeSpan(text) == nil)
  }
}
