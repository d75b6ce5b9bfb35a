// The process on the other side of the tests: one role by its arguments.

import Glibc
import PatchbayTestSupport

let arguments = Array(CommandLine.arguments.dropFirst())
do {
  switch arguments.first {
  case "ring": try writeRaggedNeighbours(arguments)
  case "life": try Life(arguments).run()
  case "produce": try Producer(arguments).run()
  case "place": try place(arguments)
  case "layers": try readLayers(arguments)
  case let role? where Crowd.roles.contains(role): try Crowd(arguments).run(role)
  default: Conversation().run()
  }
} catch {
  complain("\(arguments.first ?? ""): \(error)")
  exit(1)
}
