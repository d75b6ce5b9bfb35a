// A binary heap, the least element first. Entries are never changed in place: who keeps one for
// something that moves later puts it back when it comes up too early.

struct Heap<Element: Comparable & Sendable>: Sendable {
  typealias Entry = Element
  private var elements: [Element] = []
  var count: Int { elements.count }
  var first: Element? { elements.first }

  mutating func push(_ element: Element) {
    elements.append(element)
    siftUp(elements.count - 1)
  }

  mutating func pop() -> Element? {
    guard let first = elements.first, let last = elements.popLast() else { return nil }
    if !elements.isEmpty {
      elements[0] = last
      siftDown(0)
    }
    return first
  }

  /// Forgets elements that nobody wants any more.
  mutating func keep(where isWanted: (Element) -> Bool) {
    elements.removeAll { !isWanted($0) }
    for index in stride(from: elements.count / 2 - 1, through: 0, by: -1) { siftDown(index) }
  }

  private mutating func siftUp(_ start: Int) {
    var child = start
    while child > 0 {
      let parent = (child - 1) / 2
      guard elements[child] < elements[parent] else { return }
      elements.swapAt(child, parent)
      child = parent
    }
  }

  private mutating func siftDown(_ start: Int) {
    var parent = start
    while true {
      var least = parent
      for child in [2 * parent + 1, 2 * parent + 2]
      where child < elements.count && elements[child] < elements[least] {
        least = child
      }
      guard least != parent else { return }
      elements.swapAt(parent, least)
      parent = least
    }
  }
}
