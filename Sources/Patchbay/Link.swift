// A connected socket that several threads look at. A connection that has lost its broker goes on with
// another one; whoever still waits at the first keeps it open until he has seen that.

import PatchbaySystem

final class Link: Sendable {
  let socket: ControlSocket

  init(_ socket: consuming ControlSocket) { self.socket = socket }

  var descriptor: Int32 { socket.descriptor.rawValue }
}
