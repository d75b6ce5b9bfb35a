// What the director of a soak does to the others: cards in a random order, each of them once as often as
// the deck is played.

/// Something that is done to a process.
enum SoakFault: Equatable, CustomStringConvertible {
  case kill(SoakRole)
  case stop(SoakRole)
  case killBroker
  /// The broker, and the next one before it is ready.
  case killBrokerAndHeir
  case stopBroker
  /// It ends in order, with all that is not kept.
  case drainBroker
  /// It ends in order and leaves everything to the next.
  case handOverBroker

  var description: String {
    switch self {
    case .kill(let role): "kill \(role)"
    case .stop(let role): "stop \(role)"
    case .killBroker: "kill the broker"
    case .killBrokerAndHeir: "kill the broker and the next one"
    case .stopBroker: "stop the broker"
    case .drainBroker: "drain the broker"
    case .handOverBroker: "have the broker hand over"
    }
  }
}

struct SoakDeck {
  private let all: [SoakFault]
  private var random: SplitMix
  private var cards: [SoakFault] = []
  /// How often it was played to the end.
  private(set) var playedCount = 0

  private init(_ seed: UInt32, _ all: (inout SplitMix) -> [SoakFault]) {
    random = SplitMix(state: UInt64(seed) &+ 1)
    self.all = all(&random)
  }

  /// Everything that can be done.
  static func complete(seed: UInt32) -> SoakDeck {
    SoakDeck(seed) { _ in
      SoakRole.allCases.flatMap { [.kill($0), .stop($0)] } + [
        .killBroker, .killBroker, .killBroker, .killBroker, .killBrokerAndHeir, .stopBroker,
        .stopBroker, .drainBroker, .handOverBroker,
      ]
    }
  }

  /// What lets the broker live, and the workers of half of the roles: whoever lives long enough shows
  /// what grows.
  static func gentle(seed: UInt32) -> SoakDeck {
    SoakDeck(seed) { random in
      let mortal = SoakRole.allCases.shuffled(using: &random).prefix(SoakRole.allCases.count / 2)
      return SoakRole.allCases.map { .stop($0) } + mortal.map { .kill($0) } + [.stopBroker]
    }
  }

  var count: Int { all.count }

  mutating func draw() -> SoakFault {
    if cards.isEmpty { cards = all.shuffled(using: &random) }
    let card = cards.removeLast()
    if cards.isEmpty { playedCount += 1 }
    return card
  }

  /// How long a worker is stopped: in some cases so long that a broker gives it up.
  mutating func stopMilliseconds() -> Int {
    draw(in: 0...4) == 0 ? draw(in: 5500...8000) : draw(in: 20...1500)
  }

  /// A number of the deck's own sequence.
  mutating func draw(in range: ClosedRange<Int>) -> Int { .random(in: range, using: &random) }
}
