// Sizes, durations, positions and the like: from what people type, and into what they read.

import ArgumentParser
import Glibc
import Patchbay
import PatchbayText
import PatchbayWire

/// Reading arguments. Each throws a `ValidationError` whose text says what would be right.
enum Typed {
  /// `4096`, `64KiB`, `1.5GiB`: whole bytes in the end.
  static func size(_ text: String) throws -> Int {
    guard let size = ByteSize(text) else {
      throw ValidationError("A size is a number of bytes, or one with KiB, MiB, GiB or TiB: 64KiB.")
    }
    return size.byteCount
  }

  /// The same, but at least one byte.
  static func positiveSize(_ text: String) throws -> Int {
    let size = try size(text)
    guard size > 0 else { throw ValidationError("This size must be at least one byte.") }
    return size
  }

  /// `250ms`, `10s`, `1.5m`, `2h`.
  static func duration(_ text: String) throws -> Duration {
    guard let span = TimeSpan(text) else {
      throw ValidationError("A duration is a number with ms, s, m or h: 250ms, 10s, 5m.")
    }
    return span.duration
  }

  /// The same, but more than nothing.
  static func positiveDuration(_ text: String) throws -> Duration {
    let duration = try duration(text)
    guard duration > .zero else {
      throw ValidationError("This duration must be longer than nothing.")
    }
    return duration
  }

  /// `none`, `lz4`.
  static func compression(_ text: String) throws -> SpoolCompression {
    guard let method = SpoolCompression.allCases.first(where: { $0.description == text }) else {
      throw ValidationError("'\(text)' is no way to keep bytes; there are none and lz4.")
    }
    return method
  }

  /// A key, with `%XX` for one byte.
  static func key(_ text: String) throws -> BlobKey {
    do {
      return try BlobKey(percentEncoded: text)
    } catch {
      throw ValidationError(error.message)
    }
  }

  /// Permission bits in octal.
  static func mode(_ text: String) throws -> UInt16 {
    guard let mode = UInt16(text, radix: 8), mode <= 0o777 else {
      throw ValidationError("A mode is octal permission bits, 0600 to 0777.")
    }
    return mode
  }

  /// `sha256:` and 64 hexadecimal digits, or the like.
  static func digest(_ text: String) throws -> ContentDigest {
    do {
      return try ContentDigest(text)
    } catch {
      throw ValidationError(error.message)
    }
  }

  /// `sha256`, `sha384` or `sha512`.
  static func digestAlgorithm(_ text: String) throws -> ContentDigest.Algorithm {
    do {
      return try ContentDigest.Algorithm(named: text)
    } catch {
      throw ValidationError(error.message)
    }
  }

  /// `NAME=VALUE`; the value may be empty and may contain more equals signs.
  static func label(_ text: String) throws -> BlobInfo.Label {
    guard let equals = text.firstIndex(of: "="), equals != text.startIndex else {
      throw ValidationError("A label is NAME=VALUE.")
    }
    let label = BlobInfo.Label(
      name: String(text[..<equals]), value: String(text[text.index(after: equals)...]))
    let longest = max(label.name.utf8.count, label.value.utf8.count)
    guard longest <= WireLimit.labelPart else {
      throw ValidationError(
        "Each side of a label has at most \(WireLimit.labelPart) bytes; one of these has \(longest)."
      )
    }
    return label
  }

  /// Such as `text/plain`; nobody looks into it.
  static func mediaType(_ text: String) throws -> String {
    guard text.utf8.count <= WireLimit.type else {
      throw ValidationError(
        "A media type has at most \(WireLimit.type) bytes; this one has \(text.utf8.count).")
    }
    return text
  }
}

/// Writing figures for people.
enum Shown {
  private static let units = ["B", "KiB", "MiB", "GiB", "TiB"]

  /// `512 B`, `64.0 KiB`, `1.25 GiB`: four digits at most.
  static func bytes(_ count: some BinaryInteger) -> String {
    var value = Double(count)
    var unit = 0
    while value >= 1023.95, unit < units.count - 1 {
      value /= 1024
      unit += 1
    }
    guard unit > 0 else { return "\(count) B" }
    return "\(fixed(value, value < 9.995 ? 2 : 1)) \(units[unit])"
  }

