// The process on the other side of the tests: one role by its arguments.

import PatchbayTestSupport

let arguments = Array(CommandLine.arguments.dropFirst())
switch arguments.first {
case "ring": try writeRaggedNeighbours(arguments)
default: Conversation().run()
}
