// What the tool and its workers tell each other: words of the form name=value, on a worker's command
// line as its order and on one line of its output as its result.

/// Named values in order. Values have no spaces; texts for people travel on lines of their own.
struct Fields {
  private var values: [String: String] = [:]
  private var names: [String] = []

  init() {}

  init(words: some Sequence<some StringProtocol>) {
    for word in words {
      let parts = word.split(separator: "=", maxSplits: 1)
      guard parts.count == 2 else { continue }
      self[String(parts[0])] = String(parts[1])
    }
  }

  init(line: String) { self.init(words: line.split(separator: " ")) }

  subscript(_ name: String) -> String? {
    get { values[name] }
    set {
      if values[name] == nil { names.append(name) }
      values[name] = newValue
    }
  }

  var words: [String] { names.map { "\($0)=\(values[$0] ?? "")" } }
  var line: String { words.joined(separator: " ") }

  /// A value that the other side must have given.
  func text(_ name: String) throws(LoadError) -> String {
    guard let value = values[name] else {
      throw LoadError("A worker's message lacks the field \(name): \(line)")
    }
    return value
  }

  func int(_ name: String) throws(LoadError) -> Int {
    guard let value = Int(try text(name)) else {
      throw LoadError("The field \(name) of a worker's message is no number: \(line)")
    }
    return value
  }

  func flag(_ name: String) -> Bool { values[name] == "true" }

  /// The same fields with more behind them.
  func adding(_ more: KeyValuePairs<String, String>) -> Fields {
    var result = self
    for (name, value) in more { result[name] = value }
    return result
  }
}

extension Fields: ExpressibleByDictionaryLiteral {
  init(dictionaryLiteral elements: (String, String)...) {
    for (name, value) in elements { self[name] = value }
  }
}

/// What the tool itself could not do; the message is for people.
struct LoadError: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}
