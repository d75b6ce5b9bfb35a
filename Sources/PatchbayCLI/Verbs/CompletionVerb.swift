// `patchbay completion`: what a shell needs to complete our command lines. Asks no broker.

import ArgumentParser
import Patchbay

struct CompletionVerb: Verb {
  static let configuration = CommandConfiguration(
    commandName: "completion",
    abstract: "Prints a completion script for a shell.",
    discussion: """
      Bash: put it into ~/.local/share/bash-completion/completions/patchbay. Zsh: as _patchbay \
      into a directory of $fpath. Fish: into ~/.config/fish/completions/patchbay.fish. Keys are \
      completed by asking the broker.

      Example: patchbay completion bash > ~/.local/share/bash-completion/completions/patchbay

      Exits with 0; 64 usage.
      """)

  @OptionGroup var common: CommonOptions

  @Argument(help: "bash, zsh or fish.", transform: Self.shell)
  var shell: CompletionShell

  private static func shell(_ name: String) throws -> CompletionShell {
    guard let shell = CompletionShell(rawValue: name) else {
      throw ValidationError("There are scripts for bash, zsh and fish.")
    }
    return shell
  }

  func perform() throws {
    try StandardOutput.write(PatchbayCommand.completionScript(for: shell))
  }
}

extension CompletionKind {
  /// The keys that the broker has now.
  static var keys: CompletionKind { .shellCommand("patchbay ls 2>/dev/null") }
}
