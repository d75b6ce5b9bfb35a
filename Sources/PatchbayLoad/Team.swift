// The workers of one measurement: started one after another, each ready before the next, then told
// to begin, last to first, so that readers stand before the publisher writes its first byte.

/// Worker processes that measure something together.
final class Team {
  private var workers: [ChildProcess] = []

  init() {}

  /// Whoever has not been dismissed by now is ended.
  deinit {
    for worker in workers {
      Household.shared.forget(worker: worker.process)
      worker.end()
    }
  }

  /// Starts a worker and waits until it is ready; what it said.
  @discardableResult
  func add(_ order: Fields, region: Int32? = nil) throws(LoadError) -> Fields {
    try begin(order, region: region).expect("ready")
  }

  /// Starts workers that wait for each other before they are ready.
  func addTogether(_ orders: [Fields]) throws(LoadError) {
    let started = try orders.map { (order) throws(LoadError) in try begin(order, region: nil) }
    for worker in started { _ = try worker.expect("ready") }
  }

  private func begin(_ order: Fields, region: Int32?) throws(LoadError) -> ChildProcess {
    let worker = try Household.shared.startWorker { () throws(LoadError) in
      try ChildProcess(order: order, region: region)
    }
    workers.append(worker)
    return worker
  }

  /// Lets all work, the last added first, and waits for their results in the order of adding. All
  /// have ended afterwards.
  func run() throws(LoadError) -> [Fields] {
    begin()
    return try finish()
  }

  /// The same, and does something while they work.
  func run(meanwhile: () throws -> Void) throws -> [Fields] {
    begin()
    try meanwhile()
    return try finish()
  }

  private func begin() { for worker in workers.reversed() { worker.send("go") } }

  private func finish() throws(LoadError) -> [Fields] {
    let results = try workers.map { (worker) throws(LoadError) in try worker.expect("done") }
    for worker in workers { worker.send("stop") }
    for worker in workers {
      worker.wait()
      Household.shared.forget(worker: worker.process)
    }
    workers = []
    return results
  }
}
