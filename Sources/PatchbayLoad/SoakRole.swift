// The roles of a soak. Whoever adds one adds a case, says how many processes have it, and names the work;
// the director kills and stops each of them, and the report has a line for each.

import Glibc
import Patchbay

enum SoakRole: String, CaseIterable {
  // Who publishes.
  case stream, window, patch, shared, small, cache, keep
  // Who makes what it finds missing.
  case produce, fetch
  // Who reads.
  case follow, live, random, views, tasks
  // Who looks on.
  case watch, wait, look, audit

  var processCount: Int {
    switch self {
    case .produce: 3
    case .stream, .shared, .fetch: 2
    default: 1
    }
  }

  /// Whether others wait for what it makes: it is the last to be told to stop.
  var isAwaited: Bool {
    switch self {
    case .stream, .window, .patch, .shared, .small, .cache, .keep, .produce, .fetch: true
    default: false
    }
  }

  private var work: any SoakWork.Type {
    switch self {
    case .stream: SoakStreams.self
    case .window: SoakWindows.self
    case .patch: SoakPatches.self
    case .shared: SoakSharedPatches.self
    case .small: SoakSmallBlobs.self
    case .cache: SoakCache.self
    case .keep: SoakKeeping.self
    case .produce: SoakProducers.self
    case .fetch: SoakFetchers.self
    case .follow: SoakFollower.self
    case .live: SoakLiveReader.self
    case .random: SoakRandomReader.self
    case .views: SoakViewer.self
    case .tasks: SoakTasks.self
    case .watch: SoakWatcher.self
    case .wait: SoakWaiter.self
    case .look: SoakOnlooker.self
    case .audit: SoakAuditor.self
    }
  }

  /// The other side: works until it is told to stop.
  static func work(_ order: Fields) throws {
    guard let role = SoakRole(rawValue: try order.text("part")) else {
      throw LoadError("There is no role \(try order.text("part")) in a soak.")
    }
    let desk = try SoakDesk(order)
    try desk.voice.begin()
    do {
      try role.work(at: desk)
    } catch {
      desk.voice.say("violation", [:], "\(error)")
      throw error
    }
  }

  private func work(at desk: SoakDesk) throws {
    let before = ProcessFigures(getpid())
    desk.voice.say("ready")
    while !desk.isOver {
      do {
        var work = try work.init(desk)
        while !desk.isOver { try work.round() }
      } catch let loss as SoakLoss {
        try desk.recover(from: loss)
      }
    }
    desk.voice.beat()
    desk.voice.say("ended", SoakGrowth(since: before, now: ProcessFigures(getpid())).fields)
  }
}
