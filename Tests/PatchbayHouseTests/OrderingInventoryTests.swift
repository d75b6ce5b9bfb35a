// Every memory ordering in the code has its comment and its partner, and the page that lists the
// pairs is complete.

import Testing

/// One operation that names an ordering, with the comment above it.
private struct Site {
  let place: String
  let comment: String?
  let isRelaxed: Bool
}

@Suite struct OrderingInventoryTests {
  private static let markers = [
    "ordering: .relaxed", "ordering: .acquiring", "ordering: .releasing",
    "ordering: .acquiringAndReleasing", "ordering: .sequentiallyConsistent",
  ]
  private static let openings = [
    "relaxed", "acquiring", "acquire", "releasing", "release", "sequentially consistent",
  ]

  private func sites() throws -> [Site] {
    try files(below: ["Sources"], endings: [".swift"]).flatMap { path in
      let lines = try SourceFile(path).lines
      return lines.indices.compactMap { index in site(path, lines, index) }
    }
  }

  private func site(_ path: String, _ lines: [String], _ index: Int) -> Site? {
    let code = lines[index].drop { $0 == " " }
    guard !code.hasPrefix("//"), Self.markers.contains(where: { code.contains($0) }) else {
      return nil
    }
    return Site(
      place: "\(path):\(index + 1)", comment: comment(above: index, lines),
      isRelaxed: code.contains("ordering: .relaxed"))
  }

  /// The comment block directly above the statement this line belongs to: at most three lines of
  /// the same statement lie between, and no other ordering.
  private func comment(above index: Int, _ lines: [String]) -> String? {
    var at = index - 1
    while at >= 0, at >= index - 3, !isComment(lines[at]) {
      if Self.markers.contains(where: { lines[at].contains($0) }) { return nil }
      at -= 1
    }
    guard at >= 0, isComment(lines[at]) else { return nil }
    var block: [String] = []
    while at >= 0, isComment(lines[at]) {
      block.insert(String(lines[at].drop { $0 == " " || $0 == "/" }), at: 0)
      at -= 1
    }
    return block.joined(separator: " ")
  }

  private func isComment(_ line: String) -> Bool {
    line.drop { $0 == " " }.hasPrefix("// ")
  }

  /// The first comment of a site begins with its ordering and gives a reason.
  @Test func `every ordering has its comment directly above it`() throws {
    let sites = try sites()
    #expect(sites.count > 60)
    for site in sites {
      let comment = site.comment ?? ""
      let hasOpening = Self.openings.contains { opening in
        comment.hasPrefix(opening) && comment.dropFirst(opening.count).contains(":")
      }
      #expect(hasOpening, "\(site.place): the comment is: \(comment)")
    }
  }

  @Test func `every ordering but relaxed names a pair of the page`() throws {
    let pairs = try listedPairs()
    for site in try sites() where !site.isRelaxed {
      let named = names(in: site.comment ?? "")
      #expect(!named.isEmpty, "\(site.place) names no pair")
      #expect(named.isSubset(of: pairs), "\(site.place): \(named.subtracting(pairs))")
    }
  }

  @Test func `every pair of the page has two sites`() throws {
    // A fence that pairs with itself in another thread names the pair twice.
    let named = try sites().compactMap(\.comment).flatMap { words(of: $0) }
    for pair in try listedPairs() {
      let count = named.count { $0 == pair }
      #expect(count >= 2, "\(pair) is named \(count) times")
    }
  }

  @Test func `every test that the page names exists`() throws {
    let tests = try files(below: ["Tests"], endings: [".swift"]).flatMap {
      try SourceFile($0).lines
    }
    let page = try SourceFile("Sources/Patchbay/Patchbay.docc/MemoryOrdering.md")
    for line in page.lines where line.hasPrefix("| ") && line.contains("-") {
      let cells: [Substring] = line.split(separator: "|")
      let quoted: [Substring] = (cells.last ?? "").split(separator: "`")
      for claim in quoted.map(String.init) where isClaim(claim) {
        #expect(tests.contains { $0.contains("`\(claim)`") }, "no test is called: \(claim)")
      }
    }
  }

  /// A test's name, as against words between two of them.
  private func isClaim(_ text: String) -> Bool {
    text.count > 25 && !text.hasPrefix(" ") && text.contains(" ")
  }

  private func listedPairs() throws -> Set<String> {
    let page = try SourceFile("Sources/Patchbay/Patchbay.docc/MemoryOrdering.md")
    let names = page.lines.compactMap { line -> String? in
      guard line.hasPrefix("| ") else { return nil }
      let cell = line.split(separator: "|")[0].filter { $0 != " " }
      return cell.contains("-") || cell == "TOUCHED" || cell == cell.uppercased() ? cell : nil
    }
    return Set(names.filter { !$0.isEmpty && $0 == $0.uppercased() })
  }

  private func words(of comment: String) -> [String] {
    comment.split { !($0.isLetter || $0 == "-") }.map(String.init)
  }

  /// Words in capitals, with or without a hyphen, of at least four letters.
  private func names(in comment: String) -> Set<String> {
    Set(
      words(of: comment).filter { word in
        word.count >= 4 && word == word.uppercased() && word.contains { $0.isLetter }
      })
  }
}