  /// A number with so many digits behind the point.
  static func fixed(_ value: Double, _ digits: Int) -> String {
    let power = (0..<digits).reduce(1.0) { power, _ in power * 10 }
    let scaled = Int((value * power).rounded())
    guard digits > 0 else { return String(scaled) }
    let text = String(scaled.magnitude)
    let padded = String(repeating: "0", count: max(0, digits + 1 - text.count)) + text
    return (scaled < 0 ? "-" : "") + padded.dropLast(digits) + "." + padded.suffix(digits)
  }

  /// Whole percent, never 100 before all is there.
  static func percent(_ part: Int, of whole: Int) -> String {
    guard whole > 0, part < whole else { return "100 %" }
    return "\(min(99, Int(Double(part) / Double(whole) * 100))) %"
  }

  static func rate(_ byteCount: Int, in duration: Duration) -> String {
    let seconds = max(1e-9, Double(duration.wholeNanoseconds) / 1e9)
    return "\(bytes(Int(min(Double(byteCount) / seconds, 1e15))))/s"
  }

  /// Somebody else's words on one line, with nothing in them that a terminal would obey.
  static func plain(_ text: String) -> String {
    var plain = ""
    for scalar in text.unicodeScalars {
      let isControl = scalar.properties.generalCategory == .control
      plain.unicodeScalars.append(isControl ? "\u{fffd}" : scalar)
    }
    return plain
  }

  /// How long ago, in nanoseconds: `850 ms`, `12 s`, `3 min`, `2 h 5 min`, `4 d`.
  static func age(_ nanoseconds: Int64) -> String {
    let milliseconds = max(0, nanoseconds) / 1_000_000
    let seconds = milliseconds / 1000
    switch seconds {
    case 0: return "\(milliseconds) ms"
    case 1..<120: return "\(seconds) s"
    case 120..<7200: return "\(seconds / 60) min"
    case 7200..<172_800: return "\(seconds / 3600) h \(seconds / 60 % 60) min"
    default: return "\(seconds / 86_400) d"
    }
  }

  /// RFC 3339 in UTC with milliseconds.
  static func time(_ time: WallTime) -> String {
    let (seconds, nanosecond) = floored(time.rawValue, by: 1_000_000_000)
    let (days, second) = floored(seconds, by: 86400)
    let (year, month, day) = civil(daysSince1970: days)
    let part = nanosecond / 1_000_000
    let date = "\(padded(year, 4))-\(padded(month, 2))-\(padded(day, 2))"
    let clock =
      "\(padded(second / 3600, 2)):\(padded(second / 60 % 60, 2)):\(padded(second % 60, 2))"
    return "\(date)T\(clock).\(padded(part, 3))Z"
  }

  /// Quotient and a remainder that is not negative.
  private static func floored(_ value: Int64, by divisor: Int64) -> (Int64, Int64) {
    let (quotient, remainder) = value.quotientAndRemainder(dividingBy: divisor)
    return remainder < 0 ? (quotient - 1, remainder + divisor) : (quotient, remainder)
  }

  /// The Gregorian date of a day, by Howard Hinnant's `civil_from_days`
  /// (howardhinnant.github.io/date_algorithms.html); right from the year 0 on.
  private static func civil(daysSince1970 days: Int64) -> (year: Int64, month: Int64, day: Int64) {
    let shifted = days + 719_468
    let era = shifted / 146_097
    let dayOfEra = shifted % 146_097
    let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let marchMonth = (5 * dayOfYear + 2) / 153
    let month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
    let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    return (year, month, dayOfYear - (153 * marchMonth + 2) / 5 + 1)
  }

  private static func padded(_ number: Int64, _ width: Int) -> String {
    let text = String(number)
    return String(repeating: "0", count: max(0, width - text.count)) + text
  }
}
